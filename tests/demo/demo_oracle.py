"""The firewall's rules once more, in another way: with dpkt and fractions, and nothing of raceway.

A token bucket here is a list of what was taken and when; tokens are exact fractions.
"""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import dpkt


@dataclass
class Bucket:
    """`rate` tokens a second and at most `burst`, for each key."""

    rate: int
    burst: int
    state: dict[object, tuple[Fraction, int]] = field(default_factory=dict)

    def allow(self, key: object, now: int) -> bool:
        tokens, last = self.state.get(key, (Fraction(self.burst), now))
        if now > last:
            tokens = min(Fraction(self.burst), tokens + Fraction((now - last) * self.rate, 10**9))
        allowed = tokens >= 1
        self.state[key] = (tokens - 1 if allowed else tokens, max(now, last))
        return allowed


def packets_of(path: Path) -> list[tuple[int, bytes]]:
    """Time in ns and bytes of each enhanced packet block of a little-endian nanosecond pcapng file."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    packets = []
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if kind == 6:
            _, high, low, captured = struct.unpack_from("<IIII", data, at + 8)
            packets.append((high << 32 | low, data[at + 28 : at + 28 + captured]))
        at += length
    return packets


def layers(data: bytes) -> tuple[object, object]:
    """The IP header and what is in it, behind VLAN tags; None for what is not there."""
    kind, at = int.from_bytes(data[12:14], "big"), 14
    while kind in (0x8100, 0x88A8):
        kind, at = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
    if kind == 0x0800:
        ip = dpkt.ip.IP(data[at:])
        return ip, None if ip.offset else ip.data
    if kind == 0x86DD:
        ip6 = dpkt.ip6.IP6(data[at:])
        return ip6, ip6.data
    return None, None


def judge(packets: list[tuple[int, bytes]]) -> list[str]:
    """For each packet the rule that drops it, or "kept"."""
    knocks, bare, datagrams, errors = Bucket(5, 20), Bucket(5, 5), Bucket(60, 30), Bucket(5, 5)
    refused: set[object] = set()
    verdicts = []
    for now, data in packets:
        ip, inside = layers(data)
        rule = "kept"
        protocol, ports = None, (0, 0)
        tcp = inside if isinstance(inside, dpkt.tcp.TCP) else None
        udp = inside if isinstance(inside, dpkt.udp.UDP) else None
        if tcp or udp:
            ports = (inside.sport, inside.dport)
        if ip is not None:
            protocol = ip.p
        flow = ip and (protocol, ip.src, ip.dst, *ports)
        syn = tcp is not None and tcp.flags & 0x12 == 0x02
        if tcp is not None and tcp.flags & 0x3F in (0x00, 0x29):
            rule = "bad_flags"
        elif syn and not knocks.allow(ip.src, now):
            rule = "port_scan"
        elif syn and tcp.off < 7 and not bare.allow(ip.dst, now):
            rule = "syn_flood"
        elif udp is not None and not datagrams.allow(udp.dport, now):
            rule = "udp_flood"
        elif isinstance(inside, dpkt.icmp.ICMP) and inside.type == 3 and not errors.allow(ip.src, now):
            rule = "error_flood"
        elif flow in refused:
            rule = "answers"
        if rule not in ("kept", "answers"):
            refused.add((protocol, ip.dst, ip.src, ports[1], ports[0]))
        verdicts.append(rule)
    return verdicts


def tally(verdicts: list[str]) -> Counter[str]:
    """Packets by verdict."""
    return Counter(verdicts)
