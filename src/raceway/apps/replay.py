"""`raceway replay`: a capture file into a port, paced by its recorded gaps or by a rate."""

from __future__ import annotations

import sys
import time
from typing import Any

from raceway.apps.forwarder.forwarder import Forwarder, Pace, Way
from raceway.apps.forwarder.loop import forward
from raceway.apps.report import final_report, introduce
from raceway.compile.pcap_filter.expression import Expression
from raceway.memory.timers import precise_timers
from raceway.ports.opening import open as open_port
from raceway.ports.pcap.port import CapturePort
from raceway.ports.port import Port


class Replay:
    """One replay: `loops` times through a file (0: for ever), `limit` packets in all (0: no limit)."""

    def __init__(
        self,
        source: CapturePort,
        target: Port,
        pace: Pace,
        *,
        loops: int = 1,
        limit: int = 0,
        function: Any = None,
    ) -> None:
        self.function = function
        self.source, self.target, self.pace, self.loops, self.limit = source, target, pace, loops, limit
        self.packets = self.bytes = self.batches = 0
        self.drops: dict[str, int] = {}
        self.done_loops = 0
        for ring in target.tx:
            # So that whoever records at the other end of a pipe knows what the packets are.
            ring._record["link_type"] = source.link_type

    def run(self, look: Any = None) -> None:
        """Send everything; `look(self)` is called after each slice of work."""
        way = Way(self.source, self.target, self.function, pace=self.pace, limit=self.limit)
        forwarder = Forwarder([way])
        while True:
            before = self.packets
            while True:
                running = forwarder.step()
                self._count(forwarder)
                if look is not None:
                    look(self)
                if not running:
                    break
            self.done_loops += 1
            enough = self.loops and self.done_loops >= self.loops
            if (
                enough
                or (self.limit and self.packets >= self.limit)
                or self.packets == before
                or self.target.tx[0].ended
            ):
                return
            self.source.rewind()
            forwarder.again()

    def _count(self, forwarder: Forwarder) -> None:
        counted = forwarder.counters()
        self.packets, self.bytes, self.batches = (
            counted[name] for name in ("taken", "taken_bytes", "batches")
        )
        self.drops = forwarder.drops()


def run_replay(
    file: str,
    port: str,
    *,
    speed: float | None,
    pps: float | None,
    mbps: float | None,
    top: bool,
    loops: int,
    limit: int,
    json: bool,
    expression: str = "",
) -> None:
    """Replay a file into a port by name."""
    if not top and pps is None and mbps is None:
        speed = speed or 1.0
    pace = Pace(speed=speed, packets=pps, bits=None if mbps is None else mbps * 1e6)
    pace.numbers()
    with open_port(port) as target:
        introduce(target)
        # In the target's region, so that packets are read from the file right into the buffers that are sent.
        # A ring as large as the target's: then a buffer comes back only after the other end has read it.
        source = CapturePort(f"pcap:{file}", file, _geometry(target), target.region, write=False)
        with source, precise_timers():
            if not target.wait_for_peer(0):
                # What is sent into a pipe that nobody ever opens would be lost when this end closes.
                print(f"raceway replay: waiting for the other end of {port} to be opened", file=sys.stderr)
            while not target.wait_for_peer(0.2):
                pass
            wanted = Expression(expression, source.link_type) if expression.strip() else None
            replay = Replay(source, target, pace, loops=loops, limit=limit, function=wanted)
            # Compiled before the clock and the bar start, not while they run.
            forward.prepare()
            began = time.monotonic()
            with _progress(source, loops) as look:
                try:
                    replay.run(look)
                except KeyboardInterrupt:
                    pass
            drops = replay.drops | source.drops() | target.drops()
            summary = {
                "packets": replay.packets,
                "bytes": replay.bytes,
                "batches": replay.batches,
                "seconds": time.monotonic() - began,
                "drops": {name: count for name, count in drops.items() if count},
                "loops": replay.done_loops,
                "file": file,
            }
            final_report("replay", port, summary, json=json)


def _geometry(target: Port) -> Any:
    from raceway.ports.geometry import Geometry

    return Geometry(receive_slots=target.tx[0].size if target.tx else None)


class _progress:
    """A progress bar on a terminal's standard error: by bytes of the file, or a spinner where it has no end."""

    def __init__(self, source: CapturePort, loops: int) -> None:
        self.source, self.loops = source, loops
        self.bar: Any = None

    def __enter__(self) -> Any:
        if not sys.stderr.isatty():
            return None
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[packets]:,} packets  {task.fields[rate]:,.0f} pps"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.bar.start()
        self.task = self.bar.add_task("replaying", total=None, packets=0, rate=0.0)
        self.began = time.monotonic()
        return self.look

    def look(self, replay: Replay) -> None:
        """After each slice: how far are we?"""
        assert self.source.reader is not None
        position, size = self.source.reader.progress
        total = size * self.loops if size and self.loops else None
        rate = replay.packets / max(time.monotonic() - self.began, 1e-9)
        done = position + (size or 0) * replay.done_loops
        self.bar.update(self.task, completed=done, total=total, packets=replay.packets, rate=rate)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
