"""Both directions of a NIC's queue, over the four rings of its AF_XDP socket. Data plane.

Receiving, buffers that the user has read go to the fill ring, and what the kernel filled comes from the rx ring into
slots. Transmitting, slots go to the tx ring and free buffers come back from the completion ring. Descriptors name
buffers by their place in the region, so only numbers move. A slot that is not the user's holds no buffer of its own
meanwhile: which one it gets is known when the kernel gives one back, in whatever order it likes.
"""

from __future__ import annotations

from raceway.kernel.live import RUNNING, Live
from raceway.kernel.xsk import Xsk
from raceway.memory.access import (
    errno,
    load_acquire32,
    load_i64,
    load_u32,
    recvfrom,
    sendto,
    store_32,
    store_64,
    store_release32,
)
from raceway.memory.jit import entry, inner
from raceway.memory.layout import METADATA_SIZE, MORE_FRAGMENTS, SLOT_SIZE, Kring, Metadata, Ring, Slot
from raceway.memory.ring import accept, count_arrivals, distance, following, prologue, uncount
from raceway.memory.waiting import SOON
from raceway.ports.live import live_idle, live_start, live_state, live_transmit, live_wanted
from raceway.ports.nic.finish import finish_arrivals

_DONTWAIT = 0x40
_CONTINUED, _NEED_WAKEUP = 1, 1
_EAGAIN, _EBUSY = 11, 16
_KICKS = 64
"""System calls that one sync makes at most: the kernel sends 32 frames a call."""
_BUSY = 250
"""Packets in a millisecond that make a stream of them: half of what a socket sends."""
_SCRATCH: int = Xsk.fields["scratch"][1]


@entry
def nic_sync(address: int) -> int:
    """txsync or rxsync of one queue."""
    kring = Kring(address)
    ring = Ring(kring.ring)
    xsk = Xsk(kring.adapter)
    count = prologue(kring, ring)
    if count < 0:
        return count
    if kring.transmit != 0:
        return _transmit(kring, ring, xsk, count)
    _give_back(kring, xsk, count)
    accept(kring, count)
    return _collect(kring, ring, xsk)


@inner
def _ahead(producer: int, at: int) -> int:
    """How far one of the kernel's 32-bit indexes is ahead of ours."""
    return (producer - at) & 0xFFFFFFFF


@inner
def _give_back(kring: Kring, xsk: Xsk, count: int) -> None:
    """Put the buffers of `count` slots from the Kring's head on into the fill ring; it has room for every slot's."""
    if count == 0:
        return
    index = kring.head
    at = xsk.fill_at
    mask = xsk.fill_mask
    entries = xsk.fill_entries
    shift = xsk.shift
    for _ in range(count):
        store_64(entries + (at & mask) * 8, Slot(kring.slots + index * SLOT_SIZE).buffer << shift)
        at += 1
        index = following(index, kring.slot_count)
    xsk.fill_at = at
    store_release32(xsk.fill_producer, at & 0xFFFFFFFF)


