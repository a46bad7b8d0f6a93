"""The transmit loop: tx and txseq. Data plane; one compiled entry.

A round hands over what the last round has filled, collects free slots, and fills what it may: a burst, what the
rate limit allows, what is left of the count. With nothing to do for long enough it sleeps: to the time when the
next packets are due, or until the other end has made room.
"""

from __future__ import annotations

from raceway.apps.generator.fill import fill_plain, fill_varied
from raceway.apps.generator.pacing import allowance, wait_for
from raceway.apps.generator.records import DONE, DUMP, ENDED, FAILED, SCRATCH, SERVICE, SLICE, Pace, Transmit
from raceway.memory.access import clock_nanosleep, sched_yield
from raceway.memory.jit import entry, inner
from raceway.memory.layout import KRING_SIZE, Kring, Ring
from raceway.memory.ring import distance
from raceway.memory.waiting import (
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    NAP,
    SOON,
    SPINS,
    YIELDS,
    Scratch,
    arm,
    clock,
    disarm,
    doze,
    idle,
    sleep,
)
from raceway.ports.sync import sync

SPUN = 100_000
"""Nanoseconds before a time that are spun away and not slept: a timer may be that late."""


@inner
def sleep_until(due: int, now: int, scratch: int) -> None:
    """Sleep if the time is far; give other threads the processor if it is near."""
    if due - now > SPUN:
        due -= SPUN
        Scratch(scratch).seconds = due // 1_000_000_000
        Scratch(scratch).nanoseconds = due % 1_000_000_000
        clock_nanosleep(CLOCK_MONOTONIC, 1, scratch, 0)  # 1: TIMER_ABSTIME
    else:
        sched_yield()


@inner
def arm_rings(rings: int, count: int, slots: int) -> None:
    """Ask the other end to ring the bell once `slots` slots of any of these rings are ours."""
    for index in range(count):
        arm(Kring(rings + index * KRING_SIZE), slots)


@inner
def disarm_rings(rings: int, count: int) -> None:
    """Awake again."""
    for index in range(count):
        disarm(Kring(rings + index * KRING_SIZE))


@inner
def round_of_syncs(transmit: Transmit) -> int:
    """Sync every ring; SLICE if there is nothing that this loop cannot deal with itself."""
    ended = 0
    service = 0
    for index in range(transmit.ring_count):
        kring = Kring(transmit.rings + index * KRING_SIZE)
        if sync(kring) < 0:
            transmit.failed = index
            return FAILED
        ended += 1 if kring.ended != 0 else 0
        service |= kring.attention
    if ended == transmit.ring_count:
        return ENDED
    return SERVICE if service != 0 else SLICE


@inner
def most_pending(rings: int, count: int) -> int:
    """The greatest `pending` of these rings."""
    most = 0
    for index in range(count):
        pending = Kring(rings + index * KRING_SIZE).pending
        if pending > most:
            most = pending
    return most


@inner
def round_of_fills(transmit: Transmit, allowed: int, least: int) -> int:
    """Fill rings in turn until `allowed` packets are in; a ring with fewer than `least` free slots waits its turn."""
    filled = 0
    for index in range(transmit.ring_count):
        kring = Kring(transmit.rings + index * KRING_SIZE)
        share = allowed - filled
        if share > transmit.burst:
            share = transmit.burst
        room = distance(kring.head, kring.tail, kring.slot_count)
        if share == 0 or kring.ended != 0 or (room < least and room < share):
            continue
        if Ring(kring.ring).head != kring.head:
            # Of what was filled last, something still waits to be taken.
            continue
        if transmit.plain != 0:
            packets = fill_plain(transmit, kring, Ring(kring.ring), share)
        else:
            wall = clock(CLOCK_REALTIME, transmit.address + SCRATCH) if kring.metadata_used != 0 else 0
            packets = fill_varied(transmit, kring, Ring(kring.ring), share, wall)
        if packets != 0:
            transmit.batches += 1
            filled += packets
    return filled


@entry
def transmit_packets(address: int) -> int:
    """Send packets for one slice of time; `address` is that of a TRANSMIT record."""
    transmit = Transmit(address)
    scratch = address + SCRATCH
    pace = Pace(transmit.pace)
    now = clock(CLOCK_MONOTONIC, scratch)
    end = now + transmit.slice
    if transmit.started == 0:
        transmit.started = now
        pace.epoch = now
    rounds = 0
    turns = 0
    armed = 0
    fresh = 0
    while True:
        code = round_of_syncs(transmit)
        if code != SLICE or transmit.left == 0 or transmit.stop != 0:
            break
        turns += 1
        allowed = transmit.burst * transmit.ring_count
        if 0 < transmit.left < allowed:
            allowed = transmit.left
        if pace.rate != 0 or turns & 63 == 0:
            now = clock(CLOCK_MONOTONIC, scratch)
            if now > end:
                break
        if pace.rate != 0:
            due = allowance(transmit.pace, now, transmit.left)
            if due < allowed:
                allowed = due
            if allowed == 0:
                due = wait_for(transmit.pace, transmit.left)
                sleep_until(due if due < end else end, now, scratch)
                continue
        # Room comes in drips when the other end is no faster. A batch worth its hand-over is worth a short wait.
        filled = round_of_fills(transmit, allowed, transmit.patience if rounds < 64 else 1)
        if filled != 0:
            fresh = 1
            transmit.packets += filled
            if transmit.left > 0:
                transmit.left -= filled
            if pace.rate != 0:
                pace.paced += filled
            if armed != 0:
                disarm_rings(transmit.rings, transmit.ring_count)
                armed = 0
            rounds = 0
            if transmit.dump != 0:
                code = DUMP
                break
            continue
        if fresh != 0:
            # What was filled last has been handed over, and there is no room now.
            transmit.finished = clock(CLOCK_MONOTONIC, scratch)
            fresh = 0
        rounds += 1
        unsent = most_pending(transmit.rings, transmit.ring_count)
        if unsent == SOON:
            now = clock(CLOCK_MONOTONIC, scratch)
            if now >= end:
                break
            doze(scratch)
        elif armed != 0:
            now = clock(CLOCK_MONOTONIC, scratch)
            hung_up = 0
            if now < end:
                nap = end - now
                # A kernel's queue tells nobody when it has room again.
                if Kring(transmit.rings).peer == 0 and nap > NAP:
                    nap = NAP
                hung_up = sleep(transmit.descriptors, transmit.descriptor_count, nap, scratch)
            disarm_rings(transmit.rings, transmit.ring_count)
            armed = 0
            if hung_up != 0:
                code = SERVICE
                break
            now = clock(CLOCK_MONOTONIC, scratch)
            if now >= end:
                break
        elif rounds > SPINS + YIELDS:
            arm_rings(transmit.rings, transmit.ring_count, transmit.patience)
            armed = 1
        else:
            idle(rounds)
    if armed != 0:
        disarm_rings(transmit.rings, transmit.ring_count)
    if fresh != 0 and code != FAILED:
        transmit.finished = clock(CLOCK_MONOTONIC, scratch)
    # What a file had no room for yet is still in the ring until Python has served the file.
    return DONE if transmit.left == 0 and code == SLICE else code
