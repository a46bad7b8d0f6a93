"""Which packets may become one for the host's stack: those that the kernel's GRO joins (net/core/gro.c and the
gro_receive functions of IPv4, IPv6, TCP and UDP), so that cutting gives the same packets again. Data plane.

A packet is looked at once (`look`), and put beside the first one of its flow (`same_flow`, `continues`):

    IPv4   no options, no fragment, a right header checksum; TOS with ECN, TTL and DF as before; identifications that
           count on by one, or with DF stay as they are (RFC 6864, 4.1: then they mean nothing)
    IPv6   no extension headers; traffic class, flow label and hop limit as before
    TCP    payload that follows in sequence, as long as before or shorter, which ends it, as PSH and FIN do; the other
           flags, acknowledgment, window, urgent pointer and options as before; no SYN, RST, URG, CWR
    UDP    a checksum; payload as long as before or shorter, which ends it
    both   the same Ethernet addresses and VLAN tag, and a transport checksum that is right: who cuts a joined packet
           makes new ones, so of a wrong one it would make a right one

Bytes of padding behind the IP packet are no part of it, and are left out.
"""

from __future__ import annotations

from typing import Any

from raceway.memory.access import load_be16, load_be32, load_u8, load_u16, load_u32
from raceway.memory.jit import inner
from raceway.ports.offload import internet_sum, pseudo_header
from raceway.ports.tap.records import FLOWS, Flow, Seen

TCP, UDP = 6, 17
_VLAN, _IPV4, _IPV6 = 0x8100, 0x0800, 0x86DD
_DONT_FRAGMENT = 0x4000
_FIN, _PSH, _ACK, _ECE = 0x01, 0x08, 0x10, 0x40
_ENDING: int = _FIN | _PSH
LONGEST = 65_535
"""Bytes of an IP packet (RFC 791, 3.1); of IPv6 as well, so with less payload than RFC 8200 allows."""
SEGMENTS = 64
"""Packets that become one at most, as in the kernel's GRO (UDP_GRO_CNT_MAX)."""

UNKNOWN, FOLLOWS, JOINABLE = 0, 1, 2
"""What `look` says: nothing is known of its flow, so it may overtake nothing; its flow is known, but it goes by itself;
it may be joined."""


@inner
def look(seen: Seen, packet: int, length: int) -> int:
    """What a packet of `length` bytes, all of them in one piece, is: UNKNOWN, FOLLOWS or JOINABLE."""
    if length < 14 + 20 + 8:
        return UNKNOWN
    network = 14
    kind = load_be16(packet + 12)
    if kind == _VLAN:
        kind = load_be16(packet + 16)
        network = 18
    start = packet + network
    right = True
    if kind == _IPV4:
        transport = network + 20
        if length < transport + 8 or load_u8(start) != 0x45 or load_be16(start + 6) & ~_DONT_FRAGMENT:
            return UNKNOWN
        end = network + load_be16(start + 2)
        protocol = load_u8(start + 9)
        mixed = load_u32(start + 12) ^ (load_u32(start + 16) * 3)
        right = internet_sum(start, 20) == 0xFFFF
        seen.six = 0
    elif kind == _IPV6:
        transport = network + 40
        if length < transport + 8 or load_u8(start) >> 4 != 6:
            return UNKNOWN
        end = transport + load_be16(start + 4)
        protocol = load_u8(start + 6)
        mixed = 0
        for word in range(8, 40, 4):
            mixed = (mixed * 3) ^ load_u32(start + word)
        seen.six = 1
    else:
        return UNKNOWN
    if end > length or end < transport + 8:
        return UNKNOWN
    if protocol == UDP:
        payload = transport + 8
        right = right and load_be16(packet + transport + 4) == end - transport
        right = right and load_u16(packet + transport + 6) != 0
    elif protocol == TCP and end >= transport + 20:
        payload = transport + (load_u8(packet + transport + 12) >> 4) * 4
        right = right and transport + 20 <= payload <= end
        right = right and load_u8(packet + transport + 13) & ~(_ENDING | _ECE) == _ACK
    else:
        return UNKNOWN
    mixed = (mixed ^ load_u32(packet + transport) ^ (protocol << 5)) & 0xFFFFFFFF
    seen.bucket = ((mixed * 0x45D9F3B) >> 20) & (FLOWS - 1)
    seen.packet = packet
    seen.network = network
    seen.transport = transport
    seen.payload = payload
    seen.end = end
    seen.length = end - payload
    seen.protocol = protocol
    return JOINABLE if right and seen.length > 0 else FOLLOWS


