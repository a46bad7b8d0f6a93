"""Filters inlined into packet functions. Only imported to compile; their own batch kernels are in `kernels`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from raceway.compile import primitives
from raceway.compile.lowering import PACKET, PacketType, current
from raceway.compile.native_errors import told
from raceway.compile.pcap_filter.emission import emit_over
from raceway.compile.pcap_filter.program import Program

if TYPE_CHECKING:
    from raceway.compile.pcap_filter.expression import Expression

_i64 = ir.IntType(64)


def in_functions(expression: Expression) -> Any:
    """The intrinsic that stands for the expression in a compiled packet function: packet to bytes accepted."""
    if expression._in_functions is None:
        expression._in_functions = _of_packet(expression.program)
    return expression._in_functions


def _of_packet(program: Program) -> Any:
    @intrinsic
    def accepted(typing: Any, packet: Any) -> Any:
        if not isinstance(packet, PacketType):
            raise told("a filter expression is called with the packet and nothing else")

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            now = current(context, builder, sig.args[0], args[0])
            value = cgutils.create_struct_proxy(PACKET)(context, builder, value=now)

            def place(offset: Any, size: int, reject_if: Any) -> Any:
                # As a packet function's own loads are guarded, which is what the kernel's verifier follows.
                count = ir.Constant(_i64, size)
                offset = primitives.emit(builder, "offset", offset)
                reject_if(primitives.emit(builder, "far", offset, count))
                found = primitives.emit(builder, "place", value.data, offset, count)
                reject_if(primitives.emit(builder, "over", value.data, value.end, offset, count, found))
                return found

            length = primitives.emit(builder, "length", value.data, value.end)
            return builder.zext(emit_over(builder, program, place, length), _i64)

        return types.int64(packet), generate

    return accepted
