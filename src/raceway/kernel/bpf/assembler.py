"""An assembler for eBPF: method calls in, the bytes of RFC 9669 out.

    program = Assembler()
    program.load(R2, R1, 4, 4)              # r2 = *(u32 *)(r1 + 4)
    program.jump_if("==", R2, 0, "empty")
    program.mov(R0, XdpAction.PASS).exit()
    program.label("empty").mov(R0, XdpAction.DROP).exit()
    Program(ProgramKind.XDP, program.assemble())

An instruction is 8 bytes (section 3):

    | opcode 8 | dst 4 | src 4 | offset 16, signed | immediate 32, signed |

An operand is a register if it is a `Register` (R0 to R10) and an immediate otherwise. What does not fit into its
field is a ValueError here and never a different number there; whether the program is sound is for the kernel's
verifier to say.
Every method but `assemble` returns the assembler.
"""

from __future__ import annotations

import struct
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from raceway.kernel.bpf.maps import Map

Key = TypeVar("Key", str, int)
Value = TypeVar("Value")


class Register(IntEnum):
    """A register. R0: results; R1 to R5: arguments, lost in a call; R6 to R9: kept; R10: the stack's end, read only."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register

# Instruction classes (section 3.1), in the opcode's low three bits
_LD, _LDX, _ST, _STX, _ALU, _JMP, _JMP32, _ALU64 = range(8)
_K, _X = 0x00, 0x08  # the source is the immediate, or a register (section 4)
_MEM, _ATOMIC, _IMM = 0x60, 0xC0, 0x00  # load and store modes (section 5)
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}  # B, H, W, DW

_NEG, _MOV, _END = 0x80, 0xB0, 0xD0
# Code and offset (section 4.1): signed division and remainder are the unsigned ones with offset 1
_ARITHMETIC = {
    "+": (0x00, 0), "-": (0x10, 0), "*": (0x20, 0), "/": (0x30, 0), "s/": (0x30, 1), "|": (0x40, 0),
    "&": (0x50, 0), "<<": (0x60, 0), ">>": (0x70, 0), "%": (0x90, 0), "s%": (0x90, 1), "^": (0xA0, 0),
    "s>>": (0xC0, 0),
}  # fmt: skip
# Section 4.3
_COMPARISONS = {
    "==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50, "s>": 0x60, "s>=": 0x70, "<": 0xA0,
    "<=": 0xB0, "s<": 0xC0, "s<=": 0xD0,
}  # fmt: skip
_ALWAYS, _CALL, _EXIT = 0x00, 0x80, 0x90
_MAY_GOTO = 0xE0  # BPF_JCOND; Linux's own, not in RFC 9669
# Section 5.3; in the immediate
_ATOMICS = {"+": 0x00, "|": 0x40, "&": 0x50, "^": 0xA0, "xchg": 0xE0, "cmpxchg": 0xF0}
_FETCH = 0x01

# What the source field says of a 64-bit immediate (section 5.4) and of a call (section 4.3.1)
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2
_PSEUDO_KFUNC_CALL = 2


class Assembler:
    """Instructions of one program, in order. Keeps the maps that they name until it is gone itself."""

    def __init__(self) -> None:
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []
        self._maps: list[Map] = []

    def __len__(self) -> int:
        """How many 8-byte instructions there are; a 64-bit immediate makes two."""
        return len(self._code) // 8

    # -- arithmetic ----------------------------------------------------------------------------------------

    def mov(self, dst: Register, operand: Register | int) -> Assembler:
        """dst = operand; an immediate is sign-extended to 64 bits."""
        return self._operate(_ALU64, _MOV, dst, operand)

    def mov32(self, dst: Register, operand: Register | int) -> Assembler:
        """dst = the operand's low 32 bits, the upper half zero."""
        return self._operate(_ALU, _MOV, dst, operand)

    def alu(self, op: str, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst = dst op operand, in 64 bits, or in 32 with the upper half zero.

        op: + - * / % | & ^ << >> and the signed s/ s% s>>. Division by zero gives 0, the remainder then is dst.
        """
        code, offset = _find("operation", op, _ARITHMETIC)
        if not isinstance(operand, Register):
            if op in ("<<", ">>", "s>>") and not 0 <= operand < (64 if wide else 32):
                raise ValueError(f"{op} {operand}: a shift is by 0 to {63 if wide else 31} bits")
            if op in ("/", "s/", "%", "s%") and operand == 0:
                raise ValueError(f"{op} 0: the kernel refuses to divide by an immediate zero")
        return self._operate(_ALU64 if wide else _ALU, code, dst, operand, offset)

    def add(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst += operand."""
        return self.alu("+", dst, operand, wide)

    def sub(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst -= operand."""
        return self.alu("-", dst, operand, wide)

    def mul(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst *= operand."""
        return self.alu("*", dst, operand, wide)

    def div(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst //= operand, unsigned."""
        return self.alu("/", dst, operand, wide)

    def mod(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst %= operand, unsigned."""
        return self.alu("%", dst, operand, wide)

    def and_(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst &= operand."""
        return self.alu("&", dst, operand, wide)

    def or_(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst |= operand."""
        return self.alu("|", dst, operand, wide)

    def xor(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst ^= operand."""
        return self.alu("^", dst, operand, wide)

    def lsh(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst <<= operand."""
        return self.alu("<<", dst, operand, wide)

    def rsh(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst >>= operand, zeros coming in from above."""
        return self.alu(">>", dst, operand, wide)

    def arsh(self, dst: Register, operand: Register | int, wide: bool = True) -> Assembler:
        """dst >>= operand, the sign coming in from above."""
        return self.alu("s>>", dst, operand, wide)

    def neg(self, dst: Register, wide: bool = True) -> Assembler:
        """dst = -dst."""
        return self._emit((_ALU64 if wide else _ALU) | _NEG, dst)

    def to_be(self, dst: Register, bits: int) -> Assembler:
        """dst = its low 16, 32 or 64 bits in network byte order, zero above; from network order is the same."""
        return self._byte_order(_X, dst, bits)

    def to_le(self, dst: Register, bits: int) -> Assembler:
        """dst = its low 16, 32 or 64 bits in little-endian order, zero above."""
        return self._byte_order(_K, dst, bits)

    # -- memory --------------------------------------------------------------------------------------------

    def load(self, dst: Register, src: Register, offset: int, size: int) -> Assembler:
        """dst = the `size` bytes (1, 2, 4 or 8) at src + offset, zero-extended."""
        return self._emit(_LDX | _MEM | _find("size", size, _SIZES), dst, src, offset)

    def store(self, dst: Register, offset: int, operand: Register | int, size: int) -> Assembler:
        """The `size` bytes at dst + offset = operand. An immediate of 8 bytes is sign-extended from 32 bits."""
        code = _MEM | _find("size", size, _SIZES)
        if isinstance(operand, Register):
            return self._emit(_STX | code, dst, operand, offset)
        bits = 8 * size
        highest = 1 << (31 if size == 8 else bits)
        if not -1 << min(bits, 32) - 1 <= operand < highest:
            raise ValueError(
                f"immediate {operand} does not fit into a store of {size} bytes (from 32, signed)"
            )
        return self._emit(_ST | code, dst, 0, offset, _signed(operand))

    def atomic(
        self, op: str, dst: Register, offset: int, src: Register, size: int, fetch: bool = False
    ) -> Assembler:
        """The `size` bytes (4 or 8) at dst + offset, changed at once: op is + | & ^ xchg or cmpxchg.

        fetch: src gets what was there, and the instruction is a full barrier; always so for xchg and cmpxchg,
        which compares with R0 and gives R0 what was there.
        """
        if size not in (4, 8):
            raise ValueError(f"size {size}: atomic operations are on 4 or 8 bytes")
        code = _find("atomic operation", op, _ATOMICS)
        if fetch or op in ("xchg", "cmpxchg"):
            code |= _FETCH
        return self._emit(_STX | _ATOMIC | _SIZES[size], dst, src, offset, code)

    def atomic_add(
        self, dst: Register, offset: int, src: Register, size: int, fetch: bool = False
    ) -> Assembler:
        """Add src to the `size` bytes (4 or 8) at dst + offset at once; fetch: src = what was there."""
        return self.atomic("+", dst, offset, src, size, fetch)

    def load_imm64(self, dst: Register, value: int) -> Assembler:
        """dst = value, any of 64 bits, signed or unsigned."""
        if not -1 << 63 <= value < 1 << 64:
            raise ValueError(f"immediate {value} does not fit into 64 bits")
        value &= (1 << 64) - 1
        return self._wide_immediate(dst, 0, value & 0xFFFFFFFF, value >> 32)

    def load_map(self, dst: Register, map: Map) -> Assembler:
        """dst = the map, for helpers that ask for one (BPF_PSEUDO_MAP_FD)."""
        self._maps.append(map)
        return self._wide_immediate(dst, _PSEUDO_MAP_FD, map.fd, 0)

    def load_map_value(self, dst: Register, map: Map, offset: int = 0) -> Assembler:
        """dst = the address of the array's first value plus `offset` (BPF_PSEUDO_MAP_VALUE).

        The kernel has this for arrays of a single entry only: make what is to be reached this way one value.
        """
        if map.entries != 1:
            raise ValueError(
                f"map {map.name!r} has {map.entries} entries, and only an only entry has an address"
            )
        if not 0 <= offset < map.value_size:
            raise ValueError(f"offset {offset} into map {map.name!r}, whose value has {map.value_size} bytes")
        self._maps.append(map)
        return self._wide_immediate(dst, _PSEUDO_MAP_VALUE, map.fd, offset)

    # -- control -------------------------------------------------------------------------------------------

    def label(self, name: str) -> Assembler:
        """Give the next instruction a name to jump to, before or after the jumps."""
        if name in self._labels:
            raise ValueError(f"label {name!r} is there already")
        self._labels[name] = len(self)
        return self

    def jump(self, label: str) -> Assembler:
        """Go on at a label."""
        self._jumps.append((len(self), label))
        return self._emit(_JMP | _ALWAYS)

    def jump_if(
        self, op: str, dst: Register, operand: Register | int, label: str, wide: bool = True
    ) -> Assembler:
        """Go on at a label if dst op operand, by all 64 bits or by the lower 32.

        op: == != > >= < <=, the signed s> s>= s< s<=, and & (true if any bit is in both).
        """
        code = _find("comparison", op, _COMPARISONS)
        self._jumps.append((len(self), label))
        return self._operate(_JMP if wide else _JMP32, code, dst, operand)

    def may_goto(self, label: str) -> Assembler:
        """Go on at a label once the kernel has had enough of this loop; until then, with what follows (Linux 6.9)."""
        self._jumps.append((len(self), label))
        return self._emit(_JMP | _MAY_GOTO)

    def call(self, helper: int) -> Assembler:
        """R0 = the kernel's helper function of this number (`Helper`), of R1 to R5, which are lost."""
        return self._emit(_JMP | _CALL, immediate=_signed(_fitting(helper, unsigned=True)))

    def call_kfunc(self, btf_id: int, module_fd_index: int = 0) -> Assembler:
        """R0 = the kernel function of this BTF id. module_fd_index: 0 for the kernel itself, or the index into the
        program's `descriptors` of the module's BTF."""
        return self._emit(_JMP | _CALL, 0, _PSEUDO_KFUNC_CALL, module_fd_index, _fitting(btf_id))

    def exit(self) -> Assembler:
        """Return R0."""
        return self._emit(_JMP | _EXIT)

    def assemble(self) -> bytes:
        """The program. ValueError for labels that are nowhere or too far away."""
        code = bytearray(self._code)
        for position, label in self._jumps:
            if label not in self._labels:
                raise ValueError(f"instruction {position} jumps to {label!r}, and no such label is there")
            target = self._labels[label]
            # Counted from the instruction after the jump (section 4.3).
            distance = target - position - 1
            if target >= len(self):
                raise ValueError(f"label {label!r} has no instruction after it")
            if not -(1 << 15) <= distance < 1 << 15:
                raise ValueError(
                    f"instruction {position} jumps {distance} instructions to {label!r}: too far"
                )
            struct.pack_into("=h", code, position * 8 + 2, distance)
        return bytes(code)

    # -- encoding ------------------------------------------------------------------------------------------

    def _operate(
        self, kind: int, code: int, dst: Register, operand: Register | int, offset: int = 0
    ) -> Assembler:
        if isinstance(operand, Register):
            return self._emit(kind | code | _X, dst, operand, offset)
        # In 32 bits a number and its two's complement are the same; 64 bits see the sign extended.
        immediate = _signed(_fitting(operand, unsigned=kind in (_ALU, _JMP32)))
        return self._emit(kind | code | _K, dst, 0, offset, immediate)

    def _byte_order(self, direction: int, dst: Register, bits: int) -> Assembler:
        if bits not in (16, 32, 64):
            raise ValueError(f"{bits} bits: byte order is changed of 16, 32 or 64")
        return self._emit(_ALU | _END | direction, dst, immediate=bits)

    def _wide_immediate(self, dst: Register, source: int, low: int, high: int) -> Assembler:
        self._emit(_LD | _IMM | _SIZES[8], dst, source, immediate=_signed(low))
        return self._emit(0, immediate=_signed(high))

    def _emit(
        self, opcode: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0
    ) -> Assembler:
        if not -(1 << 15) <= offset < 1 << 15:
            raise ValueError(f"offset {offset} does not fit into 16 bits")
        if not (0 <= dst <= 10 and 0 <= src <= 10):
            raise ValueError(f"registers {dst} and {src}: there are R0 to R10")
        # The two halves of the registers' byte are laid out as C lays out bit fields.
        registers = dst | src << 4 if sys.byteorder == "little" else dst << 4 | src
        self._code += struct.pack("=BBhi", opcode, registers, offset, immediate)
        return self


def _signed(value: int) -> int:
    """The signed number of the same low 32 bits."""
    return (value & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)


def _fitting(value: int, unsigned: bool = False) -> int:
    if not -1 << 31 <= value < (1 << 32 if unsigned else 1 << 31):
        raise ValueError(f"immediate {value} does not fit into 32 bits; load_imm64 has room for 64")
    return value


def _find(what: str, key: Key, known: dict[Key, Value]) -> Value:
    if key not in known:
        raise ValueError(f"{what} {key!r}: known are {' '.join(map(str, known))}")
    return known[key]
