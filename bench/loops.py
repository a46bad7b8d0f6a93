"""Compiled loops that only the benchmarks need: slots in and out of a pipe, as fast as one core can."""

from __future__ import annotations

import numpy as np

from raceway.memory.access import sched_yield
from raceway.memory.jit import entry
from raceway.memory.layout import SLOT_SIZE, Kring, Ring, Slot
from raceway.memory.ring import distance
from raceway.memory.structures import structure
from raceway.ports.sync import sync

SLOT_RUN = np.dtype(
    [(name, "<i8") for name in ("kring", "count", "batch", "done", "sum", "rounds", "empty", "pad")]
)
SlotRun = structure("SlotRun", SLOT_RUN)


@entry
def send_slots(address: int) -> int:
    """Fill `count` slots, `batch` at a time, each with its number as length, and publish each batch."""
    run = SlotRun(address)
    kring = Kring(run.kring)
    ring = Ring(kring.ring)
    size = kring.slot_count
    done = 0
    empty = 0
    while done < run.count:
        free = distance(ring.head, kring.tail, size)
        if free < run.batch:
            sync(kring)
            free = distance(ring.head, kring.tail, size)
            if free < run.batch:
                empty += 1
                if empty > 1000:
                    sched_yield()
                continue
        empty = 0
        run.rounds += 1
        head = ring.head
        # Up to the ring's end, and then from its beginning: no test for the end at every slot.
        first = size - head
        if first > run.batch:
            first = run.batch
        at = kring.slots + head * SLOT_SIZE
        for number in range(first):
            slot = Slot(at + number * SLOT_SIZE)
            slot.length = number
            slot.offset = 0
            slot.flags = 0
        at = kring.slots - first * SLOT_SIZE
        for number in range(first, run.batch):
            slot = Slot(at + number * SLOT_SIZE)
            slot.length = number
            slot.offset = 0
            slot.flags = 0
        head += run.batch
        if head >= size:
            head -= size
        ring.head = head
        ring.cur = head
        sync(kring)
        done += run.batch
    run.done = done
    return 0


@entry
def receive_slots(address: int) -> int:
    """Read `count` slots, as many as `batch` at a time, adding up buffer and length, and give each batch back."""
    run = SlotRun(address)
    kring = Kring(run.kring)
    ring = Ring(kring.ring)
    size = kring.slot_count
    done = 0
    total = 0
    empty = 0
    while done < run.count:
        there = distance(ring.head, kring.tail, size)
        if there == 0:
            sync(kring)
            there = distance(ring.head, kring.tail, size)
            if there == 0:
                empty += 1
                if empty > 1000:
                    sched_yield()
                continue
        empty = 0
        run.rounds += 1
        if there > run.batch:
            there = run.batch
        head = ring.head
        first = size - head
        if first > there:
            first = there
        at = kring.slots + head * SLOT_SIZE
        for number in range(first):
            slot = Slot(at + number * SLOT_SIZE)
            total += slot.buffer + slot.length
        at = kring.slots - first * SLOT_SIZE
        for number in range(first, there):
            slot = Slot(at + number * SLOT_SIZE)
            total += slot.buffer + slot.length
        head += there
        if head >= size:
            head -= size
        ring.head = head
        ring.cur = head
        sync(kring)
        done += there
    run.done = done
    run.sum = total
    return 0
