"""A classic BPF program as LLVM IR, block for block: what native and eBPF packet functions have inlined.

Only branches, loads, arithmetic and selects: no call, no constant in memory, nothing to relocate, so that LLVM's BPF
target can do whatever the processor's can. A load is guarded in the form that Linux's verifier follows (an offset of at
most 65,535, then a comparison with the packet's end). Only imported when something is compiled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from raceway.compile import primitives
from raceway.compile.headers import MAXIMUM_PACKET
from raceway.compile.pcap_filter import program as bpf
from raceway.compile.pcap_filter.program import Program, targets

_i8, _i32, _i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
FARTHEST = 262_144
"""Bytes of a packet that can be reached natively: capture files hold no longer ones."""


def emit(builder: Any, program: Program, data: Any, length: Any, wire_length: Any, farthest: int) -> Any:
    """Emit the program; return the i32 value of how many bytes are accepted.

    data: pointer to bytes; length, wire_length: i64, captured and on the wire; farthest: no byte at or behind this
    offset is ever loaded (65,535 for what the verifier sees).
    """
    return _Emitter(builder, program, data, length, wire_length, farthest).run()


def emit_in_part(builder: Any, program: Program, data: Any, end: Any) -> Any:
    """The same in a part of a packet function, whose target has its own form of a load's guard (`primitives`)."""
    length = primitives.emit(builder, "length", data, end)
    return _InPart(builder, program, data, end, length).run()


class _Emitter:
    def __init__(
        self, builder: Any, program: Program, data: Any, length: Any, wire: Any, farthest: int
    ) -> None:
        self.builder, self.program = builder, program
        self.data, self.length, self.wire, self.farthest = data, length, wire, farthest
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
        place = builder.bitcast(self.guarded(offset, size), ir.IntType(size * 8).as_pointer())
        value = builder.load(place, align=1)
        if size > 1:
            value = builder.bswap(value)
        if size < 4:
            value = builder.zext(value, _i32)
        if one.mode == bpf.MSH:
            return builder.shl(builder.and_(value, _const(0xF)), _const(2))
        return value

    def guarded(self, offset: Any, size: int) -> Any:
        """Emit the bounds check of a load; return the pointer to its bytes."""
        builder = self.builder
        limit = ir.Constant(_i64, self.farthest - size)
        self._reject_if(builder.icmp_unsigned(">", offset, limit))
        behind = builder.add(offset, ir.Constant(_i64, size), flags=["nuw", "nsw"])
        self._reject_if(builder.icmp_signed(">", behind, self.length))
        return builder.gep(self.data, [offset])

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


class _InPart(_Emitter):
    def __init__(self, builder: Any, program: Program, data: Any, end: Any, length: Any) -> None:
        super().__init__(builder, program, data, length, length, MAXIMUM_PACKET)
        self.packet_end = end

    def guarded(self, offset: Any, size: int) -> Any:
        builder = self.builder
        offset, length = primitives.emit(builder, "offset", offset), ir.Constant(_i64, size)
        self._reject_if(primitives.emit(builder, "far", offset, length))
        place = primitives.emit(builder, "place", self.data, offset, length)
        self._reject_if(primitives.emit(builder, "over", self.data, self.packet_end, offset, length, place))
        return place


def _const(value: int) -> Any:
    return ir.Constant(_i32, value)
