"""Packet functions that the tests run in both worlds. Together they use all that the language has."""

from __future__ import annotations

from moving_worlds import MOVING

import raceway.compile.addresses as addresses
from raceway.compile import verdicts
from raceway.compile.function import packet_function
from raceway.compile.state.counters import Counters
from raceway.compile.state.hash_table import HashTable
from raceway.compile.state.prefix_table import PrefixTable
from raceway.compile.state.token_bucket import TokenBucket
from raceway.compile.verdicts import ABORTED, DROP, PASS, REDIRECT, TX, Verdict

SEEN = HashTable(64)
SIZES = Counters(8)
KINDS = Counters("tcp", "udp", "other")
ROUTES = PrefixTable(16)
ROUTES.load({"10.0.0.0/8": 3, "10.1.0.0/16": 4, "2001:db8::/32": 5, "192.168.7.9/32": 6, "::/0": 7})
LIMIT = TokenBucket(1_000, 3)
LIMITS = TokenBucket(10, 2, 8)
INSIDE = ("10.0.0.0/8", "192.168.0.0/16", "2001:db8::/32")
LAN = addresses.prefix("10.0.0.0/8")
SERVER = "192.168.7.9"
PORTS = (53, 80, 443, 8080)


@packet_function
def keep_web(packet):
    ip = packet.ipv4
    if not ip:
        return PASS
    if ip.source == "10.0.0.0/8" and packet.tcp.destination_port == 80:
        SEEN.add(packet.five_tuple, 1)
        return DROP
    return TX


@packet_function
def addresses_compare(packet):
    found = 0
    if packet.ethernet:
        if packet.ethernet.destination == "01:00:5e:00:00:00/25":
            found |= 1
        if packet.ethernet.source != "02:00:00:00:00:01":
            found |= 2
        if packet.ethernet.source in ("02:00:00:00:00:07", "02:00:00:00:00:08"):
            found |= 4
    ip = packet.ipv4
    if ip:
        if ip.source in INSIDE:
            found |= 8
        if ip.destination in LAN:
            found |= 16
        if ip.destination == SERVER:
            found |= 32
        if ip.source not in ("10.1.2.3", "10.0.0.1"):
            found |= 64
        if ip.source & 0xFF == 3 or ip.source < ip.destination:
            found |= 128
        if ip.source == 0x0A010203:
            found |= 256
    six = packet.ipv6
    if six:
        if six.source == "2001:db8::/32":
            found |= 512
        if six.destination in ("fe80::/10", "::1"):
            found |= 1024
        if six.source == six.destination or six.source.high == 0x20010DB800000000:
            found |= 2048
        if six.source in INSIDE:
            found |= 4096
    flow = packet.five_tuple
    if flow:
        if flow.source in INSIDE and flow.destination != "fe80::42":
            found |= 8192
        if flow.reverse == flow:
            found |= 16384
        if flow.reverse.source == flow.destination and flow.protocol != 0:
            found |= 32768
        if flow.destination_port in PORTS:
            found |= 65536
    SEEN.put(SEEN.get(0, 0) + 1000, found)
    SEEN.add(0)
    return found % 5


def weight(packet, factor):
    """A helper with a loop."""
    total = 0
    for i in range(len(packet)):
        if i >= 40:
            break
        total = (total * 31 + packet.load8(i) * factor) & 0xFFFFFFFF
    return total


def clamp(value, low, high):
    return min(max(value, low), high)


@packet_function
def loops_and_helpers(packet):
    total = weight(packet, 3)
    at = 0
    while at + 2 <= len(packet):
        word = packet.load16(at)
        if word == 0:
            at += 1
            continue
        total ^= word << (at % 20)
        total = total & 0xFFFFFFFFFF
        at += 2 if word & 1 else 7
    for i in range(10, 0, -3):
        total += clamp(total >> i, -5, 1000)
    a, b = total % 7, total // 7
    b -= a if a > 3 else -a
    SEEN.put(1, total & 0xFFFF)
    SIZES[a] += b & 15
    return (abs(a - b) + int(total > 99)) % 5


