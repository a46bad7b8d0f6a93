"""The native target: filters inlined into packet functions, and batch kernels. Only imported to compile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from raceway.compile import primitives
from raceway.compile.lowering import PACKET, PacketType, current
from raceway.compile.native_errors import told
from raceway.compile.pcap_filter.emission import emit_over
from raceway.compile.pcap_filter.loops import build
from raceway.compile.pcap_filter.machine import Machine
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


class NativeFilterKernel:
    """Machine code of a filter's loop over a batch."""

    moves_head = False

    def __init__(self, name: str, machine: Machine) -> None:
        self.name = name
        self.machine = machine
        self.address: int = machine.address

    def __call__(self, batch: int, /) -> int:
        result: int = self.machine.call(batch)
        return result

    def __repr__(self) -> str:
        return f"<native kernel of {self.name!r} at {self.address:#x}>"


def compile_kernel(expression: Expression, *, counts: bool = False, wide: bool = True) -> NativeFilterKernel:
    """Compile the batch kernel; counts: it writes the bytes accepted as 32-bit numbers instead of verdicts.

    wide=False: one packet at a time, for comparison.
    """
    module = build(expression.program, expression.link_type, counts=counts, wide=wide)
    return NativeFilterKernel(expression.text, Machine(module, "kernel"))
