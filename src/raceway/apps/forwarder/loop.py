"""The loop: take what has come, judge it, move it on, wait. Data plane; one compiled entry.

A round looks at every direction once. What cannot move for want of room stays in its receive ring, so a slow
target slows its source and nothing is dropped. Returns to Python after a slice of time, or earlier for what only
Python can do.
"""

from __future__ import annotations

from raceway.apps.forwarder.move import move_packet, slots_needed
from raceway.apps.forwarder.pacing import due_time, went
from raceway.apps.forwarder.records import (
    AT_ONCE,
    CHUNK,
    DIRECTION_SIZE,
    JUDGED_SIZE,
    LENGTHS,
    SCRATCH_OFFSET,
    VERDICTS,
    Direction,
    Forward,
    Judged,
)
from raceway.memory.access import call_batch, clock_nanosleep, load_u8, load_u32, store_32
from raceway.memory.jit import entry, inner
from raceway.memory.layout import (
    KRING_SIZE,
    METADATA_SIZE,
    MORE_FRAGMENTS,
    SLOT_SIZE,
    Batch,
    Kring,
    Metadata,
    PortState,
    Ring,
    Slot,
)
from raceway.memory.ring import distance, following
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

SLICE_OVER, DONE, ATTENTION, ERROR = 0, 1, 2, 3
_SPIN_BEFORE_DUE = 120_000
"""Nanoseconds before a packet is due at which the loop stops sleeping: a timer may come that late."""


@inner
def _packet_slots(kring: Kring, first: int, tail: int) -> int:
    """Slots of the packet that starts at `first`; 0 if its end has not come yet."""
    slots = 0
    index = first
    while index != tail:
        slots += 1
        if Slot(kring.slots + index * SLOT_SIZE).flags & MORE_FRAGMENTS == 0:
            return slots
        index = following(index, kring.slot_count)
    # A chain that fills the ring will never get its end: it goes as it is.
    return slots if slots == kring.slot_count - 1 else 0


@inner
def _enough(direction: Direction) -> bool:
    """Whether one of the direction's limits is reached."""
    if direction.limit > 0 and direction.taken >= direction.limit:
        return True
    return direction.limit_sent > 0 and direction.sent >= direction.limit_sent


@inner
def _judge(
    direction: Direction, judged: Judged, kring: Kring, number: int, first: int, tail: int, now: int
) -> None:
    """Let the packet function judge the next packets, a chunk at most. Of a packet in several slots it sees the first,
    as a program in a driver sees a packet's linear part: so a chunk ends with the first slot of such a packet."""
    limit = distance(first, tail, kring.slot_count)
    if limit > CHUNK:
        limit = CHUNK
    if direction.limit > 0 and limit > direction.limit - direction.taken:
        # Those behind the limit stay as they came.
        limit = direction.limit - direction.taken
    count = 0
    index = first
    while count < limit:
        if direction.moves != 0:
            store_32(judged.address + LENGTHS + count * 4, Slot(kring.slots + index * SLOT_SIZE).length)
        count += 1
        if Slot(kring.slots + index * SLOT_SIZE).flags & MORE_FRAGMENTS:
            break
        index = following(index, kring.slot_count)
    batch = Batch(direction.batch)
    batch.slots = kring.slots
    batch.metadata = kring.metadata if kring.metadata_used != 0 else 0
    batch.buffers = kring.buffers
    batch.buffer_size = kring.buffer_size
    batch.slot_count = kring.slot_count
    batch.first = first
    batch.count = count
    batch.verdicts = judged.address + VERDICTS
    batch.now = now
    batch.ring = number
    call_batch(direction.kernel, direction.batch)
    judged.count = count
    judged.index = 0


