"""Putting frames into a transmit ring's slots. Data plane.

Every packet is copied from its template into the slot's buffer, as a program that makes packets would write it.
What differs from packet to packet is then stored over the copy, with checksums made from a sum over what does
not differ (`SUMS`): the order in which words are added does not matter (RFC 1071, section 2), and the payload is
never read again.

Buffers lie 2,048 bytes apart by default, and the first lines of all of them compete for a few sets of the cache.
So a frame of one line begins some lines into its buffer, as many as the buffer's index says: its *colour*. (Longer
frames fill the sets more evenly by themselves, and were slower for it.) And a slot that says already what it
should is not written again: the other end keeps its copy of that cache line.
"""

from __future__ import annotations

from raceway.apps.generator.records import FRAME_SIZE, SIDE_SIZE, SUMS_SIZE, Frame, Side, Sums, Transmit
from raceway.memory.access import copy_line, store_be16, store_be32, store_be64
from raceway.memory.jit import inner
from raceway.memory.layout import (
    METADATA_SIZE,
    MORE_FRAGMENTS,
    SLOT_SIZE,
    Kring,
    Metadata,
    RegionHeader,
    Ring,
    Slot,
)
from raceway.memory.ring import distance, following

LINE = 64


@inner
def fill_plain(transmit: Transmit, kring: Kring, ring: Ring, allowed: int) -> int:
    """Put the one frame into at most `allowed` slots; return how many."""
    length = Frame(transmit.frames).length
    source = Frame(transmit.frames).start
    colours = transmit.colours
    limit = RegionHeader(kring.region).buffers_next
    buffers = kring.buffers
    size = kring.buffer_size
    slots = kring.slots
    end = slots + kring.slot_count * SLOT_SIZE
    filled = distance(kring.head, kring.tail, kring.slot_count)
    if filled > allowed:
        filled = allowed
    address = slots + kring.head * SLOT_SIZE
    for _ in range(filled):
        slot = Slot(address)
        number = slot.buffer
        offset = (number & colours) * LINE
        # A slot with a bad index goes to the sync as it is: that finds it and says so.
        if 0 < number < limit:
            target = buffers + number * size + offset
            copy_line(target, source)
            at = LINE
            while at < length:
                copy_line(target + at, source + at)
                at += LINE
        if (slot.length - length) | (slot.offset - offset) | slot.flags:
            slot.length = length
            slot.offset = offset
            slot.flags = 0
        address += SLOT_SIZE
        if address == end:
            address = slots
    head = (address - slots) // SLOT_SIZE
    ring.head = head
    ring.cur = head
    transmit.bytes += filled * length
    return filled


@inner
def fill_varied(transmit: Transmit, kring: Kring, ring: Ring, allowed: int, wall: int) -> int:
    """Put at most `allowed` packets, the next of each kind in turn, into free slots; return how many.

    `wall`: nanoseconds since 1970, noted beside the slots for rings that lead into a capture file.
    """
    size = kring.buffer_size
    limit = RegionHeader(kring.region).buffers_next
    index = kring.head
    room = distance(index, kring.tail, kring.slot_count)
    filled = 0
    total = 0
    while filled < allowed and room >= transmit.largest_slots:
        frame = Frame(transmit.frames + transmit.frame * FRAME_SIZE)
        transmit.frame = following(transmit.frame, transmit.frame_count)
        source = frame.start
        length = frame.length
        if transmit.sizes > 1:
            length = transmit.smallest + (draw(transmit) * transmit.sizes >> 32)
        done = 0
        while True:
            slot = Slot(kring.slots + index * SLOT_SIZE)
            number = slot.buffer
            part = length - done
            flags = 0
            if part > size:
                part = size
                flags = MORE_FRAGMENTS
            offset = (number & transmit.colours) * LINE
            if 0 < number < limit:
                target = kring.buffers + number * size + offset
                at = 0
                while at < part:
                    copy_line(target + at, source + done + at)
                    at += LINE
                if done == 0 and transmit.varied != 0:
                    dress(transmit, target, length)
            slot.length = part
            slot.offset = offset
            slot.flags = flags
            if kring.metadata_used != 0:
                metadata = Metadata(kring.metadata + index * METADATA_SIZE)
                metadata.timestamp = wall
                metadata.wire_length = 0
                metadata.link_type = 0
            done += part
            index = following(index, kring.slot_count)
            room -= 1
            if flags == 0:
                break
        total += length
        filled += 1
    ring.head = index
    ring.cur = index
    transmit.bytes += total
    return filled


