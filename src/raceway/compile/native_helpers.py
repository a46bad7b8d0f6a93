"""The few operations that the rewriter puts into compiled functions. Only imported when something is compiled."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types as numba_types
from numba.extending import intrinsic

from raceway.compile import twins
from raceway.compile.addresses import signed64
from raceway.compile.lowering_addresses import SCALARS, among

__all__ = ["among", "largest", "number", "shift_left", "shift_right", "smallest"]

types: Any = numba_types  # numba fills this module in as it starts
_i64 = ir.IntType(64)
_NUMBERS = (types.Integer, types.Boolean)


def _numeric(kind: Any) -> bool:
    return isinstance(kind, _NUMBERS) or kind in SCALARS.values()


@intrinsic
def number(typing: Any, value: Any) -> Any:
    """`int(x)`: a truth value or an address as a plain number."""
    if not _numeric(value):
        return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.cast(builder, args[0], sig.args[0], types.int64)

    return types.int64(value), generate


def _extreme(values: Any, sign: str) -> Any:
    """`min` or `max` of several numbers, or of one tuple of them."""
    kinds = [*values]
    one_tuple = len(kinds) == 1 and isinstance(kinds[0], types.BaseTuple)
    parts = (
        [*(kinds[0].types if hasattr(kinds[0], "types") else [kinds[0].dtype] * len(kinds[0]))]
        if one_tuple
        else kinds
    )
    if len(parts) < 1 + (not one_tuple) or not all(_numeric(kind) for kind in parts):
        return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        given = cgutils.unpack_tuple(builder, args[0])
        if one_tuple:
            given = cgutils.unpack_tuple(builder, given[0])
        numbers = [
            context.cast(builder, one, kind, types.int64) for one, kind in zip(given, parts, strict=True)
        ]
        found = numbers[0]
        for one in numbers[1:]:
            # The first of equals, as in Python; they are the same number.
            found = builder.select(builder.icmp_signed(sign, one, found), one, found)
        return found

    return types.int64(types.StarArgTuple(kinds)), generate


@intrinsic
def smallest(typing: Any, *values: Any) -> Any:
    """`min(a, b, ...)`."""
    return _extreme(values, "<")


@intrinsic
def largest(typing: Any, *values: Any) -> Any:
    """`max(a, b, ...)`."""
    return _extreme(values, ">")


def _shift(typing: Any, value: Any, count: Any, left: bool) -> Any:
    if not (_numeric(value) and _numeric(count)):
        return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number_, by = (
            context.cast(builder, one, kind, types.int64) for one, kind in zip(args, sig.args, strict=True)
        )
        with builder.if_then(builder.icmp_signed("<", by, ir.Constant(_i64, 0)), likely=False):
            # ValueError: negative shift count.
            twins.fail(builder, twins.OTHER)
        large = builder.icmp_unsigned(">", by, ir.Constant(_i64, 63))
        if left:
            # What is shifted out is lost, as everything above 64 bits is.
            shifted = builder.shl(number_, builder.select(large, ir.Constant(_i64, 0), by))
            return builder.select(large, ir.Constant(_i64, 0), shifted)
        return builder.ashr(number_, builder.select(large, ir.Constant(_i64, 63), by))

    return types.int64(value, count), generate


@intrinsic
def shift_left(typing: Any, value: Any, count: Any) -> Any:
    """`x << n` for any n."""
    return _shift(typing, value, count, True)


@intrinsic
def shift_right(typing: Any, value: Any, count: Any) -> Any:
    """`x >> n` for any n."""
    return _shift(typing, value, count, False)


@intrinsic
def _same(typing: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.cast(builder, args[0], sig.args[0], types.int64)

    return types.int64(value), generate


twins.REPLACED[min], twins.REPLACED[max], twins.REPLACED[int] = smallest, largest, number
# Compiled numbers have 64 bits by themselves.
twins.REPLACED[signed64] = _same
