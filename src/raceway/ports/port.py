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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from raceway.errors import EndOfStream, RacewayError, RingError
from raceway.memory import ring as codes
from raceway.memory.jit import Entry
from raceway.memory.layout import KRING, SLOT, Kring, PortState
from raceway.memory.region import BUFFER_SIZE, Region, check_buffer_size, check_ring_size
from raceway.memory.structures import allocate
from raceway.memory.waiting import POLLFD

if TYPE_CHECKING:
    from raceway.ports.batch import Batch

LINKTYPE_ETHERNET = 1
RINGS_LIMIT = 64


@dataclass(frozen=True)
class Geometry:
    """How many rings a port has, how many slots each, and how large the buffers. None: the port's usual."""

    transmit_slots: int | None = None
    receive_slots: int | None = None
    transmit_rings: int | None = None
    receive_rings: int | None = None
    buffer_size: int | None = None
    extra_buffers: int = 0

    def settled(self, slots: int = 1024, rings: int = 1, buffer_size: int = BUFFER_SIZE) -> Geometry:
        """The same with nothing left open; ValueError for what cannot be."""
        chosen = Geometry(
            self.transmit_slots or slots,
            self.receive_slots or slots,
            rings if self.transmit_rings is None else self.transmit_rings,
            rings if self.receive_rings is None else self.receive_rings,
            self.buffer_size or buffer_size,
            self.extra_buffers,
        )
        check_ring_size(chosen.transmit_slots or 0)
        check_ring_size(chosen.receive_slots or 0)
        check_buffer_size(chosen.buffer_size or 0)
        for count in (chosen.transmit_rings or 0, chosen.receive_rings or 0):
            if not 0 <= count <= RINGS_LIMIT:
                raise ValueError(f"{count} rings: expected 0 to {RINGS_LIMIT}")
        if not 0 <= chosen.extra_buffers <= 1 << 20:
            raise ValueError(f"{chosen.extra_buffers} extra buffers: expected 0 to {1 << 20}")
        return chosen

    def mirrored(self) -> Geometry:
        """The same seen from the other end of a pipe."""
        return replace(
            self,
            transmit_slots=self.receive_slots,
            receive_slots=self.transmit_slots,
            transmit_rings=self.receive_rings,
            receive_rings=self.transmit_rings,
        )


