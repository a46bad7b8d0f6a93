"""Diverted packets from the control plane: the names and their functions, the rings while rules divert, and a thread.

What became of a packet that a rule has diverted, always (and exactly, once nothing is under way)::

    diverted = lost by name + foreign + of each name (passed + dropped + failed + too_long) + queued on the way in
    passed   = reinjected + lost by name ("host_...") + queued on the way back
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raceway.apps.firewall.divert.inspector import Inspector, joined, put_back
from raceway.apps.firewall.divert.loop import ATTENTION, DONE, ERROR, PYTHON_ASKED, divert
from raceway.apps.firewall.divert.records import ASKED, NAMED, NAMES, Diverted, Judged
from raceway.apps.firewall.divert.rings import DivertRings
from raceway.compile.packet import in_buffer
from raceway.compile.verdicts import ABORTED
from raceway.errors import InterfaceError
from raceway.kernel.bpf.maps import Map
from raceway.memory.layout import MORE_FRAGMENTS
from raceway.memory.structures import allocate
from raceway.ports.host.sync import host_sync
from raceway.ports.nic.sync import nic_sync
from raceway.ports.port import Port, poll_records

SLICE = 100_000_000
"""Nanoseconds between two returns to Python, which looks after the ports then."""
_REST = 0.1
"""Seconds to wait for an interface that is down."""
_PATIENCE = 2.0
_log = logging.getLogger("raceway.firewall")


@dataclass(frozen=True)
class NameStatus:
    """Packets of one name that were decided about. failed: the function raised something, or answered no verdict;
    too_long: for the whole way back; failure: the first one in words, with its line."""

    passed: int
    dropped: int
    failed: int
    too_long: int
    failure: str


@dataclass(frozen=True)
class DivertStatus:
    """What became of diverted packets; see this module's first lines. lost: by name; foreign: without a mark; joined:
    of the reinjected ones, those that went to the host's stack as one with others of their flow."""

    diverted: int
    reinjected: int
    names: dict[str, NameStatus]
    lost: dict[str, int]
    foreign: int
    queued: int
    joined: int


class DivertLoop:
    """The loop from a port's receive rings to another's transmit rings, in whichever thread calls `step`.

    functions: by name, packet functions or other callables; a name's number is its place.
    """

    def __init__(self, functions: Mapping[str, Callable[[Any], Any]]) -> None:
        if len(functions) > NAMES:
            raise ValueError(f"{len(functions)} names to divert to: at most {NAMES} were expected")
        self.records: Any = np.zeros(max(len(functions), 1), dtype=NAMED)
        self.inspectors = [
            Inspector(name, function, self.records[number])
            for number, (name, function) in enumerate(functions.items())
        ]
        self.numbers = {one.name: number for number, one in enumerate(self.inspectors)}
        self.state = allocate(Diverted)
        self.state["names"], self.state["count"] = self.records.ctypes.data, len(self.inspectors)
        self._judged: Any = None
        self.source: Port | None = None
        self.target: Port | None = None

    def connect(self, source: Port, target: Port, link: int = 0, live: int = 0) -> None:
        """Take packets from a port's receive rings, and hand on to another's transmit rings. link: the interface's
        number; live: where the target's way for streams, if it has one, is asked for (a LIVE record)."""
        self.source, self.target = source, target
        self._judged = allocate(Judged, len(source.rx))
        state = self.state
        state["source"], state["target"] = source.state.ctypes.data, target.state.ctypes.data
        state["judged"], state["ending"] = self._judged.ctypes.data, 0
        state["link"], state["live"] = link, live

    def step(self, nanoseconds: int = SLICE) -> bool:
        """Work for one slice; False when it was told to end (`ending`), or nothing more can come, and all is done."""
        assert self.source is not None
        assert self.target is not None
        for port in (self.source, self.target):
            port.service()
            port.refresh_card()
        watches = poll_records((self.source, self.target))
        self.state["descriptors"], self.state["descriptor_count"] = watches.ctypes.data, len(watches)
        self.state["slice"] = nanoseconds
        until = time.monotonic_ns() + nanoseconds
        code = divert(self.state.ctypes.data)
        while code == PYTHON_ASKED:
            self._ask()
            if time.monotonic_ns() > until:
                break
            code = divert(self.state.ctypes.data)
        if code == ERROR:
            for ring in (*self.source.rings, *self.target.rings):
                if ring._kring["error"]:
                    ring.repair_and_raise()
        if code == ATTENTION:
            self.target.service()
        for one in self.inspectors:
            one.look_for_failures()
        return code != DONE

    def _ask(self) -> None:
        """Let plain Python decide about what waits for it."""
        assert self.source is not None
        number = int(self.state["asked"][0]) - 1
        ring, judged = self.source.rx[number], self._judged[number]
        # A chunk's first packet may have more slots than a chunk.
        count = min(int(judged["count"]), len(judged["verdicts"]))
        verdicts = judged["verdicts"]
        waiting = np.flatnonzero(
            (verdicts[:count] == ASKED) & (judged["numbers"][:count] < len(self.inspectors))
        )
        found = ring.slots[(ring.head + waiting) % ring.size]
        # Numbers of Python's: what lies in numpy's records costs more to look at than all the rest.
        rows = zip(
            waiting.tolist(), judged["numbers"][waiting].tolist(), found["buffer"].tolist(),
            found["offset"].tolist(), found["length"].tolist(), found["flags"].tolist(), strict=True,
        )  # fmt: skip
        now, port, queue = time.time_ns(), int(self.state["link"][0]), ring.number
        region, first, size = self.source.region, ring.head, ring.size
        memory, start, room = memoryview(region.memory), region.buffers_offset, region.buffer_size  # type: ignore[arg-type]
        decide = [one.decide for one in self.inspectors]
        answers: list[int] = []
        answer = answers.append
        for at, name, buffer, offset, length, flags in rows:
            if flags & MORE_FRAGMENTS:
                known = {"time": now, "port": port, "ring": queue}
                answer(self._ask_about_chain(self.inspectors[name], ring, (first + at) % size, known))
                continue
            # A sync has seen that there is such a buffer.
            place = start + buffer * room
            packet = in_buffer(memory[place : place + room], offset, length, now, port, queue)
            answer(decide[name](packet))
            if packet._begin != offset or packet._length != length:
                slot = ring.slots[(first + at) % size]
                slot["offset"], slot["length"] = packet._begin, len(packet)
        verdicts[waiting] = answers

    @staticmethod
    def _ask_about_chain(one: Inspector, ring: Any, index: int, given: dict[str, int]) -> int:
        packet, slots = joined(ring, index, given)
        verdict = one.decide(packet)
        return verdict if put_back(ring, packet, slots) else int(ABORTED)