@inner
def draw(transmit: Transmit) -> int:
    """32 random bits: the upper ones of the 48 of POSIX drand48's generator."""
    seed: int = (transmit.seed * 0x5DEECE66D + 0xB) & 0xFFFFFFFFFFFF
    transmit.seed = seed
    return seed >> 16


@inner
def words(value: int) -> int:
    """The sum of the four 16-bit words of a 64-bit number."""
    return (value & 0xFFFF) + (value >> 16 & 0xFFFF) + (value >> 32 & 0xFFFF) + (value >> 48 & 0xFFFF)


@inner
def checksum(total: int) -> int:
    """The Internet checksum of a sum of words below 2**32 (RFC 1071)."""
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@inner
def dress(transmit: Transmit, packet: int, length: int) -> None:
    """Store what is this packet's own: lengths, addresses, ports, sequence number, checksums; step to the next."""
    sums = Sums(transmit.sums + (length - transmit.smallest) * SUMS_SIZE)
    ip = sums.ip
    udp = sums.udp
    source = Side(transmit.sides)
    destination = Side(transmit.sides + SIDE_SIZE)
    difference = dress_side(transmit, source, packet) + dress_side(transmit, destination, packet)
    ip += difference
    udp += difference + source.port + destination.port
    if transmit.sequenced != 0:
        store_be64(packet + source.port_at + 12, transmit.sequence)
        udp += words(transmit.sequence)
        transmit.sequence += 1
    # A UDP checksum of 0 would say that there is none (RFC 768; forbidden over IPv6, RFC 8200, 8.1).
    udp = checksum(udp)
    store_be16(packet + source.port_at + 6, udp if udp != 0 else 0xFFFF)
    if transmit.ipv6 != 0:
        store_be16(packet + 18, length - 54)
        store_be16(packet + 58, length - 54)
    else:
        store_be16(packet + 16, length - 14)
        store_be16(packet + 38, length - 34)
        store_be16(packet + 24, checksum(ip))
    if advance(source) != 0:
        advance(destination)


@inner
def dress_side(transmit: Transmit, side: Side, packet: int) -> int:
    """Store one side's MAC address, IP address and port; return the sum of the IP address's words."""
    mac = side.mac + side.mac_step
    store_be16(packet + side.mac_at, mac >> 32)
    store_be32(packet + side.mac_at + 2, mac)
    side.mac_step = side.mac_step + 1 if side.mac_step < side.mac_span else 0
    address = side.first + side.step
    if side.random != 0:
        # The last 32 bits: all of an IPv4 address, the end of an IPv6 one.
        address = (address & ~0xFFFFFFFF) | draw(transmit)
        side.port = draw(transmit) >> 16
    store_be16(packet + side.port_at, side.port)
    if transmit.ipv6 != 0:
        store_be64(packet + side.at, address)
    else:
        store_be32(packet + side.at, address)
    return words(address)


@inner
def advance(side: Side) -> int:
    """Step to the side's next port, then to its next address; 1 if that brought it back to the first."""
    if side.random != 0:
        return 1
    if side.port < side.port_last:
        side.port += 1
        return 0
    side.port = side.port_first
    if side.step < side.span:
        side.step += 1
        return 0
    side.step = 0
    return 1
