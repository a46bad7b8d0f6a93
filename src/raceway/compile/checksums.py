"""Setters: they store a field and keep the Internet checksums over it right. Written once for both worlds.

A changed field changes a one's complement sum by what was taken away and what was added, whatever else the sum is
over (RFC 1624, section 3, equation 3):  HC' = ~(~HC + ~m + m').  So a setter never reads the payload, works on
packets that were cut by a capture, and leaves a checksum that was wrong before wrong by the same amount.

UDP (RFC 768): a checksum of 0 says "none" and stays 0; a computed 0 is sent as 0xffff.
"""

from __future__ import annotations

from typing import Any

from raceway.compile import locate

_PROTOCOL_TCP, _PROTOCOL_UDP, _PROTOCOL_ICMPV6 = 6, 17, 58


def folded(total: int) -> int:
    """Add the carries of a sum below 2**48 back in: 16 bits (RFC 1071, section 2)."""
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def changed(checksum: int, difference: int) -> int:
    """Return the checksum after the words that it covers changed by `difference` (a sum of ~m + m')."""
    return ~folded((~checksum & 0xFFFF) + difference) & 0xFFFF


def load(packet: Any, offset: int, size: int) -> int:
    """Load 1, 2 or 4 bytes."""
    value: int
    if size == 1:
        value = packet.load8(offset)
    elif size == 2:
        value = packet.load16(offset)
    else:
        value = packet.load32(offset)
    return value


def store_bits(packet: Any, start: int, at: int, size: int, shift: int, mask: int, value: int) -> int:
    """Store bits in a field's container at `start + at`; return the difference that this makes to a sum.

    Bits of `value` above the field's width are dropped. A single byte at an even offset is the upper half of its
    16-bit word; larger containers always begin at even offsets.
    """
    offset = start + at
    old = load(packet, offset, size)
    new = (old & ~(mask << shift)) | ((value & mask) << shift)
    if size == 1:
        packet.store8(offset, new)
        if at & 1 == 0:
            return (~(old << 8) & 0xFFFF) + (new << 8)
        return (~old & 0xFFFF) + new
    if size == 2:
        packet.store16(offset, new)
        return (~old & 0xFFFF) + new
    packet.store32(offset, new)
    return words_difference(old, new)


def words_difference(old: int, new: int) -> int:
    """Return ~m + m' for the two 16-bit words of a 32-bit value."""
    removed = ((~old >> 16) & 0xFFFF) + (~old & 0xFFFF)
    return removed + ((new >> 16) & 0xFFFF) + (new & 0xFFFF)


def set_plain(packet: Any, start: int, at: int, size: int, shift: int, mask: int, value: int) -> None:
    """Store a field that no checksum covers, or a checksum itself."""
    store_bits(packet, start, at, size, shift, mask, value)


def set_ip_header(packet: Any, start: int, at: int, size: int, shift: int, mask: int, value: int) -> None:
    """Store a field of the IPv4 header and update the header's checksum (RFC 791, 3.1)."""
    difference = store_bits(packet, start, at, size, shift, mask, value)
    packet.store16(start + 10, changed(packet.load16(start + 10), difference))


def checksum_offset(packet: Any) -> int:
    """Return where the checksum of TCP, UDP or ICMPv6 over the pseudo-header is, or a negative number if nowhere."""
    found = locate.transport(packet)
    start = locate.transport_offset(packet)
    if start < 0:
        return -1
    protocol = (found >> 20) & 0xFF
    if protocol == _PROTOCOL_TCP:
        start += 16
    elif protocol == _PROTOCOL_UDP:
        start += 6
    elif protocol == _PROTOCOL_ICMPV6 and locate.ipv6(packet) >= 0:
        start += 2
    else:
        return -1
    if start + 2 > len(packet):
        return -1
    return start


def update_at(packet: Any, offset: int, difference: int, udp: int) -> None:
    """Update the transport checksum at `offset`."""
    old = packet.load16(offset)
    if udp:
        if old == 0:
            return
        new = changed(old, difference)
        if new == 0:
            new = 0xFFFF
        packet.store16(offset, new)
    else:
        packet.store16(offset, changed(old, difference))


def update_pseudo_header(packet: Any, difference: int) -> None:
    """Update the transport checksum for a change of the pseudo-header, if there is such a checksum in this packet."""
    offset = checksum_offset(packet)
    if offset >= 0:
        udp = 1 if locate.protocol(packet) == _PROTOCOL_UDP else 0
        update_at(packet, offset, difference, udp)


def set_ipv4_address(packet: Any, start: int, at: int, value: int) -> None:
    """Store an address of the IPv4 header; its own and the transport's checksum follow (RFC 9293, 3.1; RFC 768)."""
    old = packet.load32(start + at)
    new = value & 0xFFFFFFFF
    difference = words_difference(old, new)
    packet.store32(start + at, new)
    packet.store16(start + 10, changed(packet.load16(start + 10), difference))
    update_pseudo_header(packet, difference)


def set_ipv6_address(packet: Any, start: int, at: int, high: int, low: int) -> None:
    """Store an address of the IPv6 header; the transport's checksum follows (RFC 8200, 8.1).

    With a routing header that is not used up, the pseudo-header has the final destination, which is not this field.
    """
    offset = start + at
    difference = 0
    difference += words_difference(packet.load32(offset), high >> 32)
    difference += words_difference(packet.load32(offset + 4), high & 0xFFFFFFFF)
    difference += words_difference(packet.load32(offset + 8), low >> 32)
    difference += words_difference(packet.load32(offset + 12), low & 0xFFFFFFFF)
    packet.store64(offset, high)
    packet.store64(offset + 8, low)
    if at == 24 and locate.is_routed(packet):
        return
    update_pseudo_header(packet, difference)


def set_transport_field(
    packet: Any,
    start: int,
    at: int,
    size: int,
    shift: int,
    mask: int,
    value: int,
    sum_at: int,
    udp: int,
    twice: int,
) -> None:
    """Store a field of a transport header and update the checksum at `sum_at` of it.

    `twice`: the field stands in the pseudo-header too (UDP's length, RFC 768).
    """
    difference = store_bits(packet, start, at, size, shift, mask, value)
    if twice:
        difference += difference
    update_at(packet, start + sum_at, difference, udp)


def set_plain_address(packet: Any, start: int, at: int, value: int) -> None:
    """Store 32 bits of an address that no checksum covers (ARP)."""
    packet.store32(start + at, value)


def set_mac(packet: Any, start: int, at: int, value: int) -> None:
    """Store an Ethernet address; no checksum of the Internet's covers it."""
    packet.store16(start + at, value >> 32)
    packet.store32(start + at + 2, value)


CHECKSUM_AT = {"tcp": 16, "udp": 6, "icmp": 2, "icmpv6": 2}
"""Offset of each transport header's checksum."""

SELDOM = (update_pseudo_header,)
"""Large, and called from several setters: compiled once in a kernel."""
