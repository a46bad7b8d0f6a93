"""One ring as Python sees it, netmap's way: head, cur, tail, slots and buffers; and what a spoilt one says and does."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from raceway.errors import RacewayError, RingError
from raceway.memory import ring as codes
from raceway.memory.layout import MORE_FRAGMENTS, SLOT

if TYPE_CHECKING:
    from raceway.ports.port import Port


class PortRing:
    """One ring as netmap has it. The user may fill or read slots [head, tail); see `memory.layout` for the picture.

    slots: the ring's slots, a numpy structured array (buffer, length, offset, flags: int32), shape (size,).
    """

    def __init__(self, port: Port, offset: int, kring: Any, address: int) -> None:
        region = port.region
        # Weakly: a closed port's memory must go when the last reference to it goes, not when cycles are collected.
        self._port, self._kring, self.address = weakref.ref(port), kring, address
        # A port may have rings of more than one kind.
        self.adapter = port.adapter
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
        kring["buffer_limit"] = region.end_of_buffers
        # The sync itself sets the highest buffer, for a region's buffers grow in number.
        kring["lowest_buffer"] = 1
        kring["highest_length"] = kring["highest_offset"] = region.buffer_size
        kring["highest_flags"] = np.iinfo(np.int32).max
        record["pid"] = os.getpid()

    @property
    def port(self) -> Port:
        """The port that the ring is of. RacewayError if nobody has that any more."""
        port = self._port()
        if port is None:
            raise RacewayError("the port of this ring is gone: keep the port as long as you use its rings")
        return port

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
    def untaken(self) -> int:
        """Packets of a pipe's transmit ring that were published and that the other end has not given back yet; 0 for
        rings that have no other end."""
        peer = int(self._kring["peer"])
        if not peer or not self.transmit:
            return 0
        region = self.port.region
        first, last = int(region.ring(peer - region.base)["published"]), int(self._kring["head"])
        slots = (first + np.arange((last - first) % self.size)) % self.size
        return int((self.slots["flags"][slots] & MORE_FRAGMENTS == 0).sum())

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
        if self.adapter(self.address) < 0:
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
            codes.BAD_ARRIVAL: f"among the {value} slots from {slot} on that the other end published is one that names "
            f"no buffer of the region's 1 to {limit}, or more than its {self.port.region.buffer_size} bytes",
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
