"""The receive loop: rx and rxseq. Data plane; one compiled entry.

Takes whole bursts of what has come, counts them, or what a filter accepts of them, follows sequence numbers if asked
to, and gives the slots back with the next sync. With nothing to take for long enough it sleeps until the other end
rings.
"""

from __future__ import annotations

from raceway.apps.generator.records import DONE, DUMP, ENDED, FAILED, SCRATCH, SERVICE, SLICE, Receive, Track
from raceway.apps.generator.sequence import follow
from raceway.apps.generator.transmit import arm_rings, disarm_rings
from raceway.compile.verdicts import Verdict
from raceway.memory.access import call_batch, load_u8
from raceway.memory.jit import entry, inner
from raceway.memory.layout import (
    KRING_SIZE,
    MORE_FRAGMENTS,
    SLOT_SIZE,
    Batch,
    Kring,
    RegionHeader,
    Ring,
    Slot,
)
from raceway.memory.ring import distance, following
from raceway.memory.waiting import CLOCK_MONOTONIC, SPINS, YIELDS, clock, idle, sleep
from raceway.ports.sync import sync

PASS, ABORTED = int(Verdict.PASS), int(Verdict.ABORTED)


@inner
def take(receive: Receive, kring: Kring, number: int, allowed: int) -> int:
    """Take at most `allowed` packets; return how many ended in the slots taken. Their parts count as bytes at once."""
    ring = Ring(kring.ring)
    slots = kring.slots
    end = slots + kring.slot_count * SLOT_SIZE
    address = slots + kring.head * SLOT_SIZE
    tail = slots + kring.tail * SLOT_SIZE
    packets = 0
    total = 0
    while address != tail and packets < allowed:
        slot = Slot(address)
        total += slot.length
        packets += 1 if slot.flags & MORE_FRAGMENTS == 0 else 0
        address += SLOT_SIZE
        if address == end:
            address = slots
    head = (address - slots) // SLOT_SIZE
    if receive.track != 0:
        follow_slots(receive, kring, number, head)
    ring.head = head
    ring.cur = head
    receive.bytes += total
    return packets


@inner
def take_accepted(receive: Receive, kring: Kring, number: int, allowed: int) -> int:
    """Take at most `allowed` packets and let the filter judge them; how many that it accepts ended in the slots taken.

    Of a packet in several slots it sees the first. The others of its kind are counted, and their slots given back too.
    """
    ring = Ring(kring.ring)
    size = kring.slot_count
    count = distance(kring.head, kring.tail, size)
    if count > allowed:
        count = allowed
    batch = Batch(receive.batch)
    batch.slots = kring.slots
    batch.metadata = kring.metadata if kring.metadata_used != 0 else 0
    batch.buffers = kring.buffers
    batch.buffer_size = kring.buffer_size
    batch.slot_count = size
    batch.first = kring.head
    batch.count = count
    batch.verdicts = receive.verdicts
    call_batch(receive.kernel, receive.batch)
    this = 1 << number
    index = kring.head
    packets = 0
    total = 0
    for at in range(count):
        slot = Slot(kring.slots + index * SLOT_SIZE)
        if receive.in_chain & this == 0:
            verdict = load_u8(receive.verdicts + at)
            if verdict == PASS:
                receive.chain_accepted |= this
            else:
                receive.chain_accepted &= ~this
                if verdict == ABORTED:
                    receive.other_link_type += 1
                else:
                    receive.filtered += 1
        accepted = receive.chain_accepted & this != 0
        if accepted:
            total += slot.length
        if slot.flags & MORE_FRAGMENTS:
            receive.in_chain |= this
        else:
            receive.in_chain &= ~this
            packets += 1 if accepted else 0
        index = following(index, size)
    ring.head = index
    ring.cur = index
    receive.bytes += total
    return packets


