"""What a name after `divert` stands for: a packet function, which runs as machine code, or any Python callable.

A plain callable gets a `Packet` and answers a verdict; what it does to the packet's bytes is done. It takes some
microseconds a packet, and Python's lock. Whatever either of them raises, or answers that is no verdict, is a failure:
the packet ends there, it is counted, and the first failure is said with its line.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raceway.compile.function import REASONS, PacketFunction
from raceway.compile.packet import Packet
from raceway.compile.verdicts import ABORTED, DROP, PASS
from raceway.memory.layout import MORE_FRAGMENTS, Batch
from raceway.memory.structures import allocate

_PACKAGE = str(Path(__file__).resolve().parents[3])
_PASS, _DROP = int(PASS), int(DROP)
_log = logging.getLogger("raceway.firewall")


class Inspector:
    """A name and its function. record: its NAMED record, which it fills; shown: how messages call the function.

    first_failure: the first failure in words, with file and line; "" if there was none. Raises TypeError for what is
    no function.
    """

    def __init__(self, name: str, function: PacketFunction | Callable[[Packet], Any], record: Any) -> None:
        if not callable(function):
            raise TypeError(
                f"divert {name}: a packet function or another callable was expected, not {type(function).__name__}"
            )
        self.name, self.function, self.record = name, function, record
        self.first_failure = ""
        self.batch = allocate(Batch)
        record["batch"] = self.batch.ctypes.data
        self.native = isinstance(function, PacketFunction)
        if isinstance(function, PacketFunction):
            self.kernel = function.native()
            record["kernel"] = self.kernel.address
        self.shown = str(getattr(function, "__name__", None) or type(function).__name__)

    @property
    def reasons(self) -> dict[str, int]:
        """Why a packet function's packets were ABORTED, by name."""
        return {name: int(self.batch[0][name]) for name in REASONS if self.batch[0][name]}

    def decide(self, packet: Packet) -> int:
        """Ask a plain callable: DROP or PASS, or ABORTED for a failure."""
        try:
            verdict = self.function(packet)
        except Exception as error:
            self._fail(f"{_place(error)}: {type(error).__name__}: {error}")
            return int(ABORTED)
        if verdict is PASS:
            return _PASS
        if verdict is DROP:
            return _DROP
        # True is 1, and so is DROP: who answers True surely does not mean that.
        if isinstance(verdict, int) and not isinstance(verdict, bool) and verdict in (DROP, PASS):
            return int(verdict)
        self._fail(f"{_home(self.function)}: it answered {verdict!r}: PASS or DROP was expected")
        return int(ABORTED)

    def _fail(self, what: str) -> None:
        if not self.first_failure:
            self.first_failure = what
            _log.error(
                "divert %s: %s failed, the packet was dropped (said once): %s", self.name, self.shown, what
            )

    def look_for_failures(self) -> None:
        """Say it if a packet function, which runs as machine code, has failed."""
        if self.native and not self.first_failure and self.record["failed"]:
            what = ", ".join(self.reasons) or "it answered neither PASS nor DROP"
            self._fail(f"{_home(self.function)}: {what}")


def _place(error: BaseException) -> str:
    """Where an exception was raised: the innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    # The function's own line says more than one within what it has called of raceway's.
    chosen = next(
        (frame for frame in reversed(frames) if not frame.filename.startswith(_PACKAGE)), frames[-1]
    )
    return f"{chosen.filename}:{chosen.lineno}"


def _home(function: Any) -> str:
    """Where a function is written."""
    code = getattr(getattr(function, "function", function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)


def joined(ring: Any, index: int, given: dict[str, int]) -> tuple[Packet, list[int]]:
    """The packet in several slots of a receive ring that starts in one, as a copy in one piece; and its slots. given:
    what is known of it besides."""
    slots = [index]
    while ring.slots["flags"][slots[-1]] & MORE_FRAGMENTS and len(slots) < ring.size - 1:
        slots.append(ring.next(slots[-1]))
    return Packet(bytearray(b"".join(ring.packet(one) for one in slots)), **given), slots


def put_back(ring: Any, packet: Packet, slots: list[int]) -> bool:
    """Put a joined packet back into its slots; False if it has become longer than these have room for."""
    data, size = bytes(packet), ring.port.region.buffer_size
    starts = [int(ring.slots["offset"][one]) for one in slots]
    if len(data) > sum(size - start for start in starts):
        return False
    for number, (one, start) in enumerate(zip(slots, starts, strict=True)):
        slot = ring.slots[one]
        # All of them stay, so that the ring's slots go on being what the loop has counted.
        left = len(slots) - 1 - number
        part = data[: min(size - start, max(len(data) - left, 0))]
        data = data[len(part) :]
        slot["length"] = len(part)
        ring.buffer(one)[start : start + len(part)] = part
    return True
