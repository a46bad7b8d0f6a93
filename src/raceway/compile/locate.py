"""Where each header of a packet starts. Written once; interpreted and compiled code both run these functions.

Each takes a packet and returns an offset in bytes, or `ABSENT` (far below zero) where the header is not there, is
not wholly inside the packet, or says something illegal of itself. They never raise. They use nothing but `len` and
loads that they have checked, so the kernel's verifier can follow them::

    0             14           l3                    l4
    +-------------+-- - - - - -+------------- - - - -+-------- - - +---------
    | Ethernet    | 0-4 tags   | IPv4, options  or   | TCP, UDP,   | payload
    |             |            | IPv6, extensions    | ICMP        |
    +-------------+-- - - - - -+------------- - - - -+-------- - - +---------

`network` and `transport` return several facts in one number, because a single integer is what every target returns
cheaply; the small functions below them take it apart.
"""

from __future__ import annotations

from typing import Protocol

from raceway.compile.headers import ABSENT


class PacketBytes(Protocol):
    """What these functions need of a packet."""

    def __len__(self) -> int: ...
    def load8(self, offset: int, /) -> int: ...
    def load16(self, offset: int, /) -> int: ...
    def load32(self, offset: int, /) -> int: ...
    def load64(self, offset: int, /) -> int: ...


MAXIMUM_TAGS = 4
MAXIMUM_EXTENSIONS = 8

_OFFSET = 0xFFFFF
_NETWORK = 0x3F
# 14 bytes and four tags are 30: the mask changes nothing but lets the compiler know that.
_PROTOCOL_SHIFT = 20
_FRAGMENT = 1 << 28
_LATER = 1 << 29
_ROUTED = 1 << 30


def network(packet: PacketBytes) -> int:
    """Return offset of the header behind Ethernet and its VLAN tags * 65536 + its EtherType, or -1.

    Tags are those of IEEE 802.1Q-2022, table 9-1 (0x8100, 0x88a8), and 0x9100 of older equipment.
    """
    if len(packet) < 14:
        return -1
    number = packet.load16(12)
    if number == 0x8100 or number == 0x88A8 or number == 0x9100:
        return behind_tags(packet)
    return 14 * 65536 + number


def behind_tags(packet: PacketBytes) -> int:
    """Return what `network` returns, for a packet with tags: apart, because most have none."""
    length = len(packet)
    offset = 14
    number = packet.load16(12)
    tags = 0
    while tags < MAXIMUM_TAGS and (number == 0x8100 or number == 0x88A8 or number == 0x9100):
        if offset + 4 > length:
            return -1
        number = packet.load16(offset + 2)
        offset += 4
        tags += 1
    return offset * 65536 + number


def ethertype(packet: PacketBytes) -> int:
    """Return the EtherType behind all VLAN tags, or -1."""
    found = network(packet)
    if found < 0:
        return -1
    return found & 0xFFFF


def network_offset(packet: PacketBytes) -> int:
    """Return where the header behind Ethernet and its tags starts."""
    found = network(packet)
    if found < 0:
        return ABSENT
    return (found >> 16) & _NETWORK


def ethernet(packet: PacketBytes) -> int:
    """Return 0 if an Ethernet header is there."""
    if len(packet) < 14:
        return ABSENT
    return 0


def vlan(packet: PacketBytes) -> int:
    """Return where the outer VLAN tag starts: 12."""
    return _tag(packet, 12)


def inner_vlan(packet: PacketBytes, offset: int) -> int:
    """Return where the tag behind the tag at `offset` starts."""
    if offset < 0:
        return ABSENT
    return _tag(packet, offset + 4)


def _tag(packet: PacketBytes, offset: int) -> int:
    if offset + 6 > len(packet):
        return ABSENT
    protocol = packet.load16(offset)
    if protocol == 0x8100 or protocol == 0x88A8 or protocol == 0x9100:
        return offset
    return ABSENT


def arp(packet: PacketBytes) -> int:
    """Return where an ARP packet for IPv4 over Ethernet starts (RFC 826: lengths 6 and 4)."""
    found = network(packet)
    if found < 0 or found & 0xFFFF != 0x0806:
        return ABSENT
    offset = (found >> 16) & _NETWORK
    if offset + 28 > len(packet) or packet.load16(offset + 4) != 0x0604:
        return ABSENT
    return offset


