"""Runs a generator or receiver on a port: threads, reports, the end. Control plane.

with raceway.open("netmap:x{1") as port:
    report = Generator(port, read("netmap:x{1", "tx", count="1M")).run()
    print(report.pps)
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TextIO

import numpy as np

from raceway.apps.generator.frames import Frames, from_file, made
from raceway.apps.generator.histogram import BUCKETS, filled, percentile
from raceway.apps.generator.options import HEADERS, MARK_SIZE, NUMBERED, Options
from raceway.apps.generator.records import Echo, Pace, Receive, Sums, Track, Transmit
from raceway.apps.generator.sequence import WINDOW
from raceway.apps.generator.worker import INTERRUPTED, Worker, usable_cpus, warn
from raceway.apps.report import Report, Ticker
from raceway.compile.pcap_filter.expression import Expression
from raceway.errors import RacewayError
from raceway.memory.layout import Batch
from raceway.memory.structures import allocate
from raceway.ports.geometry import LINKTYPE_ETHERNET
from raceway.ports.port import Port
from raceway.ports.port_ring import PortRing

PING_TIMEOUT = 1_000_000_000
"""Nanoseconds after which ping gives an echo up."""
_DRAIN_PATIENCE = 1.0

Array = np.ndarray[Any, np.dtype[Any]]


def loop_of(function: str) -> Callable[[int], int]:
    """The compiled loop that does what a function of pkt-gen does."""
    if function in ("tx", "txseq"):
        from raceway.apps.generator.transmit import transmit_packets

        return transmit_packets
    if function in ("rx", "rxseq"):
        from raceway.apps.generator.receive import receive_packets

        return receive_packets
    from raceway.apps.generator.echo import echo_packets

    return echo_packets


def prepare(function: str) -> None:
    """Compile a function's loop, or load it from the cache, before a port is opened: whoever waits for the other end
    of a pipe may believe that it is ready to go once it is open."""
    loop = loop_of(function)
    if hasattr(loop, "prepare"):
        loop.prepare()


def open_port(options: Options) -> Port:
    """Open the port that the options name, with the rings and slots of -C. Errors as `raceway.open`."""
    from raceway.ports.names import PortKind, parse
    from raceway.ports.opening import open as open_by_name

    keys = ("tx-slots", "rx-slots", "tx-rings", "rx-rings")
    given = [f"{key}={value}" for key, value in zip(keys, options.rings, strict=True) if value]
    kind = parse(options.port).kind
    if kind == PortKind.PCAP:
        return open_by_name(
            options.port, write=options.function in ("tx", "txseq"), slots=max(options.rings[:2]) or None
        )
    return open_by_name(options.port + ("@conf:" + ",".join(given) if given else ""))


def ring_groups(rings: Sequence[PortRing], threads: int, what: str, port: Port) -> list[Sequence[PortRing]]:
    """Share rings out to threads, in order; ValueError if there are more threads than rings."""
    if not rings:
        verb = "sent to" if what == "tx" else "received from"
        raise RacewayError(f"{port.name}: nothing can be {verb} this port")
    if threads > len(rings):
        raise ValueError(
            f"-p {threads}: {port.name} has {len(rings)} {what} rings; expected at most one thread a ring"
        )
    bounds = [len(rings) * index // threads for index in range(threads + 1)]
    return [rings[first:last] for first, last in pairwise(bounds)]


class Generator:
    """One run of one function on an open port. Use once; `interrupt` ends it from another thread."""

    def __init__(self, port: Port, options: Options, *, output: TextIO | None = None) -> None:
        self.port, self.options = port, options
        self._output = output or sys.stdout
        self._lock = threading.Lock()
        self._kept: list[Any] = []
        self._track: Array | None = None
        self._histogram: Array | None = None
        self._over = threading.Event()
        self.workers: list[Worker] = []
        build = {"tx": self._sender, "txseq": self._sender, "rx": self._receiver, "rxseq": self._receiver}
        build.get(options.function, self._echo)()

    # -- building ------------------------------------------------------------------------------------------

    def _keep(self, array: Array) -> int:
        """Hold on to what a record names by its address only; return the address."""
        self._kept.append(array)
        return int(array.ctypes.data)

    def _shares(self, total: int) -> list[int]:
        threads = self.options.threads
        return [total // threads + (index < total % threads) for index in range(threads)]

    def _common(self, record: Array, rings: Sequence[PortRing], count: int) -> None:
        record["rings"], record["ring_count"] = rings[0].address, len(rings)
        record["burst"] = self.options.burst
        record["left"] = count if self.options.count else -1
        record["patience"] = 1

    def _add(self, record: Array, rings: Sequence[PortRing]) -> None:
        number = len(self.workers)
        self.workers.append(
            Worker(
                number,
                self.port,
                loop_of(self.options.function),
                record,
                rings,
                lock=self._lock,
                cpus=usable_cpus(self.options.cpus, self.options.affinity, number),
                several=self.options.threads > 1,
                stop_when_quiet=self.options.stop_when_quiet and self.options.function in ("rx", "rxseq"),
                dump=self._output if self.options.dump else None,
            )
        )

    def _frames(self) -> Frames:
        options, size = self.options, self.port.region.buffer_size
        if options.file is not None:
            frames = from_file(options.file)
            if frames.link_types != {LINKTYPE_ETHERNET}:
                kinds = ", ".join(map(str, sorted(frames.link_types)))
                warn(
                    f"-P {options.file}: has packets of link types {kinds}, sent as if they were Ethernet (1)"
                )
        else:
            frames = made(options)
        if options.function in NUMBERED and size < HEADERS[options.version] + MARK_SIZE:
            raise ValueError(
                f"{self.port.name}: buffers of {size} bytes; {options.function} over IPv{options.version} needs "
                f"{HEADERS[options.version] + MARK_SIZE} for headers and sequence number"
            )
        slots = max(1, -(-frames.longest // size))
        least = min(ring.size for ring in self.port.tx) - 1
        if slots > least:
            raise ValueError(
                f"{self.port.name}: frames of {frames.longest} bytes take {slots} slots of {size} bytes, "
                f"and its rings hold {least}"
            )
        return frames

    def _pace(self, rate: int) -> int:
        pace = allocate(Pace)
        pace["rate"] = rate
        # Some 50 microseconds' worth at a time: any finer, and most of the time would go into hand-overs.
        pace["quantum"] = max(1, min(self.options.burst, rate // 20_000))
        pace["backlog"] = max(2, rate // 10)
        return self._keep(pace)

    def _sender(self) -> None:
        options = self.options
        groups = ring_groups(self.port.tx, options.threads, "tx", self.port)
        if options.function == "txseq":
            # Rings overtake each other, and a stream has one order.
            groups = [groups[0][:1]]
        frames = self._frames()
        size = self.port.region.buffer_size
        # A power of two that keeps a frame of one line within its buffer; see `fill`.
        colours = 1 << ((size // 64).bit_length() - 1) if frames.longest <= 64 else 1
        slots = max(1, -(-frames.longest // size))
        plain = not frames.varied and len(frames.frames) == 1 and slots == 1
        for rings, count, rate in zip(
            groups, self._shares(options.count), self._shares(options.rate), strict=True
        ):
            record = allocate(Transmit)
            self._common(record, rings, count)
            smallest = min(ring.size for ring in rings)
            record["patience"] = max(slots, min(options.burst, smallest // 4), 1)
            record["frames"], record["frame_count"] = self._keep(frames.frames), len(frames.frames)
            record["plain"] = plain and not any(ring._kring["metadata_used"] for ring in rings)
            record["sums"] = self._keep(frames.sums)
            record["smallest"] = options.sizes[0]
            record["sizes"] = 1 if options.file else options.sizes[1] - options.sizes[0]
            record["largest_slots"] = slots
            record["varied"], record["ipv6"] = frames.varied, options.version == 6
            record["sequenced"] = options.function == "txseq"
            record["seed"] = secrets.randbits(48)
            record["sides"] = self._keep(frames.sides.copy())
            record["pace"] = self._pace(rate)
            if options.rate and not rate:
                raise ValueError(
                    f"-R {options.rate}: less than one packet a second for each of {options.threads} threads"
                )
            record["colours"] = colours - 1
            self._kept.append(frames)
            self._add(record, rings)

    def _receiver(self) -> None:
        options = self.options
        groups = ring_groups(self.port.rx, options.threads, "rx", self.port)
        wanted = Expression(options.expression, self.port.link_type) if options.expression.strip() else None
        self._kept.append(wanted)
        for rings, count in zip(groups, self._shares(options.count), strict=True):
            record = allocate(Receive)
            self._common(record, rings, count)
            if options.function == "rxseq":
                self._track = allocate(Track)
                self._track["window"] = self._keep(np.zeros(WINDOW // 32, dtype=np.uint32))
                record["track"] = self._track.ctypes.data
            if wanted is not None:
                record["kernel"] = wanted.native().address
                record["batch"] = self._keep(allocate(Batch))
                record["verdicts"] = self._keep(np.zeros(options.burst, dtype=np.uint8))
            self._add(record, rings)

    def _echo(self) -> None:
        options, port = self.options, self.port
        (senders,) = ring_groups(port.tx, 1, "tx", port)
        (receivers,) = ring_groups(port.rx, 1, "rx", port)
        record = allocate(Echo)
        self._common(record, senders, options.count)
        record["receive"], record["receive_count"] = receivers[0].address, len(receivers)
        record["answers"] = options.function == "pong"
        record["awaited"], record["timeout"] = -1, PING_TIMEOUT
        record["pace"] = self._pace(options.rate if options.sends else 0)
        self._histogram = np.zeros(BUCKETS, dtype=np.int64)
        record["histogram"] = self._histogram.ctypes.data
        if options.sends:
            frames = self._frames()
            self._kept.append(frames)
            at = HEADERS[options.version]
            sums = allocate(Sums)
            # The template's own checksum is the sum over everything but the number, which is 0 in it.
            sums["udp"] = ~int.from_bytes(frames.data[at - 2 : at].tobytes(), "big") & 0xFFFF
            record["frames"], record["mark_at"] = self._keep(frames.frames), at
            record["sums"] = self._keep(sums)
        self._add(record, [*senders, *receivers])

    # -- running -------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End the run soon, with a report. From any thread."""
        self._over.set()
        for worker in self.workers:
            worker.stop()

    def run(self, *, report_every: float = 0.0, normal: bool = True) -> Report:
        """Do it, in threads; return the report when all have ended. Ctrl-C ends the run and does not raise.

        report_every: seconds between rate lines on standard error, 0 for none; normal: see `report.scaled`.
        Raises what a thread ran into: RingError, an error of a capture file.
        """
        prepare(self.options.function)
        running: list[Worker] = []
        interrupted = False
        try:
            interrupted = not self._wait_for_start()
            if not interrupted:
                ticker = Ticker(f"{self.options.function} {self.port.name}", report_every, normal=normal)
                # Threads take no signals, and no Ctrl-C comes between starting one and noting it.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                try:
                    for worker in self.workers:
                        threading.Thread(target=worker.run, daemon=True).start()
                        running.append(worker)
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                self._watch_over(ticker)
        except KeyboardInterrupt:
            interrupted = True
        self._end(running)
        for worker in self.workers:
            if worker.error is not None:
                raise worker.error
        if interrupted:
            return self._report(INTERRUPTED)
        with contextlib.suppress(KeyboardInterrupt):
            self._drain()
        return self._report("")

    def _wait_for_start(self) -> bool:
        """Wait as -w says; False if interrupted. A receiver waits in its loop."""
        if self.options.wait is not None:
            return not self._over.wait(self.options.wait)
        said = False
        while self.options.sends and not self.port.wait_for_peer(0.01):
            if not said:
                said = True
                warn(f"{self.port.name}: waiting for the other end (-w 0: no waiting)")
            if self._over.is_set():
                return False
        return True

    def _watch_over(self, ticker: Ticker) -> None:
        for worker in self.workers:
            while not worker.over.wait(0.2 if ticker.left is None else min(0.2, ticker.left + 0.001)):
                if ticker.due:
                    self._tick(ticker)
                if any(worker.error is not None for worker in self.workers):
                    self.interrupt()

    def _end(self, running: list[Worker]) -> None:
        """Stop what still runs and wait for it, however often Ctrl-C is pressed: a loop has our memory in its hands."""
        while not all(worker.over.is_set() for worker in running):
            with contextlib.suppress(KeyboardInterrupt):
                self.interrupt()
                for worker in running:
                    worker.over.wait()

    def _drain(self) -> None:
        """Let what was sent last reach where it goes; the other end of a pipe, for as long as it goes on taking."""
        self.port.flush()
        left, since = self.queued(), time.monotonic()
        while left and not self._over.is_set():
            self.port.service()
            if any(ring.ended for ring in self.port.tx):
                return
            for ring in self.port.tx:
                ring.sync()
            now = self.queued()
            if now != left:
                left, since = now, time.monotonic()
            elif self.port.wait_for_peer(0) and time.monotonic() - since > _DRAIN_PATIENCE:
                return
            time.sleep(0.0005)

    def queued(self) -> int:
        """Packets that were sent and lie in transmit rings still, untaken."""
        return sum(ring.untaken for ring in self.port.tx)

    # -- what came of it -----------------------------------------------------------------------------------

    def _total(self, field: str) -> int:
        return sum(int(worker.record[field][0]) for worker in self.workers)

    def _tick(self, ticker: Ticker) -> None:
        packets, octets = self._total("packets"), self._total("bytes")
        ticker.tick(packets, octets, self.port.drops(), self._total("batches"), self._note())

    def _note(self) -> str:
        if self._track is not None:
            numbers = self._sequence()
            return ", ".join(f"{name} {numbers[name]:,}" for name in ("lost", "reordered", "duplicates"))
        if self.options.function == "ping":
            echoes = self._total("echoes")
            return (
                f"rtt {self._total('total') / echoes / 1000:.1f} us, lost {self._total('lost'):,}"
                if echoes
                else ""
            )
        return ""

    def _sequence(self) -> dict[str, int]:
        assert self._track is not None
        track = {name: int(self._track[name][0]) for name in ("lowest", "next", "in_order", "reordered")}
        return {
            "lost": track["next"] - track["lowest"] - track["in_order"] - track["reordered"],
            "reordered": track["reordered"],
            "duplicates": int(self._track["duplicates"][0]),
            "stale": int(self._track["stale"][0]),
            "in_order": track["in_order"],
            "foreign": self._total("foreign"),
        }

    def _round_trips(self) -> dict[str, float]:
        assert self._histogram is not None
        echoes, least, most = self._total("echoes"), self._total("least"), self._total("most")
        if not echoes:
            return {}
        inner = {f"p{percent:g}": percentile(self._histogram, percent) for percent in (50, 90, 99, 99.9)}
        inner = {name: min(max(value, least), most) for name, value in inner.items()}
        return {"min": least, "avg": round(self._total("total") / echoes, 1), **inner, "max": most}

    def _extras(self) -> tuple[dict[str, Any], tuple[tuple[str, str], ...]]:
        function = self.options.function
        if self._track is not None:
            numbers = self._sequence()
            words = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in numbers.items())
            return dict(numbers), (("sequence", words),)
        if function == "ping":
            assert self._histogram is not None
            trips = self._round_trips()
            counts = {"sent": self._total("sent")}
            counts |= {name: self._total(name) for name in ("lost", "late", "foreign")}
            words = ", ".join(f"{name} {value / 1000:.1f}" for name, value in trips.items())
            lines = [("echoes", ", ".join(f"{name} {count:,}" for name, count in counts.items()))]
            if trips:
                lines.append(("rtt, us", words))
                lines += [("", row) for row in _bars(self._histogram)]
            return {**counts, "rtt_ns": trips, "histogram_ns": filled(self._histogram)}, tuple(lines)
        if function in ("tx", "txseq", "pong"):
            queued = 0 if any(ring.ended for ring in self.port.tx) else self.queued()
            return {"queued": queued}, ((("queued", f"{queued:,} packets not taken yet"),) if queued else ())
        return {}, ()

    def _report(self, ended: str) -> Report:
        # What was noticed last, as that the other end is gone, belongs into the drops.
        self.port.service()
        extras, lines = self._extras()
        drops = dict(self.port.drops())
        if self.options.function == "pong" and self._total("lost"):
            drops["too_long_for_ring"] = self._total("lost")
        if self.options.expression.strip():
            counted = {"filter": self._total("filtered"), "other_link_type": self._total("other_link_type")}
            drops |= {name: count for name, count in counted.items() if count}
        starts = [int(worker.record["started"][0]) for worker in self.workers]
        ends = [int(worker.record["finished"][0]) for worker in self.workers]
        starts = [start for start in starts if start]
        seconds = max(0, max(ends) - min(starts)) / 1e9 if starts else 0.0
        return Report(
            tool="pkt-gen",
            function=self.options.function,
            port=self.options.port,
            packets=self._total("packets"),
            bytes=self._total("bytes"),
            seconds=seconds,
            batches=self._total("batches"),
            drops=drops,
            ended=ended or ", ".join(dict.fromkeys(worker.ended for worker in self.workers)),
            first=0 if self.options.function in ("tx", "txseq") else self._total("first"),
            extras=extras,
            lines=lines,
        )


def _bars(counts: Array) -> list[str]:
    """The histogram for people: one row a power of two."""
    rows: dict[int, int] = {}
    for first, _, count in filled(counts):
        rows[first.bit_length()] = rows.get(first.bit_length(), 0) + count
    most = max(rows.values(), default=1)
    return [
        f"{(1 << bits) // 2 / 1000:>10.3f} to {(1 << bits) / 1000:<10.3f} {count:>10,}  "
        + "#" * max(1, 40 * count // most)
        for bits, count in sorted(rows.items())
    ]
