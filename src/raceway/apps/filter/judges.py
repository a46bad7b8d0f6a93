"""How many bytes of each packet an expression accepts: one judge a target, all with the same answer."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raceway.compile.pcap_filter import interpreter
from raceway.compile.pcap_filter.libpcap import Reference, compile_expression
from raceway.compile.pcap_filter.program import Program
from raceway.memory.jit import INTERPRETED
from raceway.memory.layout import Batch
from raceway.memory.structures import allocate

TARGETS = ("native", "kernel", "interpreted", "libpcap")

Judge = Callable[[int, Any, Any, Any], None]
"""(address of the window, slots, metadata, accepted): fills `accepted`, shape (n,) of uint32."""


def judge_of(text: str, link_type: int, target: str, *, snaplen: int, netmask: int) -> Judge:
    """Prepare a target; ValueError for an unknown one, ExpressionError, and what the target itself raises."""
    if target not in TARGETS:
        raise ValueError(f"target {target!r}: expected one of {', '.join(TARGETS)}")
    program = compile_expression(text, link_type, snaplen=snaplen, netmask=netmask)
    if target == "native" and not INTERPRETED:
        return NativeJudge(program, link_type, text)
    if target == "libpcap":
        reference = Reference(program)
        return _one_by_one(lambda address, length, wire: reference.run_at(address, length, wire))
    if target == "kernel":
        from raceway.kernel.pcap_filter import KernelFilter

        loaded = KernelFilter(program)
        return _one_by_one(lambda address, length, wire: loaded.run(ctypes.string_at(address, length), wire))
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


class NativeJudge:
    """Machine code of the program, called from here or, by its address, from the loop over the file."""

    def __init__(self, program: Program, link_type: int, text: str) -> None:
        from raceway.compile.pcap_filter.kernels import compile_program

        self._kernel = compile_program(program, link_type, text, counts=True)
        self.address = self._kernel.address
        # All packets of a call are of the expression's link type; only their lengths on the wire may matter.
        self._told = program.uses_length

    def batch(self, window: int, slots: Any, metadata: Any, accepted: npt.NDArray[np.uint32]) -> Any:
        """The record that the machine code works on, shape (1,)."""
        batch = allocate(Batch)
        batch["buffer_size"] = 1
        batch["buffers"] = window
        batch["slots"], batch["metadata"] = slots.ctypes.data, metadata.ctypes.data if self._told else 0
        batch["count"] = batch["slot_count"] = len(slots)
        batch["verdicts"] = accepted.ctypes.data
        return batch

    def __call__(self, window: int, slots: Any, metadata: Any, accepted: npt.NDArray[np.uint32]) -> None:
        batch = self.batch(window, slots, metadata, accepted)
        self._kernel(batch.ctypes.data)