def ipv4(packet: PacketBytes) -> int:
    """Return where the IPv4 header starts (RFC 791, 3.1: version 4, header length of at least five words)."""
    found = network(packet)
    if found < 0 or found & 0xFFFF != 0x0800:
        return ABSENT
    offset = (found >> 16) & _NETWORK
    if offset + 20 > len(packet):
        return ABSENT
    first = packet.load8(offset)
    if first < 0x45 or first > 0x4F:
        return ABSENT
    return offset


def ipv6(packet: PacketBytes) -> int:
    """Return where the IPv6 header starts (RFC 8200, 3: version 6)."""
    found = network(packet)
    if found < 0 or found & 0xFFFF != 0x86DD:
        return ABSENT
    offset = (found >> 16) & _NETWORK
    if offset + 40 > len(packet) or packet.load8(offset) >> 4 != 6:
        return ABSENT
    return offset


def transport(packet: PacketBytes) -> int:
    """Return where the transport header starts, its protocol and the fragment facts in one number, or -1."""
    offset = ipv4(packet)
    if offset >= 0:
        return _behind_ipv4(packet, offset)
    offset = ipv6(packet)
    if offset >= 0:
        return _behind_ipv6(packet, offset)
    return -1


def _behind_ipv4(packet: PacketBytes, offset: int) -> int:
    facts = packet.load8(offset + 9) << _PROTOCOL_SHIFT
    fragment = packet.load16(offset + 6)
    if fragment & 0x3FFF:
        facts |= _FRAGMENT
    if fragment & 0x1FFF:
        facts |= _LATER
    start = offset + ((packet.load8(offset) & 15) << 2)
    if start > len(packet):
        return -1
    return facts | start


def _behind_ipv6(packet: PacketBytes, offset: int) -> int:
    header = packet.load8(offset + 6)
    if _is_extension(header):
        return behind_extensions(packet, offset)
    return (header << _PROTOCOL_SHIFT) | (offset + 40)


def _is_extension(header: int) -> bool:
    """Tell whether a next-header number is an extension header's (IANA, "IPv6 Extension Header Types")."""
    return (
        header == 0 or header == 43 or header == 44 or header == 51
        or header == 60 or header == 135 or header == 139 or header == 140
    )  # fmt: skip


def behind_extensions(packet: PacketBytes, offset: int) -> int:
    """Walk the extension headers (RFC 8200, 4; AH: RFC 4302; mobility: RFC 6275; HIP: RFC 7401; shim6: RFC 5533)."""
    length = len(packet)
    header = packet.load8(offset + 6)
    start = offset + 40
    facts = 0
    walked = 0
    while _is_extension(header):
        if walked == MAXIMUM_EXTENSIONS or start + 8 > length:
            return -1
        following = packet.load8(start)
        if header == 44:
            fragment = packet.load16(start + 2)
            if fragment & 0xFFF9:
                facts |= _FRAGMENT
            if fragment & 0xFFF8:
                # What follows is the middle of a datagram, whatever its first header's number is.
                return facts | _LATER | (following << _PROTOCOL_SHIFT) | (start + 8)
        elif header == 43 and packet.load8(start + 3) > 0:
            facts |= _ROUTED
        start = _behind_extension(packet, header, start)
        if start > length:
            return -1
        header = following
        walked += 1
    return facts | (header << _PROTOCOL_SHIFT) | start


def _behind_extension(packet: PacketBytes, header: int, start: int) -> int:
    """Return where an extension header ends."""
    if header == 44:
        return start + 8
    if header == 51:
        return start + ((packet.load8(start + 1) + 2) << 2)
    return start + ((packet.load8(start + 1) + 1) << 3)


def identification(packet: PacketBytes) -> int:
    """Return what all fragments of a datagram bear: 16 bits of IPv4 (RFC 791, 3.1), 32 of a fragment header (RFC 8200,
    4.5); -1 where there is none."""
    offset = ipv4(packet)
    if offset >= 0:
        return packet.load16(offset + 4)
    offset = ipv6(packet)
    if offset < 0:
        return -1
    length = len(packet)
    header = packet.load8(offset + 6)
    start = offset + 40
    walked = 0
    while walked < MAXIMUM_EXTENSIONS and _is_extension(header) and start + 8 <= length:
        if header == 44:
            return packet.load32(start + 4)
        header, start = packet.load8(start), _behind_extension(packet, header, start)
        walked += 1
    return -1


def protocol(packet: PacketBytes) -> int:
    """Return the transport protocol's number, or -1."""
    found = transport(packet)
    if found < 0:
        return -1
    return (found >> _PROTOCOL_SHIFT) & 0xFF


