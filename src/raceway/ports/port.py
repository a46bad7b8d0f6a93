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
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from raceway.errors import EndOfStream, RacewayError
from raceway.memory.jit import Entry
from raceway.memory.layout import KRING, Kring, PortState
from raceway.memory.region import BUFFER_SIZE, Region
from raceway.memory.structures import allocate
from raceway.memory.waiting import POLLFD
from raceway.ports.geometry import LINKTYPE_ETHERNET, Geometry
from raceway.ports.port_ring import PortRing

if TYPE_CHECKING:
    from raceway.ports.batch import Batch


class Port:
    """An open port. Use as a context manager; `close` may be called twice.

    tx, rx: its rings; region: the shared memory that they lie in; link_type: LINKTYPE_ value of its packets.
    """

    adapter: Entry
    """The adapter's sync: `int64 sync(int64 kring)`, for every ring of the port."""

    def __init__(self, name: str, geometry: Geometry, region: Region | None = None) -> None:
        self.name = name
        self.closed = False
        self.link_type = LINKTYPE_ETHERNET
        self._polled = False
        self._batch: Batch | None = None
        self._turn = 0
        self._lock = threading.RLock()
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

    def service(self) -> None:
        """What the adapter has to do outside the data plane. Called between slices of work."""

    def drops(self) -> dict[str, int]:
        """Packets that ended at this port without being delivered, by the drop's name."""
        return {}

    def descriptors(self) -> tuple[int, int]:
        """(bell, peer): an eventfd, readable when something came, and a socket, readable when the peer is gone.

        -1 where the port has none.
        """
        return -1, -1

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
                if self._epoll is not None:
                    self._epoll.close()
                os.close(self._bell)
                if self._own_region and hasattr(self, "region"):
                    self.region.close()

    @property
    def rings(self) -> tuple[PortRing, ...]:
        """All rings, transmit first."""
        return self.tx + self.rx

    def sync(self) -> None:
        """txsync and rxsync of every ring. RingError if one was used wrongly; the others are synced all the same."""
        self._check_open()
        from raceway.ports.sync import sync_port

        self.service()
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
        for ring in rings:
            ring.sync()
        if any(ring._kring["attention"] for ring in rings):
            self.service()
        if self._polled:
            self._settle_bell()

    def carry_metadata(self) -> None:
        """Let packets bring what is known of them besides their bytes: when they were recorded, how long they were
        on the wire, of which link type. For a pipe: both ends must ask for it before the first packet, and it costs
        16 bytes more a packet. Capture files always do."""
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
        slots that were waited for, or the end of the stream. Sync before and after, as with netmap's."""
        self._check_open()
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._bell, select.EPOLLIN)
            self._watch_peer()
        self._polled = True
        self._settle_bell()
        return self._epoll.fileno()

    def _watch_peer(self) -> None:
        peer = self.descriptors()[1]
        if self._epoll is not None and peer >= 0:
            try:
                self._epoll.register(peer, select.EPOLLIN | select.EPOLLRDHUP)
            except FileExistsError:
                pass

    def _settle_bell(self) -> None:
        """Make the descriptor readable exactly if there is something to do, and arm the rings if not."""
        if self._always_ready() or self._something_to_do():
            os.eventfd_write(self._bell, 1)
            return
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass
        from raceway.ports.sync import arm_port, sync_port

        arm_port(self.state.ctypes.data)
        if sync_port(self.state.ctypes.data) < 0 or self._something_to_do():
            os.eventfd_write(self._bell, 1)

    def _something_to_do(self) -> bool:
        return any(
            ring.cur != ring.tail or (ring.ended and ring.head == ring.tail) for ring in self.rx
        ) or any(ring._kring["error"] for ring in self.rings)

    def _wait_for_space(self, ring: PortRing, timeout: float | None) -> None:
        """Sleep until a transmit ring has a free slot, the peer is gone or `timeout` seconds have passed."""
        from raceway.ports.sync import arm_port

        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass
        arm_port(self.state.ctypes.data)
        ring.sync()
        if ring.space or ring.ended or self._always_ready():
            return
        waiter = select.poll()
        for descriptor in self.descriptors():
            if descriptor >= 0:
                waiter.register(descriptor, select.POLLIN | select.POLLRDHUP)
        # Bounded, because the peer may connect while we sleep, and its descriptor is not among ours yet.
        waiter.poll(50 if timeout is None else min(50, timeout * 1000))

    def flush(self) -> None:
        """Let everything that was put into the transmit rings reach where it goes, as far as that is here."""
        self._check_open()

    def wait_for_peer(self, timeout: float | None = None) -> bool:
        """Sleep until there is somebody at the other end, at most `timeout` seconds (None: for ever). False: timed
        out. Ports that have no other end have nobody to wait for: True."""
        self._check_open()
        return True

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until there is something to sync for, at most `timeout` seconds (None: for ever). False: timed out."""
        descriptor = self.fileno()
        with select.epoll() as waiter:
            waiter.register(descriptor, select.EPOLLIN)
            return bool(waiter.poll(-1 if timeout is None else timeout))

    # -- packets from and to Python ------------------------------------------------------------------------

    def receive(self, timeout: float | None = None, limit: int | None = None) -> Batch:
        """The next batch of packets: at least one unless `timeout` seconds pass. The batch before is given back.

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
    """POLLFD records for a compiled loop's `sleep`: a port's bell and then its peer, shape (2 * ports,)."""
    descriptors = [descriptor for port in ports for descriptor in port.descriptors()]
    records = np.zeros(len(descriptors), dtype=POLLFD)
    records["descriptor"] = descriptors
    records["events"] = [
        select.POLLIN if index % 2 == 0 else select.POLLIN | select.POLLRDHUP
        for index in range(len(descriptors))
    ]
    return records
