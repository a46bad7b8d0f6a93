"""What one packet costs: the same batch kernel interface, the same packets in memory, one core, no ring in between.

Before each pass the function's state is emptied, outside the measured time, so that every pass decides the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from raceway.memory.layout import Batch
from raceway.memory.structures import allocate
from raceway.ports.batch import metadata_of
from raceway.ports.geometry import Geometry
from raceway.ports.pcap.port import CapturePort

_SLOTS = 16_384
_PASSES = 25
_SECONDS = 0.15


@dataclass(frozen=True)
class Cost:
    """Nanoseconds a packet, the median of the passes; whether both ways came to the same verdicts.

    native is None where everything runs interpreted (NUMBA_DISABLE_JIT=1).
    """

    packets: int
    native: float | None
    interpreted: float
    native_passes: int
    same_verdicts: bool


class Packets:
    """The first packets of a capture file in one region, as a receive ring holds them (as many as fit: 16,383).

    seconds: from the earliest of them to the latest.
    """

    def __init__(self, file: str) -> None:
        self.port = CapturePort(f"pcap:{file}", file, Geometry(receive_slots=_SLOTS), write=False)
        ring = self.port.rx[0]
        while not ring.ended and ring.space < _SLOTS - 1:
            before = ring.space
            self.port.rxsync()
            if ring.space == before and not ring._kring["attention"]:
                break
        self.count = ring.space
        times = metadata_of(ring)["timestamp"][: self.count]
        self.seconds = float(times.max() - times.min()) / 1e9
        kring = ring._kring
        self.verdicts = np.zeros(self.count, dtype=np.uint8)
        self._batch = allocate(Batch)
        for name in ("slots", "metadata", "buffers", "buffer_size", "slot_count"):
            self._batch[name] = kring[name]
        self._batch["first"], self._batch["count"] = ring.head, self.count
        self._batch["verdicts"] = self.verdicts.ctypes.data
        self._batch["now"] = time.time_ns()

    def once(self, kernel: Any) -> float:
        """Let a kernel judge all of them; nanoseconds a packet."""
        address = self._batch.ctypes.data
        began = time.perf_counter_ns()
        kernel(address)
        return (time.perf_counter_ns() - began) / self.count

    def close(self) -> None:
        """Give the memory back."""
        self.port.close()


def measure(function: Any, packets: Packets, forget: Callable[[], None]) -> Cost:
    """Measure a packet function both ways. `forget` empties its state."""
    native: list[float] = []
    compiled = function.native()
    plain = function.interpreted()
    same = True
    if compiled is not plain:
        until = time.monotonic() + _SECONDS
        while len(native) < _PASSES and (time.monotonic() < until or len(native) < 3):
            forget()
            native.append(packets.once(compiled))
        decided = packets.verdicts.copy()
    forget()
    interpreted = packets.once(plain)
    if compiled is not plain:
        same = bool(np.array_equal(decided, packets.verdicts))
    return Cost(packets.count, median(native) if native else None, interpreted, len(native), same)
