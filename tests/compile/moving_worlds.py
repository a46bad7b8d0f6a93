"""Packet functions that move the packet's head, for the tests of all targets. `raceway`'s own documents have more."""

from __future__ import annotations

from raceway.compile.function import packet_function
from raceway.compile.pcap_filter.expression import expression
from raceway.compile.state.counters import Counters
from raceway.compile.state.hash_table import HashTable
from raceway.compile.state.token_bucket import TokenBucket
from raceway.compile.verdicts import DROP, PASS, REDIRECT, TX

SIZES = (0, 1, 4, 14, 40, 127, 128, 129, -1, 1 << 62, -(1 << 63), (1 << 63) - 1)
MOVED = HashTable(64)
DONE = Counters(4)
LIMIT = TokenBucket(1_000, 3, 8)
WEB = expression("tcp port 80 or (vlan and tcp port 80)")


def move_addresses(packet, by):
    """The Ethernet addresses of what stood `by` bytes behind, to the packet's first bytes."""
    high = packet.load64(by)
    low = packet.load32(by + 8)
    packet.store64(0, high)
    packet.store32(8, low)


def push(packet, identifier):
    """A helper that moves its caller's packet."""
    if not packet.grow_head(4):
        return False
    move_addresses(packet, 4)
    packet.store16(12, 0x8100)
    packet.store16(14, identifier & 0xFFF)
    return True


@packet_function
def tags(packet):
    """Pushes two VLAN tags, or pops those that are there."""
    popped = 0
    while packet.vlan and popped < 4:
        high, low = packet.load64(0), packet.load32(8)
        if not packet.shrink_head(4):
            return DROP
        packet.store32(8, low)
        packet.store64(0, high)
        popped += 1
    if popped:
        DONE[0] += 1
        return TX
    if not push(packet, 7) or not push(packet, packet.vlan.identifier + 1):
        return DROP
    if packet.vlan.identifier != 8 or packet.vlan.inner.identifier != 7:
        return 9
    return PASS


@packet_function
def tunnels(packet):
    """IPv4 in IPv4 (RFC 2003): in, or out again if it is; the outer header's length is computed."""
    ip = packet.ipv4
    if not ip:
        return PASS
    if ip.protocol == 4:
        high, low = packet.load64(0), packet.load32(8)
        if not packet.shrink_head(ip.header_length):
            return DROP
        packet.store64(0, high)
        packet.store32(8, low)
        packet.store16(12, 0x0800)
        return TX
    length = ip.total_length
    if not packet.grow_head(20):
        return DROP
    move_addresses(packet, 20)
    packet.store16(12, 0x0800)
    packet.store64(14, 0x4500 << 48)
    packet.store64(22, 0)
    packet.store32(30, 0)
    outer = packet.ipv4
    outer.checksum = 0xFFFF - 0x4500
    outer.dont_fragment = True
    outer.ttl = 64
    outer.protocol = 4
    outer.total_length = length + 20
    outer.source = "192.0.2.1"
    outer.destination = "192.0.2.2"
    ip.ttl = ip.ttl - 1
    return PASS


@packet_function
def views_stay(packet):
    """Views made before and after a move, and all that one may ask of a packet between."""
    ip, ethernet, tag = packet.ipv4, packet.ethernet, packet.vlan
    flow = packet.five_tuple
    by = packet.load8(0) - 1
    if packet.load8(1) & 1:
        packet.shrink_head(packet.load8(2) & 31)
    total = ip.offset * 3 + ethernet.offset * 5 + tag.offset + packet.tcp.offset
    if not packet.grow_head(by):
        DONE[1] += 1
    total += ip.offset * 7 + ethernet.offset + int(bool(ethernet)) + packet.network_offset
    if ip:
        ip.ttl = 9
        total += int(ip.source == "10.0.0.0/8") + ip.header_length
        ip.destination = "203.0.113.9"
    if packet.five_tuple == flow:
        total += 1
    MOVED.put(MOVED.get(0, 0) + 1, total)
    MOVED.add(0)
    MOVED.put(packet.five_tuple, WEB(packet))
    if not LIMIT.allow(packet, packet.five_tuple):
        return REDIRECT
    if ethernet.packet.ethernet and ethernet.source == "02:00:00:00:00:01":
        return TX
    return (total + len(packet)) % 5


# Slow where they are interpreted, so not among those that run over all captures.


@packet_function
def every_size(packet):
    """Sizes at and beyond every limit; each success is told by a bit."""
    told = 0
    for i in range(12):
        size = SIZES[i]
        if packet.grow_head(size):
            told |= 1 << i
            packet.shrink_head(size)
        if packet.shrink_head(size):
            told |= 1 << (i + 16)
            packet.grow_head(size)
    MOVED.put(MOVED.get(0, 0) + 1, told)
    MOVED.add(0)
    return PASS


@packet_function
def grows_until_none(packet):
    """Step by step, by what the packet says, until there is no room; then back to 14 bytes."""
    step = 1 + (packet.load8(5) & 15)
    grown = 0
    while packet.grow_head(step):
        packet.store8(0, grown)
        grown += 1
    MOVED.put(grown, len(packet))
    while packet.shrink_head(step):
        grown += 1
    packet.store16(12, grown)
    return PASS if len(packet) < 14 + step else 9


MOVING = {tags: (DONE,), tunnels: (), views_stay: (MOVED, DONE, LIMIT)}
