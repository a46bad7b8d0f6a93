"""Compiled loops that only tests need: a sender that never stops, a checker, and a game of ping-pong with pauses."""

from __future__ import annotations

import numpy as np

from raceway.memory.access import load_i64, store_64
from raceway.memory.jit import entry, inner
from raceway.memory.layout import SLOT_SIZE, Kring, Ring, Slot
from raceway.memory.ring import distance, following
from raceway.memory.structures import allocate, structure
from raceway.memory.waiting import CLOCK_MONOTONIC, arm, clock, disarm, sleep
from raceway.ports.sync import sync

STATE = np.dtype(
    [(name, "<i8") for name in (
        "send", "receive", "sequence", "count", "burst", "random", "descriptors", "descriptor_count",
        "seconds", "nanoseconds", "late", "sleeps", "wrong", "pauses", "begin", "pad",
    )]
)  # fmt: skip
State = structure("State", STATE)
SECONDS = STATE.fields["seconds"][1]


@inner
def _random(state: State, below: int) -> int:
    """A linear congruential generator (Knuth, TAOCP 2, 3.3.4), 31 bits at a time."""
    state.random = (state.random * 1103515245 + 12345) & 0x7FFFFFFF
    return (state.random >> 8) % below


@inner
def _pause(state: State) -> None:
    """Work for a random while: steps of xorshift32 (Marsaglia 2003), because the compiler makes one sum of a count."""
    value = state.pad
    for _ in range(_random(state, state.pauses)):
        value ^= (value << 13) & 0xFFFFFFFF
        value ^= value >> 17
        value ^= (value << 5) & 0xFFFFFFFF
    state.pad = value


@entry
def flood(address: int) -> int:
    """Send `count` packets in bursts of 1 to `burst`, each with its sequence number, or until the peer is gone."""
    state = State(address)
    kring = Kring(state.send)
    ring = Ring(kring.ring)
    done = 0
    while done < state.count:
        if sync(kring) < 0:
            return -1
        if kring.ended != 0:
            return 1
        free = distance(ring.head, kring.tail, kring.slot_count)
        wanted = 1 + _random(state, state.burst)
        head = ring.head
        for _ in range(min(free, wanted)):
            slot = Slot(kring.slots + head * SLOT_SIZE)
            buffer = kring.buffers + slot.buffer * kring.buffer_size
            store_64(buffer, state.sequence)
            store_64(buffer + 8, ~state.sequence)
            slot.length = 16 + state.sequence % 40
            slot.flags = 0
            slot.offset = 0
            state.sequence += 1
            done += 1
            head = following(head, kring.slot_count)
        ring.head = head
        ring.cur = head
        if sync(kring) < 0:
            return -1
    return 0


@entry
def check(address: int) -> int:
    """Take everything that is there; count in `wrong` what is not the next packet of the sequence, whole."""
    state = State(address)
    kring = Kring(state.receive)
    ring = Ring(kring.ring)
    if sync(kring) < 0:
        return -1
    while ring.head != kring.tail:
        slot = Slot(kring.slots + ring.head * SLOT_SIZE)
        buffer = kring.buffers + slot.buffer * kring.buffer_size
        number = load_i64(buffer)
        if number != state.sequence or load_i64(buffer + 8) != ~number or slot.length != 16 + number % 40:
            state.wrong += 1
        state.sequence += 1
        head = following(ring.head, kring.slot_count)
        ring.head = head
        ring.cur = head
    return 0


@inner
def _wait_for_one(state: State, kring: Kring, ring: Ring, scratch: int) -> int:
    """Sleep by the protocol of `memory.waiting` until a packet is there; count sleeps that ended by time."""
    for _ in range(1000):
        arm(kring, 1)
        if sync(kring) < 0:
            return -1
        if ring.head != kring.tail:
            disarm(kring)
            return 0
        before = clock(CLOCK_MONOTONIC, scratch)
        state.sleeps += 1
        if sleep(state.descriptors, state.descriptor_count, 2_000_000_000, scratch) != 0:
            return 1
        if clock(CLOCK_MONOTONIC, scratch) - before >= 2_000_000_000:
            state.late += 1
            disarm(kring)
            return 0
        disarm(kring)
    return -1


@entry
def play(address: int) -> int:
    """Ping-pong: `count` times send one packet and wait for one, pausing for a random while before either."""
    state = State(address)
    scratch = address + SECONDS
    outgoing = Kring(state.send)
    incoming = Kring(state.receive)
    out = Ring(outgoing.ring)
    ring = Ring(incoming.ring)
    for turn in range(state.count):
        if turn > 0 or state.begin != 0:
            _pause(state)
            if sync(outgoing) < 0:
                return -1
            Slot(outgoing.slots + out.head * SLOT_SIZE).length = 60
            head = following(out.head, outgoing.slot_count)
            out.head = head
            out.cur = head
            if sync(outgoing) < 0:
                return -1
        _pause(state)
        code = _wait_for_one(state, incoming, ring, scratch)
        if code != 0:
            return code
        if ring.head == incoming.tail:
            return 2
        head = following(ring.head, incoming.slot_count)
        ring.head = head
        ring.cur = head
        if sync(incoming) < 0:
            return -1
    return 0


def state_for(port, **values):
    """A STATE record for a port's first rings; keep it as long as a loop runs on it."""
    from raceway.ports.port import poll_records

    record = allocate(State)
    records = poll_records([port])
    record["send"], record["receive"] = port.tx[0].address, port.rx[0].address
    record["descriptors"], record["descriptor_count"] = records.ctypes.data, len(records)
    record["burst"], record["random"], record["pauses"] = 32, 12345, 2000
    for name, value in values.items():
        record[name] = value
    return record, records
