"""Capture files as rings: `receive_sync` fills a ring from a file, `transmit_sync` empties one into a file.

Data plane. Both run after the port's prologue has checked the user's `head`, so slots in `[kring.head,
ring.head)` are sound. Both work between a ring and a window of bytes (see `records`), never on a file: when
the window is used up they set `kring.attention`, Python serves the window (`service()`), and the loop syncs
again.

A packet longer than one buffer is a chain of slots with MORE_FRAGMENTS; its metadata lie at its first slot.
"""

from __future__ import annotations

from raceway.memory.access import copy, copy_line, load_u32, store_32
from raceway.memory.jit import entry, inner
from raceway.memory.layout import METADATA, MORE_FRAGMENTS, SLOT, Kring, Metadata, Ring, Slot
from raceway.memory.ring import distance, prologue, uncount
from raceway.ports.pcap.formats import (
    ENHANCED_PACKET,
    LINK_NULL_EXPLICIT,
    LINK_TYPE_MASK,
    NANOSECONDS,
    PACKET_MINIMUM,
    PCAP,
    RECORD_HEADER,
)
from raceway.ports.pcap.parse import ENDED, FOUND, SKIPPED, WAIT, next_record
from raceway.ports.pcap.records import Reader, Writer

_SLOT = SLOT.itemsize
_METADATA = METADATA.itemsize
_LINE = 64
_LINES_MAXIMUM = 512
"""Up to here whole lines are quicker than a call of memcpy."""
_PCAP_SECONDS_MAXIMUM = (1 << 32) - 1


@inner
def copy_packet(destination: int, source: int, length: int, room: int) -> None:
    """Copy `length` bytes; where `room` bytes may be read there and written here, by whole lines if that is
    quicker."""
    if length <= _LINES_MAXIMUM and (length + _LINE - 1) & -_LINE <= room:
        done = 0
        while done < length:
            copy_line(destination + done, source + done)
            done += _LINE
    else:
        copy(destination, source, length)


@inner
def receive_sync(kring: Kring, ring: Ring, count: int) -> None:
    """Take back the `count` slots that the user released, and fill free ones with the file's next packets.

    Sets `kring.attention` to 1 when the window must be refilled or holds a block for Python to read, and
    `kring.ended` to 1 after the last packet before the end or before the first malformed record; in the
    latter case the reader's record has the error.
    """
    reader = Reader(kring.adapter)
    size = kring.slot_count
    # By `count`, not from the ring: its user may have moved `head` again since the prologue looked at it.
    head = kring.head + count
    if head >= size:
        head -= size
    kring.head = head
    kring.attention = 0
    tail = kring.tail
    free = head - tail - 1
    if free < 0:
        free += size
    buffers, buffer_size = kring.buffers, kring.buffer_size
    position = reader.window + reader.begin
    end = reader.window + reader.end
    packets = 0
    octets = 0
    if reader.error != 0:
        kring.ended = 1
        free = 0
    while free > 0:
        verdict, following, data, captured, wire, time, link_type = next_record(reader, position, end)
        if verdict == FOUND:
            fragments = 1
            if captured > buffer_size:
                fragments = (captured + buffer_size - 1) // buffer_size
                if fragments > size - 1:
                    reader.too_long_for_ring += 1
                    reader.records += 1
                    kring.dropped += 1
                    position = following
                    continue
                if fragments > free:
                    break
            if time < 0:
                reader.timestamps_unknown += 1
                time = 0
            metadata = Metadata(kring.metadata + tail * _METADATA)
            metadata.timestamp = time
            metadata.wire_length = wire
            metadata.link_type = link_type
            left = captured
            for fragment in range(fragments):
                slot = Slot(kring.slots + tail * _SLOT)
                length = min(left, buffer_size)
                # A window has a line to spare behind it, so only the buffer bounds what may be written.
                copy_packet(buffers + slot.buffer * buffer_size, data, length, buffer_size)
                data += length
                left -= length
                slot.length = length
                slot.offset = 0
                slot.flags = 0
                if fragment < fragments - 1:
                    slot.flags = MORE_FRAGMENTS
                tail += 1
                if tail == size:
                    tail = 0
            free -= fragments
            packets += 1
            octets += captured
            position = following
        elif verdict == SKIPPED:
            position = following
        else:
            if verdict == WAIT:
                kring.attention = 1
            elif verdict == ENDED:
                kring.ended = 1
            break
    reader.begin = position - reader.window
    reader.records += packets
    ring.packets += packets
    ring.bytes += octets
    kring.tail = tail
    ring.tail = tail


