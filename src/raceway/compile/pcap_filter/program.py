"""Classic BPF programs: instructions, what makes a program sound, and how it reads.

The machine has an accumulator A and an index register X, both zero at the start, and sixteen words of memory M, of
which a program can read only what it has written; all of 32 bits. Encoding as in the BSD packet filter (bpf(4)); what
is accepted is what Linux accepts of a socket filter (net/core/filter.c, bpf_check_classic) less what only Linux has,
and one thing more: `ja` may go back. libpcap makes a loop of that for `protochain`, whose every turn moves X forward,
so that it ends with the packet at the latest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from raceway.compile.errors import ExpressionError

LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
"""Instruction classes: the low three bits of the code."""
WORD, HALF, BYTE = 0x00, 0x08, 0x10
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR = range(0x00, 0xB0, 0x10)
JA, JEQ, JGT, JGE, JSET = range(0x00, 0x50, 0x10)
K, X, A = 0x00, 0x08, 0x10
TAX, TXA = 0x00, 0x80

SIZES = {WORD: 4, HALF: 2, BYTE: 1}
MEMORY_WORDS = 16
LONGEST = 4096
"""Instructions that Linux takes in one program (BPF_MAXINSNS)."""
MASK = 0xFFFFFFFF
NULL_EXPLICIT = 0x10000
"""LINKTYPE_NULL, number 0, in a packet's metadata, where 0 says "the port's"."""

_OPERATIONS = {
    ADD: "add", SUB: "sub", MUL: "mul", DIV: "div", OR: "or", AND: "and", LSH: "lsh", RSH: "rsh", NEG: "neg",
    MOD: "mod", XOR: "xor",
}  # fmt: skip
_JUMPS = {JA: "ja", JEQ: "jeq", JGT: "jgt", JGE: "jge", JSET: "jset"}


class Instruction(NamedTuple):
    """One instruction: code, jumps if true and if false (instructions to skip), and the 32-bit constant k."""

    code: int
    jt: int
    jf: int
    k: int

    @property
    def kind(self) -> int:
        """Its class: LD to MISC."""
        return self.code & 0x07

    @property
    def size(self) -> int:
        """Bytes that a load takes from the packet."""
        return SIZES[self.code & 0x18]

    @property
    def mode(self) -> int:
        """Where a load takes its value from: IMM to MSH."""
        return self.code & 0xE0

    @property
    def operation(self) -> int:
        """What an ALU or JMP instruction does."""
        return self.code & 0xF0

    @property
    def uses_x(self) -> bool:
        """Whether the operand of an ALU or JMP instruction is X and not k."""
        return bool(self.code & 0x08)


def _valid_codes() -> frozenset[int]:
    loads = {LD | mode | size for mode in (ABS, IND) for size in SIZES}
    loads |= {LD | mode for mode in (IMM, MEM, LEN)} | {LDX | mode for mode in (IMM, MEM, LEN)}
    loads |= {LDX | MSH | BYTE, ST, STX}
    arithmetic = {ALU | one | source for one in _OPERATIONS if one != NEG for source in (K, X)} | {ALU | NEG}
    jumps = {JMP | one | source for one in _JUMPS if one != JA for source in (K, X)} | {JMP | JA}
    return frozenset(loads | arithmetic | jumps | {RET | K, RET | A, MISC | TAX, MISC | TXA})


CODES = _valid_codes()


@dataclass(frozen=True)
class Program:
    """A sound program. Making one checks it: ExpressionError says which instruction is not, and why."""

    instructions: tuple[Instruction, ...]

    def __init__(self, instructions: Iterable[tuple[int, int, int, int]]) -> None:
        object.__setattr__(self, "instructions", tuple(Instruction(*one) for one in instructions))
        _check(self.instructions)

    def __len__(self) -> int:
        return len(self.instructions)

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions)

    def __getitem__(self, index: int) -> Instruction:
        return self.instructions[index]

    @cached_property
    def uses_length(self) -> bool:
        """Whether it asks for the packet's length on the wire."""
        return any(one.kind in (LD, LDX) and one.mode == LEN for one in self)

    @cached_property
    def starts(self) -> frozenset[int]:
        """Indexes that are jumped to."""
        found = set()
        for index, one in enumerate(self):
            if one.kind == JMP:
                found |= set(targets(index, one))
        return frozenset(found)

    @cached_property
    def heads(self) -> frozenset[int]:
        """Indexes that are jumped back to: where loops begin."""
        jumps = [(index, targets(index, one)) for index, one in enumerate(self) if one.kind == JMP]
        return frozenset(target for index, found in jumps for target in found if target <= index)

    def text(self) -> str:
        """The program as `tcpdump -d` shows one."""
        return "\n".join(f"({index:03}) {_line(index, one)}" for index, one in enumerate(self))


