"""What a rule looks at in a packet, read once more and in another way than the firewall does: the tests' oracle.

After RFC 791, 8200, 9293 and docs/firewall.md; nothing here is shared with `raceway.compile`. Beside it, packets that
are made by hand: `four`, `six`, `tcp` and their like.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PORTED = {6: 20, 17: 8, 33: 12, 132: 8, 136: 8}
"""Protocols whose header begins with two ports, and the shortest header of each."""
_LEAST = {**PORTED, 1: 8, 58: 8}
_TAGS = (0x8100, 0x88A8, 0x9100)
_EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)
TCP, UDP, ICMP, ICMPV6, FRAGMENT = 6, 17, 1, 58, 44


class Meaning(NamedTuple):
    """family: 4, 6 or 0; ports, protocol: None where there are none; wrong: a number of `walk.WRONGS`."""

    family: int = 0
    source: int = 0
    destination: int = 0
    ports: tuple[int, int] | None = None
    protocol: int | None = None
    wrong: int = 0

    @property
    def words(self) -> list[int]:
        """The words that `Classifier.key` is expected to have."""
        halves = [
            half - (1 << 64) if half >> 63 else half
            for address in (self.source, self.destination)
            for half in (address >> 64, address & (1 << 64) - 1)
        ]
        protocol = -1 if self.protocol is None else self.protocol
        return [self.family, *halves, *(self.ports or (-1, -1)), protocol, self.wrong]


def meaning(frame: bytes) -> Meaning:
    """What is in a frame, and the first thing that is wrong with it."""
    if len(frame) < 14:
        return Meaning(wrong=1)
    kind, rest = int.from_bytes(frame[12:14], "big"), frame[14:]
    for _ in range(4):
        if kind in _TAGS:
            if len(rest) < 4:
                return Meaning(wrong=1)
            kind, rest = int.from_bytes(rest[2:4], "big"), rest[4:]
    if kind in _TAGS:
        return Meaning(wrong=1)
    if kind == 0x0800:
        return _four(rest)
    return _six(rest) if kind == 0x86DD else Meaning()


def _four(packet: bytes) -> Meaning:
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[0] & 15 < 5:
        return Meaning(wrong=2)
    size, total = 4 * (packet[0] & 15), int.from_bytes(packet[2:4], "big")
    known = Meaning(4, int.from_bytes(packet[12:16], "big"), int.from_bytes(packet[16:20], "big"))
    wrong = 2 if total < size else 3 if total > len(packet) else 0
    inside = packet if wrong else packet[:total]
    if size > len(packet):
        return known._replace(wrong=wrong or 4)
    place = int.from_bytes(packet[6:8], "big") % 0x2000
    return _above(known, packet[9], inside[size:], place, wrong)


def _six(packet: bytes) -> Meaning:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return Meaning(wrong=2)
    known = Meaning(6, int.from_bytes(packet[8:24], "big"), int.from_bytes(packet[24:40], "big"))
    total = 40 + int.from_bytes(packet[4:6], "big")
    wrong = 3 if total > len(packet) else 0
    header, rest = packet[6], packet[40:] if wrong else packet[40:total]
    place = walked = 0
    while header in _EXTENSIONS and not place:
        # RFC 4302, 2.2: the authentication header counts in words of four bytes, and two less.
        size = (
            0
            if len(rest) < 8
            else 8
            if header == FRAGMENT
            else (rest[1] + 2) * 4
            if header == 51
            else (rest[1] + 1) * 8
        )
        if walked == 8 or not size or size > len(rest):
            return known._replace(wrong=wrong or 4)
        if header == FRAGMENT:
            place = int.from_bytes(rest[2:4], "big") >> 3
        header, rest = rest[0], rest[size:]
        walked += 1
    return _above(known, header, rest, place, wrong)


def _above(known: Meaning, protocol: int, rest: bytes, place: int, wrong: int) -> Meaning:
    """What is above IP: `rest`, from `place` (in units of eight bytes) of the datagram on."""
    known = known._replace(protocol=protocol, wrong=wrong)
    if place:
        return known._replace(wrong=wrong or 6) if place == 1 and protocol == TCP else known
    if protocol in PORTED and len(rest) >= 4:
        known = known._replace(ports=(int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big")))
    least = _LEAST.get(protocol, 0)
    if len(rest) < least or (protocol == TCP and not 20 <= rest[12] // 16 * 4 <= len(rest)):
        return known._replace(wrong=wrong or 5)
    return known


# Packets by hand. Checksums are nobody's here.


def ethernet(kind: int, data: bytes, tags: tuple[int, ...] = (), padded: bool = False) -> bytes:
    """A frame; tags: the EtherType of each; padded: with 0x11 to the 60 bytes that a wire wants."""
    frame = bytes.fromhex("020000000002 020000000001") + b"".join(struct.pack("!HH", one, 5) for one in tags)
    frame += struct.pack("!H", kind) + data
    return frame.ljust(60, b"\x11") if padded else frame


def four(
    protocol: int, data: bytes, *, source: int = 0x0A000001, destination: int = 0x0A000002, place: int = 0,
    more: bool = False, options: bytes = b"", total: int | None = None, tags: tuple[int, ...] = (),
    padded: bool = False,
) -> bytes:  # fmt: skip
    """An IPv4 frame. place: of a fragment, in units of eight bytes; total: a lie about the length."""
    size = 20 + len(options)
    length = size + len(data) if total is None else total
    header = struct.pack(
        "!BBHHHBBHII",
        0x40 | size // 4,
        0,
        length,
        7,
        place | more << 13,
        64,
        protocol,
        0,
        source,
        destination,
    )
    return ethernet(0x0800, header + options + data, tags, padded)


def six(
    protocol: int, data: bytes, *chain: tuple[int, bytes], source: int = 1, destination: int = 2,
    total: int | None = None, tags: tuple[int, ...] = (),
) -> bytes:  # fmt: skip
    """An IPv6 frame. chain: extension headers, each its number and what is behind its first byte, to its end."""
    numbers = [number for number, _ in chain] + [protocol]
    headers = b"".join(
        bytes([following]) + body for (_, body), following in zip(chain, numbers[1:], strict=True)
    )
    length = len(headers) + len(data) if total is None else total
    header = struct.pack("!IHBB", 6 << 28, length, numbers[0], 64)
    addresses = source.to_bytes(16, "big") + destination.to_bytes(16, "big")
    return ethernet(0x86DD, header + addresses + headers + data, tags)


def tcp(
    source: int = 1000, destination: int = 80, *, flags: int = 2, words: int = 5, data: bytes = b""
) -> bytes:
    """A TCP header; words: its data offset, whatever is there."""
    return struct.pack("!HHIIBBHHH", source, destination, 1, 2, words << 4, flags, 9000, 0, 0) + data


def udp(source: int = 1000, destination: int = 53, *, data: bytes = b"", length: int | None = None) -> bytes:
    """A UDP header without a checksum (RFC 768), and data."""
    return struct.pack("!HHHH", source, destination, 8 + len(data) if length is None else length, 0) + data


def options6(number: int, words: int = 0) -> tuple[int, bytes]:
    """A hop-by-hop (0), routing (43) or destination (60) header of 8 + 8 * words bytes, all Pad1 (RFC 8200, 4.2)."""
    return number, bytes([words]) + bytes(6 + 8 * words)


def fragment6(place: int = 0, *, more: bool = False, reserved: int = 0) -> tuple[int, bytes]:
    """A fragment header (RFC 8200, 4.5); place: in units of eight bytes."""
    return FRAGMENT, struct.pack("!BHI", 0, place << 3 | reserved << 1 | more, 7)
