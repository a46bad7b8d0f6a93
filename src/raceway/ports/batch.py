"""Packets for people: a batch of what is in a receive ring now, and sending a list.

A batch is a view, not a copy: its packets lie in the ring's buffers until the next batch is taken, which gives
the slots back. Whoever keeps a packet longer makes bytes of it; a packet of an old batch refuses to be read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceway.errors import EndOfStream, RacewayError
from raceway.memory.layout import METADATA, MORE_FRAGMENTS
from raceway.memory.waiting import SOON

if TYPE_CHECKING:
    from raceway.compile.packet import Packet
    from raceway.ports.port import Port
    from raceway.ports.port_ring import PortRing

Array = np.ndarray[Any, np.dtype[Any]]


class Batch(Sequence["Packet"]):
    """The packets in `slots` slots of a receive ring from slot `first` on. A sequence of `Packet`."""

    def __init__(self, ring: PortRing, first: int, slots: int) -> None:
        self.ring = ring
        self._time = time.time_ns()
        self._slots = (first + np.arange(slots)) % ring.size
        self._valid = True
        self._lent: list[memoryview] = []
        more = (ring.slots["flags"][self._slots] & MORE_FRAGMENTS) != 0
        ends = np.flatnonzero(~more) + 1
        self._bounds = np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])
        self._chained = bool(more.any())

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"packet {index} of a batch of {len(self)}")
        return self._packet(index % len(self))

    def __iter__(self) -> Iterator[Packet]:
        for index in range(len(self)):
            yield self._packet(index)

    def _check(self) -> None:
        if not self._valid:
            raise ValueError(f"{self.ring.name}: this batch was given back when the next one was taken")

    def _packet(self, index: int) -> Packet:
        from raceway.compile.packet import Packet

        packet = Packet(self._memory(index), time=int(self.timestamps[index]), ring=self.ring.number)
        self._lent.append(packet.data)
        return packet

    def _memory(self, index: int) -> memoryview:
        self._check()
        slots = self._slots[self._bounds[index] : self._bounds[index + 1]].tolist()
        if len(slots) == 1:
            return self.ring.packet(slots[0])
        # A packet in several buffers is joined: the copy is writable, and nobody else's.
        return memoryview(bytearray(b"".join(self.ring.packet(slot) for slot in slots)))

    @property
    def lengths(self) -> Array:
        """Bytes of each packet, int64, shape (len(batch),)."""
        self._check()
        total = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(self.ring.slots["length"][self._slots], dtype=np.int64)]
        )
        lengths: Array = np.diff(total[self._bounds])
        return lengths

    @property
    def timestamps(self) -> Array:
        """When each packet came, nanoseconds since 1970, int64, shape (len(batch),): the adapter's knowledge
        (a capture file's), or else when the batch was taken."""
        self._check()
        first = self._slots[self._bounds[:-1]]
        if not self.ring._kring["metadata_used"]:
            return np.full(len(self), self._time, dtype=np.int64)
        stamps: Array = metadata_of(self.ring)["timestamp"][first].astype(np.int64)
        stamps[stamps == 0] = self._time
        return stamps

    def head(self, count: int) -> Array:
        """The first `count` bytes of every packet, uint8, shape (len(batch), count); zeros behind short packets."""
        self._check()
        if count < 0:
            raise ValueError(f"first {count} bytes: expected 0 or more")
        if self._chained:
            rows = np.zeros((len(self), count), dtype=np.uint8)
            for index in range(len(self)):
                raw = np.frombuffer(self._memory(index)[:count], dtype=np.uint8)
                rows[index, : len(raw)] = raw
            return rows
        region = self.ring.port.region
        slots = self.ring.slots[self._slots]
        width = min(count, region.buffer_size)
        starts = (
            region.buffers_offset + slots["buffer"].astype(np.int64) * region.buffer_size + slots["offset"]
        )
        columns = np.arange(width)
        inside = columns < slots["length"][:, None]
        places = np.where(inside, starts[:, None] + columns, 0)
        rows = np.zeros((len(self), count), dtype=np.uint8)
        rows[:, :width] = np.where(inside, region.memory[places], 0)
        return rows

    def to_bytes(self) -> list[bytes]:
        """Every packet as bytes of its own, which stay."""
        return [bytes(self._memory(index)) for index in range(len(self))]

    def _forget(self) -> None:
        """The slots are about to be given back: packets lent out must not be read any more."""
        self._valid = False
        for view in self._lent:
            try:
                view.release()
            except BufferError:
                # Somebody holds an array over it; that is what numpy users ask for.
                pass
        self._lent.clear()


def metadata_of(ring: PortRing) -> Array:
    """The METADATA records beside a ring's slots, shape (size,)."""
    start = ring.metadata_start
    return ring.port.region.memory[start : start + ring.size * METADATA.itemsize].view(METADATA)


def take(port: Port, limit: int | None) -> Batch | None:
    """Give the port's last batch back, sync, and return what one of its receive rings has; None if all are empty."""
    if limit is not None and limit < 1:
        raise ValueError(f"a batch of at most {limit} packets: expected 1 or more")
    port._check_open()
    if not port.rx:
        raise RacewayError(f"{port.name}: this port only sends")
    if port._batch is not None:
        batch, port._batch = port._batch, None
        batch._forget()
        batch.ring.advance(len(batch._slots))
    ended = all(ring.ended for ring in port.rx)
    port.rxsync()
    for turn in range(len(port.rx)):
        ring = port.rx[(port._turn + turn) % len(port.rx)]
        slots = _whole_packets(ring, limit)
        if slots:
            port._turn = (port._turn + turn + 1) % len(port.rx)
            port._batch = Batch(ring, ring.head, slots)
            ring.cur = (ring.head + slots) % ring.size
            return port._batch
    if ended:
        raise EndOfStream(f"{port.name}: the end of the stream")
    return None


def _whole_packets(ring: PortRing, limit: int | None) -> int:
    """How many slots from head on hold whole packets, at most `limit` of them."""
    index = (ring.head + np.arange(ring.space)) % ring.size
    ends = np.flatnonzero((ring.slots["flags"][index] & MORE_FRAGMENTS) == 0)
    if not len(ends):
        # A chain without an end that fills the ring can never be completed.
        return len(index) if len(index) == ring.size - 1 else 0
    return int(ends[: limit or len(ends)][-1]) + 1


def send(port: Port, ring: PortRing, packets: Iterable[Any], timeout: float | None) -> int:
    """See `Port.send`."""
    size = port.region.buffer_size
    metadata = metadata_of(ring) if ring._kring["metadata_used"] else None
    frames = [
        _frame(packet, index, size * (ring.size - 1), port.name) for index, packet in enumerate(packets)
    ]
    deadline = None if timeout is None else time.monotonic() + timeout
    sent = 0
    # Only this ring: another one may have a thread of its own.
    while sent < len(frames):
        port._sync_some((ring,))
        if ring.ended:
            raise EndOfStream(
                f"{port.name}: the other end is gone; {sent} of {len(frames)} packets were sent"
            )
        space, index, slots, before = ring.space, ring.head, 0, sent
        while sent < len(frames):
            need = max(1, -(-len(frames[sent]) // size))
            if slots + need > space:
                break
            if metadata is not None:
                metadata[index] = (time.time_ns(), 0, 0, 0, 0)
            index = _fill(ring, index, frames[sent], size)
            slots += need
            sent += 1
        ring.advance(slots)
        port._sync_some((ring,))
        if sent < len(frames) and sent == before:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            port._wait_for_space(ring, left)
    while ring._kring["pending"] == SOON and (deadline is None or time.monotonic() < deadline):
        # It goes within microseconds, if somebody syncs; and who waits for an answer now, only receives.
        port._sync_some((ring,))
    return sent


def _frame(packet: Any, index: int, limit: int, name: str) -> bytes | memoryview:
    if isinstance(packet, (bytes, bytearray)):
        frame: bytes | memoryview = bytes(packet)
    elif (
        isinstance(packet, memoryview)
        or hasattr(type(packet), "__bytes__")
        or hasattr(type(packet), "__buffer__")
    ):
        frame = bytes(packet)
    else:
        try:
            frame = memoryview(packet).cast("B")
        except TypeError:
            raise TypeError(
                f"packet {index} is {type(packet).__name__}: expected bytes, "
                "or an object with __bytes__ as Scapy's packets"
            ) from None
    if len(frame) > limit:
        raise ValueError(f"packet {index} has {len(frame)} bytes; a whole ring of {name} holds {limit}")
    return frame


def _fill(ring: PortRing, index: int, frame: bytes | memoryview, size: int) -> int:
    """Put a frame into slots from `index` on; return the index behind it."""
    start = 0
    while True:
        part = frame[start : start + size]
        start += len(part)
        slot = ring.slots[index]
        ring.buffer(index)[: len(part)] = part
        slot["length"], slot["offset"] = len(part), 0
        slot["flags"] = MORE_FRAGMENTS if start < len(frame) else 0
        index = ring.next(index)
        if start >= len(frame):
            return index