def targets(index: int, one: Instruction) -> tuple[int, ...]:
    """Where a jump can go: if true, if false; a JA has one target."""
    if one.operation == JA:
        return (index + 1 + (one.k if one.k < 1 << 31 else one.k - (1 << 32)),)
    return index + 1 + one.jt, index + 1 + one.jf


def _check(instructions: tuple[Instruction, ...]) -> None:
    count = len(instructions)

    def refuse(index: int, reason: str) -> None:
        raise ExpressionError(f"instruction {index} of the filter program: {reason}")

    if not 1 <= count <= LONGEST:
        raise ExpressionError(f"a filter program of {count:,} instructions: expected 1 to {LONGEST:,}")
    for index, one in enumerate(instructions):
        fits = 0 <= one.jt <= 255 and 0 <= one.jf <= 255 and 0 <= one.k <= MASK
        if one.code not in CODES or not fits:
            refuse(index, f"unknown: {one.code:#x} {one.jt} {one.jf} {one.k:#x}")
        if one.kind == JMP and not all(0 <= target < count for target in targets(index, one)):
            refuse(index, "jumps out of the program")
        if one.kind == ALU and not one.uses_x:
            if one.operation in (DIV, MOD) and one.k == 0:
                refuse(index, "divides by the constant zero")
            if one.operation in (LSH, RSH) and one.k > 31:
                refuse(index, f"shifts by the constant {one.k}")
        memory = one.kind in (ST, STX) or (one.kind in (LD, LDX) and one.mode == MEM)
        if memory and one.k >= MEMORY_WORDS:
            refuse(index, f"memory word {one.k}: expected 0 to {MEMORY_WORDS - 1}")
        packet = one.kind in (LD, LDX) and one.mode in (ABS, MSH)
        if packet and one.k >= 1 << 31:
            # What libpcap gives only for a live interface of Linux: VLAN tags and the like beside the packet.
            refuse(index, f"asks Linux for what stands beside the packet (offset {one.k - (1 << 32)})")
    if instructions[-1].kind != RET:
        refuse(count - 1, "the last one does not return")
    for index, written in enumerate(_written(instructions)):
        one = instructions[index]
        if one.kind in (LD, LDX) and one.mode == MEM and not written >> one.k & 1:
            refuse(index, f"reads memory word {one.k}, which was not written on every way there")


def _written(instructions: tuple[Instruction, ...]) -> list[int]:
    """For each instruction the memory words, as bits, that have been written whichever way it was reached."""
    everything = (1 << MEMORY_WORDS) - 1
    before = [everything] * len(instructions)
    before[0] = 0
    todo = [0]
    visited = [False] * len(instructions)
    while todo:
        index = todo.pop()
        visited[index] = True
        one = instructions[index]
        if one.kind == RET:
            continue
        after = before[index] | (1 << one.k if one.kind in (ST, STX) else 0)
        for follower in targets(index, one) if one.kind == JMP else (index + 1,):
            if before[follower] & after != before[follower] or not visited[follower]:
                before[follower] &= after
                todo.append(follower)
    return before


def _line(index: int, one: Instruction) -> str:
    suffix = {WORD: "", HALF: "h", BYTE: "b"}
    if one.kind in (LD, LDX):
        name = ("ld" if one.kind == LD else "ldx") + (suffix[one.code & 0x18] if one.mode != MSH else "b")
        operand = {
            IMM: f"#{one.k:#x}", ABS: f"[{one.k}]", IND: f"[x + {one.k}]", MEM: f"M[{one.k}]", LEN: "#pktlen",
            MSH: f"4*([{one.k}]&0xf)",
        }[one.mode]  # fmt: skip
        return f"{name:<8} {operand}"
    if one.kind in (ST, STX):
        return f"{'st' if one.kind == ST else 'stx':<8} M[{one.k}]"
    if one.kind == RET:
        return f"{'ret':<8} {'a' if one.code & 0x18 == A else f'#{one.k}'}"
    if one.kind == MISC:
        return "txa" if one.code & 0xF8 == TXA else "tax"
    operand = "x" if one.uses_x else f"#{one.k:#x}"
    if one.kind == ALU:
        return f"{_OPERATIONS[one.operation]:<8} {'' if one.operation == NEG else operand}".rstrip()
    if one.operation == JA:
        return f"{'ja':<8} {targets(index, one)[0]}"
    yes, no = targets(index, one)
    return f"{_JUMPS[one.operation]:<8} {operand:<16} jt {yes}\tjf {no}"