@packet_function
def divides(packet):
    a = packet.load8(1) - 128
    b = packet.load8(0) - packet.load8(2)
    return (a // b + a % b) & 3


@packet_function
def shifts(packet):
    n = packet.load8(0) - 2
    value = packet.load64(8)
    left = (value & 0xFF) << (n & 31)
    right = value >> n
    right >>= 1
    if n < 40:
        left ^= 1 << n
    return (left ^ right ^ (right >> 3)) & 3


@packet_function
def raw_stores(packet):
    end = len(packet)
    packet.store16(0, packet.load16_little(0) + 1)
    packet.store8(2, packet.load64(4) * 3)
    packet.store32(end - 4, packet.load32_little(end - 4))
    packet.store64_little(10, packet.load64(10))
    packet.store32_little(20, packet.load32(20) - 5)
    packet.store16_little(end - 2, -2)
    packet.store64(end - 8, 1)
    return TX


@packet_function
def wild_offsets(packet):
    at = packet.load64(0)
    if at & 1:
        return packet.load8(at) & 3
    if at & 2:
        return packet.load16(at & 0xFFFF) & 3
    if at & 4:
        packet.store32(packet.load8(7) - 100, 1)
        return DROP
    return packet.load32(len(packet) - 3) & 3


@packet_function
def counts_kinds(packet):
    if packet.tcp:
        KINDS["tcp"] += 1
    elif packet.udp:
        KINDS.add("udp", 2)
    else:
        KINDS["other"] = KINDS["other"] + 1
    SIZES.add(len(packet) // 16)
    return Verdict.PASS if SIZES[0] < len(SIZES) else verdicts.REDIRECT


@packet_function
def keeps_tables(packet):
    ip = packet.ipv4
    six = packet.ipv6
    if ip:
        SEEN.add(ip.source)
        SEEN.add((ip.source, ip.protocol), len(packet))
        if ip.destination in SEEN:
            SEEN.delete(ip.destination)
    elif six:
        SEEN.put(six.source, len(packet))
        SEEN.add((six.source, six.destination, 5), -1)
    elif packet.ethernet:
        SEEN.add(packet.ethernet.source, 3)
    flow = packet.five_tuple
    SEEN.add(flow.destination, 1)
    if len(packet) % 3 == 0:
        SEEN.delete(flow.source)
    if not SEEN.put(flow, packet.time & 0xFFFF):
        return ABORTED
    if len(SEEN) > 60 and SEEN.get("10.1.2.3") > 2:
        return DROP
    return SEEN.get(flow.reverse, -4) % 5


@packet_function
def routes(packet):
    ip = packet.ipv4
    if ip:
        return ROUTES.lookup(ip.destination, 1) % 5
    if packet.ipv6:
        return ROUTES.lookup(packet.ipv6.source) % 5
    return ROUTES.lookup(packet.five_tuple.destination, 2) % 5


@packet_function
def limits(packet):
    if not LIMIT.allow(packet):
        return DROP
    if packet.ipv4 and not LIMITS.allow(packet, packet.ipv4.source):
        return REDIRECT
    if not LIMITS.allow(packet, packet.five_tuple, packet.load8(3) % 4):
        return TX
    return PASS


@packet_function
def rewrites(packet):
    """Sets what a router and an address translator set."""
    if packet.ethernet:
        packet.ethernet.source = "02:00:00:00:00:99"
        packet.ethernet.destination = packet.ethernet.source & 0xFFFFFF
    if packet.vlan:
        packet.vlan.identifier = packet.vlan.identifier + 4095
        packet.vlan.inner.priority = 9
    ip = packet.ipv4
    if ip:
        if ip.ttl < 2:
            return DROP
        ip.ttl -= 1
        ip.source = "203.0.113.7"
        ip.destination = ip.destination ^ 0xFF00
        ip.dscp = 46
    six = packet.ipv6
    if six:
        six.hop_limit -= 1
        six.destination = "2001:db8:ffff::1"
        six.source = six.destination
        six.flow_label = 0xFFFFFFFF
    if packet.tcp:
        packet.tcp.destination_port = 8080
        packet.tcp.syn = not packet.tcp.syn
        packet.tcp.sequence_number += 1 << 20
    if packet.udp:
        packet.udp.source_port = packet.udp.destination_port
    if packet.icmp:
        packet.icmp.type = 0
        packet.icmp.identifier = 77
    if packet.icmpv6:
        packet.icmpv6.sequence_number = 1
    return TX


@packet_function
def facts(packet):
    total = packet.ethertype * 3 + packet.protocol + packet.network_offset + packet.transport_offset
    total += packet.payload_offset + packet.port * 5 + packet.ring
    if packet.is_fragment:
        total += 1000
    if packet.is_later_fragment:
        total += 5000
    if (packet.ipv4 and packet.tcp) or (packet.udp and not packet.ipv6):
        total += 100000
    SEEN.put(SEEN.get(0, 0) + 1, total)
    SEEN.add(0)
    SEEN.put(9999, packet.time)
    return total % 5


@packet_function
def overflows(packet):
    """Numbers leave 64 bits only where the result is cut back to few, which wrapping does not change."""
    value = packet.load64(0)
    other = packet.load64(8)
    product = (value * 3 + other * other - value * other) & 0xFFFF
    if (value + 1 - other) & 0x7FFFFFFFFFFFFFFF > 5:
        product += 1
    return (product ^ ((value - other) & 0xFF)) & 3


@packet_function
def bad_verdicts(packet):
    return packet.load8(0) - 3


@packet_function
def indexes(packet):
    at = packet.load8(0) - 2
    return SIZES[at] + (DROP, PASS, TX)[packet.load8(1) & 1]


FUNCTIONS = {
    keep_web: (SEEN,), addresses_compare: (SEEN,), loops_and_helpers: (SEEN, SIZES), divides: (), shifts: (),
    raw_stores: (), wild_offsets: (), counts_kinds: (KINDS, SIZES), keeps_tables: (SEEN,), routes: (),
    limits: (LIMIT, LIMITS), rewrites: (), facts: (SEEN,), bad_verdicts: (), overflows: (), indexes: (SIZES,), **MOVING,
}  # fmt: skip