@inner
def _collect(kring: Kring, ring: Ring, xsk: Xsk) -> int:
    """Fill free slots with what the kernel has received."""
    at = xsk.rx_at
    ready = _ahead(load_acquire32(xsk.rx_producer), at)
    if ready == 0:
        if xsk.busy != 0 or load_u32(xsk.fill_flags) & _NEED_WAKEUP:
            recvfrom(xsk.descriptor, 0, 0, _DONTWAIT, 0, 0)
            ready = _ahead(load_acquire32(xsk.rx_producer), at)
        if ready == 0:
            return 0
    room = kring.slot_count - 1 - distance(kring.head, kring.tail, kring.slot_count)
    mask = xsk.rx_mask
    entries = xsk.rx_entries
    if ready > room:
        ready = _whole_frames(entries, at, mask, room)
        if ready == 0 and room == kring.slot_count - 1:
            # Longer than the whole ring: nobody will ever see its end.
            ready = room
    index = kring.tail
    shift = xsk.shift
    inside = (1 << shift) - 1
    for _ in range(ready):
        descriptor = entries + (at & mask) * 16
        start = load_i64(descriptor)
        slot = Slot(kring.slots + index * SLOT_SIZE)
        slot.buffer = start >> shift
        slot.length = load_u32(descriptor + 8)
        slot.offset = start & inside
        slot.flags = (load_u32(descriptor + 12) & _CONTINUED) * MORE_FRAGMENTS
        if kring.metadata_used != 0:
            metadata = Metadata(kring.metadata + index * METADATA_SIZE)
            metadata.timestamp = 0
            metadata.wire_length = 0
            metadata.link_type = 0
            metadata.segment_size = 0
        at += 1
        index = following(index, kring.slot_count)
    xsk.rx_at = at
    store_release32(xsk.rx_consumer, at & 0xFFFFFFFF)
    if xsk.finish != 0:
        xsk.finished += finish_arrivals(kring, kring.tail, index)
    code = count_arrivals(kring, ring, index)
    if code < 0:
        return code
    kring.tail = index
    ring.tail = index
    return 0


@inner
def _whole_frames(entries: int, at: int, mask: int, limit: int) -> int:
    """How many of the next `limit` descriptors of the rx ring end with the end of a packet."""
    while limit > 0 and load_u32(entries + ((at + limit - 1) & mask) * 16 + 12) & _CONTINUED:
        limit -= 1
    return limit


@inner
def _transmit(kring: Kring, ring: Ring, xsk: Xsk, handed: int) -> int:
    """Hand slots to the kernel, by live frames while those run and by the socket else; collect free buffers."""
    count = _whole_packets(kring, handed)
    taken = 0
    # Packets must not overtake those that are still on the other way.
    kring.pending = _kick(xsk)
    if xsk.live == 0 or (Live(xsk.live).insist == 0 and live_idle(xsk.live)):
        if count != 0:
            _submit(kring, xsk, count)
            taken = count
            kring.pending = _kick(xsk)
            if xsk.live != 0:
                live_wanted(xsk, xsk.address + _SCRATCH, count, _BUSY)
    elif count != 0:
        if live_state(xsk.live) != RUNNING:
            live_start(xsk.live)
        elif kring.pending == 0 and xsk.longest <= Live(xsk.live).longest:
            taken = live_transmit(kring, xsk, count)
            # What was copied is free at once, in whatever slots come first: some may still be with the socket.
            _spare(kring, xsk, taken)
        if taken < count:
            kring.pending = SOON
    uncount(kring, ring, _after(kring.head, taken, kring.slot_count), handed - taken)
    accept(kring, taken)
    _complete(kring, ring, xsk)
    return 0


@inner
def _spare(kring: Kring, xsk: Xsk, count: int) -> None:
    """The buffers of `count` slots from the Kring's head on are free."""
    index = kring.head
    for _ in range(count):
        store_64(xsk.spares + xsk.spare * 8, Slot(kring.slots + index * SLOT_SIZE).buffer)
        xsk.spare += 1
        index = following(index, kring.slot_count)


@inner
def _after(index: int, steps: int, count: int) -> int:
    index += steps
    return index - count if index >= count else index


@inner
def _whole_packets(kring: Kring, handed: int) -> int:
    """How many of the slots handed over hold whole packets. A chain without its end waits for it, unless it fills the
    ring and can never get one."""
    count = handed
    while count > 0:
        last = _after(kring.head, count - 1, kring.slot_count)
        if Slot(kring.slots + last * SLOT_SIZE).flags & MORE_FRAGMENTS == 0:
            return count
        count -= 1
    return handed if handed == kring.slot_count - 1 else 0


