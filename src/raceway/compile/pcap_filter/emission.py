"""A classic BPF program as LLVM IR, block for block: what native and eBPF packet functions have inlined.

Only branches, loads, arithmetic and selects: no call, no constant in memory, nothing to relocate, so that LLVM's BPF
target can do whatever the processor's can. How a load is guarded is for the caller to say: by lengths in loops of our
own, by the primitives of `compile.primitives` in packet functions. Only imported when something is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from raceway.compile.pcap_filter import program as bpf
from raceway.compile.pcap_filter.program import Program, targets

_i8, _i32, _i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
FARTHEST = 262_144
"""Bytes of a packet that can be reached natively: capture files hold no longer ones."""


Bytes = Callable[[Any, int, Callable[[Any], None]], Any]
"""How to get at bytes of a packet: takes an offset (i64), a number of bytes, and what emits "reject if this is so";
emits the checks and returns the pointer."""


def emit(
    builder: Any, program: Program, data: Any, length: Any, wire_length: Any, farthest: int = FARTHEST
) -> Any:
    """Emit the program; return the i32 value of how many bytes are accepted.

    data: pointer to bytes; length, wire_length: i64, captured and on the wire; farthest: no byte at or behind this
    offset is ever loaded.
    """

    def place(offset: Any, size: int, reject_if: Callable[[Any], None]) -> Any:
        reject_if(builder.icmp_unsigned(">", offset, ir.Constant(_i64, farthest - size)))
        behind = builder.add(offset, ir.Constant(_i64, size), flags=["nuw", "nsw"])
        reject_if(builder.icmp_signed(">", behind, length))
        return builder.gep(data, [offset])

    return emit_over(builder, program, place, wire_length)


def emit_over(builder: Any, program: Program, place: Bytes, wire_length: Any) -> Any:
    """The same over bytes that are got at by `place`."""
    return _Emitter(builder, program, place, wire_length).run()


class _Emitter:
    def __init__(self, builder: Any, program: Program, place: Bytes, wire: Any) -> None:
        self.builder, self.program = builder, program
        self.place, self.wire = place, wire
        with builder.goto_entry_block():
            self.a, self.x, self.result = (builder.alloca(_i32) for _ in range(3))
            used = {one.k for one in program if one.kind in (bpf.ST, bpf.STX)}
            used |= {one.k for one in program if one.kind in (bpf.LD, bpf.LDX) and one.mode == bpf.MEM}
            self.memory = {word: builder.alloca(_i32) for word in used}
        self.blocks: dict[int, Any] = {}

    def run(self) -> Any:
        builder = self.builder
        for place in (self.a, self.x, *self.memory.values()):
            builder.store(_const(0), place)
        self.end = builder.append_basic_block("filter_end")
        self.reject = builder.append_basic_block("filter_reject")
        for index in self.program.starts:
            self.blocks[index] = builder.append_basic_block(f"filter_{index}")
        open_ = True
        for index, one in enumerate(self.program):
            if index in self.blocks:
                if open_:
                    builder.branch(self.blocks[index])
                builder.position_at_end(self.blocks[index])
            elif not open_:
                # No path leads here.
                continue
            open_ = self.instruction(index, one)
        builder.position_at_end(self.reject)
        self.return_(_const(0))
        builder.position_at_end(self.end)
        return builder.load(self.result)

    def return_(self, value: Any) -> None:
        self.builder.store(value, self.result)
        self.builder.branch(self.end)

    def instruction(self, index: int, one: bpf.Instruction) -> bool:
        """Emit one instruction; False if nothing comes behind it."""
        builder = self.builder
        kind = one.kind
        if kind in (bpf.LD, bpf.LDX):
            builder.store(self.loaded(one), self.a if kind == bpf.LD else self.x)
        elif kind in (bpf.ST, bpf.STX):
            builder.store(builder.load(self.a if kind == bpf.ST else self.x), self.memory[one.k])
        elif kind == bpf.ALU:
            operand = builder.load(self.x) if one.uses_x else _const(one.k)
            builder.store(self.arithmetic(one, builder.load(self.a), operand), self.a)
        elif kind == bpf.MISC:
            if one.code & 0xF8 == bpf.TXA:
                builder.store(builder.load(self.x), self.a)
            else:
                builder.store(builder.load(self.a), self.x)
        elif kind == bpf.RET:
            self.return_(builder.load(self.a) if one.code & 0x18 == bpf.A else _const(one.k))
            return False
        else:
            self.jump(index, one)
            return False
        return True

    def jump(self, index: int, one: bpf.Instruction) -> None:
        builder = self.builder
        if one.operation == bpf.JA:
            builder.branch(self.blocks[targets(index, one)[0]])
            return
        yes, no = (self.blocks[target] for target in targets(index, one))
        a, operand = builder.load(self.a), builder.load(self.x) if one.uses_x else _const(one.k)
        if one.operation == bpf.JSET:
            condition = builder.icmp_unsigned("!=", builder.and_(a, operand), _const(0))
        else:
            sign = {bpf.JEQ: "==", bpf.JGT: ">", bpf.JGE: ">="}[one.operation]
            condition = builder.icmp_unsigned(sign, a, operand)
        builder.cbranch(condition, yes, no)

    def loaded(self, one: bpf.Instruction) -> Any:
        builder = self.builder
        if one.mode == bpf.IMM:
            return _const(one.k)
        if one.mode == bpf.MEM:
            return builder.load(self.memory[one.k])
        if one.mode == bpf.LEN:
            return builder.trunc(self.wire, _i32)
        size = one.size
        offset: Any = ir.Constant(_i64, one.k)
        if one.mode == bpf.IND:
            offset = builder.add(builder.zext(builder.load(self.x), _i64), offset)
        bytes_ = self.place(offset, size, self._reject_if)
        place = builder.bitcast(bytes_, ir.IntType(size * 8).as_pointer())
        value = builder.load(place, align=1)
        if size > 1:
            value = builder.bswap(value)
        if size < 4:
            value = builder.zext(value, _i32)
        if one.mode == bpf.MSH:
            return builder.shl(builder.and_(value, _const(0xF)), _const(2))
        return value

    def _reject_if(self, condition: Any) -> None:
        onward = self.builder.append_basic_block("filter_on")
        self.builder.cbranch(condition, self.reject, onward)
        self.builder.position_at_end(onward)

    def arithmetic(self, one: bpf.Instruction, a: Any, operand: Any) -> Any:
        builder = self.builder
        operation = one.operation
        if operation in (bpf.DIV, bpf.MOD):
            if one.uses_x:
                self._reject_if(builder.icmp_unsigned("==", operand, _const(0)))
            return builder.udiv(a, operand) if operation == bpf.DIV else builder.urem(a, operand)
        if operation in (bpf.LSH, bpf.RSH):
            shift = builder.shl if operation == bpf.LSH else builder.lshr
            if not one.uses_x:
                return shift(a, operand)
            far = builder.icmp_unsigned(">", operand, _const(31))
            near = builder.select(far, _const(0), operand)
            return builder.select(far, _const(0), shift(a, near))
        if operation == bpf.NEG:
            return builder.sub(_const(0), a)
        simple = {
            bpf.ADD: builder.add, bpf.SUB: builder.sub, bpf.MUL: builder.mul, bpf.OR: builder.or_,
            bpf.AND: builder.and_, bpf.XOR: builder.xor,
        }  # fmt: skip
        return simple[operation](a, operand)


def _const(value: int) -> Any:
    return ir.Constant(_i32, value)