class PortRing:
    """One ring as netmap has it. The user may fill or read slots [head, tail); see `memory.layout` for the picture.

    slots: the ring's slots, a numpy structured array (buffer, length, offset, flags: int32), shape (size,).
    """

    def __init__(self, port: Port, offset: int, kring: Any, address: int) -> None:
        region = port.region
        self.port, self._kring, self.address = port, kring, address
        record = region.ring(offset)
        self._record = record
        self.number, self.transmit = int(record["number"]), bool(record["transmit"])
        self.size = int(record["slot_count"])
        start = offset + int(record["slots"])
        self.slots = region.memory[start : start + self.size * SLOT.itemsize].view(SLOT)
        start = offset + int(record["metadata"])
        self.metadata_start = start
        kring["ring"] = region.base + offset
        kring["slots"] = self.slots.ctypes.data
        kring["metadata"] = region.base + start
        kring["buffers"] = region.base + region.buffers_offset
        kring["buffer_size"], kring["slot_count"] = region.buffer_size, self.size
        kring["transmit"], kring["region"] = self.transmit, region.base
        kring["bell"] = -1
        # The sync itself sets the highest buffer, for a region's buffers grow in number.
        kring["lowest_buffer"] = 1
        kring["highest_length"] = kring["highest_offset"] = region.buffer_size
        kring["highest_flags"] = np.iinfo(np.int32).max
        record["pid"] = os.getpid()

    def __repr__(self) -> str:
        return f"<{self.name}: head {self.head} cur {self.cur} tail {self.tail} of {self.size}>"

    @property
    def name(self) -> str:
        """As errors name it: the port, the direction, the number."""
        return f"{self.port.name} {'tx' if self.transmit else 'rx'} ring {self.number}"

    @property
    def head(self) -> int:
        """First slot that the user owns. Moving it forward gives slots up at the next sync."""
        return int(self._record["head"])

    @head.setter
    def head(self, value: int) -> None:
        self._record["head"] = value

    @property
    def cur(self) -> int:
        """First slot that the user has not looked at; a wait ends when tail moves past it."""
        return int(self._record["cur"])

    @cur.setter
    def cur(self, value: int) -> None:
        self._record["cur"] = value

    @property
    def tail(self) -> int:
        """First slot that the user does not own. Only syncs move it."""
        return int(self._record["tail"])

    @property
    def space(self) -> int:
        """Slots that the user owns (nm_ring_space)."""
        return (self.tail - self.head) % self.size

    @property
    def packets(self) -> int:
        """Packets handed over (transmit) or arrived (receive) since the port was opened."""
        return int(self._record["packets"])

    @property
    def bytes(self) -> int:
        """Bytes of those packets."""
        return int(self._record["bytes"])

    @property
    def ended(self) -> bool:
        """True if nothing new can come (receive) or nobody takes anything any more (transmit)."""
        return bool(self._kring["ended"])

    def next(self, index: int) -> int:
        """The index after `index` (nm_ring_next)."""
        return index + 1 if index + 1 < self.size else 0

    def buffer(self, index: int) -> memoryview:
        """The whole buffer that slot `index` names, as writable bytes."""
        return self.port.region.buffer(int(self.slots["buffer"][index]))

    def packet(self, index: int) -> memoryview:
        """The bytes of the packet (or fragment) in slot `index`."""
        slot = self.slots[index]
        start = int(slot["offset"])
        return self.buffer(index)[start : start + int(slot["length"])]

    def advance(self, count: int) -> None:
        """Be done with `count` slots: head = cur = head + count. They change hands at the next sync."""
        self.head = self.cur = (self.head + count) % self.size

    def sync(self) -> None:
        """txsync or rxsync of this ring alone. RingError if it was used wrongly."""
        self.port._check_open()
        if self.port.adapter(self.address) < 0:
            self.repair_and_raise()

    def repair_and_raise(self) -> None:
        """Put the ring back to where the last sync left it, and raise the RingError that the Kring holds."""
        kring, record = self._kring, self._record
        code, slot, value = int(kring["error"]), int(kring["error_slot"]), int(kring["error_value"])
        asked = int(record["head"])
        record["head"] = record["cur"] = kring["head"]
        record["tail"] = kring["tail"]
        record["errors"] += 1
        kring["error"] = 0
        if code == codes.BAD_BUFFER:
            self._restore_buffers(int(kring["head"]), asked)
        owned = (
            f"the user's slots are {int(kring['head'])} to {int(kring['tail'])} of {self.size}, tail excluded"
        )
        limit = self.port.region.allocated_buffers
        messages = {
            codes.BAD_HEAD: f"head {value} is not within [head, tail]: {owned}",
            codes.BAD_CUR: f"cur {value} is not within [head, tail]: {owned}",
            codes.BAD_TAIL: f"tail was overwritten with {value}; only a sync may move it, it was {int(kring['tail'])}",
            codes.BAD_BUFFER: f"slot {slot} names buffer {value}; the region's buffers are 1 to {limit}",
            codes.BAD_LENGTH: f"slot {slot} has length {value} at offset {int(self.slots['offset'][slot])}; "
            f"buffers have {self.port.region.buffer_size} bytes",
            codes.BAD_FLAGS: f"slot {slot} has flags {value:#x}; indirect buffers (0x10) and unknown flags "
            f"are not supported on this port",
            codes.BAD_PEER: f"the other end published {value}, which is not a slot that it owns",
        }
        raise RingError(self.name, messages.get(code, f"error {code}, value {value}"), value=value, slot=slot)

    def _restore_buffers(self, first: int, head: int) -> None:
        """Give a buffer to slots whose index is none."""
        limit = self.port.region.allocated_buffers
        index = first
        while index != head:
            if not 1 <= self.slots["buffer"][index] <= limit:
                self.slots["buffer"][index] = self.port.region.replacement()
            index = self.next(index)


class Port:
    """An open port. Use as a context manager; `close` may be called twice.

    tx, rx: its rings; region: the shared memory that they lie in; link_type: LINKTYPE_ value of its packets.
    """

    kind_code = 0
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
            kring["kind"] = self.kind_code
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