@inner
def same_flow(flow: Flow, seen: Seen) -> bool:
    """Whether both packets have the same addresses and ports, on Ethernet too, and the same tag and flow label."""
    if flow.protocol != seen.protocol or flow.six != seen.six or flow.network != seen.network:
        return False
    one = flow.packet
    other = seen.packet
    start = seen.network
    # Everything before the IP header, the last bytes twice: 14 or 18 are no multiple of four.
    different = load_u32(one) ^ load_u32(other)
    different |= (load_u32(one + 4) ^ load_u32(other + 4)) | (load_u32(one + 8) ^ load_u32(other + 8))
    different |= load_u32(one + start - 4) ^ load_u32(other + start - 4)
    different |= load_u16(one + 12) ^ load_u16(other + 12)
    different |= load_u32(one + seen.transport) ^ load_u32(other + seen.transport)
    if seen.six == 0:
        for at in range(start + 12, start + 20, 4):
            different |= load_u32(one + at) ^ load_u32(other + at)
    else:
        different |= (load_be32(one + start) ^ load_be32(other + start)) & 0x000FFFFF
        for at in range(start + 8, start + 40, 4):
            different |= load_u32(one + at) ^ load_u32(other + at)
    return bool(different == 0)


@inner
def right_checksum(seen: Any) -> bool:
    """Whether the transport's checksum is right."""
    length = seen.end - seen.transport
    total = pseudo_header(seen.packet, seen.network, seen.protocol, length)
    total += internet_sum(seen.packet + seen.transport, length)
    return bool((total & 0xFFFF) + (total >> 16) == 0xFFFF)


@inner
def _network_continues(flow: Flow, seen: Seen) -> bool:
    one = flow.packet + flow.network
    other = seen.packet + seen.network
    if seen.six != 0:
        # Version, traffic class and flow label; hop limit.
        return bool(load_u32(one) == load_u32(other) and load_u8(one + 7) == load_u8(other + 7))
    if load_u16(one) != load_u16(other) or load_u8(one + 8) != load_u8(other + 8):
        return False
    if load_u16(one + 6) != load_u16(other + 6):
        return False
    steps = (load_be16(other + 4) - load_be16(one + 4)) & 0xFFFF
    if flow.count == 1 and steps == 0 and load_be16(one + 6) & _DONT_FRAGMENT:
        flow.fixed = 1
    return bool(steps == (0 if flow.fixed != 0 else flow.count))


@inner
def _tcp_continues(flow: Flow, seen: Seen) -> bool:
    one = flow.packet + flow.transport
    other = seen.packet + seen.transport
    if (load_be32(one + 4) + flow.total) & 0xFFFFFFFF != load_be32(other + 4):
        return False
    different = load_u32(one + 8) ^ load_u32(other + 8)
    # Length, flags and window in one; and the urgent pointer.
    different |= (load_u32(one + 12) ^ load_u32(other + 12)) & ~(_ENDING << 8)
    different |= load_u16(one + 18) ^ load_u16(other + 18)
    at = 20
    while at < seen.payload - seen.transport:
        different |= load_u32(one + at) ^ load_u32(other + at)
        at += 4
    return bool(different == 0)


@inner
def continues(flow: Flow, seen: Seen) -> bool:
    """Whether a JOINABLE packet of the same flow goes on where those that wait end."""
    if flow.count == 0 or flow.closed != 0 or seen.length > flow.length or flow.count >= SEGMENTS:
        return False
    if flow.payload - flow.network + flow.total + seen.length > LONGEST or not _network_continues(flow, seen):
        return False
    if flow.protocol == TCP and not _tcp_continues(flow, seen):
        return False
    if flow.verified == 0:
        if not right_checksum(flow):
            flow.closed = 1
            return False
        flow.verified = 1
    return right_checksum(seen)


@inner
def begin(flow: Flow, seen: Seen, slot: int, joinable: int) -> None:
    """Let a packet be the first of its flow that waits."""
    flow.packet = seen.packet
    flow.network = seen.network
    flow.transport = seen.transport
    flow.payload = seen.payload
    flow.end = seen.end
    flow.length = seen.length
    flow.protocol = seen.protocol
    flow.six = seen.six
    flow.count = 1
    flow.first = slot
    flow.last = slot
    flow.total = seen.length
    flow.verified = 0
    flow.fixed = 0
    flow.ending = 0
    flow.closed = 0 if joinable == JOINABLE else 1
    if seen.protocol == TCP and load_u8(seen.packet + seen.transport + 13) & _ENDING:
        flow.closed = 1


@inner
def extend(flow: Flow, seen: Seen, slot: int) -> None:
    """Add a packet that continues it."""
    flow.count += 1
    flow.last = slot
    flow.total += seen.length
    if seen.length < flow.length:
        flow.closed = 1
    if seen.protocol == TCP:
        ending = load_u8(seen.packet + seen.transport + 13) & _ENDING
        if ending != 0:
            flow.closed = 1
            flow.ending = ending
