"""A packet in one line, as tcpdump would say it: time, protocol, from whom to whom, what, how long."""

from __future__ import annotations

import time
from typing import Any

LINKTYPE_ETHERNET = 1
_FLAGS = (
    (0x02, "S"),
    (0x01, "F"),
    (0x04, "R"),
    (0x08, "P"),
    (0x20, "U"),
    (0x40, "E"),
    (0x80, "W"),
    (0x10, "."),
)
_ICMP = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_ICMPV6 = {
    1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply",
    133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation",
    136: "neighbour advertisement",
}  # fmt: skip


def summary_line(packet: Any, link_type: int = LINKTYPE_ETHERNET) -> str:
    """One line for a `raceway.Packet`. Packets that are not Ethernet are only measured."""
    seconds, nanoseconds = divmod(packet.time, 1_000_000_000)
    stamp = time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{nanoseconds // 1000:06d}"
    if link_type != LINKTYPE_ETHERNET:
        return f"{stamp} link type {link_type}, length {len(packet)}"
    if not packet.ethernet:
        return f"{stamp} runt, length {len(packet)}"
    return f"{stamp} {_vlan(packet)}{_body(packet)}, length {len(packet)}"


def _vlan(packet: Any) -> str:
    tags: list[str] = []
    tag = packet.vlan
    while tag and len(tags) < 4:
        tags.append(f"vlan {tag.identifier}, ")
        tag = tag.inner
    return "".join(tags)


def _body(packet: Any) -> str:
    arp = packet.arp
    if arp:
        if arp.operation == 1:
            return f"ARP who has {arp.target_protocol}, tell {arp.sender_protocol}"
        return f"ARP {arp.sender_protocol} is at {arp.sender_hardware}"
    if packet.ipv4:
        return f"IP {_flow(packet, str(packet.ipv4.source), str(packet.ipv4.destination))}"
    if packet.ipv6:
        return f"IP6 {_flow(packet, str(packet.ipv6.source), str(packet.ipv6.destination))}"
    return f"{packet.ethernet.source} > {packet.ethernet.destination}, type {packet.ethertype:#06x}"


def _flow(packet: Any, source: str, destination: str) -> str:
    tcp, udp = packet.tcp, packet.udp
    if tcp:
        flags = "".join(letter for bit, letter in _FLAGS if tcp.flags & bit) or "none"
        ends = f"{source}.{tcp.source_port} > {destination}.{tcp.destination_port}"
        return f"{ends}: tcp [{flags}] seq {tcp.sequence_number}"
    if udp:
        return f"{source}.{udp.source_port} > {destination}.{udp.destination_port}: udp"
    if packet.icmp:
        kind = packet.icmp.type
        return f"{source} > {destination}: icmp {_ICMP.get(kind, f'type {kind}')}"
    if packet.icmpv6:
        kind = packet.icmpv6.type
        return f"{source} > {destination}: icmp6 {_ICMPV6.get(kind, f'type {kind}')}"
    return f"{source} > {destination}: protocol {packet.protocol}"
