"""The echo loop: ping and pong. Data plane; one compiled entry.

Ping sends one packet, waits for its echo, and times it. Pong sends every packet back: it swaps the buffers of the
receive and the transmit slot, so nothing is copied, and swaps source and destination of Ethernet, IP and UDP or
TCP in place, which no checksum minds: a sum does not ask for the order of its words. When there is no room to
send, what has come stays in the receive ring, and nothing is dropped.
"""

from __future__ import annotations

from raceway.apps.generator.fill import LINE, checksum, words
from raceway.apps.generator.histogram import record
from raceway.apps.generator.pacing import allowance, wait_for
from raceway.apps.generator.records import (
    DONE,
    DUMP,
    ENDED,
    FAILED,
    MAGIC_PING,
    SCRATCH,
    SERVICE,
    SLICE,
    Echo,
    Frame,
    Pace,
    Sums,
)
from raceway.apps.generator.sequence import mark_offset
from raceway.apps.generator.transmit import arm_rings, disarm_rings, sleep_until
from raceway.memory.access import (
    copy_line,
    load_be16,
    load_be32,
    load_be64,
    load_u8,
    store_be16,
    store_be32,
    store_be64,
)
from raceway.memory.jit import entry, inner
from raceway.memory.layout import (
    BUFFER_CHANGED,
    KRING_SIZE,
    MORE_FRAGMENTS,
    SLOT_SIZE,
    Kring,
    RegionHeader,
    Ring,
    Slot,
)
from raceway.memory.ring import distance, following
from raceway.memory.waiting import CLOCK_MONOTONIC, SPINS, YIELDS, clock, idle, sleep
from raceway.ports.sync import sync


@inner
def inside(kring: Kring, slot: Slot) -> bool:
    """Does the slot name bytes inside one of the region's buffers? Another process wrote it."""
    number = slot.buffer
    limit = RegionHeader(kring.region).buffers_next
    bad = (number - 1) | (limit - 1 - number) | slot.offset | slot.length
    return bool((bad | (kring.buffer_size - slot.offset - slot.length)) >= 0)


@inner
def swap_16(first: int, second: int) -> None:
    """Swap two bytes with two others."""
    kept = load_be16(first)
    store_be16(first, load_be16(second))
    store_be16(second, kept)


@inner
def swap_32(first: int, second: int) -> None:
    """Swap four bytes with four others."""
    kept = load_be32(first)
    store_be32(first, load_be32(second))
    store_be32(second, kept)


@inner
def turn_round(packet: int, length: int) -> None:
    """Swap source and destination of every header that is wholly inside `length` bytes."""
    if length < 14:
        return
    swap_32(packet, packet + 6)
    swap_16(packet + 4, packet + 10)
    kind = load_be16(packet + 12)
    if kind == 0x0800 and length >= 34:
        swap_32(packet + 26, packet + 30)
        ports = 14 + (load_u8(packet + 14) & 15) * 4
        protocol = load_u8(packet + 23)
        # Only the first fragment has ports (RFC 791, 3.2).
        if load_be16(packet + 20) & 0x1FFF:
            return
    elif kind == 0x86DD and length >= 54:
        for at in range(22, 38, 4):
            swap_32(packet + at, packet + at + 16)
        ports = 54
        protocol = load_u8(packet + 20)
    else:
        return
    if (protocol == 17 or protocol == 6) and ports >= 34 and ports + 4 <= length:
        swap_16(packet + ports, packet + ports + 2)


@inner
def slots_of_packet(kring: Kring, first: int) -> int:
    """Slots of the packet that begins at slot `first`; 0 if its end has not come yet."""
    slots = 0
    index = first
    while index != kring.tail:
        slots += 1
        if Slot(kring.slots + index * SLOT_SIZE).flags & MORE_FRAGMENTS == 0:
            return slots
        index = following(index, kring.slot_count)
    # A chain that fills the ring will never get its end.
    return slots if slots == kring.slot_count - 1 else 0


