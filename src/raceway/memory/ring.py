"""What every sync does first: check what the user did to the ring, and count.

Data plane. `prologue` compares the user's head, cur and tail with the private `Kring` (what the last sync left)
and looks at every slot that is handed over, so a wrong index, a spoilt tail or a bad buffer is found before any
other party can meet it. Nothing of a wrong batch is published: the error's code, slot and value go to the Kring,
and `memory.errors` in Python repairs the ring and raises. The rules are netmap's (nm_txsync_prologue and
nm_rxsync_prologue in netmap.c): head within [last head, tail], cur within [head, tail], tail untouched.
"""

from __future__ import annotations

from raceway.memory.access import fence, load_acquire, store_release, syscall
from raceway.memory.barriers import GLOBAL_EXPEDITED, MEMBARRIER
from raceway.memory.jit import inner
from raceway.memory.layout import (
    ALLOWED_FLAGS,
    MORE_FRAGMENTS,
    SLOT_SIZE,
    Kring,
    RegionHeader,
    Ring,
    Slot,
)
from raceway.memory.scanning import RESULT, SPAN, Scan, scan_slots

# Codes of Kring.error. A sync that fails returns the code's negative.
BAD_HEAD, BAD_CUR, BAD_TAIL, BAD_BUFFER, BAD_LENGTH, BAD_FLAGS, BAD_PEER, BAD_ARRIVAL = 1, 2, 3, 4, 5, 6, 7, 8

_SCAN: int = Kring.fields["lowest_buffer"][1]
_PUBLISHED = Ring.fields["published"][1]
_WAITING = Ring.fields["waiting"][1]


@inner
def fail(kring: Kring, code: int, slot: int, value: int) -> int:
    """Note an error in the Kring; the sync returns what this returns."""
    kring.error = code
    kring.error_slot = slot
    kring.error_value = value
    return -code


@inner
def distance(first: int, last: int, count: int) -> int:
    """Slots from index `first` forward to index `last` in a ring of `count`."""
    steps = last - first
    return steps + count if steps < 0 else steps


@inner
def following(index: int, count: int) -> int:
    """The index after `index`."""
    return 0 if index + 1 >= count else index + 1


@inner
def prologue(kring: Kring, ring: Ring) -> int:
    """Check the user's indexes and the slots handed over; return how many those are, or a negative code."""
    count = kring.slot_count
    head = ring.head
    ring.syncs += 1
    if head == kring.head and ring.cur == head and ring.tail == kring.tail:
        return 0
    owned = distance(kring.head, kring.tail, count)
    if head < 0 or head >= count or distance(kring.head, head, count) > owned:
        return fail(kring, BAD_HEAD, -1, head)
    handed = distance(kring.head, head, count)
    cur = ring.cur
    if cur < 0 or cur >= count or distance(kring.head, cur, count) > owned:
        return fail(kring, BAD_CUR, -1, cur)
    if distance(kring.head, cur, count) < handed:
        return fail(kring, BAD_CUR, -1, cur)
    if ring.tail != kring.tail:
        return fail(kring, BAD_TAIL, -1, ring.tail)
    if handed == 0:
        return 0
    packets = ring.packets
    octets = ring.bytes
    last = kring.head + handed
    if last <= count:
        bad = _check(kring, ring, kring.head, last)
    else:
        bad = _check(kring, ring, kring.head, count) | _check(kring, ring, 0, last - count)
    if bad != 0:
        # The part before the ring's end may have been counted before the part behind it was found bad.
        ring.packets = packets
        ring.bytes = octets
        return _find_bad_slot(kring, handed)
    return handed


@inner
def _highest_buffer(kring: Kring) -> int:
    """The last buffer of the region; never one outside of what this process has mapped, whatever the header says."""
    limit = RegionHeader(kring.region).buffers_next
    return (limit if limit < kring.buffer_limit else kring.buffer_limit) - 1


@inner
def _check(kring: Kring, ring: Ring, first: int, last: int) -> int:
    """Look at slots [first, last), and count them if they are to be sent: non-zero if any is bad."""
    scan = Scan(kring.address + _SCAN)
    transmit = kring.transmit
    scan.highest_buffer = _highest_buffer(kring)
    while first < last:
        count = last - first
        if count > SPAN:
            count = SPAN
        scan_slots(kring.slots + first * SLOT_SIZE, count, scan.address, scan.address + RESULT)
        if scan.bad_buffer < 0:
            return 1
        # What stands beside the buffer in a slot that is given back to be filled does not matter.
        if transmit != 0:
            if (scan.bad_length | scan.bad_offset | scan.bad_flags) < 0 or scan.union_flags & ~ALLOWED_FLAGS:
                return 1
            _count(kring, ring, scan, first, count)
        first += count
    return 0


