"""One loop in one thread: call it, do for it what only Python can, call it again. Control plane."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from raceway.apps.generator.records import DONE, DUMP, ENDED, FAILED, SERVICE
from raceway.ports.port import Port, Watch, poll_records
from raceway.ports.port_ring import PortRing

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

SLICE = 20_000_000
SLICE_OF_SEVERAL = 2_000_000
"""Nanoseconds of work before a loop returns to Python. Threads that share one port share its bell: one may answer
it while it was the other's, who then wakes at the end of its slice."""
QUIET = 1.0
"""Seconds without a packet after which -W ends a receiver."""

COUNT, INTERRUPTED, END_OF_STREAM, QUIET_PORT = (
    "count reached",
    "interrupted",
    "end of stream",
    "nothing came",
)


class Worker:
    """A loop's record, its rings and the thread that runs it.

    loop: one of the compiled loops; record: its state, shape (1,); rings: those it syncs, in the order in which
    its `failed` counts them.
    """

    def __init__(
        self,
        number: int,
        port: Port,
        loop: Callable[[int], int],
        record: Array,
        rings: Sequence[PortRing],
        *,
        lock: threading.Lock,
        cpus: frozenset[int] | None = None,
        several: bool = False,
        stop_when_quiet: bool = False,
        dump: TextIO | None = None,
    ) -> None:
        self.number, self.port, self.loop, self.record, self.rings = number, port, loop, record, tuple(rings)
        self.error: BaseException | None = None
        # Not Thread.join: one that Ctrl-C interrupts takes the thread for ended (CPython's gh-90882, before 3.13).
        self.over = threading.Event()
        self.ended = ""
        self._lock, self._cpus, self._dump, self._quiet = lock, cpus, dump, stop_when_quiet
        self._descriptors: list[Watch] | None = None
        self._records: Array = poll_records([])
        record["slice"] = SLICE_OF_SEVERAL if several else SLICE
        record["dump"] = dump is not None

    def stop(self) -> None:
        """Ask the loop to return soon. From any thread."""
        self.record["stop"] = 1

    def run(self) -> None:
        """Work until the count is reached, the stream ends, or `stop`; errors are kept in `error`."""
        try:
            if self._cpus is not None:
                os.sched_setaffinity(0, self._cpus)
            while not self.ended:
                self._step()
            # What was taken last goes back, or the other end would count it as not taken.
            for ring in self.rings:
                ring.sync()
        except BaseException as error:
            self.error = error
        finally:
            self.over.set()

    def _step(self) -> None:
        self._watch()
        code = self.loop(self.record.ctypes.data)
        if code == FAILED:
            self.rings[int(self.record["failed"][0])].repair_and_raise()
        with self._lock:
            self.port.service()
            self.port.refresh_card()
        if code == DUMP and self._dump is not None:
            self._show_held(self._dump)
        if code == DONE or (code in (ENDED, SERVICE) and self._nothing_left()):
            self.ended = COUNT
        elif code == ENDED:
            self.ended = END_OF_STREAM
        elif self.record["stop"][0]:
            self.ended = INTERRUPTED
        elif self._quiet and code != DUMP and self._quiet_for() > QUIET:
            self.ended = QUIET_PORT

    def _nothing_left(self) -> bool:
        """True if the count was reached just when the other end went away, and nothing waits for a file."""
        return int(self.record["left"][0]) == 0 and all(
            ring.head == int(ring._kring["head"]) for ring in self.rings
        )

    def _watch(self) -> None:
        """Point the record at what to sleep on; the other end's socket is there once it has been opened."""
        descriptors = self.port.descriptors()
        if descriptors != self._descriptors:
            self._descriptors = descriptors
            self._records = poll_records([self.port])
            self.record["descriptors"] = self._records.ctypes.data
            self.record["descriptor_count"] = len(self._records)

    def _quiet_for(self) -> float:
        since = int(self.record["quiet_since"][0])
        return (time.monotonic_ns() - since) / 1e9 if since else 0.0

    def _show_held(self, file: TextIO) -> None:
        """Print the packets that the loop has just filled or taken: their slots change hands at its next sync."""
        for ring in self.rings:
            index, head = int(ring._kring["head"]), ring.head
            while index != head:
                slot = ring.slots[index]
                more = " +" if int(slot["flags"]) & 0x20 else ""
                title = (
                    f"{ring.name} slot {index} buffer {int(slot['buffer'])} {int(slot['length'])} bytes{more}"
                )
                print(title, *hexadecimal(bytes(ring.packet(index))), sep="\n", file=file)
                index = ring.next(index)


def hexadecimal(data: bytes) -> list[str]:
    """Lines of sixteen bytes: offset, hexadecimal, printable ASCII."""
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"  {start:04x}  {row.hex(' '):<47}  {text}")
    return lines


def usable_cpus(cpus: int, affinity: int | None, thread: int) -> frozenset[int] | None:
    """The processors that thread number `thread` may use: None for no change.

    cpus: only so many of those that this process may use (0: all); affinity: pin the first thread to this one and
    each further thread to the next. ValueError for processors that there are not.
    """
    available = sorted(os.sched_getaffinity(0))
    if not 0 <= cpus <= len(available):
        raise ValueError(f"-c {cpus}: this process may use {len(available)} processors")
    chosen = available[: cpus or len(available)]
    if affinity is None:
        return frozenset(chosen) if cpus else None
    if affinity not in chosen:
        raise ValueError(f"-a {affinity}: expected one of {', '.join(map(str, chosen))}")
    return frozenset((chosen[(chosen.index(affinity) + thread) % len(chosen)],))


def warn(text: str) -> None:
    """Say something on standard error."""
    print(f"raceway: {text}", file=sys.stderr, flush=True)