@inner
def _forward_ring(
    state: Forward, direction: Direction, source: Kring, number: int, target: Kring, back: int
) -> int:
    """Move what one receive ring has to one transmit ring; how many packets left the receive ring."""
    ring = Ring(source.ring)
    out = Ring(target.ring)
    into = out.head
    room = distance(into, target.tail, target.slot_count)
    first = ring.head
    tail = source.tail
    taken = 0
    wall = 0
    if first == tail:
        return 0
    if direction.kernel != 0 or target.metadata_used != 0:
        wall = clock(CLOCK_REALTIME, state.address + SCRATCH_OFFSET)
    judged = Judged(direction.judged + number * JUDGED_SIZE)
    while first != tail and taken < CHUNK:
        if _enough(direction):
            break
        slots = _packet_slots(source, first, tail)
        if slots == 0:
            break
        slot = Slot(source.slots + first * SLOT_SIZE)
        due = 0
        if direction.pace != AT_ONCE:
            stamp = (
                Metadata(source.metadata + first * METADATA_SIZE).timestamp
                if source.metadata_used != 0
                else 0
            )
            due = due_time(direction, stamp, state.now)
            if due > state.now:
                state.now = clock(CLOCK_MONOTONIC, state.address + SCRATCH_OFFSET)
                if due > state.now:
                    direction.due = due
                    break
        verdict = 2
        if direction.kernel != 0:
            if judged.index >= judged.count:
                _judge(direction, judged, source, number, first, tail, wall)
            verdict = load_u8(judged.address + VERDICTS + judged.index)
        length = slot.length
        more = 0
        if direction.moves != 0:
            more = load_u32(judged.address + LENGTHS + judged.index * 4) - length
        if verdict == 2 or verdict == 4:
            needed = slots_needed(source, target, first, slots)
            if needed > room:
                if needed < target.slot_count:
                    direction.blocked = 1
                    break
                direction.too_long += 1
            else:
                if slots > 1:
                    length = _chain_length(source, first, slots)
                into = move_packet(source, target, first, slots, into, wall)
                room -= needed
                direction.sent += 1
                direction.sent_bytes += length
        elif verdict == 3:
            if not _send_back(direction, source, first, slots, back, wall):
                direction.blocked = 1
                break
        elif verdict == 1:
            direction.dropped += 1
        else:
            direction.aborted += 1
        judged.index += slots
        if direction.pace != AT_ONCE:
            went(direction, length, due)
        direction.taken += 1
        direction.taken_bytes += length + more
        taken += 1
        for _ in range(slots):
            first = following(first, source.slot_count)
    ring.head = first
    ring.cur = first
    out.head = into
    out.cur = into
    return taken


@inner
def _chain_length(kring: Kring, first: int, slots: int) -> int:
    total = 0
    index = first
    for _ in range(slots):
        total += Slot(kring.slots + index * SLOT_SIZE).length
        index = following(index, kring.slot_count)
    return total


@inner
def _send_back(direction: Direction, source: Kring, first: int, slots: int, back: int, now: int) -> bool:
    """Verdict TX: out of the port that it came from. False if there is no room now."""
    if back == 0:
        direction.no_way_back += 1
        return True
    target = Kring(back)
    out = Ring(target.ring)
    if distance(out.head, target.tail, target.slot_count) < slots:
        sync(target)
        if distance(out.head, target.tail, target.slot_count) < slots:
            return False
    into = move_packet(source, target, first, slots, out.head, now)
    out.head = into
    out.cur = into
    direction.returned += 1
    return True


@inner
def _round(state: Forward, direction: Direction) -> int:
    """Every ring of one direction once; how many packets moved, or a negative code."""
    source = PortState(direction.source)
    target = PortState(direction.target)
    moved = 0
    direction.blocked = 0
    all_ended = 1
    unread = 0
    for number in range(source.receive_count):
        incoming = Kring(source.receive + number * KRING_SIZE)
        outgoing = Kring(target.transmit + number % target.transmit_count * KRING_SIZE)
        ended = incoming.ended
        code = sync(incoming)
        if code < 0:
            return code
        if distance(Ring(outgoing.ring).head, outgoing.tail, outgoing.slot_count) < CHUNK:
            code = sync(outgoing)
            if code < 0:
                return code
        back = 0
        if source.transmit_count > 0:
            back = source.transmit + number % source.transmit_count * KRING_SIZE
        taken = _forward_ring(state, direction, incoming, number, outgoing, back)
        moved += taken
        if taken != 0:
            direction.batches += 1
            code = sync(outgoing)
            if code < 0:
                return code
            if back != 0 and Ring(Kring(back).ring).head != Kring(back).head:
                code = sync(Kring(back))
                if code < 0:
                    return code
        if ended == 0:
            all_ended = 0
        unread += distance(Ring(incoming.ring).head, incoming.tail, incoming.slot_count)
        if outgoing.ended != 0:
            direction.ended = 1
    if all_ended != 0 and unread == 0:
        direction.ended = 1
    if _enough(direction):
        direction.ended = 1
    return moved


@inner
def _attention(direction: Direction) -> int:
    """Does an adapter of this direction need Python (a file's window is used up or full)?"""
    source = PortState(direction.source)
    target = PortState(direction.target)
    for number in range(source.receive_count):
        if Kring(source.receive + number * KRING_SIZE).attention != 0:
            return 1
    for number in range(target.transmit_count):
        if Kring(target.transmit + number * KRING_SIZE).attention != 0:
            return 1
    return 0


@inner
def _push(state: Forward) -> int:
    """Sync transmit rings of which the kernel has not taken everything: the greatest `pending` that is left. And 1 for
    a direction that waits for room in a ring that has no other end to wake this one."""
    left = 0
    for index in range(state.count):
        direction = Direction(state.directions + index * DIRECTION_SIZE)
        left = max(left, _push_port(PortState(direction.target)), _push_port(PortState(direction.source)))
        if direction.blocked != 0 and Kring(PortState(direction.target).transmit).peer == 0:
            left = max(left, 1)
    return left


