"""Live XDP frames as the data plane sees them, and when a stream is worth a run of them. Data plane.

`kernel.live` says what they are. A ring that has them beside a slower way keeps a `stream`, a record with these fields:

    live                                   address of the port's LIVE record, 0 if it has none
    window, window_packets, busy_windows   what goes the slower way: since when, how much, how often in a row enough
    empty, too_long                        packets that were dropped, being shorter or longer than any frame

Packets must not overtake each other: the slower way may be used only while `live_idle`, and a run only once everything
that went the slower way is out.
"""

from __future__ import annotations

from typing import Any

from raceway.kernel.live import FLUSHED, OFF, RUNNING, STARTING, STOPPING, Live
from raceway.kernel.redirect import FRAME_DATA, FRAME_STRIDE, LiveControl
from raceway.memory.access import copy, copy_line, fence, load_acquire, store_32, store_release
from raceway.memory.jit import inner
from raceway.memory.layout import MORE_FRAGMENTS, SLOT_SIZE, Kring, Slot
from raceway.memory.ring import following
from raceway.memory.waiting import CLOCK_MONOTONIC, clock, ring_bell

_WINDOW = 1_000_000
_LINE = 64
_LINES_LIMIT: int = FRAME_STRIDE - FRAME_DATA
"""Bytes that lines may write into a frame: the next one begins there, and it may be waiting."""
_CONSUMED: int = LiveControl.fields["consumed"][1]
_ROUNDS: int = LiveControl.fields["rounds"][1]


@inner
def live_state(live: int) -> int:
    """The state of a LIVE record."""
    return load_acquire(live)


@inner
def live_waiting(live: int) -> int:
    """Frames that the program has not taken yet."""
    control = Live(live).control
    return LiveControl(control).produced - load_acquire(control + _CONSUMED)


@inner
def live_idle(live: int) -> bool:
    """No run takes frames, and those that one has taken are out. The kernel sends them by batches: one that was taken
    is on its way for sure only when there has been a batch's length of nothing since."""
    state = load_acquire(live)
    if state == RUNNING or live_waiting(live) != 0:
        return False
    return state != STOPPING or load_acquire(Live(live).control + _ROUNDS) >= FLUSHED


@inner
def live_start(live: int) -> None:
    """Ask for a run."""
    if load_acquire(live) == OFF:
        store_release(live, STARTING)
        ring_bell(Live(live).bell)


@inner
def live_wanted(stream: Any, scratch: int, count: int, busy: int) -> None:
    """Ask for a run if what goes the slower way, `count` packets more by now, has become a stream: at least `busy`
    packets in a millisecond, for the second time in a row. scratch: address of a SCRATCH record."""
    now = clock(CLOCK_MONOTONIC, scratch)
    stream.window_packets += count
    passed = now - stream.window
    if passed < _WINDOW:
        return
    if stream.window_packets * _WINDOW >= passed * busy:
        stream.busy_windows += 1
        if stream.busy_windows > 1 and now >= Live(stream.live).not_before:
            Live(stream.live).slower = stream.window_packets * 1_000_000_000 // passed
            live_start(stream.live)
    else:
        stream.busy_windows = 0
    stream.window = now
    stream.window_packets = 0


@inner
def live_transmit(kring: Kring, stream: Any, count: int) -> int:
    """Copy the packets of `count` slots from the Kring's head on into the array, as far as there is room: how many
    slots were taken. Their buffers are free at once."""
    live = Live(stream.live)
    control = LiveControl(live.control)
    produced = control.produced
    room = live.mask + 1 - (produced - load_acquire(live.control + _CONSUMED))
    index = kring.head
    done = 0
    size = kring.buffer_size
    while done < count:
        slots, length = _measure(kring, index, count - done)
        if length < 14:
            stream.empty += 1
        elif length > live.longest:
            stream.too_long += 1
        else:
            if room == 0:
                break
            frame = live.frames + (produced & live.mask) * FRAME_STRIDE
            store_32(frame, length)
            target = frame + FRAME_DATA
            part = index
            for _ in range(slots):
                slot = Slot(kring.slots + part * SLOT_SIZE)
                source = kring.buffers + slot.buffer * size + slot.offset
                whole_lines = (slot.length + _LINE - 1) & -_LINE
                if slots == 1 and slot.offset + whole_lines <= size and whole_lines <= _LINES_LIMIT:
                    at = 0
                    while at < slot.length:
                        copy_line(target + at, source + at)
                        at += _LINE
                else:
                    copy(target, source, slot.length)
                target += slot.length
                part = following(part, kring.slot_count)
            produced += 1
            room -= 1
        for _ in range(slots):
            index = following(index, kring.slot_count)
        done += slots
    store_release(live.control, produced)
    fence()
    if load_acquire(stream.live) != RUNNING:
        # It was ending while this was put in: it must run once more.
        live_start(stream.live)
    return done


@inner
def _measure(kring: Kring, index: int, left: int) -> tuple[int, int]:
    """Slots and bytes of the packet that starts at `index`."""
    slots = 0
    length = 0
    while slots < left:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        length += slot.length
        slots += 1
        if slot.flags & MORE_FRAGMENTS == 0:
            break
        index = following(index, kring.slot_count)
    return slots, length
