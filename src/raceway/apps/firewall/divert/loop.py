"""The loop over diverted packets: take what has come, ask, put back into the host's stack or let end. Data plane.

Marks come off first, then checksums that a sender left open are finished (the port cannot: before the packet lies the
mark), then runs of packets for the same name go to its batch kernel. Where a name stands for plain Python the loop
returns, with the ring's number in `asked`, and is called again when the verdicts are there.
"""

from __future__ import annotations

from raceway.apps.firewall.divert.records import (
    ASKED,
    BATCH,
    CHUNK,
    FOLLOWS,
    FOREIGN,
    JUDGED_SIZE,
    MARK,
    MARK_SIZE,
    NAMED_SIZE,
    NUMBERS,
    SCRATCH_OFFSET,
    VERDICTS,
    Diverted,
    Judged,
    Named,
)
from raceway.apps.forwarder.move import move_packet, slots_needed
from raceway.kernel.live import OFF, Live
from raceway.memory.access import call_batch, load_acquire, load_u8, load_u32, store_8
from raceway.memory.jit import entry, inner
from raceway.memory.layout import KRING_SIZE, MORE_FRAGMENTS, SLOT_SIZE, Batch, Kring, PortState, Ring, Slot
from raceway.memory.ring import distance, following
from raceway.memory.waiting import (
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    NAP,
    SOON,
    SPINS,
    YIELDS,
    arm,
    clock,
    disarm,
    doze,
    idle,
    sleep,
)
from raceway.ports.live import live_start
from raceway.ports.nic.finish import finish_arrivals
from raceway.ports.sync import sync

SLICE_OVER, DONE, PYTHON_ASKED, ATTENTION, ERROR = 0, 1, 2, 3, 4


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
    # A chain that fills the ring will never get its end.
    return slots if slots == kring.slot_count - 1 else 0


@inner
def _take_mark(kring: Kring, index: int, count: int) -> int:
    """Take the mark off the packet that starts in a slot: the number of its name, or FOREIGN."""
    slot = Slot(kring.slots + index * SLOT_SIZE)
    if slot.length < MARK_SIZE:
        return FOREIGN
    mark = kring.buffers + slot.buffer * kring.buffer_size + slot.offset
    number = load_u32(mark)
    if load_u32(mark + 4) != MARK or number >= count:
        return FOREIGN
    slot.offset += MARK_SIZE
    slot.length -= MARK_SIZE
    return number


@inner
def _judge(state: Diverted, judged: Judged, kring: Kring, ring: int, first: int, tail: int) -> int:
    """Judge the next packets, a chunk at most: how many of them wait for Python."""
    numbers = judged.address + NUMBERS
    verdicts = judged.address + VERDICTS
    count = 0
    index = first
    while index != tail:
        slots = _packet_slots(kring, index, tail)
        if slots == 0 or (count != 0 and count + slots > CHUNK):
            break
        store_8(numbers + count, _take_mark(kring, index, state.count))
        count += 1
        index = following(index, kring.slot_count)
        for _ in range(slots - 1):
            if count < CHUNK:
                store_8(numbers + count, FOLLOWS)
            count += 1
            index = following(index, kring.slot_count)
    finish_arrivals(kring, first, index)
    judged.count = count
    judged.index = 0
    now = clock(CLOCK_REALTIME, state.address + SCRATCH_OFFSET)
    shown = count if count < CHUNK else CHUNK
    waiting = 0
    at = 0
    index = first
    while at < shown:
        number = load_u8(numbers + at)
        run = 1
        # Of a packet in several slots a kernel sees the first, as a program in a driver does.
        single = Slot(kring.slots + index * SLOT_SIZE).flags & MORE_FRAGMENTS == 0
        last = index
        while single and at + run < shown and load_u8(numbers + at + run) == number:
            last = following(last, kring.slot_count)
            if Slot(kring.slots + last * SLOT_SIZE).flags & MORE_FRAGMENTS:
                break
            run += 1
        if number < FOLLOWS:
            named = Named(state.names + number * NAMED_SIZE)
            if named.kernel == 0:
                for number_of in range(run):
                    store_8(verdicts + at + number_of, ASKED)
                waiting += run
            else:
                batch = Batch(named.batch)
                batch.slots = kring.slots
                batch.metadata = 0
                batch.buffers = kring.buffers
                batch.buffer_size = kring.buffer_size
                batch.slot_count = kring.slot_count
                batch.first = index
                batch.count = run
                batch.verdicts = verdicts + at
                batch.now = now
                batch.port = state.link
                batch.ring = ring
                call_batch(named.kernel, named.batch)
        at += run
        index += run
        if index >= kring.slot_count:
            index -= kring.slot_count
    return waiting


@inner
def _move(state: Diverted, judged: Judged, source: Kring, target: Kring, tail: int) -> int:
    """Do what was said about packets, as far as the target has room; how many left the receive ring."""
    ring = Ring(source.ring)
    out = Ring(target.ring)
    into = out.head
    room = distance(into, target.tail, target.slot_count)
    index = ring.head
    moved = 0
    while judged.index < judged.count:
        slots = _packet_slots(source, index, tail)
        number = load_u8(judged.address + NUMBERS + judged.index)
        verdict = load_u8(judged.address + VERDICTS + judged.index)
        if number >= state.count:
            state.foreign += 1
        else:
            named = Named(state.names + number * NAMED_SIZE)
            if verdict == 2:
                needed = slots_needed(source, target, index, slots)
                if needed <= room:
                    into = move_packet(source, target, index, slots, into, 0)
                    room -= needed
                    named.passed += 1
                elif needed < target.slot_count:
                    state.blocked = 1
                    break
                else:
                    named.too_long += 1
            elif verdict == 1:
                named.dropped += 1
            else:
                named.failed += 1
            named.taken += 1
        moved += 1
        judged.index += slots
        index += slots
        if index >= source.slot_count:
            index -= source.slot_count
    ring.head = index
    ring.cur = index
    out.head = into
    out.cur = into
    return moved