@inner
def _submit(kring: Kring, xsk: Xsk, count: int) -> None:
    """Put `count` slots from the Kring's head on into the tx ring, but for packets that no device would send. The
    kernel skips a descriptor that it finds wrong, and its buffer would never come back."""
    index = kring.head
    at = xsk.tx_at
    mask = xsk.tx_mask
    entries = xsk.tx_entries
    shift = xsk.shift
    first = 1
    refused = 0
    for done in range(count):
        slot = Slot(kring.slots + index * SLOT_SIZE)
        more = 1 if slot.flags & MORE_FRAGMENTS else 0
        if first != 0:
            refused = _refusal(kring, xsk, index, count - done)
        if refused != 0:
            store_64(xsk.spares + xsk.spare * 8, slot.buffer)
            xsk.spare += 1
            if first != 0:
                if refused == 1:
                    xsk.empty += 1
                else:
                    xsk.too_long += 1
        else:
            descriptor = entries + (at & mask) * 16
            store_64(descriptor, (slot.buffer << shift) + slot.offset)
            store_32(descriptor + 8, slot.length)
            store_32(descriptor + 12, more * _CONTINUED)
            at += 1
        first = 1 - more
        index = following(index, kring.slot_count)
    xsk.tx_at = at
    store_release32(xsk.tx_producer, at & 0xFFFFFFFF)


@inner
def _refusal(kring: Kring, xsk: Xsk, index: int, left: int) -> int:
    """Why the packet that starts at `index` cannot be sent: 1 it is shorter than an Ethernet header or a part of it is
    empty, 2 it is too long, or in several buffers and this socket takes one; 0 it can."""
    total = 0
    parts = 0
    while parts < left:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        if slot.length == 0:
            return 1
        total += slot.length
        parts += 1
        if slot.flags & MORE_FRAGMENTS == 0:
            break
        index = following(index, kring.slot_count)
    if total < 14:
        return 1
    # MAX_SKB_FRAGS: a packet has at most 17 pieces besides its first.
    return 2 if total > xsk.longest or parts > 17 or (parts > 1 and xsk.chains == 0) else 0


@inner
def _kick(xsk: Xsk) -> int:
    """Let the kernel send what is in the tx ring; 1 if something is left there."""
    for _ in range(_KICKS):
        left = _ahead(xsk.tx_at, load_acquire32(xsk.tx_consumer))
        if left == 0:
            return 0
        if load_u32(xsk.tx_flags) & _NEED_WAKEUP == 0:
            # The driver is at it by itself.
            return 0
        xsk.kicks += 1
        if sendto(xsk.descriptor, 0, 0, _DONTWAIT, 0, 0) < 0:
            code = errno()
            went = left - _ahead(xsk.tx_at, load_acquire32(xsk.tx_consumer))
            # EBUSY: it took one packet, and the device dropped it (and counted that), as without a carrier.
            if went > 0 and code in (_EAGAIN, _EBUSY):
                continue
            # No room in the device, or no completion free: time heals it. A device that is down is Python's.
            return 1
    return 1 if _ahead(xsk.tx_at, load_acquire32(xsk.tx_consumer)) != 0 else 0


@inner
def _complete(kring: Kring, ring: Ring, xsk: Xsk) -> None:
    """Give the user free slots for the buffers that the kernel is done with, and for those it never got."""
    at = xsk.completion_at
    ready = _ahead(load_acquire32(xsk.completion_producer), at)
    room = kring.slot_count - 1 - distance(kring.head, kring.tail, kring.slot_count)
    index = kring.tail
    while xsk.spare > 0 and room > 0:
        xsk.spare -= 1
        Slot(kring.slots + index * SLOT_SIZE).buffer = load_i64(xsk.spares + xsk.spare * 8)
        index = following(index, kring.slot_count)
        room -= 1
    if ready > room:
        ready = room
    entries = xsk.completion_entries
    mask = xsk.completion_mask
    for _ in range(ready):
        Slot(kring.slots + index * SLOT_SIZE).buffer = load_i64(entries + (at & mask) * 8) >> xsk.shift
        at += 1
        index = following(index, kring.slot_count)
    if ready != 0:
        xsk.completion_at = at
        store_release32(xsk.completion_consumer, at & 0xFFFFFFFF)
    kring.tail = index
    ring.tail = index
