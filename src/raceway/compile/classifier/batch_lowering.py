"""Looking many keys up at once, in machine code: what processors do in fewer steps than Python says.

Only imported to compile.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types as numba_types
from numba.extending import intrinsic

from raceway.compile import twins
from raceway.compile.classifier import batches
from raceway.compile.lowering_addresses import TABLE, constant

types: Any = numba_types  # numba fills this module in as it starts
_i8, _i64 = ir.IntType(8), ir.IntType(64)
_LINE = ir.VectorType(ir.IntType(32), 8)


def _numbers(context: Any, builder: Any, table: Any, at: Any, bits: int) -> Any:
    """The pointer to the numbers of some bits behind a word."""
    start = cgutils.create_struct_proxy(TABLE)(context, builder, value=table).start
    return builder.bitcast(builder.gep(start, [at]), ir.IntType(bits).as_pointer())


def _reader(bits: int) -> Any:
    @intrinsic
    def read(typing: Any, table: Any, at: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            place = builder.gep(_numbers(context, builder, args[0], args[1], bits), [args[2]])
            return builder.zext(builder.load(place), _i64)

        return types.int64(TABLE, types.int64, types.int64), generate

    return read


twins.REPLACED[batches.byte_of] = _reader(8)
twins.REPLACED[batches.pair_of] = _reader(16)
twins.REPLACED[batches.half_of] = _reader(32)


@intrinsic
def _line_of(typing: Any, table: Any, at: Any, key: Any) -> Any:
    """All boundaries of a line are compared at once; as the eighth number is 0, one more is not above the key."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        line = _numbers(context, builder, args[0], args[1], 32)
        boundaries = builder.load(builder.bitcast(line, _LINE.as_pointer()), align=32)
        number = builder.trunc(args[2], ir.IntType(32))
        keys: Any = ir.Constant(_LINE, ir.Undefined)
        for lane in range(8):
            keys = builder.insert_element(keys, number, ir.Constant(ir.IntType(32), lane))
        reached = builder.bitcast(builder.icmp_unsigned("<=", boundaries, keys), _i8)
        count = builder.zext(builder.ctpop(reached), _i64)
        place = builder.gep(line, [builder.add(count, constant(7))])
        return builder.zext(builder.load(place), _i64)

    return types.int64(TABLE, types.int64, types.int64), generate


twins.REPLACED[batches.line_of] = _line_of


@intrinsic
def _soon(typing: Any, table: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        prefetch(builder, _numbers(context, builder, args[0], args[1], 64), write=False)
        return context.get_dummy_value()

    return types.none(TABLE, types.int64), generate


def prefetch(builder: Any, place: Any, write: bool) -> None:
    """Emit the question for the memory at a place. It need not be there: nothing is looked at."""
    number = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [_i8.as_pointer(), number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    near, data = 3, 1
    arguments = [ir.Constant(number, one) for one in (int(write), near, data)]
    builder.call(function, [builder.bitcast(place, _i8.as_pointer()), *arguments])


twins.REPLACED[batches.soon] = _soon