class Diverter:
    """A firewall's diverted packets: opens the interface's rings when rules divert, and closes them when none do.

    functions: by name, what decides; join: packets of a flow go back together. Raises TypeError, and
    PacketFunctionError for what does not compile.
    """

    def __init__(
        self, interface: str, functions: Mapping[str, Callable[[Any], Any]], *, join: bool = True
    ) -> None:
        self.interface, self.join = interface, join
        self.loop = DivertLoop(functions)
        self.failure: BaseException | None = None
        self._rings: DivertRings | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lost: dict[str, int] = {}
        self._sent = self._joined = 0
        self._diverted = self._no_ring = 0

    @property
    def numbers(self) -> dict[str, int]:
        """The names that there are, and the number of each in marks."""
        return self.loop.numbers

    # -- while rules divert --------------------------------------------------------------------------------

    def open(self) -> Map:
        """See to it that there are rings and somebody who empties them; return where REDIRECT has to lead."""
        if self._rings is None:
            # Compiled before packets wait.
            for one in (divert, nic_sync, host_sync):
                one.prepare()
            rings = DivertRings(self.interface, join=self.join)
            link = rings.source.interface.index
            # Where Python is what packets wait for, a run in the kernel would only take a processor from it.
            native = all(one.native for one in self.loop.inspectors)
            self.loop.connect(rings.source, rings.target, link, rings.target.live if native else 0)
            self._rings, self.failure = rings, None
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="raceway divert", daemon=True)
            self._thread.start()
        return self._rings.map

    def _run(self) -> None:
        """The thread."""
        deadline = 0.0
        try:
            while True:
                if self._stop.is_set():
                    deadline = deadline or time.monotonic() + _PATIENCE
                    self.loop.state["ending"] = 1
                try:
                    if not self.loop.step():
                        return
                except InterfaceError:
                    # It is down, and may be up again; or it is gone, which whoever runs the firewall sees.
                    if self._stop.wait(_REST):
                        return
                if deadline and time.monotonic() > deadline:
                    return
        except BaseException as error:
            self.failure = error
            _log.exception("%s: nobody takes diverted packets any more", self.interface)

    def close(self) -> None:
        """Decide about what has come, and let go of the rings. To be called when no program leads to them any more."""
        if self._rings is None:
            return
        assert self._thread is not None
        self._stop.set()
        self.loop.state["ending"] = 1
        self._thread.join()
        rings, self._rings = self._rings, None
        try:
            rings.target.flush()
        except (OSError, InterfaceError):
            pass  # It is gone.
        left_in, left_out = rings.unread, rings.unsent
        rings.close()
        for name, count in {**rings.lost(), "closed": left_in, "host_closed": left_out}.items():
            if count:
                self._lost[name] = self._lost.get(name, 0) + count
        self._sent += rings.sent
        self._joined += rings.joined

    def add(self, counters: Mapping[str, int]) -> None:
        """Count what a program that is in force no longer has diverted."""
        self._diverted += counters["REDIRECT"]
        self._no_ring += counters["no_ring"]

    # -- what became of packets ----------------------------------------------------------------------------

    def status(self, counters: Mapping[str, int]) -> DivertStatus:
        """What has been counted; counters: those of the program in force."""
        rings = self._rings
        lost = dict(self._lost)
        no_ring = self._no_ring + counters["no_ring"]
        queued, sent, waiting, joined = 0, self._sent, 0, self._joined
        if rings is not None:
            for name, count in rings.lost().items():
                lost[name] = lost.get(name, 0) + count
            sent += rings.sent
            joined += rings.joined
            waiting = rings.target.waiting
            queued = rings.unread + rings.unsent
        if no_ring:
            lost["no_ring"] = no_ring
        host = sum(
            count for name, count in lost.items() if name.startswith("host_") and name != "host_closed"
        )
        return DivertStatus(
            self._diverted + counters["REDIRECT"],
            sent - waiting - host,
            {one.name: _of(one) for one in self.loop.inspectors},
            lost,
            int(self.loop.state["foreign"][0]),
            queued,
            joined,
        )


def _of(one: Inspector) -> NameStatus:
    passed, dropped, failed, too_long = (
        int(one.record[name]) for name in ("passed", "dropped", "failed", "too_long")
    )
    return NameStatus(passed, dropped, failed, too_long, one.first_failure)