@inner
def _count(kring: Kring, ring: Ring, scan: Scan, first: int, count: int) -> None:
    """Count `count` slots from `first` on, which have just been scanned, as packets and bytes."""
    ring.bytes += scan.sum_length
    ring.packets += count
    if scan.union_flags & MORE_FRAGMENTS:
        address = kring.slots + first * SLOT_SIZE
        for number in range(count):
            ring.packets -= (Slot(address + number * SLOT_SIZE).flags & MORE_FRAGMENTS) // MORE_FRAGMENTS


@inner
def _find_bad_slot(kring: Kring, handed: int) -> int:
    """The slow path: which slot was it, and what is wrong with it?"""
    limit = _highest_buffer(kring) + 1
    index = kring.head
    for _ in range(handed):
        slot = Slot(kring.slots + index * SLOT_SIZE)
        if slot.buffer < 1 or slot.buffer >= limit:
            return fail(kring, BAD_BUFFER, index, slot.buffer)
        if kring.transmit != 0:
            if slot.length < 0 or slot.offset < 0 or slot.offset + slot.length > kring.buffer_size:
                return fail(kring, BAD_LENGTH, index, slot.length)
            if slot.flags & ~ALLOWED_FLAGS:
                return fail(kring, BAD_FLAGS, index, slot.flags)
        index = following(index, kring.slot_count)
    # Another thread repaired the slot between the two looks: the ring has two users, which it must not have.
    return fail(kring, BAD_HEAD, -1, kring.head)


@inner
def count_arrivals(kring: Kring, ring: Ring, tail: int) -> int:
    """Count the packets and bytes that a receive ring gets in slots [kring.tail, tail), and look at what came.

    0, or a negative code for a slot that names no buffer or more than its buffer holds: whoever filled it should
    have been stopped by a sync of its own. Then nothing is counted.
    """
    scan = Scan(kring.address + _SCAN)
    packets = ring.packets
    octets = ring.bytes
    scan.highest_buffer = _highest_buffer(kring)
    index = kring.tail
    while index != tail:
        count = (tail if index < tail else kring.slot_count) - index
        if count > SPAN:
            count = SPAN
        scan_slots(kring.slots + index * SLOT_SIZE, count, scan.address, scan.address + RESULT)
        if (scan.bad_buffer | scan.bad_length | scan.bad_offset) < 0:
            ring.packets = packets
            ring.bytes = octets
            return fail(kring, BAD_ARRIVAL, index, count)
        _count(kring, ring, scan, index, count)
        index += count
        if index == kring.slot_count:
            index = 0
    return 0


@inner
def accept(kring: Kring, count: int) -> None:
    """The `count` slots that the prologue has checked are no longer the user's.

    By the count and not by the ring's head, which its user may have moved again since the prologue looked.
    """
    head = kring.head + count
    kring.head = head - kring.slot_count if head >= kring.slot_count else head


@inner
def uncount(kring: Kring, ring: Ring, index: int, count: int) -> None:
    """`count` slots from `index` on, which the prologue has counted as sent, stay the user's for now."""
    for _ in range(count):
        slot = Slot(kring.slots + index * SLOT_SIZE)
        ring.bytes -= slot.length
        if slot.flags & MORE_FRAGMENTS == 0:
            ring.packets -= 1
        index = following(index, kring.slot_count)


@inner
def publish(kring: Kring, ring: Ring) -> None:
    """Hand all slots before the Kring's head to the other end of a shared ring."""
    store_release(ring.address + _PUBLISHED, kring.head)


@inner
def peer_published(kring: Kring) -> int:
    """Up to where the other end has handed slots over to this one."""
    return load_acquire(kring.peer + _PUBLISHED)


@inner
def peer_is_waiting(kring: Kring, ring: Ring) -> int:
    """How many slots the other end sleeps for. What this end has published before is visible to it if it sleeps.

    That needs a fence between the two, which waits for every store to the other processor's cache: it costs more
    than all the rest of a sync. So the end that goes to sleep, and has time, makes both processors pass one
    (`set_waiting`), and here is only a load; unless one of the two may not use membarrier(2).
    """
    if ring.barrier == 0 or Ring(kring.peer).barrier == 0:
        fence()
    return load_acquire(kring.peer + _WAITING)


@inner
def set_waiting(ring: int, slots: int) -> None:
    """Say (or take back, with 0) that this end sleeps until `slots` slots are its own."""
    store_release(ring + _WAITING, slots)
    fence()
    if slots != 0 and Ring(ring).barrier != 0:
        syscall(MEMBARRIER, GLOBAL_EXPEDITED, 0, 0)
