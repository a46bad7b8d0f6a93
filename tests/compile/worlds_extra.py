"""A packet function on its own."""

from raceway.compile.function import packet_function


@packet_function
def smallest_by_minus_one(packet):
    value = packet.load64(0)
    if value // (packet.load8(8) - 1) > 5:
        return 1
    return 2


def many_headers(packet, a):
    if packet.ipv4 and packet.ipv4.source == "192.168.7.9":
        return (len(packet) % packet.payload_offset) // packet.load8(a & 127)
    return a


@packet_function
def fails_always(packet):
    """There is no packet with ICMP and ICMPv6, which LLVM sees: what comes behind is never asked for."""
    first = many_headers(packet, 16) <= packet.icmp.type
    second = int(packet.ipv6.next_header == packet.vlan.ethertype)
    total = len(packet) * int(first) | packet.icmp.code // second
    total += many_headers(packet, many_headers(packet, total & 0xFFFF) & 0xFFFF) % packet.arp.operation
    return (packet.tcp.flags * total if packet.icmpv6 else packet.payload_offset) % 5
