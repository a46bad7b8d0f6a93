"""What a tool says about its work: a rate line now and then on standard error, a report at the end on standard
output, and for programs one JSON object as the report's last line.

Shared by all tools that move packets. Control plane; imports neither numpy nor numba.
"""

from __future__ import annotations

import json as json_format
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from raceway.ports.port import Port

WIRE_OVERHEAD = 24
"""Bytes that a frame takes on an Ethernet wire besides its own: preamble and start 8, frame check sequence 4,
interpacket gap 12 (IEEE 802.3, 3.1.1 and 4A.4.2)."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def scaled(value: float, unit: str, *, normal: bool = True) -> str:
    """A value with its unit, to four digits: `14.88 Mpps`. normal=False: plainly, `14880952 pps`."""
    if not normal:
        return f"{value:.0f} {unit}"
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def named(drops: Mapping[str, int] | int) -> str:
    """Drops by name, or their number, or `none`."""
    if isinstance(drops, int):
        return f"{drops:,}" if drops else "none"
    return ", ".join(f"{name} {count:,}" for name, count in drops.items() if count) or "none"


@dataclass(frozen=True)
class Sample:
    """Counters as they stand at one time: seconds on a monotonic clock, totals since the start. note: said as it is."""

    time: float
    packets: int
    bytes: int
    batches: int
    drops: Mapping[str, int] | int = field(default_factory=dict)
    note: str = ""


def rate_line(label: str, before: Sample, now: Sample, *, normal: bool = True) -> str:
    """One line about the time between two samples."""
    seconds = max(now.time - before.time, 1e-9)
    packets, octets = now.packets - before.packets, now.bytes - before.bytes
    batches = now.batches - before.batches
    wire = 8 * (octets + WIRE_OVERHEAD * packets) / seconds
    words = [
        f"{scaled(packets / seconds, 'pps', normal=normal)}",
        f"{scaled(wire, 'bit/s', normal=normal)} wire",
        f"{scaled(packets, 'pkt', normal=normal)} {scaled(octets, 'B', normal=normal)} in {seconds:.3f} s",
        f"batch {packets / batches:.1f}" if batches else "",
        f"drops {named(now.drops)}",
        now.note,
    ]
    return label + ", ".join(word for word in words if word)


@dataclass(frozen=True)
class Report:
    """What a tool did in all.

    seconds: from the first packet to the last. first: packets that came at the very first look; they say nothing
    of the rate, because when they came is not known, so they do not count for it if there are others.
    extras: more for the JSON object; lines: more for people, each with its heading.
    """

    tool: str
    function: str
    port: str
    packets: int
    bytes: int
    seconds: float
    batches: int
    drops: Mapping[str, int]
    ended: str = ""
    first: int = 0
    extras: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[tuple[str, str], ...] = ()

    @property
    def pps(self) -> float:
        """Packets a second; 0 if there was no time."""
        if self.seconds <= 0:
            return 0.0
        counted = self.packets - self.first if self.packets > self.first else self.packets
        return counted / self.seconds

    @property
    def bits_per_second(self) -> float:
        """Bits of frames a second, without what the wire adds."""
        return 8 * self.pps * self.bytes / self.packets if self.packets else 0.0

    @property
    def bits_per_second_wire(self) -> float:
        """Bits a second on the wire: each frame and WIRE_OVERHEAD bytes."""
        return self.bits_per_second + 8 * self.pps * WIRE_OVERHEAD

    @property
    def average_batch(self) -> float:
        """Packets that changed hands at a time, on average."""
        return self.packets / self.batches if self.batches else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers as numbers, times in seconds unless the name says otherwise."""
        return {
            "tool": self.tool,
            **({"function": self.function} if self.function else {}),
            "port": self.port,
            "packets": self.packets,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 9),
            "pps": round(self.pps, 3),
            "bits_per_second": round(self.bits_per_second, 3),
            "bits_per_second_wire": round(self.bits_per_second_wire, 3),
            "average_batch": round(self.average_batch, 3),
            "drops": dict(self.drops),
            **({"ended": self.ended} if self.ended else {}),
            **self.extras,
        }

    def text(self, *, normal: bool = True) -> str:
        """For people, several lines."""
        rows = [
            ("rate", f"{scaled(self.pps, 'pps', normal=normal)}, "
                     f"{scaled(self.bits_per_second_wire, 'bit/s', normal=normal)} on the wire, "
                     f"{scaled(self.bits_per_second, 'bit/s', normal=normal)} of frames"),
            ("batches", f"{self.batches:,} of {self.average_batch:.1f} packets on average"),
            *self.lines,
            ("drops", named(self.drops)),
        ]  # fmt: skip
        if self.ended:
            rows.append(("ended", self.ended))
        width = max(len(heading) for heading, _ in rows)
        name = " ".join(word for word in (self.tool, self.function, self.port) if word)
        head = f"{name}: {self.packets:,} packets, {self.bytes:,} bytes in {self.seconds:.6g} s"
        return "\n".join([head] + [f"  {heading:<{width}}  {words}" for heading, words in rows])

    def show(self, *, as_json: bool = False, normal: bool = True, file: TextIO | None = None) -> None:
        """Print the report, and with `as_json` the JSON object as its last line, on standard output."""
        out = file or sys.stdout
        print(self.text(normal=normal), file=out)
        if as_json:
            print(json_format.dumps(self.as_dict()), file=out)
        out.flush()


def final_report(
    tool: str, port: str, summary: Mapping[str, Any], *, json: bool = False, to_stderr: bool = False
) -> None:
    """Show the report of a tool that has counted by itself, on standard output or where that is taken, on error.

    summary: `packets`, `bytes`, `batches`, `seconds`, `drops`; whatever else it has goes into the JSON object.
    """
    counted = ("packets", "bytes", "batches", "seconds", "drops")
    extras = {name: value for name, value in summary.items() if name not in counted}
    report = Report(
        tool=tool, function="", port=port, extras=extras, **{name: summary[name] for name in counted}
    )
    report.show(as_json=json, file=sys.stderr if to_stderr else sys.stdout)


def introduce(*ports: Port) -> None:
    """A tool's first line: how each port reaches what it is joined to, where there is more than one way."""
    for port in ports:
        if port.description:
            print(f"raceway: {port.name}: {port.description}", file=sys.stderr, flush=True)


class Ticker:
    """Prints a rate line on standard error every `interval` seconds when `tick` is called often enough; 0: never."""

    def __init__(self, label: str = "", interval: float = 1.0, *, normal: bool = True) -> None:
        self.label, self.interval, self.normal = f"{label}: " if label else "", interval, normal
        self._before = Sample(time.monotonic(), 0, 0, 0)
        self._next = self._before.time + interval

    @property
    def left(self) -> float | None:
        """Seconds until the next line; None if there is none."""
        return max(0.0, self._next - time.monotonic()) if self.interval > 0 else None

    @property
    def due(self) -> bool:
        """True if it is time for a line."""
        return self.interval > 0 and time.monotonic() >= self._next

    def tick(
        self, packets: int, octets: int, drops: Mapping[str, int] | int = 0, batches: int = 0, note: str = ""
    ) -> None:
        """Print a line if it is time. Totals since the start, as in `Sample`."""
        if not self.due:
            return
        sample = Sample(time.monotonic(), packets, octets, batches, drops, note)
        print(rate_line(self.label, self._before, sample, normal=self.normal), file=sys.stderr, flush=True)
        self._before = sample
        # A line that came late does not pull the next one after it.
        self._next = max(self._next + self.interval, sample.time)