def is_fragment(packet: PacketBytes) -> bool:
    """Tell whether the packet is a part of an IP datagram."""
    found = transport(packet)
    return found >= 0 and found & _FRAGMENT != 0


def is_later_fragment(packet: PacketBytes) -> bool:
    """Tell whether the packet is a part of an IP datagram other than the first."""
    found = transport(packet)
    return found >= 0 and found & _LATER != 0


def is_routed(packet: PacketBytes) -> bool:
    """Tell whether a routing header holds the final destination (RFC 8200, 8.1)."""
    found = transport(packet)
    return found >= 0 and found & _ROUTED != 0


def transport_offset(packet: PacketBytes) -> int:
    """Return where the transport header starts; absent in later fragments."""
    found = transport(packet)
    if found < 0 or found & _LATER:
        return ABSENT
    return found & _OFFSET


def _transport_of(packet: PacketBytes, number: int, size: int) -> int:
    found = transport(packet)
    if found < 0 or found & _LATER or (found >> _PROTOCOL_SHIFT) & 0xFF != number:
        return ABSENT
    offset = found & _OFFSET
    if offset + size > len(packet):
        return ABSENT
    return offset


def tcp(packet: PacketBytes) -> int:
    """Return where the TCP header starts (RFC 9293, 3.1: data offset of at least five words)."""
    offset = _transport_of(packet, 6, 20)
    if offset >= 0 and packet.load8(offset + 12) < 0x50:
        return ABSENT
    return offset


def udp(packet: PacketBytes) -> int:
    """Return where the UDP header starts (RFC 768). Its length field is not judged: captures and offloads cut it."""
    return _transport_of(packet, 17, 8)


def icmp(packet: PacketBytes) -> int:
    """Return where the ICMP header starts (RFC 792); it belongs to IPv4 only."""
    if ipv4(packet) < 0:
        return ABSENT
    return _transport_of(packet, 1, 8)


def icmpv6(packet: PacketBytes) -> int:
    """Return where the ICMPv6 header starts (RFC 4443); it belongs to IPv6 only."""
    if ipv6(packet) < 0:
        return ABSENT
    return _transport_of(packet, 58, 8)


def payload_offset(packet: PacketBytes) -> int:
    """Return where the data behind a TCP, UDP, ICMP or ICMPv6 header starts."""
    offset = tcp(packet)
    if offset >= 0:
        start = offset + ((packet.load8(offset + 12) >> 4) << 2)
        if start > len(packet):
            return ABSENT
        return start
    offset = udp(packet)
    if offset < 0:
        offset = icmp(packet)
    if offset < 0:
        offset = icmpv6(packet)
    if offset < 0:
        return ABSENT
    return offset + 8


def five_tuple(packet: PacketBytes, words: list[int]) -> None:
    """Fill in the five words that compiled code and hash tables hold a five-tuple as; zeros where there is no IP.

    words[0]: version bit << 40 | protocol << 32 | source port << 16 | destination port; then high and low half of
    the source, high and low half of the destination. Ports are those of TCP, UDP, DCCP, SCTP and UDP-Lite, as far as
    their first four bytes are in the packet.
    """
    words[0] = words[1] = words[2] = words[3] = words[4] = 0
    offset = ipv4(packet)
    numbers = 0
    if offset >= 0:
        words[2] = packet.load32(offset + 12)
        words[4] = packet.load32(offset + 16)
        found = _behind_ipv4(packet, offset)
    else:
        offset = ipv6(packet)
        if offset < 0:
            return
        words[1] = packet.load64(offset + 8)
        words[2] = packet.load64(offset + 16)
        words[3] = packet.load64(offset + 24)
        words[4] = packet.load64(offset + 32)
        numbers = 1 << 40
        found = _behind_ipv6(packet, offset)
    if found >= 0:
        number = (found >> _PROTOCOL_SHIFT) & 0xFF
        numbers |= number << 32
        if number == 6 or number == 17 or number == 33 or number == 132 or number == 136:
            start = found & _OFFSET
            if found & _LATER == 0 and start + 4 <= len(packet):
                numbers |= packet.load32(start)
    words[0] = numbers


SELDOM = (behind_tags, behind_extensions, identification)
"""Parts with loops that few packets need: compiled code calls them, and has the rest in line."""

OFTEN = (
    network,
    ethernet,
    ipv4,
    ipv6,
    transport,
    _behind_ipv4,
    _behind_ipv6,
    _is_extension,
    _behind_extension,
    _transport_of,
    tcp,
    udp,
)
"""What nearly every function asks for, several times: in line, so that the compiler sees what was asked before."""