@inner
def write_header(writer: Writer, at: int, captured: int, wire: int, time: int, link_type: int) -> int:
    """Write a packet's header at address `at` of the window, and return where its bytes go."""
    if writer.format == PCAP:
        seconds = time // NANOSECONDS
        if seconds > _PCAP_SECONDS_MAXIMUM:
            writer.timestamps_clamped += 1
            seconds = _PCAP_SECONDS_MAXIMUM
        store_32(at, seconds)
        store_32(at + 4, time % NANOSECONDS // writer.divisor)
        store_32(at + 8, captured)
        store_32(at + 12, wire)
        return at + RECORD_HEADER
    ticks = time // writer.divisor
    store_32(at, ENHANCED_PACKET)
    store_32(at + 4, PACKET_MINIMUM + ((captured + 3) & -4))
    store_32(at + 8, load_u32(writer.interfaces + 4 * link_type) - 1)
    store_32(at + 12, ticks >> 32)
    store_32(at + 16, ticks & 0xFFFFFFFF)
    store_32(at + 20, captured)
    store_32(at + 24, wire)
    return at + 28


@inner
def write_end(writer: Writer, start: int, at: int, captured: int) -> int:
    """Write what comes behind the packet whose header is at `start` and whose bytes end at `at`; where that ends."""
    if writer.format != PCAP:
        # Padding is less than four bytes, and the block's length comes right behind it.
        store_32(at, 0)
        at = start + 28 + ((captured + 3) & -4)
        store_32(at, PACKET_MINIMUM + ((captured + 3) & -4))
        at += 4
    return at


@inner
def _link_type(writer: Writer, ring: Ring, metadata: Metadata, metadata_used: int) -> int:
    link_type = 0
    if metadata_used != 0:
        link_type = metadata.link_type
    if link_type == 0:
        link_type = ring.link_type
    if link_type == 0:
        link_type = writer.link_type
    elif link_type == LINK_NULL_EXPLICIT:
        link_type = 0
    return link_type


@inner
def _time(writer: Writer, ring: Ring, metadata: Metadata, metadata_used: int) -> int:
    time = 0
    if metadata_used != 0:
        time = metadata.timestamp
    if time <= 0:
        time = ring.timestamp
    if time <= 0:
        time = writer.now
    return max(time, 0)


@inner
def transmit_sync(kring: Kring, ring: Ring, count: int) -> None:
    """Format the packets of the `count` slots from `kring.head` on into the writer's window, as far as it has
    room.

    A chain whose last slot is not there yet stays in the ring, untouched, until it is; one that fills the
    whole ring and goes on can never be complete and is dropped by name, with the slots that follow it up to
    its end. Sets `kring.attention` to 1 when the window must be written out, or given an interface for a new
    link type.
    """
    writer = Writer(kring.adapter)
    size = kring.slot_count
    buffer_size = kring.buffer_size
    head = kring.head
    stop = head + count
    if stop >= size:
        stop -= size
    kring.attention = 0
    packets = 0
    octets = 0
    while head != stop:
        # How long is the packet, and is all of it there?
        length = 0
        slots = 0
        after = head
        complete = False
        while after != stop and not complete:
            slot = Slot(kring.slots + after * _SLOT)
            length += slot.length
            complete = slot.flags & MORE_FRAGMENTS == 0
            slots += 1
            after += 1
            if after == size:
                after = 0
        if writer.skipping != 0:
            if complete:
                writer.skipping = 0
            head = after
            continue
        if not complete:
            if slots < size - 1:
                break
            writer.too_long_for_ring += 1
            kring.dropped += 1
            writer.skipping = 1
            head = after
            continue

        metadata = Metadata(kring.metadata + head * _METADATA)
        link_type = _link_type(writer, ring, metadata, kring.metadata_used)
        if link_type < 0 or link_type > LINK_TYPE_MASK:
            writer.bad_link_type += 1
            kring.dropped += 1
            head = after
            continue
        if writer.format == PCAP:
            if link_type != writer.link_type:
                writer.other_link_type += 1
                kring.dropped += 1
                head = after
                continue
        elif load_u32(writer.interfaces + 4 * link_type) == 0:
            writer.wanted_link_type = link_type + 1
            kring.attention = 1
            break
        captured = min(length, writer.snaplen)
        if writer.used + PACKET_MINIMUM + captured + 3 > writer.capacity:
            kring.attention = 1
            break
        wire = length
        if kring.metadata_used != 0:
            wire = max(wire, metadata.wire_length)
        if captured < length:
            writer.cut += 1
        time = _time(writer, ring, metadata, kring.metadata_used)
        start = writer.window + writer.used
        at = write_header(writer, start, captured, wire, time, link_type)
        left = captured
        while left > 0:
            slot = Slot(kring.slots + head * _SLOT)
            take = min(left, slot.length)
            source = kring.buffers + slot.buffer * buffer_size + slot.offset
            # The window has a line to spare, so only what is left of the buffer bounds what may be read.
            copy_packet(at, source, take, buffer_size - slot.offset)
            at += take
            left -= take
            head += 1
            if head == size:
                head = 0
            if head == after:
                left = 0
        head = after
        writer.used = write_end(writer, start, at, captured) - writer.window
        packets += 1
        octets += length
    writer.packets += packets
    writer.bytes += octets
    # The prologue has counted all of them.
    uncount(kring, ring, head, distance(head, stop, size))
    kring.head = head
    tail = head - 1
    if tail < 0:
        tail += size
    kring.tail = tail
    ring.tail = tail


@entry
def capture_sync(address: int) -> int:
    """The adapter's sync: check what the user did, then read into or write from the ring."""
    kring = Kring(address)
    ring = Ring(kring.ring)
    count = prologue(kring, ring)
    if count < 0:
        return count
    if kring.transmit != 0:
        transmit_sync(kring, ring, count)
    else:
        receive_sync(kring, ring, count)
    return 0
