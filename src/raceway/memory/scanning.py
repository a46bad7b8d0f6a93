"""Looking at many slots at once: one pass over a span of slots, four of them (a cache line) an instruction.

A sync looks at every slot that changes hands, so this is the innermost loop of all that raceway does. A slot is
four 32-bit integers, and a line of slots one vector: limits are compared lane by lane and the signs of the
differences collected; nothing is decided before the end. Interpreted, the same sums are done slot by slot.

`scan_slots(address, count, limits, result)` reads `count` slots and writes three times four int32 to `result`,
one for each of a slot's fields (buffer, length, offset, flags):

    bad     negative in any lane: some slot has a field outside its limits, or offset + length above length's limit
    union   all fields ored together: for flags, the flags that occur
    sum     all fields added: for length, the bytes, exact for up to SPAN slots

`limits` is the address of twice four int32: the lowest and the highest value of each field.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raceway.memory.jit import INTERPRETED
from raceway.memory.layout import SCAN
from raceway.memory.structures import structure

SPAN = 1 << 14
"""Slots that may be scanned at a time: so many lengths of 65,536 add up to less than 2^31."""

Scan = structure("Scan", SCAN)
RESULT: int = SCAN.fields["bad_buffer"][1]  # type: ignore[index]

if INTERPRETED:
    import ctypes

    def _integers(address: int, count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return np.frombuffer(memoryview((ctypes.c_int32 * count).from_address(address)), np.int32)

    def scan_slots(address: int, count: int, limits: int, result: int) -> None:
        """See the module's docstring."""
        slots = _integers(address, 4 * count).reshape(-1, 4)
        bounds = _integers(limits, 8).astype(np.int64)
        out = _integers(result, 12)
        wide = slots.astype(np.int64)
        bad = np.asarray(((wide < bounds[:4]) | (wide > bounds[4:])).any(axis=0))
        bad[1] |= bool((wide[:, 1] + wide[:, 2] > bounds[5]).any())
        out[:4] = -bad.astype(np.int32)
        out[4:8] = np.bitwise_or.reduce(slots, axis=0) if count else 0
        out[8:] = (wide.sum(axis=0) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
else:
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    _i32, _i64 = ir.IntType(32), ir.IntType(64)
    _slot, _line = ir.VectorType(_i32, 4), ir.VectorType(_i32, 16)

    def _repeat(builder: Any, value: Any) -> Any:
        """A slot's vector, four times over."""
        mask = ir.Constant(_line, [lane % 4 for lane in range(16)])
        return builder.shuffle_vector(value, value, mask)

    def _step(builder: Any, value: Any, low: Any, high: Any, sums: list[Any]) -> list[Any]:
        """Bring `value`, one or four slots, into the three collected vectors."""
        lanes = value.type.count
        # Lane 1 of each slot gets its offset, the other lanes zero.
        zero = ir.Constant(value.type, None)
        picks = [lane + 1 if lane % 4 == 1 else lanes + lane for lane in range(lanes)]
        mask = ir.Constant(ir.VectorType(_i32, lanes), picks)
        reach = builder.add(value, builder.shuffle_vector(value, zero, mask))
        bad, union, total = sums
        for difference in (builder.sub(value, low), builder.sub(high, value), builder.sub(high, reach)):
            bad = builder.or_(bad, difference)
        return [bad, builder.or_(union, value), builder.add(total, value)]

    def _loop(builder: Any, kind: Any, address: Any, limits: list[Any], rounds: Any, sums: list[Any]) -> Any:
        """`rounds` times `_step` on vectors from `address` on; the collected vectors, and the address behind."""
        size = kind.count * 4
        before = builder.block
        test = builder.append_basic_block("scan_test")
        body = builder.append_basic_block("scan_body")
        after = builder.append_basic_block("scan_after")
        builder.branch(test)
        builder.position_at_end(test)
        index = builder.phi(_i64)
        index.add_incoming(ir.Constant(_i64, 0), before)
        collected = [builder.phi(kind) for _ in sums]
        for phi, start in zip(collected, sums, strict=True):
            phi.add_incoming(start, before)
        builder.cbranch(builder.icmp_signed("<", index, rounds), body, after)
        builder.position_at_end(body)
        at = builder.add(address, builder.mul(index, ir.Constant(_i64, size)))
        value = builder.load(builder.inttoptr(at, kind.as_pointer()), align=16)
        low, high = limits
        for phi, result in zip(collected, _step(builder, value, low, high, collected), strict=True):
            phi.add_incoming(result, body)
        index.add_incoming(builder.add(index, ir.Constant(_i64, 1)), body)
        builder.branch(test)
        builder.position_at_end(after)
        return collected, builder.add(address, builder.mul(rounds, ir.Constant(_i64, size)))

    @intrinsic
    def scan_slots(typing: Any, address: Any, count: Any, limits: Any, result: Any) -> Any:
        """See the module's docstring."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address, count, limits, result = arguments

            def place(base: Any, number: int) -> Any:
                at = builder.add(base, ir.Constant(_i64, 16 * number))
                return builder.inttoptr(at, _slot.as_pointer())

            low, high = (builder.load(place(limits, number), align=4) for number in (0, 1))
            lines = builder.ashr(count, ir.Constant(_i64, 2))
            wide = [_repeat(builder, low), _repeat(builder, high)]
            none = ir.Constant(_line, None)
            collected, address = _loop(builder, _line, address, wide, lines, [none, none, none])
            folded = []
            for vector, fold in zip(collected, (builder.or_, builder.or_, builder.add), strict=True):
                parts = [
                    builder.shuffle_vector(
                        vector, vector, ir.Constant(_slot, [4 * part + lane for lane in range(4)])
                    )
                    for part in range(4)
                ]
                folded.append(fold(fold(parts[0], parts[1]), fold(parts[2], parts[3])))
            rest = builder.and_(count, ir.Constant(_i64, 3))
            folded, _ = _loop(builder, _slot, address, [low, high], rest, folded)
            for number, vector in enumerate(folded):
                builder.store(vector, place(result, number), align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64), generate
