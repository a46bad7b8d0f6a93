"""Both directions of `null:`. Data plane.

Transmitting, every slot is the user's again at once. Receiving, every free slot becomes a packet at once: a
frame of `LENGTH` bytes, written anew each time, for a bridge may have put any other buffer into the slot.
"""

from __future__ import annotations

from raceway.memory.access import copy_line
from raceway.memory.jit import entry
from raceway.memory.layout import SLOT_SIZE, Kring, Ring, Slot
from raceway.memory.ring import accept, count_arrivals, following, prologue

LENGTH = 60


@entry
def null_sync(address: int) -> int:
    """Give every slot back to the user; as packets, if this is a receive ring."""
    kring = Kring(address)
    ring = Ring(kring.ring)
    count = prologue(kring, ring)
    if count < 0:
        return count
    accept(kring, count)
    tail = kring.head - 1 if kring.head > 0 else kring.slot_count - 1
    if kring.transmit == 0:
        index = kring.tail
        while index != tail:
            slot = Slot(kring.slots + index * SLOT_SIZE)
            copy_line(kring.buffers + slot.buffer * kring.buffer_size, kring.adapter)
            slot.length = LENGTH
            slot.offset = 0
            slot.flags = 0
            index = following(index, kring.slot_count)
        count_arrivals(kring, ring, tail)
    kring.tail = tail
    ring.tail = tail
    return 0
