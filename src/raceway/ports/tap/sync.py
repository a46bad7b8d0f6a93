"""Both directions of a TAP device's queue: system calls between slots and the kernel, one a packet. Data plane.

Receiving, a packet is read straight into the buffers of as many free slots as a packet of the device can need; behind
them lies a spare 64 KB, so that one that is longer than expected (the MTU has just been changed) is not cut by the
kernel, which it would do in silence. Transmitting, the pieces of a packet in several buffers are gathered by writev.

    read    [struct virtio_net_hdr] [buffer of a free slot] [next free slot's] ... [the spare 64 KB]
    write   [struct virtio_net_hdr + headers to be changed] [slot's bytes] [next slot's bytes] ...

The bracketed first pieces are there if the port has offloads; see `offload`.
"""

from __future__ import annotations

from raceway.memory.access import copy, errno, readv, store_16, store_64, write, writev
from raceway.memory.jit import entry, inner
from raceway.memory.layout import METADATA_SIZE, MORE_FRAGMENTS, SLOT_SIZE, Kring, Metadata, Ring, Slot
from raceway.memory.ring import accept, count_arrivals, distance, following, prologue, uncount
from raceway.ports.tap.offload import complete_checksum, prepare_segments, segment_size, will_be_cut
from raceway.ports.tap.records import (
    FRAGMENTS,
    IOVEC_SIZE,
    OVERFLOW,
    VNET_HEADER,
    VNET_ROOM,
    Iovec,
    Tap,
)

_EINTR, _EIO, _EAGAIN, _ENOMEM, _EINVAL, _EBADFD, _EMSGSIZE, _ENOBUFS = 4, 5, 11, 12, 22, 77, 90, 105
_READS = 512
"""Packets that one sync reads at most."""
_ETHERNET = 14


@entry
def tap_sync(address: int) -> int:
    """txsync or rxsync of one queue."""
    kring = Kring(address)
    ring = Ring(kring.ring)
    tap = Tap(kring.adapter)
    count = prologue(kring, ring)
    if count < 0:
        return count
    if kring.transmit != 0:
        tap_transmit(kring, ring, tap, count)
        return 0
    return tap_receive(kring, ring, tap, count)


# -- receiving -------------------------------------------------------------------------------------------------


@inner
def tap_receive(kring: Kring, ring: Ring, tap: Tap, count: int) -> int:
    """Take back `count` slots and fill free ones: 0, or a negative code."""
    accept(kring, count)
    tail = _receive(kring, tap)
    code = count_arrivals(kring, ring, tail)
    if code < 0:
        return code
    kring.tail = tail
    ring.tail = tail
    return 0


