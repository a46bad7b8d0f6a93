"""The forwarding loop's control plane: ports and packet functions in, counters out.

with raceway.open("netmap:x}1") as a, raceway.open("pcap:out.pcapng", write=True) as b:
    forwarder = Forwarder([Way(a, b, function=keep_web)])
    forwarder.run()
    print(forwarder.counters())
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raceway.apps.forwarder.loop import ATTENTION, DONE, ERROR, forward
from raceway.apps.forwarder.records import (
    AT_ONCE,
    BITS_A_SECOND,
    PACKETS_A_SECOND,
    RECORDED,
    Direction,
    Forward,
    Judged,
)
from raceway.errors import RacewayError
from raceway.memory.jit import INTERPRETED
from raceway.memory.layout import Batch
from raceway.memory.structures import allocate
from raceway.ports.port import Port, poll_records

SLICE = 20_000_000
"""Nanoseconds of work between two returns to Python."""


@dataclass(frozen=True)
class Pace:
    """When packets go. At most one of them is set; none: as fast as the target takes them.

    speed: recorded gaps divided by this; packets: packets a second; bits: bits a second on the wire
    (a frame and 24 bytes of preamble, check sequence and gap).
    """

    speed: float | None = None
    packets: float | None = None
    bits: float | None = None

    def numbers(self) -> tuple[int, int]:
        """The kind and the number as the loop wants them; ValueError for what is no rate."""
        chosen = {"speed": self.speed, "packets a second": self.packets, "bits a second": self.bits}
        given = {name: value for name, value in chosen.items() if value is not None}
        if not given:
            return AT_ONCE, 0
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: expected one of them")
        ((name, value),) = given.items()
        if not 1e-6 <= value <= 1e12 or (name != "speed" and value < 1):
            raise ValueError(f"{name} {value:g}: expected {'1e-6' if name == 'speed' else '1'} to 1e12")
        if name == "speed":
            return RECORDED, round(value * 1_000_000)
        return (PACKETS_A_SECOND if name == "packets a second" else BITS_A_SECOND), round(value)


@dataclass(frozen=True)
class Way:
    """One direction: from the source's receive rings to the target's transmit rings, through a packet function or a
    filter expression.

    limit: end after so many packets (0: none); limit_sent: after so many that were passed on. interpreted: run the
    function as plain Python.
    """

    source: Port
    target: Port
    function: Any = None
    limit: int = 0
    pace: Pace = Pace()
    interpreted: bool = False
    limit_sent: int = 0


class Forwarder:
    """Runs one or more ways in the calling thread until all have ended."""

    def __init__(self, ways: list[Way]) -> None:
        forward.prepare()
        self.ways = ways
        self.directions = allocate(Direction, len(ways))
        self.batches = allocate(Batch, len(ways))
        self._judged = [allocate(Judged, max(len(way.source.rx), 1)) for way in ways]
        self._kernels = [self._prepare(way, index) for index, way in enumerate(ways)]
        self._state = allocate(Forward)
        self._state["directions"] = self.directions.ctypes.data
        self._state["count"] = len(ways)
        self._state["slice"] = SLICE
        self._ports = list(dict.fromkeys(port for way in ways for port in (way.source, way.target)))

    def _prepare(self, way: Way, index: int) -> Any:
        if not way.source.rx:
            raise RacewayError(f"{way.source.name}: nothing can be received from this port")
        if not way.target.tx:
            raise RacewayError(f"{way.target.name}: nothing can be sent to this port")
        way.target.check_source(way.source)
        record = self.directions[index]
        record["source"] = way.source.state.ctypes.data
        record["target"] = way.target.state.ctypes.data
        record["batch"] = self.batches[index : index + 1].ctypes.data
        record["judged"] = self._judged[index].ctypes.data
        record["limit"], record["limit_sent"] = way.limit, way.limit_sent
        record["pace"], record["rate"] = way.pace.numbers()
        self.batches[index]["port"] = index
        if way.function is None:
            return None
        kernel = way.function.interpreted() if way.interpreted else way.function.native()
        record["moves"] = kernel.moves_head
        if way.interpreted and not INTERPRETED:
            # Compiled code calls it through a C callback, which takes the interpreter's lock by itself.
            callback = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(kernel)
            record["kernel"] = ctypes.cast(callback, ctypes.c_void_p).value
            return kernel, callback
        record["kernel"] = kernel.address
        return kernel

    def step(self, nanoseconds: int = SLICE) -> bool:
        """Work for one slice. False once every way has ended. RingError if a ring was spoilt."""
        for port in self._ports:
            port._check_open()
            port.service()
            port.refresh_card()
        records = poll_records(self._ports)
        self._state["descriptors"], self._state["descriptor_count"] = records.ctypes.data, len(records)
        self._state["slice"] = nanoseconds
        code = forward(self._state.ctypes.data)
        if code == ERROR:
            for port in self._ports:
                for ring in port.rings:
                    if ring._kring["error"]:
                        ring.repair_and_raise()
        if code == DONE:
            for way in self.ways:
                way.target.flush()
        if code in (ATTENTION, DONE):
            for port in self._ports:
                port.service()
        return code != DONE

    def again(self) -> None:
        """Let ways that have ended run once more. Counters go on, and so do rates; recorded gaps begin anew."""
        for direction in self.directions:
            direction["ended"] = 0
            if direction["pace"] == RECORDED:
                direction["start"] = 0

    def run(self, after_slice: Callable[[Forwarder], bool | None] | None = None) -> None:
        """Work until every way has ended, or `after_slice` (called after each slice) returns False."""
        while self.step():
            if after_slice is not None and after_slice(self) is False:
                return

    @property
    def moved(self) -> int:
        """Packets moved in the last slice."""
        return int(self._state["moved"][0])

    def counters(self, way: int = 0) -> dict[str, int]:
        """What became of the packets of one way. taken = sent + returned + every drop, always."""
        record = self.directions[way]
        names = ("taken", "taken_bytes", "sent", "sent_bytes", "returned", "batches")
        return {name: int(record[name]) for name in names} | {
            f"drop_{name}": count for name, count in self.drops(way).items()
        }

    def drops(self, way: int = 0) -> dict[str, int]:
        """Packets of one way that were not passed on, by name.

        `function`: verdict DROP; `aborted`: see `abort_reasons`; `too_long`: longer than the target's whole
        ring; `no_way_back`: verdict TX, but the source cannot transmit.
        """
        record = self.directions[way]
        fields = {
            "function": "dropped",
            "aborted": "aborted",
            "too_long": "too_long",
            "no_way_back": "no_way_back",
        }
        return {name: int(record[field]) for name, field in fields.items() if record[field]}

    def abort_reasons(self, way: int = 0) -> dict[str, int]:
        """Why packets were ABORTED: `out_of_bounds`, `arithmetic`, `bad_verdict`, `other_error`, or the function's
        own verdict (`by_function`). Judged, and so counted, up to 256 packets ahead of what was moved."""
        batch = self.batches[way]
        return {
            name: int(batch[name]) for name in ("out_of_bounds", "arithmetic", "bad_verdict", "other_error")
        }
