"""Ethernet frames by hand, and whether one is right: lengths and checksums. Plain Python, the tests' oracle."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
ADDRESSES = bytes.fromhex("020000000002 020000000001")


class Checked(NamedTuple):
    """Of a frame whose checksums are right: IP protocol (0: not IP), the transport's bytes, its tags (TPID and TCI)."""

    protocol: int
    transport: bytes
    tags: tuple[tuple[int, int], ...] = ()


def internet_sum(data: bytes) -> int:
    """RFC 1071, in network order."""
    total = int(np.frombuffer(data + b"\0" * (len(data) & 1), dtype=">u2").sum(dtype=np.int64))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    return ~internet_sum(data) & 0xFFFF


def pseudo_header(addresses: bytes, protocol: int, length: int) -> bytes:
    """Of IPv4 (8 bytes of addresses) or IPv6 (32)."""
    if len(addresses) == 8:
        return addresses + struct.pack("!BBH", 0, protocol, length)
    return addresses + struct.pack("!II", length, protocol)


def checked(frame: bytes) -> Checked:
    """Take a frame apart; AssertionError if a length or a checksum is wrong. UDP without a checksum is right."""
    kind, at = int.from_bytes(frame[12:14], "big"), 14
    tags = []
    while kind in (0x8100, 0x88A8):
        tags.append((kind, int.from_bytes(frame[at : at + 2], "big")))
        kind = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += 4
    ip = frame[at:]
    if kind == 0x0800:
        header, total = (ip[0] & 15) * 4, int.from_bytes(ip[2:4], "big")
        assert internet_sum(ip[:header]) == 0xFFFF, "checksum of the IPv4 header"
        protocol, addresses, transport = ip[9], ip[12:20], ip[header:total]
    elif kind == 0x86DD:
        total = 40 + int.from_bytes(ip[4:6], "big")
        protocol, addresses, transport = ip[6], ip[8:40], ip[40:total]
        while protocol in (0, 60):
            skipped = (transport[1] + 1) * 8
            protocol, transport = transport[0], transport[skipped:]
    else:
        return Checked(0, ip, tuple(tags))
    assert total <= len(ip), f"IP says {total} bytes, the frame has {len(ip)}"
    # A short frame may be padded; a longer one has no reason to be.
    assert total == len(ip) or len(frame) <= 60, f"{len(ip) - total} bytes behind the packet"
    none = protocol == UDP and transport[6:8] == b"\0\0"
    if protocol in (TCP, UDP, ICMPV6) and not none:
        covered = pseudo_header(addresses, protocol, len(transport)) + transport
        assert internet_sum(covered) == 0xFFFF, f"checksum of protocol {protocol} in {len(frame)} bytes"
    if protocol == UDP:
        assert int.from_bytes(transport[4:6], "big") == len(transport)
    return Checked(protocol, transport, tuple(tags))


def ip_header(
    version: int, protocol: int, length: int, *, identification: int = 0, extension: bytes = b""
) -> bytes:
    """An IPv4 or IPv6 header before `length` bytes of transport; `extension`: IPv6 extension headers, whole."""
    if version == 4:
        raw = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, identification, 0x4000, 64, protocol, 0) + _v4()
        return raw[:10] + checksum(raw).to_bytes(2, "big") + raw[12:]
    first = protocol if not extension else 60
    return struct.pack("!IHBB", 0x60000000, len(extension) + length, first, 64) + _v6() + extension


def _v4() -> bytes:
    # RFC 2544, appendix C.2.2: nobody has them, so nobody answers.
    return bytes([198, 18, 0, 1, 198, 18, 0, 2])


def _v6() -> bytes:
    return bytes.fromhex("fd" + "00" * 14 + "01" + "fd" + "00" * 14 + "02")


def addresses_of(version: int) -> bytes:
    """Source and destination of the packets made here."""
    return _v4() if version == 4 else _v6()


def ethernet(version: int, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An Ethernet header with tags, for IPv4 or IPv6."""
    raw = ADDRESSES + b"".join(struct.pack("!HH", kind, value) for kind, value in tags)
    return raw + (b"\x08\x00" if version == 4 else b"\x86\xdd")


def tcp_header(sequence: int, flags: int, options: bytes = b"", total: int = 0) -> bytes:
    """Ports 1000 and 2000, acknowledgement 7, window 9,000; `total`: the checksum field."""
    words = 5 + len(options) // 4
    return struct.pack("!HHIIBBHHH", 1000, 2000, sequence, 7, words << 4, flags, 9000, total, 0) + options


def udp_header(length: int, total: int = 0, source: int = 1000) -> bytes:
    return struct.pack("!HHHH", source, 2000, 8 + length, total)


def udp_frame(payload: bytes, version: int = 4, source: int = 1000) -> bytes:
    """A whole UDP packet with its checksum."""
    transport = udp_header(len(payload), 0, source) + payload
    total = checksum(pseudo_header(addresses_of(version), UDP, len(transport)) + transport) or 0xFFFF
    transport = udp_header(len(payload), total, source) + payload
    return ethernet(version) + ip_header(version, UDP, len(transport)) + transport
