"""What every sync does first: check what the user did to the ring, and count.

Data plane. `prologue` compares the user's head, cur and tail with the private `Kring` (what the last sync left)
and looks at every slot that is handed over, so a wrong index, a spoilt tail or a bad buffer is found before any
other party can meet it. Nothing of a wrong batch is published: the error's code, slot and value go to the Kring,
and `memory.errors` in Python repairs the ring and raises. The rules are netmap's (nm_txsync_prologue and
nm_rxsync_prologue in netmap.c): head within [last head, tail], cur within [head, tail], tail untouched.
"""

from __future__ import annotations

from raceway.memory.access import fence, load_acquire, store_release
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

# Codes of Kring.error. A sync that fails returns the code's negative.
BAD_HEAD, BAD_CUR, BAD_TAIL, BAD_BUFFER, BAD_LENGTH, BAD_FLAGS, BAD_PEER, BAD_DEVICE = 1, 2, 3, 4, 5, 6, 7, 8

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
def _check(kring: Kring, ring: Ring, first: int, last: int) -> int:
    """Look at slots [first, last): non-zero if any is bad. Branch-free, because it runs for every slot that moves."""
    limit = RegionHeader(kring.region).buffers_next
    size = kring.buffer_size
    bad = 0
    address = kring.slots + first * SLOT_SIZE
    end = kring.slots + last * SLOT_SIZE
    if kring.transmit == 0:
        while address < end:
            buffer = Slot(address).buffer
            # Negative where buffer < 1 or buffer >= limit: the signs are collected and looked at once.
            bad |= (buffer - 1) | (limit - 1 - buffer)
            address += SLOT_SIZE
        return 1 if bad < 0 else 0
    total = 0
    fragments = 0
    flags = 0
    while address < end:
        slot = Slot(address)
        buffer = slot.buffer
        length = slot.length
        offset = slot.offset
        bad |= (buffer - 1) | (limit - 1 - buffer) | length | offset | (size - offset - length)
        flags |= slot.flags
        fragments += slot.flags & MORE_FRAGMENTS
        total += length
        address += SLOT_SIZE
    if bad < 0 or flags & ~ALLOWED_FLAGS:
        return 1
    ring.packets += last - first - fragments // MORE_FRAGMENTS
    ring.bytes += total
    return 0


@inner
def _find_bad_slot(kring: Kring, handed: int) -> int:
    """The slow path: which slot was it, and what is wrong with it?"""
    limit = RegionHeader(kring.region).buffers_next
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
def count_arrivals(kring: Kring, ring: Ring, tail: int) -> None:
    """Count the packets and bytes that a receive ring gets in slots [kring.tail, tail)."""
    count = kring.slot_count
    total = 0
    fragments = 0
    index = kring.tail
    slots = distance(index, tail, count)
    while index != tail:
        end = tail if index < tail else count
        address = kring.slots + index * SLOT_SIZE
        while index < end:
            slot = Slot(address)
            total += slot.length
            fragments += slot.flags & MORE_FRAGMENTS
            address += SLOT_SIZE
            index += 1
        if index == count:
            index = 0
    ring.packets += slots - fragments // MORE_FRAGMENTS
    ring.bytes += total


@inner
def accept(kring: Kring, count: int) -> None:
    """The `count` slots that the prologue has checked are no longer the user's.

    By the count and not by the ring's head, which its user may have moved again since the prologue looked.
    """
    head = kring.head + count
    kring.head = head - kring.slot_count if head >= kring.slot_count else head


@inner
def publish(kring: Kring, ring: Ring) -> None:
    """Hand all slots before the Kring's head to the other end of a shared ring."""
    store_release(ring.address + _PUBLISHED, kring.head)


@inner
def peer_published(kring: Kring) -> int:
    """Up to where the other end has handed slots over to this one."""
    return load_acquire(kring.peer + _PUBLISHED)


@inner
def peer_is_waiting(kring: Kring) -> int:
    """How many slots the other end sleeps for, once everything published is visible to it."""
    fence()
    return load_acquire(kring.peer + _WAITING)


@inner
def set_waiting(ring: int, slots: int) -> None:
    """Say (or take back, with 0) that this end sleeps until `slots` slots are its own."""
    store_release(ring + _WAITING, slots)
    fence()