@inner
def answer(echo: Echo, incoming: Kring, outgoing: Kring) -> int:
    """Pong: send back what has come, as far as there is room; return how many packets."""
    ring = Ring(incoming.ring)
    out = Ring(outgoing.ring)
    index = incoming.head
    into = out.head
    room = distance(into, outgoing.tail, outgoing.slot_count)
    packets = 0
    while index != incoming.tail and echo.left != 0 and packets < echo.burst:
        slots = slots_of_packet(incoming, index)
        if slots == 0:
            break
        fits = slots < outgoing.slot_count
        if fits and slots > room:
            break
        for number in range(slots):
            if fits:
                received = Slot(incoming.slots + index * SLOT_SIZE)
                reply = Slot(outgoing.slots + into * SLOT_SIZE)
                if number == 0 and inside(incoming, received):
                    packet = incoming.buffers + received.buffer * incoming.buffer_size + received.offset
                    turn_round(packet, received.length)
                buffer = reply.buffer
                reply.buffer = received.buffer
                reply.length = received.length
                reply.offset = received.offset
                reply.flags = (received.flags & MORE_FRAGMENTS) | BUFFER_CHANGED
                received.buffer = buffer
                received.flags = BUFFER_CHANGED
                echo.bytes += reply.length
                into = following(into, outgoing.slot_count)
            index = following(index, incoming.slot_count)
        if fits:
            room -= slots
            packets += 1
            if echo.left > 0:
                echo.left -= 1
        else:
            echo.lost += 1
    ring.head = index
    ring.cur = index
    out.head = into
    out.cur = into
    echo.sent += packets
    echo.packets += packets
    return packets


@inner
def hear(echo: Echo, kring: Kring, now: int) -> int:
    """Ping: look at everything that has come; return 1 if the echo that is awaited was among it."""
    ring = Ring(kring.ring)
    index = kring.head
    heard = 0
    while index != kring.tail:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        if echo.in_chain == 0:
            number = -1
            if inside(kring, slot):
                packet = kring.buffers + slot.buffer * kring.buffer_size + slot.offset
                at = mark_offset(packet, slot.length)
                if at >= 0 and load_be32(packet + at) == MAGIC_PING:
                    number = load_be64(packet + at + 4)
            if number < 0 or number >= echo.sequence:
                echo.foreign += 1
            elif number != echo.awaited:
                echo.late += 1
            else:
                echo.awaited = -1
                echo.packets += 1
                echo.bytes += slot.length
                record(echo.address, now - echo.sent_at)
                heard = 1
        elif heard != 0:
            echo.bytes += slot.length
        echo.in_chain = slot.flags & MORE_FRAGMENTS
        index = following(index, kring.slot_count)
    ring.head = index
    ring.cur = index
    return heard


@inner
def call(echo: Echo, kring: Kring) -> int:
    """Ping: fill the next packet into the transmit ring; 0 if there is no room."""
    ring = Ring(kring.ring)
    frame = Frame(echo.frames)
    size = kring.buffer_size
    index = kring.head
    if ring.head != index or distance(index, kring.tail, kring.slot_count) * size < frame.length:
        return 0
    done = 0
    while done < frame.length:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        part = frame.length - done
        slot.flags = 0
        if part > size:
            part = size
            slot.flags = MORE_FRAGMENTS
        slot.length = part
        slot.offset = 0
        if 0 < slot.buffer < RegionHeader(kring.region).buffers_next:
            packet = kring.buffers + slot.buffer * size
            at = 0
            while at < part:
                copy_line(packet + at, frame.start + done + at)
                at += LINE
            if done == 0:
                store_be64(packet + echo.mark_at + 4, echo.sequence)
                total = checksum(Sums(echo.sums).udp + words(echo.sequence))
                store_be16(packet + echo.mark_at - 2, total if total != 0 else 0xFFFF)
        done += part
        index = following(index, kring.slot_count)
    ring.head = index
    ring.cur = index
    return 1


