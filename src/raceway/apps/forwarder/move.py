"""One packet from a receive ring into a transmit ring. Data plane.

In one region the two slots swap their buffers and no byte is copied. Between regions the bytes are copied, and
a fragment that is longer than the target's buffers becomes several.
"""

from __future__ import annotations

from raceway.memory.access import copy, copy_line
from raceway.memory.jit import inner
from raceway.memory.layout import (
    BUFFER_CHANGED,
    METADATA_SIZE,
    MORE_FRAGMENTS,
    SLOT_SIZE,
    Kring,
    Metadata,
    Ring,
    Slot,
)
from raceway.memory.ring import following


@inner
def slots_needed(source: Kring, target: Kring, first: int, slots: int) -> int:
    """Slots that the packet in `slots` source slots from `first` takes in the target ring."""
    if source.region == target.region:
        return slots
    needed = 0
    index = first
    size = target.buffer_size
    for _ in range(slots):
        length = Slot(source.slots + index * SLOT_SIZE).length
        needed += (length + size - 1) // size if length > size else 1
        index = following(index, source.slot_count)
    return needed


@inner
def move_packet(source: Kring, target: Kring, first: int, slots: int, into: int, now: int) -> int:
    """Move the packet in `slots` source slots from `first` to the target's slots from `into`; the index behind it."""
    if target.metadata_used != 0:
        _tell(source, target, first, into, now)
    index = first
    for _ in range(slots):
        slot = Slot(source.slots + index * SLOT_SIZE)
        if source.region == target.region:
            other = Slot(target.slots + into * SLOT_SIZE)
            buffer = other.buffer
            other.buffer = slot.buffer
            other.length = slot.length
            other.offset = slot.offset
            other.flags = (slot.flags & MORE_FRAGMENTS) | BUFFER_CHANGED
            slot.buffer = buffer
            slot.flags = BUFFER_CHANGED
            into = following(into, target.slot_count)
        else:
            into = _copy_fragment(source, target, slot, into)
        index = following(index, source.slot_count)
    return into


@inner
def _copy_fragment(source: Kring, target: Kring, slot: Slot, into: int) -> int:
    """Copy one source slot's bytes into as many target slots as they take; the index behind them."""
    start = source.buffers + slot.buffer * source.buffer_size + slot.offset
    left = slot.length
    size = target.buffer_size
    while True:
        other = Slot(target.slots + into * SLOT_SIZE)
        destination = target.buffers + other.buffer * size
        part = left if left < size else size
        # Whole lines while both buffers have room for them; buffers are whole lines, packets are not.
        if slot.offset == 0 and part <= 256 and source.buffer_size >= 64:
            done = 0
            while done < part:
                copy_line(destination + done, start + done)
                done += 64
        else:
            copy(destination, start, part)
        other.length = part
        other.offset = 0
        left -= part
        start += part
        into = following(into, target.slot_count)
        if left == 0:
            other.flags = slot.flags & MORE_FRAGMENTS
            return into
        other.flags = MORE_FRAGMENTS


@inner
def _tell(source: Kring, target: Kring, first: int, into: int, now: int) -> None:
    """Give the target what is known of the packet besides its bytes."""
    told = Metadata(target.metadata + into * METADATA_SIZE)
    if source.metadata_used != 0:
        known = Metadata(source.metadata + first * METADATA_SIZE)
        told.timestamp = known.timestamp if known.timestamp != 0 else now
        told.wire_length = known.wire_length
        told.link_type = known.link_type
        told.segment_size = known.segment_size
    else:
        told.timestamp = now
        told.wire_length = 0
        told.segment_size = 0
        # What a pipe carries only its sending end knows.
        told.link_type = Ring(source.peer).link_type if source.peer != 0 else 0