@inner
def _push_port(port: PortState) -> int:
    left = 0
    for number in range(port.transmit_count):
        kring = Kring(port.transmit + number * KRING_SIZE)
        if kring.pending != 0:
            sync(kring)
            left = max(left, kring.pending)
    return left


@inner
def _arm_direction(direction: Direction, on: int) -> None:
    source = PortState(direction.source)
    target = PortState(direction.target)
    for number in range(source.receive_count):
        kring = Kring(source.receive + number * KRING_SIZE)
        if on == 0:
            disarm(kring)
        elif direction.blocked == 0:
            arm(kring, distance(Ring(kring.ring).head, kring.tail, kring.slot_count) + 1)
    for number in range(target.transmit_count):
        kring = Kring(target.transmit + number * KRING_SIZE)
        if on == 0:
            disarm(kring)
        elif direction.blocked != 0:
            # Woken for a quarter of the ring, not for each slot that gets free.
            arm(kring, kring.slot_count // 4 + 1)


@inner
def _next_due(state: Forward) -> int:
    """When the next paced packet is due, 0 if none waits for its time."""
    soonest = 0
    for index in range(state.count):
        direction = Direction(state.directions + index * DIRECTION_SIZE)
        if (
            direction.pace != AT_ONCE
            and direction.due > state.now
            and (soonest == 0 or direction.due < soonest)
        ):
            soonest = direction.due
    return soonest


@entry
def forward(address: int) -> int:
    """Run every direction of a FORWARD record until its slice of time is over or something needs Python."""
    state = Forward(address)
    scratch = address + SCRATCH_OFFSET
    state.now = clock(CLOCK_MONOTONIC, scratch)
    deadline = state.now + state.slice
    rounds = 0
    armed = 0
    result = SLICE_OVER
    state.moved = 0
    turns = 0
    while True:
        moved = 0
        running = 0
        attention = 0
        for index in range(state.count):
            direction = Direction(state.directions + index * DIRECTION_SIZE)
            if direction.ended != 0:
                continue
            code = _round(state, direction)
            if code < 0:
                result = ERROR
                break
            moved += code
            if direction.ended == 0:
                running += 1
            attention |= _attention(direction)
        state.moved += moved
        if result == ERROR:
            break
        if running == 0:
            result = DONE
            break
        if attention != 0:
            result = ATTENTION
            break
        turns += 1
        due = _next_due(state)
        if moved != 0:
            rounds = 0
            if armed != 0:
                armed = 0
                for index in range(state.count):
                    _arm_direction(Direction(state.directions + index * DIRECTION_SIZE), 0)
            if turns & 15 == 0 or due != 0:
                state.now = clock(CLOCK_MONOTONIC, scratch)
                if state.now > deadline:
                    break
            continue
        rounds += 1
        if due != 0:
            state.now = clock(CLOCK_MONOTONIC, scratch)
            if state.now > deadline:
                break
            wake = due - _SPIN_BEFORE_DUE
            if wake > state.now:
                _sleep_until(wake if wake < deadline else deadline, scratch)
            continue
        unsent = _push(state)
        if unsent == SOON:
            doze(scratch)
            state.now = clock(CLOCK_MONOTONIC, scratch)
            if state.now > deadline:
                break
            continue
        if rounds < SPINS + YIELDS:
            idle(rounds)
            if rounds & 63 == 0:
                state.now = clock(CLOCK_MONOTONIC, scratch)
                if state.now > deadline:
                    break
            continue
        if armed == 0:
            armed = 1
            for index in range(state.count):
                direction = Direction(state.directions + index * DIRECTION_SIZE)
                if direction.ended == 0:
                    _arm_direction(direction, 1)
            continue
        state.now = clock(CLOCK_MONOTONIC, scratch)
        if state.now > deadline:
            break
        state.sleeps += 1
        nap = deadline - state.now
        if unsent != 0 and nap > NAP:
            nap = NAP
        hung_up = sleep(state.descriptors, state.descriptor_count, nap, scratch)
        armed = 0
        for index in range(state.count):
            _arm_direction(Direction(state.directions + index * DIRECTION_SIZE), 0)
        if hung_up != 0:
            result = ATTENTION
            break
    if armed != 0:
        for index in range(state.count):
            _arm_direction(Direction(state.directions + index * DIRECTION_SIZE), 0)
    return result


@inner
def _sleep_until(when: int, scratch: int) -> None:
    """Sleep to an absolute time on CLOCK_MONOTONIC (clock_nanosleep(2), TIMER_ABSTIME)."""
    Scratch(scratch).seconds = when // 1_000_000_000
    Scratch(scratch).nanoseconds = when % 1_000_000_000
    clock_nanosleep(CLOCK_MONOTONIC, 1, scratch, 0)
