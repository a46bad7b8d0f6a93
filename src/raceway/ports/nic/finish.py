"""Checksums that a virtual interface's sender left for a card to finish. Data plane.

What a host sends over veth or virtio may never meet a card, and then the transport checksum was never computed
(CHECKSUM_PARTIAL, Documentation/networking/checksum-offloads.rst). XDP is not told, so every packet that has just come
is looked at: `ports.offload` says how an unfinished checksum is known. A packet over several buffers is summed buffer
by buffer.
"""

from __future__ import annotations

from raceway.memory.access import load_be16, load_u8, load_u16, store_16
from raceway.memory.jit import inner
from raceway.memory.layout import MORE_FRAGMENTS, SLOT_SIZE, Kring, Slot
from raceway.memory.ring import following
from raceway.ports.offload import checksum, complete_checksum, internet_sum, locate, pseudo_header

_TCP, _UDP, _ICMPV6 = 6, 17, 58


@inner
def finish_arrivals(kring: Kring, first: int, tail: int) -> int:
    """Finish what is unfinished in slots [first, tail), which hold whole packets; how many packets that were."""
    finished = 0
    index = first
    while index != tail:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        packet = kring.buffers + slot.buffer * kring.buffer_size + slot.offset
        if slot.flags & MORE_FRAGMENTS == 0:
            finished += complete_checksum(packet, slot.length)
            index = following(index, kring.slot_count)
            continue
        finished += _finish_chain(kring, index, tail, packet)
        while index != tail and Slot(kring.slots + index * SLOT_SIZE).flags & MORE_FRAGMENTS:
            index = following(index, kring.slot_count)
        if index != tail:
            index = following(index, kring.slot_count)
    return finished


@inner
def _plain(packet: int) -> bool:
    """Do the headers end in the first 128 bytes: at most two VLAN tags, no IPv6 extension headers?"""
    network = 14
    kind = load_be16(packet + 12)
    for _ in range(2):
        if kind == 0x8100 or kind == 0x88A8:
            kind = load_be16(packet + network + 2)
            network += 4
    if kind == 0x0800:
        return True
    following_header = load_u8(packet + network + 6)
    return kind == 0x86DD and (following_header in (_TCP, _UDP, _ICMPV6))


@inner
def _finish_chain(kring: Kring, first: int, tail: int, packet: int) -> int:
    """The same for one packet in several buffers, all of which but the last hold an even number of bytes."""
    total = 0
    index = first
    while index != tail:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        total += slot.length
        index = following(index, kring.slot_count)
        if slot.flags & MORE_FRAGMENTS == 0:
            break
        if slot.length & 1:
            return 0
    head = Slot(kring.slots + first * SLOT_SIZE).length
    if head < 128 or not _plain(packet):
        return 0
    network, transport, protocol, end = locate(packet, total)
    if transport == 0 or transport + 18 > head:
        return 0
    if protocol == _TCP:
        field = transport + 16
    elif protocol == _UDP:
        field = transport + 6
    elif protocol == _ICMPV6 and load_u8(packet + network) >> 4 == 6:
        field = transport + 2
    else:
        return 0
    if load_u16(packet + field) != pseudo_header(packet, network, protocol, end - transport):
        return 0
    added = 0
    at = 0
    index = first
    while index != tail and at < end:
        slot = Slot(kring.slots + index * SLOT_SIZE)
        start = kring.buffers + slot.buffer * kring.buffer_size + slot.offset
        begin = transport - at if at < transport else 0
        stop = end - at if end - at < slot.length else slot.length
        if begin < stop:
            added += internet_sum(start + begin, stop - begin)
        at += slot.length
        index = following(index, kring.slot_count)
    store_16(packet + field, checksum(added))
    return 1