@inner
def _hurry(live: int) -> None:
    """Packets come faster than they go: let them go as live frames. The port itself judges by how many go, and measures
    whether more do then; where processors are short, even a stream looks like a trickle, and what a run saves is lost
    on others. Here is a backlog, so what costs less a packet is right, and is not put to the trial (slower: 0)."""
    if load_acquire(live) == OFF and Live(live).unwanted == 0:
        Live(live).slower = 0
        live_start(live)


@inner
def _round(state: Diverted) -> int:
    """Every receive ring once; how many packets left them, or -1 for a ring that was spoilt."""
    source = PortState(state.source)
    target = PortState(state.target)
    state.blocked = 0
    moved = 0
    for number in range(source.receive_count):
        incoming = Kring(source.receive + number * KRING_SIZE)
        outgoing = Kring(target.transmit + number % target.transmit_count * KRING_SIZE)
        judged = Judged(state.judged + number * JUDGED_SIZE)
        if sync(incoming) < 0:
            return -1
        short = distance(Ring(outgoing.ring).head, outgoing.tail, outgoing.slot_count) < CHUNK
        if short and sync(outgoing) < 0:
            return -1
        first = Ring(incoming.ring).head
        if first == incoming.tail:
            continue
        if state.live != 0 and distance(first, incoming.tail, incoming.slot_count) > incoming.slot_count // 2:
            _hurry(state.live)
        gone = _chunks(state, judged, incoming, outgoing, number)
        if gone != 0:
            moved += gone
            state.batches += 1
            if sync(outgoing) < 0:
                return -1
        if state.asked != 0:
            break
    return moved


@inner
def _chunks(state: Diverted, judged: Judged, incoming: Kring, outgoing: Kring, number: int) -> int:
    """Judge and move what has come, a chunk after the other: how many left the receive ring. What goes to the host in
    one sync may go together there, so the more has come the more goes at once."""
    gone = 0
    while gone < BATCH:
        first = Ring(incoming.ring).head
        if first == incoming.tail:
            break
        if judged.index >= judged.count and _judge(state, judged, incoming, number, first, incoming.tail) > 0:
            state.asked = number + 1
            break
        moved = _move(state, judged, incoming, outgoing, incoming.tail)
        gone += moved
        if moved == 0 or judged.index < judged.count:
            break
    return gone


@inner
def _left(state: Diverted) -> int:
    """What a transmit ring has not handed on yet: 0, 1, or SOON if it goes in a moment. 3 if Python is needed."""
    left = 0
    target = PortState(state.target)
    for number in range(target.transmit_count):
        kring = Kring(target.transmit + number * KRING_SIZE)
        if kring.attention != 0:
            return 3
        if kring.pending != 0:
            sync(kring)
            left = max(left, kring.pending)
    return left


@inner
def _ended(state: Diverted) -> bool:
    """Nothing more can come, as from a pipe whose other end is gone."""
    source = PortState(state.source)
    open_ones = 0
    for number in range(source.receive_count):
        if Kring(source.receive + number * KRING_SIZE).ended == 0:
            open_ones += 1
    return open_ones == 0


@inner
def _arm(state: Diverted, on: int) -> None:
    source = PortState(state.source)
    for number in range(source.receive_count):
        kring = Kring(source.receive + number * KRING_SIZE)
        if on == 0:
            disarm(kring)
        else:
            arm(kring, distance(Ring(kring.ring).head, kring.tail, kring.slot_count) + 1)


@entry
def divert(address: int) -> int:
    """Run until the slice of time is over, or something needs Python: one of the codes above."""
    state = Diverted(address)
    scratch = address + SCRATCH_OFFSET
    state.now = clock(CLOCK_MONOTONIC, scratch)
    deadline = state.now + state.slice
    state.asked = 0
    result = SLICE_OVER
    rounds = 0
    turns = 0
    armed = 0
    while True:
        ended = _ended(state)
        moved = _round(state)
        if moved < 0:
            result = ERROR
            break
        if state.asked != 0:
            result = PYTHON_ASKED
            break
        turns += 1
        if moved != 0:
            rounds = 0
            if armed != 0:
                armed = 0
                _arm(state, 0)
            if turns & 15 == 0:
                state.now = clock(CLOCK_MONOTONIC, scratch)
                if state.now > deadline:
                    break
            continue
        left = _left(state)
        if left > SOON:
            result = ATTENTION
            break
        if left == 0 and state.blocked == 0 and (ended or state.ending != 0):
            result = DONE
            break
        rounds += 1
        if left == SOON:
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
            _arm(state, 1)
            continue
        state.now = clock(CLOCK_MONOTONIC, scratch)
        if state.now > deadline:
            break
        state.sleeps += 1
        nap = deadline - state.now
        if (left != 0 or state.blocked != 0) and nap > NAP:
            nap = NAP
        hung_up = sleep(state.descriptors, state.descriptor_count, nap, scratch)
        armed = 0
        _arm(state, 0)
        if hung_up != 0:
            result = ATTENTION
            break
    if armed != 0:
        _arm(state, 0)
    return result