@inner
def follow_slots(receive: Receive, kring: Kring, ring: int, head: int) -> None:
    """Follow the sequence numbers in the slots before `head`. The first slot of a packet has its headers."""
    track = Track(receive.track)
    limit = RegionHeader(kring.region).buffers_next
    size = kring.buffer_size
    index = kring.head
    while index != head:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        number = slot.buffer
        offset = slot.offset
        length = slot.length
        if receive.in_chain & (1 << ring) == 0:
            # What another process wrote is looked at only after a look at its bounds.
            bad = (number - 1) | (limit - 1 - number) | offset | length | (size - offset - length)
            if bad < 0 or follow(track, kring.buffers + number * size + offset, length) == 0:
                receive.foreign += 1
        if slot.flags & MORE_FRAGMENTS:
            receive.in_chain |= 1 << ring
        else:
            receive.in_chain &= ~(1 << ring)
        index = index + 1 if index + 1 < kring.slot_count else 0


@entry
def receive_packets(address: int) -> int:
    """Receive packets for one slice of time; `address` is that of a RECEIVE record."""
    receive = Receive(address)
    scratch = address + SCRATCH
    now = clock(CLOCK_MONOTONIC, scratch)
    end = now + receive.slice
    if receive.quiet_since == 0:
        receive.quiet_since = now
    fresh = 0
    rounds = 0
    turns = 0
    armed = 0
    code = SLICE
    while True:
        taken = 0
        ended = 0
        for index in range(receive.ring_count):
            kring = Kring(receive.rings + index * KRING_SIZE)
            # Looked at before the sync: what was published before the end is there after it.
            over = kring.ended
            if sync(kring) < 0:
                receive.failed = index
                return FAILED
            if kring.attention != 0:
                code = SERVICE
            if kring.head == kring.tail:
                ended += 1 if over != 0 else 0
            elif receive.left != 0:
                allowed = receive.burst
                if 0 < receive.left < allowed:
                    allowed = receive.left
                if receive.kernel != 0:
                    packets = take_accepted(receive, kring, index, allowed)
                else:
                    packets = take(receive, kring, index, allowed)
                taken += 1
                fresh = 1
                receive.batches += 1 if packets != 0 else 0
                receive.packets += packets
                if receive.started == 0:
                    receive.started = clock(CLOCK_MONOTONIC, scratch)
                    receive.first = packets
                if receive.left > 0:
                    receive.left -= packets
        if fresh != 0 and (taken == 0 or receive.left == 0):
            # The stream pauses, or ends: this is when its last packet so far had come.
            fresh = 0
            receive.finished = clock(CLOCK_MONOTONIC, scratch)
            receive.quiet_since = receive.finished
        if taken != 0:
            rounds = 0
            if armed != 0:
                disarm_rings(receive.rings, receive.ring_count)
                armed = 0
            if receive.dump != 0:
                code = DUMP
                break
        elif receive.left == 0:
            return DONE
        else:
            rounds += 1
        if ended == receive.ring_count:
            code = ENDED
        turns += 1
        if code != SLICE or receive.stop != 0:
            break
        if turns & 63 == 0:
            now = clock(CLOCK_MONOTONIC, scratch)
            if now > end:
                break
        if armed != 0:
            now = clock(CLOCK_MONOTONIC, scratch)
            hung_up = 0
            if now < end:
                hung_up = sleep(receive.descriptors, receive.descriptor_count, end - now, scratch)
            disarm_rings(receive.rings, receive.ring_count)
            armed = 0
            if hung_up != 0:
                code = SERVICE
                break
        elif rounds > SPINS + YIELDS:
            arm_rings(receive.rings, receive.ring_count, 1)
            armed = 1
        elif rounds != 0:
            idle(rounds)
    if armed != 0:
        disarm_rings(receive.rings, receive.ring_count)
    if fresh != 0:
        receive.finished = clock(CLOCK_MONOTONIC, scratch)
        receive.quiet_since = receive.finished
    return code
