"""The kernel target of pcap filters: a classic BPF program as eBPF, one instruction for one.

    R6 context   R7 A   R8 X   R9 the packet's first byte   stack: M[], 4 bytes for loads, the length on the wire

A load compares with the packet's end in the form that the verifier follows, and reads in place. What is not in the
packet's linear part (XDP hands packets that are longer than a page over in pieces) is fetched by the helper
bpf_xdp_load_bytes, where the program is loaded for such packets. A program that loops (`protochain`) goes round by
may_goto, which Linux has from 6.9 on.

`translate` gives the instructions, with a verdict of the caller's choice for accepted and for rejected packets;
`KernelFilter` runs an expression's program in the kernel on bytes, for tests and for `raceway filter --target kernel`.
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Self

from raceway.compile.pcap_filter import program as bpf
from raceway.compile.pcap_filter.program import Program, targets
from raceway.kernel.bpf.assembler import R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Assembler, Register
from raceway.kernel.bpf.programs import Program as LoadedProgram, xdp_context
from raceway.kernel.bpf.system import PROGRAM_XDP_FRAGMENTS, Helper, ProgramKind

FARTHEST = 65_535
"""Bytes of a packet that the verifier lets programs reach (MAX_PACKET_OFF)."""
LONGEST = 65_535
"""Longest packet that `KernelFilter.run` takes."""
_DATA, _DATA_END, _DATA_META, _QUEUE = 0, 4, 8, 16  # struct xdp_md
_LOADED, _WIRE, _CAPTURED, _MEMORY = -8, -16, -24, -88
_TOLD = 8
"""Bytes of metadata before a packet on a test run: its lengths on the wire and here, two 32-bit numbers. (The kernel
runs no packet of less than 14 bytes, so shorter ones come with more bytes than are theirs.)"""
_SHORTEST = 14


def translate(
    program: Program,
    accepted: int | None = None,
    rejected: int = 0,
    *,
    fragments: bool = False,
    told: bool = False,
) -> bytes:
    """Translate a program into an XDP program.

    accepted: what it returns for a packet of which bytes are accepted, None for how many; rejected: what for others.
    fragments: also reach what is not in the packet's linear part (load it with PROGRAM_XDP_FRAGMENTS). told: the
    packet's lengths on the wire and captured are two 32-bit numbers in the metadata before it.
    """
    return _Translator(program, accepted, rejected, fragments, told).run()


class _Translator:
    def __init__(
        self, program: Program, accepted: int | None, rejected: int, fragments: bool, told: bool
    ) -> None:
        self.program, self.accepted, self.rejected = reachable(program), accepted, rejected
        self.fragments, self.told = fragments, told
        self.code = Assembler()
        self.late: list[tuple[int, int]] = []
        self.named: set[str] = set()

    def run(self) -> bytes:
        code = self.code
        self.prologue()
        for index, one in enumerate(self.program):
            if index in self.program.starts:
                code.label(f"i{index}")
            if index in self.program.heads:
                self.forget()
            self.instruction(index, one)
        for index, size in self.late:
            self.fetch(index, size)
        # Only where something leads to it: the verifier refuses the rest.
        if "reject" in self.named:
            code.label("reject").mov(R0, self.rejected).exit()
        if "accept" in self.named and self.accepted is not None:
            code.label("accept").mov(R0, self.accepted).exit()
        return code.assemble()

    def forget(self) -> None:
        """Let the verifier forget what it knows of A and X, so that a loop's second turn looks like its first: it would
        follow each turn by itself otherwise. Any number that it does not know does, put on and taken off."""
        self.code.load(R0, R6, _QUEUE, 4)
        for register in (R7, R8):
            self.code.xor(register, R0, wide=False).xor(register, R0, wide=False)

    def go(self, label: str) -> None:
        self.named.add(label)
        self.code.jump(label)

    def jump_if(self, op: str, dst: Register, operand: Register | int, label: str, wide: bool = True) -> None:
        self.named.add(label)
        self.code.jump_if(op, dst, operand, label, wide)

    def prologue(self) -> None:
        code = self.code
        code.mov(R6, R1).mov(R7, 0).mov(R8, 0)
        if self.told:
            code.load(R2, R1, _DATA_META, 4).load(R3, R1, _DATA, 4)
            code.mov(R4, R2).add(R4, _TOLD)
            self.jump_if(">", R4, R3, "reject")
            code.load(R0, R2, 0, 4).store(R10, _WIRE, R0, 8)
            code.load(R0, R2, 4, 4).store(R10, _CAPTURED, R0, 8)
        elif self.program.uses_length:
            code.call(Helper.XDP_GET_BUFF_LEN).store(R10, _WIRE, R0, 8)
        words = {one.k for one in self.program if one.kind in (bpf.LD, bpf.LDX) and one.mode == bpf.MEM}
        for word in sorted(words):
            code.store(R10, _MEMORY + 4 * word, 0, 4)
        code.load(R9, R6, _DATA, 4)

    def instruction(self, index: int, one: bpf.Instruction) -> None:
        code = self.code
        kind = one.kind
        if kind in (bpf.LD, bpf.LDX):
            self.load(index, one, R7 if kind == bpf.LD else R8)
        elif kind in (bpf.ST, bpf.STX):
            code.store(R10, _MEMORY + 4 * one.k, R7 if kind == bpf.ST else R8, 4)
        elif kind == bpf.ALU:
            self.arithmetic(index, one)
        elif kind == bpf.MISC:
            if one.code & 0xF8 == bpf.TXA:
                code.mov32(R7, R8)
            else:
                code.mov32(R8, R7)
        elif kind == bpf.RET:
            self.finish(one)
        else:
            self.jump(index, one)

    def finish(self, one: bpf.Instruction) -> None:
        code = self.code
        if one.code & 0x18 == bpf.A:
            if self.accepted is None:
                code.mov32(R0, R7).exit()
            else:
                self.jump_if("!=", R7, 0, "accept")
                self.go("reject")
        elif one.k == 0:
            self.go("reject")
        elif self.accepted is None:
            code.mov32(R0, one.k).exit()
        else:
            self.go("accept")

    def load(self, index: int, one: bpf.Instruction, into: Register) -> None:
        code = self.code
        if one.mode == bpf.IMM:
            code.mov32(into, one.k)
        elif one.mode == bpf.MEM:
            code.load(into, R10, _MEMORY + 4 * one.k, 4)
        elif one.mode == bpf.LEN:
            code.load(into, R10, _WIRE, 4)
        elif _beyond(one):
            # No packet is so long, and the verifier refuses to see a number so large as an offset in one. Nothing may
            # follow: `reachable` has left out what only this led to.
            self.go("reject")
        else:
            self.packet(index, one)
            size = one.size
            if size > 1:
                code.to_be(R0, 8 * size)
            if one.mode == bpf.MSH:
                code.and_(R0, 0xF).lsh(R0, 2)
            code.mov32(into, R0)

    def packet(self, index: int, one: bpf.Instruction) -> None:
        """R0 = the bytes as they stand in memory; R4 is the offset where they must be fetched."""
        code = self.code
        size = one.size
        code.mov(R4, one.k)
        if one.mode == bpf.IND:
            self.jump_if(">", R8, FARTHEST - size - one.k, "reject")
            code.add(R4, R8)
        if self.told:
            code.mov(R1, R4).add(R1, size).load(R2, R10, _CAPTURED, 8)
            self.jump_if(">", R1, R2, "reject")
        code.mov(R2, R9).add(R2, R4)
        code.mov(R3, R2).add(R3, size)
        code.load(R1, R6, _DATA_END, 4)
        self.jump_if(">", R3, R1, f"fetch{index}" if self.fragments else "reject")
        code.load(R0, R2, 0, size)
        if self.fragments:
            code.label(f"fetched{index}")
            self.late.append((index, size))

    def fetch(self, index: int, size: int) -> None:
        code = self.code
        code.label(f"fetch{index}").mov(R1, R6).mov(R2, R4).mov(R3, R10).add(R3, _LOADED).mov(R4, size)
        code.call(Helper.XDP_LOAD_BYTES)
        self.jump_if("s<", R0, 0, "reject")
        code.load(R0, R10, _LOADED, size).jump(f"fetched{index}")

    def arithmetic(self, index: int, one: bpf.Instruction) -> None:
        code = self.code
        operation = one.operation
        if operation == bpf.NEG:
            code.neg(R7, wide=False)
            return
        name = {
            bpf.ADD: "+", bpf.SUB: "-", bpf.MUL: "*", bpf.DIV: "/", bpf.OR: "|", bpf.AND: "&", bpf.LSH: "<<",
            bpf.RSH: ">>", bpf.MOD: "%", bpf.XOR: "^",
        }[operation]  # fmt: skip
        if not one.uses_x:
            code.alu(name, R7, one.k, wide=False)
            return
        if operation in (bpf.DIV, bpf.MOD):
            self.jump_if("==", R8, 0, "reject", wide=False)
        if operation in (bpf.LSH, bpf.RSH):
            # eBPF takes a count modulo 32; here what is shifted by more is gone.
            code.jump_if("<=", R8, 31, f"near{index}", wide=False).mov(R7, 0).jump(f"shifted{index}")
            code.label(f"near{index}").alu(name, R7, R8, wide=False).label(f"shifted{index}")
            return
        code.alu(name, R7, R8, wide=False)

    def jump(self, index: int, one: bpf.Instruction) -> None:
        code = self.code
        if one.operation == bpf.JA:
            (target,) = targets(index, one)
            if target <= index:
                self.named.add("reject")
                code.may_goto("reject")
            code.jump(f"i{target}")
            return
        yes, no = targets(index, one)
        sign = {bpf.JEQ: "==", bpf.JGT: ">", bpf.JGE: ">=", bpf.JSET: "&"}[one.operation]
        code.jump_if(sign, R7, R8 if one.uses_x else one.k, f"i{yes}", wide=False)
        if no != index + 1:
            code.jump(f"i{no}")


class KernelFilter:
    """A program loaded into the kernel, to be run there on bytes (BPF_PROG_TEST_RUN).

    Needs root, or CAP_BPF and CAP_NET_ADMIN. Raises VerifierError, PermissionNeededError, OSError.
    """

    def __init__(self, program: Program) -> None:
        instructions = translate(program, fragments=True, told=True)
        self._program = LoadedProgram(
            ProgramKind.XDP, instructions, name="pcap_filter", flags=PROGRAM_XDP_FRAGMENTS
        )

    def run(self, data: bytes, wire_length: int) -> int:
        """How many bytes of a packet are accepted, 0 for none. ValueError for more than `LONGEST` bytes."""
        return self._run(data, wire_length, 1)[0]

    def time(self, data: bytes, repeat: int) -> int:
        """Nanoseconds a run on average, as the kernel measures it."""
        return self._run(data, len(data), repeat)[1]

    def _run(self, data: bytes, wire_length: int, repeat: int) -> tuple[int, int]:
        if len(data) > LONGEST:
            raise ValueError(
                f"a packet of {len(data):,} bytes: the kernel runs programs on at most {LONGEST:,}"
            )
        told = struct.pack("=II", wire_length & 0xFFFFFFFF, len(data))
        packet = data if len(data) >= _SHORTEST else data.ljust(_SHORTEST, b"\0")
        context = xdp_context(len(packet), metadata=_TOLD)
        accepted, _, duration = self._program.test_run(told + packet, context=context, repeat=repeat)
        return accepted, duration

    def close(self) -> None:
        """Take the program out of the kernel."""
        self._program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _beyond(one: bpf.Instruction) -> bool:
    """Whether an instruction loads from behind the longest packet, whatever X is."""
    loads = one.kind in (bpf.LD, bpf.LDX) and one.mode in (bpf.ABS, bpf.IND, bpf.MSH)
    return loads and one.k > FARTHEST - one.size


def reachable(program: Program) -> Program:
    """The program without instructions that no path leads to: the verifier refuses those."""
    seen: set[int] = set()
    todo = [0]
    while todo:
        index = todo.pop()
        if index in seen:
            continue
        seen.add(index)
        one = program[index]
        if one.kind == bpf.JMP:
            todo += targets(index, one)
        elif one.kind != bpf.RET and not _beyond(one):
            todo.append(index + 1)
    if len(seen) == len(program):
        return program
    return _without(program, seen)


def _without(program: Program, seen: set[int]) -> Program:
    number = {index: new for new, index in enumerate(sorted(seen))}
    kept = []
    for index in sorted(seen):
        one = program[index]
        here = number[index] + 1
        if one.kind == bpf.JMP:
            there = [number[target] - here for target in targets(index, one)]
            if one.operation == bpf.JA:
                one = one._replace(k=there[0] & bpf.MASK)
            else:
                one = one._replace(jt=there[0], jf=there[1])
        elif one.kind != bpf.RET and index + 1 not in seen:
            # A load that is past the end of every packet.
            one = bpf.Instruction(bpf.RET | bpf.K, 0, 0, 0)
        kept.append(one)
    return Program(kept)
