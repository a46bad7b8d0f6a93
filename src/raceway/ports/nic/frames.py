"""Receiving from frames in memory (`kernel.received`) instead of a socket. Data plane.

The buffers of free slots stay in them; what has come is copied there, by cache lines. That is a second copy, made by
the receiver's processor, for a cheaper first one on the processor that the driver works on.

The program publishes packet by packet, and each look at `produced` takes that line from the program's processor. So
while packets come densely there is a look every few microseconds, and a batch to be had; a lone packet is seen at once.
"""

from __future__ import annotations

from raceway.kernel.received import Frames, Received
from raceway.kernel.redirect import FRAME_DATA, FRAME_LIMIT, FRAME_STRIDE
from raceway.memory.access import copy, copy_line, load_acquire, load_i64, load_u32, store_release
from raceway.memory.jit import entry, inner
from raceway.memory.layout import METADATA_SIZE, SLOT_SIZE, Kring, Metadata, Ring, Slot
from raceway.memory.ring import accept, count_arrivals, distance, following, prologue
from raceway.memory.waiting import CLOCK_MONOTONIC, clock
from raceway.ports.nic.finish import finish_arrivals

_PRODUCED: int = Received.fields["produced"][1]
_CONSUMED: int = Received.fields["consumed"][1]
_SCRATCH: int = Frames.fields["scratch"][1]
_LINE = 64
_LINES_LIMIT: int = FRAME_STRIDE - FRAME_DATA
_DENSE, _REST = 1_000, 4_000
"""Nanoseconds from packet to packet below which they come densely, and from look to look then."""


@entry
def frames_sync(address: int) -> int:
    """rxsync of one queue."""
    kring = Kring(address)
    ring = Ring(kring.ring)
    frames = Frames(kring.adapter)
    count = prologue(kring, ring)
    if count < 0:
        return count
    accept(kring, count)
    # Awake: what the program has written into the ring buffer to wake this reader is answered.
    rung = load_acquire(frames.rung)
    if rung != load_i64(frames.answered):
        store_release(frames.answered, rung)
    return _collect(kring, ring, frames)


@inner
def _ready(kring: Kring, frames: Frames) -> int:
    """Frames that are there, as far as it is time to look."""
    now = 0
    if frames.next_look != 0:
        now = clock(CLOCK_MONOTONIC, frames.address + _SCRATCH)
        # Who is about to sleep has to know.
        if now < frames.next_look and load_i64(kring.alarm) == 0:
            return 0
    ready = load_acquire(frames.control + _PRODUCED) - frames.at
    if ready > 0:
        if now == 0:
            now = clock(CLOCK_MONOTONIC, frames.address + _SCRATCH)
        frames.next_look = now + _REST if now - frames.looked < ready * _DENSE else 0
        frames.looked = now
    elif now - frames.looked > 2 * _REST:
        frames.next_look = 0
    return ready


@inner
def _collect(kring: Kring, ring: Ring, frames: Frames) -> int:
    """Fill free slots with the frames that are there."""
    ready = _ready(kring, frames)
    room = kring.slot_count - 1 - distance(kring.head, kring.tail, kring.slot_count)
    if ready > room:
        ready = room
    if ready <= 0:
        return 0
    at = frames.at
    index = kring.tail
    size = kring.buffer_size
    for _ in range(ready):
        frame = frames.frames + (at & frames.mask) * FRAME_STRIDE
        slot = Slot(kring.slots + index * SLOT_SIZE)
        length = load_u32(frame)
        if length > FRAME_LIMIT:
            # Nobody but the program writes there.
            length = FRAME_LIMIT
        target = kring.buffers + slot.buffer * size
        source = frame + FRAME_DATA
        if length + _LINE <= _LINES_LIMIT:
            done = 0
            while done < length:
                copy_line(target + done, source + done)
                done += _LINE
        else:
            copy(target, source, length)
        slot.length = length
        slot.offset = 0
        slot.flags = 0
        if kring.metadata_used != 0:
            metadata = Metadata(kring.metadata + index * METADATA_SIZE)
            metadata.timestamp = 0
            metadata.wire_length = 0
            metadata.link_type = 0
            metadata.segment_size = 0
        at += 1
        index = following(index, kring.slot_count)
    frames.at = at
    store_release(frames.control + _CONSUMED, at)
    frames.finished += finish_arrivals(kring, kring.tail, index)
    code = count_arrivals(kring, ring, index)
    if code < 0:
        return code
    kring.tail = index
    ring.tail = index
    return 0
