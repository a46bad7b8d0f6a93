"""The port: one or more pairs of rings over one region, and what every adapter's port has in common.

Control plane. A `Port` owns the private records (Kring, PortState) that compiled loops work on; adapters derive
from it and say how rings are connected (`open`), what has to be done outside the data plane now and then
(`service`: refill, flush, notice that a peer is gone) and what to wait on. Reading and writing packets from
Python is in `batch`; every ring is also there as netmap has it (`port.rx[0].head`).
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from raceway.errors import EndOfStream, RacewayError
from raceway.memory.directory import Card
from raceway.memory.jit import Entry
from raceway.memory.layout import KRING, Kring, PortState
from raceway.memory.region import BUFFER_SIZE, Region
from raceway.memory.structures import allocate
from raceway.memory.waiting import BELL, POLLFD
from raceway.ports.geometry import LINKTYPE_ETHERNET, Geometry
from raceway.ports.port_ring import PortRing

if TYPE_CHECKING:
    from raceway.ports.batch import Batch


class Watch(NamedTuple):
    """A descriptor to sleep on, and its poll events, which say what it is: BELL, PACKETS or PYTHON of
    `memory.waiting`."""

    descriptor: int
    events: int


class Port:
    """An open port. Use as a context manager; `close` may be called twice.

    tx, rx: its rings; region: the shared memory that they lie in; link_type: LINKTYPE_ value of its packets.
    """

    adapter: Entry
    """The adapter's sync: `int64 sync(int64 kring)`, for every ring of the port."""

    mode = ""
    """How the port reaches what it is joined to, in words, where there is more than one way."""

    def __init__(self, name: str, geometry: Geometry, region: Region | None = None) -> None:
        self.name = name
        self.closed = False
        self.link_type = LINKTYPE_ETHERNET
        self._polled = False
        self._batch: Batch | None = None
        self._turn = 0
        self._lock = threading.RLock()
        self._card: Card | None = None
        self._refresh_at = 0.0
        if region is not None and geometry.buffer_size is None:
            geometry = replace(geometry, buffer_size=region.buffer_size)
        self.geometry = geometry.settled()
        if region is not None and self.geometry.buffer_size != region.buffer_size:
            raise ValueError(
                f"{name}: buffers of {self.geometry.buffer_size} bytes in a region of {region.buffer_size}-byte buffers"
            )
        self._own_region = region is None
        self.region: Region
        if region is not None:
            self.region = region
        self.tx: tuple[PortRing, ...] = ()
        self.rx: tuple[PortRing, ...] = ()
        self.extra_buffers = np.empty(0, np.int32)
        self.state = allocate(PortState)
        self._epoll: select.epoll | None = None
        self._sleepers: dict[bool, select.epoll] = {}
        # Last, because whoever fails above is not closed. An adapter that fails later closes itself.
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    # -- what adapters build with and override -------------------------------------------------------------

    def _make_region(self) -> None:
        if self._own_region:
            geometry = self.geometry
            buffers = (geometry.transmit_slots or 0) * (geometry.transmit_rings or 0)
            buffers += (geometry.receive_slots or 0) * (geometry.receive_rings or 0) + geometry.extra_buffers
            self.region = Region(buffer_size=geometry.buffer_size or BUFFER_SIZE, buffers=buffers)

    def _make_rings(self) -> None:
        """Rings of the geometry's numbers and sizes, this port's alone."""
        self._make_region()
        geometry = self.geometry
        transmit = [
            self.region.allocate_ring(geometry.transmit_slots or 0, number=number, transmit=True)
            for number in range(geometry.transmit_rings or 0)
        ]
        receive = [
            self.region.allocate_ring(geometry.receive_slots or 0, number=number, transmit=False)
            for number in range(geometry.receive_rings or 0)
        ]
        self._attach(transmit, receive)

    def _attach(self, transmit: list[int], receive: list[int]) -> None:
        """Make the private records for the rings at these offsets, and the initial state of the indexes."""
        self._transmit_krings = allocate(Kring, max(len(transmit), 1))
        self._receive_krings = allocate(Kring, max(len(receive), 1))
        self.tx = self._ring_views(transmit, self._transmit_krings)
        self.rx = self._ring_views(receive, self._receive_krings)
        self._point_at_rings()
        self._card = Card(self.region, self.name, transmit + receive)
        if self.geometry.extra_buffers:
            self.extra_buffers = self.region.allocate_extra(self.geometry.extra_buffers)

    def _ring_views(self, offsets: list[int], krings: Any) -> tuple[PortRing, ...]:
        views = []
        for index, offset in enumerate(offsets):
            kring = krings[index]
            view = PortRing(self, offset, kring, krings.ctypes.data + index * KRING.itemsize)
            kring["sync"] = self.adapter.pointer
            if view.transmit:
                # A transmit ring starts with everything but one slot in the user's hands.
                view._record["tail"] = kring["tail"] = view.size - 1
            views.append(view)
        return tuple(views)

    def _keep(self, number: int) -> None:
        """Use only ring pair `number` from now on."""
        self.tx = self.tx[number : number + 1]
        self.rx = self.rx[number : number + 1]
        self._point_at_rings()

    def _keep_direction(self, *, transmit: bool) -> None:
        """Use only the transmit or only the receive rings from now on."""
        if transmit:
            self.rx = ()
        else:
            self.tx = ()
        self._point_at_rings()

    def _point_at_rings(self) -> None:
        for rings, address, count in (
            (self.tx, "transmit", "transmit_count"),
            (self.rx, "receive", "receive_count"),
        ):
            self.state[address] = rings[0].address if rings else 0
            self.state[count] = len(rings)
        if self._card is not None:
            self._card.rings(int(ring._kring["ring"]) - self.region.base for ring in self.rings)

    def service(self) -> None:
        """What the adapter has to do outside the data plane. Called between slices of work."""

    def refresh_card(self, *, now: bool = False) -> None:
        """Write how the port works and what it has dropped where `raceway ports` reads it: at most five times a second,
        so it can be called as often as `service`; or `now`."""
        moment = time.monotonic()
        if self._card is not None and (now or moment >= self._refresh_at):
            self._refresh_at = moment + 0.2
            self._card.refresh(self.mode, self.drops())

    def drops(self) -> dict[str, int]:
        """Packets that ended at this port without being delivered, by the drop's name."""
        return {}

    def check_source(self, source: Port) -> None:
        """Raise RacewayError if packets that `source` receives must not be handed on to this port, as they would come
        back from there."""

    def descriptors(self) -> list[Watch]:
        """What to sleep on besides the port's own bell, and what its being ready means."""
        return []

    def _always_ready(self) -> bool:
        """True for ports that never make anyone wait."""
        return True

    def _close(self) -> None:
        """The adapter's part of closing."""

    # -- the public face -----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self.tx)} tx and {len(self.rx)} rx rings"
        return f"<raceway port {self.name}: {state}>"

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.name}: the port is closed")

    def close(self) -> None:
        """Flush what is to be flushed and let go of everything. The other end of a pipe sees the end of the stream."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            try:
                if self._batch is not None:
                    self._batch._forget()
                self._close()
            finally:
                if self._card is not None:
                    self._card.close()
                for epoll in (self._epoll, *self._sleepers.values()):
                    if epoll is not None:
                        epoll.close()
                os.close(self._bell)
                if self._own_region and hasattr(self, "region"):
                    self.region.close()

    @property
    def description(self) -> str:
        """`mode`, and what else a user wants to know of it, in a line."""
        return self.mode

    @property
    def rings(self) -> tuple[PortRing, ...]:
        """All rings, transmit first."""
        return self.tx + self.rx

    def sync(self) -> None:
        """txsync and rxsync of every ring. RingError if one was used wrongly; the others are synced all the same."""
        self._check_open()
        from raceway.ports.sync import sync_port

        self.service()
        self.refresh_card()
        if sync_port(self.state.ctypes.data) < 0:
            for ring in self.rings:
                if ring._kring["error"]:
                    ring.repair_and_raise()
        if any(ring._kring["attention"] for ring in self.rings):
            self.service()
        if self._polled:
            self._settle_bell()

    def txsync(self) -> None:
        """Publish what was put into the transmit rings, and collect free slots."""
        self._sync_some(self.tx)

    def rxsync(self) -> None:
        """Give back the receive slots that were read, and collect new packets."""
        self._sync_some(self.rx)

    def _sync_some(self, rings: tuple[PortRing, ...]) -> None:
        self._check_open()
        self.service()
        self.refresh_card()
        for ring in rings:
            ring.sync()
        if any(ring._kring["attention"] for ring in rings):
            self.service()
        if self._polled:
            self._settle_bell()

    def carry_metadata(self) -> None:
        """Let packets bring what is known of them besides their bytes: when they were recorded, how long they were
        on the wire, of which link type. For a pipe: both ends must ask for it before the first packet, and it costs
        24 bytes more a packet. Capture files always do."""
        self._check_open()
        for ring in self.rings:
            ring._kring["metadata_used"] = 1

    def counters(self) -> dict[str, int]:
        """Packets and bytes through all rings, and every drop by name."""
        counted = {
            "tx_packets": sum(ring.packets for ring in self.tx),
            "tx_bytes": sum(ring.bytes for ring in self.tx),
            "rx_packets": sum(ring.packets for ring in self.rx),
            "rx_bytes": sum(ring.bytes for ring in self.rx),
        }
        return counted | {f"drop_{name}": count for name, count in self.drops().items()}

    def fileno(self) -> int:
        """A descriptor for select, poll, epoll and asyncio: readable while there are unread packets, free transmit
        slots that were waited for, or the end of the stream. Sync before and after, as with netmap's: whoever uses it
        does all of the port's work in one thread."""
        self._check_open()
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._bell, select.EPOLLIN)
            self._watch_all()
        self._polled = True
        self._settle_bell()
        return self._epoll.fileno()

    def _watch_all(self) -> None:
        """Let everyone who sleeps on this port see the descriptors that there are now."""
        epolls = [epoll for epoll in (self._epoll, *self._sleepers.values()) if epoll is not None]
        for epoll in epolls:
            for watch in self.descriptors():
                try:
                    epoll.register(watch.descriptor, watch.events)
                except FileExistsError:
                    pass

    def _sleeper(self, *, transmit: bool) -> select.epoll:
        """What a thread sleeps on that receives, or one that sends. Two threads may, one each: so the bell is watched
        for its next ring (edge-triggered) and not silenced, which would keep it from the other."""
        if transmit not in self._sleepers:
            epoll = select.epoll()
            epoll.register(self._bell, select.EPOLLIN | select.EPOLLET)
            self._sleepers[transmit] = epoll
            self._watch_all()
        return self._sleepers[transmit]

    def _settle_bell(self) -> None:
        """Make the descriptor readable exactly if there is something to do, and arm the rings if not."""
        if self._always_ready() or self._something_to_do():
            os.eventfd_write(self._bell, 1)
            return
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass
        from raceway.ports.sync import arm_ring, sync_port

        for ring in self.rings:
            arm_ring(ring.address)
        if sync_port(self.state.ctypes.data) < 0 or self._something_to_do():
            os.eventfd_write(self._bell, 1)

    def _something_to_do(self) -> bool:
        return any(
            ring.cur != ring.tail or (ring.ended and ring.head == ring.tail) for ring in self.rx
        ) or any(ring._kring["error"] for ring in self.rings)

    def _wait_for_space(self, ring: PortRing, timeout: float | None) -> None:
        """Sleep until a transmit ring has a free slot, the peer is gone or `timeout` seconds have passed."""
        from raceway.ports.sync import arm_ring

        sleeper = self._sleeper(transmit=True)
        arm_ring(ring.address)
        ring.sync()
        if ring.space or ring.ended or self._always_ready():
            return
        # Bounded, for a kernel's transmit queue tells nobody when it has room again.
        limit = 0.05 if ring._kring["peer"] else 0.001
        sleeper.poll(limit if timeout is None else min(limit, timeout))

    def flush(self) -> None:
        """Let everything that was put into the transmit rings reach where it goes, as far as that is here."""
        self._check_open()

    def wait_for_peer(self, timeout: float | None = None) -> bool:
        """Sleep until there is somebody at the other end, at most `timeout` seconds (None: for ever). False: timed
        out. Ports that have no other end have nobody to wait for: True."""
        self._check_open()
        return True

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until there is something to receive, or the end of the stream, at most `timeout` seconds (None: for
        ever). False: timed out. Touches receive rings only, so another thread may send meanwhile."""
        from raceway.ports.sync import arm_ring

        self._check_open()
        if self._always_ready():
            return True
        sleeper = self._sleeper(transmit=False)
        for ring in self.rx:
            arm_ring(ring.address)
        self.rxsync()
        if any(ring.cur != ring.tail or ring.ended for ring in self.rx):
            return True
        return bool(sleeper.poll(-1 if timeout is None else max(timeout, 0)))

    # -- packets from and to Python ------------------------------------------------------------------------

    def receive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """The next batch of packets: at least one unless `timeout` seconds pass. The batch before is given back.
        One thread may receive while another sends.

        limit: at most so many packets. Raises EndOfStream when nothing can come any more.
        """
        from raceway.ports.batch import take

        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            batch = take(self, limit)
            if batch is not None:
                return batch
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return self._empty_batch()
            self.wait(left)

    def _empty_batch(self) -> Batch:
        from raceway.ports.batch import Batch

        return Batch(self.rx[0], 0, 0)

    def __iter__(self) -> Iterator[Batch]:
        """Batches until the end of the stream."""
        while True:
            try:
                yield self.receive()
            except EndOfStream:
                return

    async def receive_async(self) -> Batch:
        """As `receive`, giving way to other tasks while there is nothing."""
        import asyncio

        from raceway.ports.batch import take

        loop = asyncio.get_running_loop()
        while True:
            batch = take(self, None)
            if batch is not None:
                await asyncio.sleep(0)
                return batch
            ready = asyncio.Event()
            descriptor = self.fileno()
            loop.add_reader(descriptor, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(descriptor)

    async def __aiter__(self) -> AsyncIterator[Batch]:
        while True:
            try:
                yield await self.receive_async()
            except EndOfStream:
                return

    def send(self, packets: Iterable[Any], timeout: float | None = None, ring: int | None = None) -> int:
        """Send packets (bytes-like, or objects with __bytes__ as Scapy's and raceway's packets) and publish them.

        Waits for room at most `timeout` seconds (None: as long as it takes); returns how many packets were sent.
        ring: the transmit ring's number (None: the first). A packet longer than a buffer takes several slots.
        Raises TypeError or ValueError, before anything is sent, for what is no packet or cannot fit.
        """
        from raceway.ports.batch import send

        self._check_open()
        if not self.tx:
            raise RacewayError(f"{self.name}: this port only receives")
        return send(self, self.tx[ring or 0], packets, timeout)


def poll_records(ports: Iterable[Port]) -> Any:
    """POLLFD records for a compiled loop's `sleep`: each port's bell, and what else it is to be woken by."""
    watches = [watch for port in ports for watch in (Watch(port._bell, BELL), *port.descriptors())]
    records = np.zeros(len(watches), dtype=POLLFD)
    records["descriptor"] = [watch.descriptor for watch in watches]
    records["events"] = [watch.events for watch in watches]
    return records
