"""The native target: filters inlined into packet functions, and batch kernels of their own. Only imported to compile."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from raceway.compile.headers import MAXIMUM_PACKET
from raceway.compile.lowering import PACKET
from raceway.compile.native_errors import told
from raceway.compile.pcap_filter.batches import NULL_EXPLICIT
from raceway.compile.pcap_filter.emission import FARTHEST, emit
from raceway.compile.pcap_filter.program import Program
from raceway.memory.access import store_8, store_32
from raceway.memory.layout import Batch, Metadata, Slot

if TYPE_CHECKING:
    from raceway.compile.pcap_filter.expression import Expression

_i8, _i64 = ir.IntType(8), ir.IntType(64)
_SLOT, _METADATA = Slot.size, Metadata.size


def in_functions(expression: Expression) -> Any:
    """The intrinsic that stands for the expression in a compiled packet function: packet to bytes accepted."""
    if expression._in_functions is None:
        expression._in_functions = _of_packet(expression.program)
    return expression._in_functions


def _of_packet(program: Program) -> Any:
    @intrinsic
    def accepted(typing: Any, packet: Any) -> Any:
        if packet != PACKET:
            raise told("a filter expression is called with the packet and nothing else")

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value = cgutils.create_struct_proxy(PACKET)(context, builder, value=args[0])
            length = builder.sub(builder.ptrtoint(value.end, _i64), builder.ptrtoint(value.data, _i64))
            result = emit(builder, program, value.data, length, length, MAXIMUM_PACKET)
            return builder.zext(result, _i64)

        return types.int64(PACKET), generate

    return accepted


def _of_bytes(program: Program) -> Any:
    """The intrinsic (address, captured, on the wire) -> bytes accepted."""

    @intrinsic
    def accepted(typing: Any, address: Any, length: Any, wire: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            data = builder.inttoptr(args[0], _i8.as_pointer())
            return builder.zext(emit(builder, program, data, args[1], args[2], FARTHEST), _i64)

        return types.int64(types.int64, types.int64, types.int64), generate

    return accepted


class NativeFilterKernel:
    """Machine code of a filter's loop over a batch."""

    def __init__(self, name: str, compiled: Any) -> None:
        self.name = name
        self._compiled = compiled
        self.address: int = compiled.address
        self._call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(self.address)

    def __call__(self, batch: int, /) -> int:
        result: int = self._call(batch)
        return result

    def __repr__(self) -> str:
        return f"<native kernel of {self.name!r} at {self.address:#x}>"


_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


def compile_kernel(expression: Expression, *, counts: bool = False) -> NativeFilterKernel:
    """Compile the batch kernel; counts: it writes the bytes accepted as 32-bit numbers instead of verdicts."""
    one = _of_bytes(expression.program)
    own = expression.link_type or NULL_EXPLICIT
    loop = _counting(one, own) if counts else _judging(one, own)
    return NativeFilterKernel(expression.text, numba.cfunc("int64(int64)", **_OPTIONS)(loop))


def _judging(accepted: Any, own: int) -> Any:
    def filter_kernel(address: int) -> Any:
        batch = Batch(address)
        slots, metadata, buffers, buffer_size = batch.slots, batch.metadata, batch.buffers, batch.buffer_size
        size, count, verdicts, at = batch.slot_count, batch.count, batch.verdicts, batch.first
        for index in range(count):
            slot = Slot(slots + at * _SLOT)
            wire = slot.length
            verdict = 0
            known = 0
            if metadata != 0:
                about = Metadata(metadata + at * _METADATA)
                known = about.link_type
                if about.wire_length != 0:
                    wire = about.wire_length
            if known == 0 or known == own:
                start = buffers + slot.buffer * buffer_size + slot.offset
                verdict = 2 if accepted(start, slot.length, wire) != 0 else 1
            else:
                batch.other_error = batch.other_error + 1
            store_8(verdicts + index, verdict)
            at += 1
            if at == size:
                at = 0
        return count

    return filter_kernel


def _counting(accepted: Any, own: int) -> Any:
    def filter_kernel(address: int) -> Any:
        batch = Batch(address)
        slots, metadata, buffers, buffer_size = batch.slots, batch.metadata, batch.buffers, batch.buffer_size
        size, count, verdicts, at = batch.slot_count, batch.count, batch.verdicts, batch.first
        for index in range(count):
            slot = Slot(slots + at * _SLOT)
            wire = slot.length
            result = 0
            known = 0
            if metadata != 0:
                about = Metadata(metadata + at * _METADATA)
                known = about.link_type
                if about.wire_length != 0:
                    wire = about.wire_length
            if known == 0 or known == own:
                result = accepted(
                    buffers + slot.buffer * buffer_size + slot.offset, slot.length, wire
                )
            else:
                batch.other_error = batch.other_error + 1
            store_32(verdicts + 4 * index, result)
            at += 1
            if at == size:
                at = 0
        return count

    return filter_kernel
