"""A wall of thirty lines, as somebody would write one: what `attaching` attaches. `wall.c` is the same in C."""

import raceway
from raceway import DROP, PASS

BLOCKED = raceway.HashTable(1024)
COUNT = raceway.Counters("short", "echo", "blocked", "private", "scan", "passed")
CLOSED = (22, 23, 445, 3389)


@raceway.packet_function
def wall(packet):  # type: ignore[no-untyped-def]
    if len(packet) < 34:
        COUNT["short"] += 1
        return DROP
    ip = packet.ipv4
    if not ip:
        return PASS
    icmp = packet.icmp
    if icmp and icmp.type == 8:
        COUNT["echo"] += 1
        return DROP
    if ip.source in BLOCKED:
        COUNT["blocked"] += 1
        return DROP
    if ip.source == "192.168.0.0/16":
        COUNT["private"] += 1
        return DROP
    tcp = packet.tcp
    if tcp:
        if tcp.destination_port in CLOSED:
            COUNT["scan"] += 1
            return DROP
        if tcp.syn and tcp.fin:
            COUNT["scan"] += 1
            return DROP
    COUNT["passed"] += 1
    return PASS