@inner
def ping_turn(echo: Echo, now: int) -> int:
    """Give up on an echo that is too late, or send the next packet if its time has come; 1 if one was sent."""
    if echo.awaited >= 0:
        if now - echo.sent_at > echo.timeout:
            echo.lost += 1
            echo.awaited = -1
        return 0
    if echo.left == 0:
        return 0
    pace = Pace(echo.pace)
    if pace.rate != 0 and allowance(echo.pace, now, 1) == 0:
        return 0
    kring = Kring(echo.rings)
    if call(echo, kring) == 0:
        return 0
    pace.paced += 1
    echo.awaited = echo.sequence
    echo.sequence += 1
    echo.sent += 1
    echo.batches += 1
    if echo.left > 0:
        echo.left -= 1
    echo.sent_at = clock(CLOCK_MONOTONIC, echo.address + SCRATCH)
    return 1


@entry
def echo_packets(address: int) -> int:
    """Ping or pong for one slice of time; `address` is that of an ECHO record."""
    echo = Echo(address)
    scratch = address + SCRATCH
    pace = Pace(echo.pace)
    now = clock(CLOCK_MONOTONIC, scratch)
    end = now + echo.slice
    if pace.epoch == 0:
        pace.epoch = now
    rounds = 0
    turns = 0
    armed = 0
    code = SLICE
    while True:
        ended = 0
        busy = 0
        heard = 0
        for index in range(echo.ring_count):
            kring = Kring(echo.rings + index * KRING_SIZE)
            if sync(kring) < 0:
                echo.failed = index
                return FAILED
            if kring.attention != 0:
                code = SERVICE
        if echo.left == 0 and echo.awaited < 0:
            code = DONE
            break
        for index in range(echo.receive_count):
            kring = Kring(echo.receive + index * KRING_SIZE)
            over = kring.ended
            if sync(kring) < 0:
                echo.failed = echo.ring_count + index
                return FAILED
            if kring.attention != 0:
                code = SERVICE
            if kring.head == kring.tail:
                ended += 1 if over != 0 else 0
            elif echo.answers != 0:
                packets = answer(echo, kring, Kring(echo.rings + index % echo.ring_count * KRING_SIZE))
                echo.batches += 1 if packets != 0 else 0
                busy += packets
            else:
                heard += hear(echo, kring, clock(CLOCK_MONOTONIC, scratch))
        if echo.answers == 0:
            now = clock(CLOCK_MONOTONIC, scratch)
            busy += heard + ping_turn(echo, now)
        turns += 1
        if busy != 0:
            rounds = 0
            now = clock(CLOCK_MONOTONIC, scratch)
            echo.finished = now
            if echo.started == 0:
                echo.started = now
                echo.first = echo.packets
            if armed != 0:
                disarm_rings(echo.receive, echo.receive_count)
                disarm_rings(echo.rings, echo.ring_count)
                armed = 0
            if echo.dump != 0:
                code = DUMP
            if code != SLICE or echo.stop != 0 or now > end:
                break
            continue
        rounds += 1
        if ended == echo.receive_count:
            code = ENDED
        if turns & 15 == 0 or armed != 0:
            now = clock(CLOCK_MONOTONIC, scratch)
        if code != SLICE or echo.stop != 0 or now > end:
            break
        if echo.answers == 0 and echo.awaited < 0 and pace.rate != 0:
            due = wait_for(echo.pace, 1)
            sleep_until(due if due < end else end, now, scratch)
        elif armed != 0:
            limit = end - now
            if echo.awaited >= 0 and echo.sent_at + echo.timeout - now < limit:
                limit = echo.sent_at + echo.timeout - now
            hung_up = 0
            if limit > 0:
                hung_up = sleep(echo.descriptors, echo.descriptor_count, limit, scratch)
            disarm_rings(echo.receive, echo.receive_count)
            disarm_rings(echo.rings, echo.ring_count)
            armed = 0
            if hung_up != 0:
                code = SERVICE
                break
        elif rounds > SPINS + YIELDS:
            arm_rings(echo.receive, echo.receive_count, 1)
            arm_rings(echo.rings, echo.ring_count, echo.patience)
            armed = 1
        else:
            idle(rounds)
    if armed != 0:
        disarm_rings(echo.receive, echo.receive_count)
        disarm_rings(echo.rings, echo.ring_count)
    return code
