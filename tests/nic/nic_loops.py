"""Compiled loops that only these tests need: a sender at full speed, and a receiver that knows what should come."""

from __future__ import annotations

from typing import Any

import numpy as np

from raceway.memory.access import load_i64, sched_yield, store_64
from raceway.memory.jit import entry
from raceway.memory.layout import SLOT_SIZE, Kring, Ring, Slot
from raceway.memory.ring import distance, following
from raceway.memory.structures import allocate, structure
from raceway.ports.port import Port
from raceway.ports.sync import sync

STREAM = np.dtype(
    [(name, "<i8") for name in (
        "kring", "next", "count", "length", "received", "lost", "backwards", "spoilt", "most", "turns", "pad", "pad2",
    )]
)  # fmt: skip
"""kring: address of the ring; next: the number of the frame that is sent, or expected, next; count: frames to send;
length: bytes of each. Received: how many, how many numbers were left out, came too late or twice, and frames that were
not as they were sent. most: frames in one look at most; turns: syncs."""
Stream = structure("Stream", STREAM)
_KIND = 0xB588 << 32
"""The EtherType 88b5 in bytes 12 and 13 of a frame, above four bytes of its source address."""


def stream(port: Port, *, transmit: bool, ring: int = 0, **values: int) -> Any:
    """A STREAM record for one ring of a port."""
    record = allocate(Stream)
    record["kring"] = (port.tx if transmit else port.rx)[ring].address
    record["length"], record["most"] = 60, 1 << 30
    for name, value in values.items():
        record[name] = value
    return record


@entry
def flood(address: int) -> int:
    """Send `count` frames from `next` on as fast as there is room; comes back when all have left the ring."""
    state = Stream(address)
    kring = Kring(state.kring)
    ring = Ring(kring.ring)
    left = state.count
    while left > 0 or kring.pending != 0:
        state.turns += 1
        if sync(kring) < 0:
            return -1
        free = distance(ring.head, kring.tail, kring.slot_count)
        if free > left:
            free = left
        if free > state.most:
            free = state.most
        if free == 0:
            sched_yield()
            continue
        head = ring.head
        for _ in range(free):
            slot = Slot(kring.slots + head * SLOT_SIZE)
            frame = kring.buffers + slot.buffer * kring.buffer_size
            store_64(frame, 0x0002020000000002)
            store_64(frame + 6, 0x0000010000000002)
            store_64(frame + 8, _KIND)
            store_64(frame + 14, state.next)
            store_64(frame + 22, ~state.next)
            slot.length = state.length
            slot.flags = 0
            slot.offset = 0
            state.next += 1
            head = following(head, kring.slot_count)
        left -= free
        ring.head = head
        ring.cur = head
        if sync(kring) < 0:
            return -1
    return 0


@entry
def take(address: int) -> int:
    """Look once at everything that is there. The number of frames, or -1."""
    state = Stream(address)
    kring = Kring(state.kring)
    ring = Ring(kring.ring)
    state.turns += 1
    if sync(kring) < 0:
        return -1
    came = 0
    while ring.head != kring.tail:
        slot = Slot(kring.slots + ring.head * SLOT_SIZE)
        frame = kring.buffers + slot.buffer * kring.buffer_size + slot.offset
        number = load_i64(frame + 14)
        if load_i64(frame + 22) != ~number or slot.length != state.length:
            state.spoilt += 1
        elif number < state.next:
            state.backwards += 1
        else:
            state.lost += number - state.next
            state.next = number + 1
        came += 1
        head = following(ring.head, kring.slot_count)
        ring.head = head
        ring.cur = head
    state.received += came
    return came