@inner
def _receive(kring: Kring, tap: Tap) -> int:
    """Read packets into free slots until the queue is empty or the slots are used up; the new tail."""
    size = kring.slot_count
    buffer_size = kring.buffer_size
    tail = kring.tail
    free = size - 1 - distance(kring.head, tail, size)
    wanted = min((tap.largest + buffer_size - 1) // buffer_size, size - 1)
    given = min(wanted, FRAGMENTS)
    for _ in range(_READS):
        if free < wanted:
            break
        length = _read(kring, tap, tail, given)
        if length < 0:
            code = errno()
            if code not in (_EAGAIN, _EINTR):
                tap.error = code
                kring.attention = 1
            break
        slots = max((length + buffer_size - 1) // buffer_size, 1)
        if slots > free or length >= given * buffer_size + OVERFLOW:
            tap.too_long += 1
            kring.dropped += 1
            continue
        if slots > given:
            _spread(kring, tap, tail, length, given)
        after = _describe(kring, tail, length)
        if tap.vnet != 0:
            complete_checksum(kring, tap, tail, slots, length)
        if kring.metadata_used != 0:
            metadata = Metadata(kring.metadata + tail * METADATA_SIZE)
            metadata.timestamp = 0
            metadata.wire_length = 0
            metadata.link_type = 0
            metadata.segment_size = segment_size(tap) if tap.vnet != 0 else 0
        free -= slots
        tail = after
    return tail


@inner
def put_piece(tap: Tap, number: int, base: int, length: int) -> None:
    iovec = Iovec(tap.iovecs + number * IOVEC_SIZE)
    iovec.base = base
    iovec.length = length


@inner
def _read(kring: Kring, tap: Tap, index: int, slots: int) -> int:
    """Read a packet into the buffers of `slots` slots from `index` on and the room behind; its length, or -1."""
    pieces = 0
    if tap.vnet != 0:
        put_piece(tap, 0, tap.headers + VNET_ROOM - VNET_HEADER, VNET_HEADER)
        pieces = 1
    for _ in range(slots):
        buffer = Slot(kring.slots + index * SLOT_SIZE).buffer
        put_piece(tap, pieces, kring.buffers + buffer * kring.buffer_size, kring.buffer_size)
        pieces += 1
        index = following(index, kring.slot_count)
    put_piece(tap, pieces, tap.overflow, OVERFLOW)
    length: int = readv(tap.descriptor, tap.iovecs, pieces + 1)
    if length < 0 or tap.vnet == 0:
        return length
    return length - VNET_HEADER


@inner
def _spread(kring: Kring, tap: Tap, index: int, length: int, given: int) -> None:
    """Copy what is behind the first `given` slots' buffers to those of the slots that follow."""
    for _ in range(given):
        index = following(index, kring.slot_count)
    left = length - given * kring.buffer_size
    source = tap.overflow
    while left > 0:
        part = min(left, kring.buffer_size)
        copy(kring.buffers + Slot(kring.slots + index * SLOT_SIZE).buffer * kring.buffer_size, source, part)
        source += part
        left -= part
        index = following(index, kring.slot_count)


@inner
def _describe(kring: Kring, index: int, length: int) -> int:
    """Say in the slots from `index` on that they hold a packet of `length` bytes; the index behind it."""
    while True:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        part = min(length, kring.buffer_size)
        slot.length = part
        slot.offset = 0
        slot.flags = MORE_FRAGMENTS if length > part else 0
        length -= part
        index = following(index, kring.slot_count)
        if length <= 0:
            return index


# -- transmitting ----------------------------------------------------------------------------------------------


@inner
def tap_transmit(kring: Kring, ring: Ring, tap: Tap, count: int) -> None:
    """Write the packets of the `count` slots from the Kring's head on. What the kernel has no room for stays."""
    index = kring.head
    left = count
    kring.pending = 0
    while left > 0:
        slots, length = packet_of(kring, index, left)
        complete = slots > 0
        if not complete:
            if left < kring.slot_count - 1:
                break
            # It fills the ring and goes on: it can never be complete, and goes with all slots up to its end.
            slots = left
        if tap.skipping == 0:
            fits = complete and (tap.limit == 0 or length <= tap.limit)
            code = send_packet(kring, tap, index, slots, length) if fits else _EMSGSIZE
            if code in (_EAGAIN, _ENOBUFS, _EINTR):
                kring.pending = 1
                break
            if code == _EBADFD:
                tap.error = code
                kring.attention = 1
                break
            if code != 0:
                count_drop(kring, tap, code)
        tap.skipping = 0 if complete else 1
        if kring.metadata_used != 0:
            # Who fills the slot next may not know that it says something.
            Metadata(kring.metadata + index * METADATA_SIZE).segment_size = 0
        for _ in range(slots):
            index = following(index, kring.slot_count)
        left -= slots
    finish(kring, ring, index, count, left)


@inner
def finish(kring: Kring, ring: Ring, index: int, count: int, left: int) -> None:
    """Take over all but `left` of `count` slots, which begin at `index`, and give back those whose packets are gone."""
    uncount(kring, ring, index, left)
    accept(kring, count - left)
    tail = kring.head - 1 if kring.head > 0 else kring.slot_count - 1
    kring.tail = tail
    ring.tail = tail


@inner
def packet_of(kring: Kring, index: int, left: int) -> tuple[int, int]:
    """Slots and bytes of the packet that starts at `index`; no slots if its end is not among the `left` next ones."""
    length = 0
    for number in range(left):
        slot = Slot(kring.slots + index * SLOT_SIZE)
        length += slot.length
        if slot.flags & MORE_FRAGMENTS == 0:
            return number + 1, length
        index = following(index, kring.slot_count)
    return 0, length


@inner
def send_packet(kring: Kring, tap: Tap, index: int, slots: int, length: int) -> int:
    """Write one packet; 0, or the errno."""
    if tap.vnet == 0 and slots == 1:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        start = kring.buffers + slot.buffer * kring.buffer_size + slot.offset
        return 0 if write(tap.descriptor, start, slot.length) >= 0 else errno()
    if slots > FRAGMENTS:
        return _EMSGSIZE
    pieces = 0
    headers = 0
    if tap.vnet != 0:
        headers = _header(kring, tap, index, slots, length)
        put_piece(tap, 0, tap.headers + VNET_ROOM - VNET_HEADER, VNET_HEADER + headers)
        pieces = 1
    for _ in range(slots):
        slot = Slot(kring.slots + index * SLOT_SIZE)
        if headers >= slot.length:
            headers -= slot.length
        else:
            start = kring.buffers + slot.buffer * kring.buffer_size + slot.offset + headers
            put_piece(tap, pieces, start, slot.length - headers)
            pieces += 1
            headers = 0
        index = following(index, kring.slot_count)
    if writev(tap.descriptor, tap.iovecs, pieces) < 0:
        return errno()
    if tap.vnet != 0 and will_be_cut(tap) != 0:
        tap.segmented += 1
    return 0


@inner
def _header(kring: Kring, tap: Tap, index: int, slots: int, length: int) -> int:
    """Prepare what goes before a packet; how many of its own first bytes are among that."""
    header = tap.headers + VNET_ROOM - VNET_HEADER
    store_64(header, 0)
    store_16(header + 8, 0)
    told = 0
    if kring.metadata_used != 0:
        metadata = Metadata(kring.metadata + index * METADATA_SIZE)
        told = metadata.segment_size
    if told <= 0 and length <= tap.mtu + _ETHERNET:
        return 0
    return prepare_segments(kring, tap, index, slots, length, told)


@inner
def count_drop(kring: Kring, tap: Tap, code: int) -> None:
    """Count a packet that the kernel did not want, by its reason."""
    kring.dropped += 1
    if code == _EIO:
        tap.down += 1
    elif code == _EINVAL:
        tap.invalid += 1
    elif code == _EMSGSIZE:
        tap.too_long += 1
    elif code == _ENOMEM:
        tap.no_memory += 1
    else:
        tap.refused += 1
