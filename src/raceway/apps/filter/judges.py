"""How many bytes of each packet an expression accepts: one judge a target, all with the same answer."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raceway.compile.pcap_filter import interpreter
from raceway.compile.pcap_filter.expression import Expression
from raceway.memory.jit import INTERPRETED
from raceway.memory.layout import Batch
from raceway.memory.structures import allocate

TARGETS = ("native", "kernel", "interpreted", "libpcap")

Judge = Callable[[int, Any, Any, Any], None]
"""(address of the window, slots, metadata, accepted): fills `accepted`, shape (n,) of uint32."""


def judge_of(expression: Expression, target: str) -> Judge:
    """Prepare a target; ValueError for an unknown one, and what the target itself raises."""
    if target not in TARGETS:
        raise ValueError(f"target {target!r}: expected one of {', '.join(TARGETS)}")
    if target == "native" and not INTERPRETED:
        return _native(expression)
    if target == "libpcap":
        reference = expression.reference()
        return _one_by_one(lambda address, length, wire: reference.run_at(address, length, wire))
    if target == "kernel":
        from raceway.kernel.pcap_filter import KernelFilter

        loaded = KernelFilter(expression.program)
        return _one_by_one(lambda address, length, wire: loaded.run(ctypes.string_at(address, length), wire))
    program = expression.program
    return _one_by_one(
        lambda address, length, wire: interpreter.run(program, ctypes.string_at(address, length), wire)
    )


def _one_by_one(run: Callable[[int, int, int], int]) -> Judge:
    def judge(window: int, slots: Any, metadata: Any, accepted: npt.NDArray[np.uint32]) -> None:
        rows = zip(
            slots["buffer"].tolist(), slots["length"].tolist(), metadata["wire_length"].tolist(), strict=True
        )
        for index, (offset, length, wire) in enumerate(rows):
            accepted[index] = run(window + offset, length, wire)

    return judge


def _native(expression: Expression) -> Judge:
    from raceway.compile.pcap_filter.native import compile_kernel

    kernel = compile_kernel(expression, counts=True)
    batch = allocate(Batch)
    batch["buffer_size"] = 1
    # All packets of a call are of the expression's link type; only their lengths on the wire may matter.
    told = expression.program.uses_length

    def judge(window: int, slots: Any, metadata: Any, accepted: npt.NDArray[np.uint32]) -> None:
        batch["buffers"] = window
        batch["slots"], batch["metadata"] = slots.ctypes.data, metadata.ctypes.data if told else 0
        batch["count"] = batch["slot_count"] = len(slots)
        batch["verdicts"] = accepted.ctypes.data
        kernel(batch.ctypes.data)

    return judge
