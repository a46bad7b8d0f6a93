"""Packets that try to be taken for something else, one by one: what docs/firewall.md says of each.

`CASES`: a name, the frame, the number in `walk.WRONGS` of what is wrong with it (0: nothing), and which of `RULES`
decides about it where malformed packets are matched.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from packet_meaning import (
    FRAGMENT,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    ethernet,
    four,
    fragment6,
    options6,
    six,
    tcp,
    udp,
)

RULES = """malformed {malformed}
pass tcp dst port 80
pass udp dst port 53
pass tcp
drop udp
drop ip6
drop any
"""
WEB, NAMES, ANY_TCP, ANY_UDP, ANY_IPV6, REST = range(6)
PASSING = (WEB, NAMES, ANY_TCP)


class Case(NamedTuple):
    """What a packet is called, the packet, what is wrong with it, the rule."""

    name: str
    frame: bytes
    wrong: int
    rule: int


_PADDING = options6(60)
_LOOSE_ROUTE = bytes([131, 7, 4, 10, 0, 0, 9, 0])
"""RFC 791, 3.1: loose source and record route, one address, and the end of the options."""
_NOTHING, _TAGS, _HEADER, _LENGTH, _CUT, _TRANSPORT, _OVERWRITES = range(7)


def _tagged() -> list[Case]:
    return [
        Case("802.1Q", four(TCP, tcp(), tags=(0x8100,)), 0, WEB),
        Case("802.1ad, and 802.1Q inside", six(TCP, tcp(), tags=(0x88A8, 0x8100)), 0, WEB),
        Case("tags of older equipment", four(TCP, tcp(), tags=(0x9100, 0x9100)), 0, WEB),
        Case("four tags", four(UDP, udp(), tags=(0x88A8, 0x8100, 0x8100, 0x8100)), 0, NAMES),
        Case("five tags", four(TCP, tcp(), tags=(0x8100,) * 5), _TAGS, REST),
        Case("cut off in a tag", ethernet(0x8100, b"\0\5\x08"), _TAGS, REST),
        Case("a tag, and nothing behind it", ethernet(0x8100, b"\0\5\x08\0"), _HEADER, REST),
    ]


def _tunnels() -> list[Case]:
    inner4, inner6 = four(TCP, tcp())[14:], six(TCP, tcp())[14:]
    vxlan = udp(1000, 4789, data=bytes(8) + four(TCP, tcp()))
    return [
        Case("IPv4 in IPv4", four(4, inner4), 0, REST),
        Case("IPv6 in IPv4", four(41, inner6), 0, REST),
        Case("IPv4 in IPv6", six(4, inner4), 0, ANY_IPV6),
        Case("GRE", four(47, b"\0\0\x08\0" + inner4), 0, REST),
        Case("VXLAN", four(UDP, vxlan), 0, ANY_UDP),
        Case("MPLS", ethernet(0x8847, b"\0\0\1\x40" + inner4), 0, REST),
        Case("PPPoE", ethernet(0x8864, b"\x11\0\0\1\0\x2a\0\x21" + inner4), 0, REST),
        Case("IPv4 behind LLC and SNAP", ethernet(48, b"\xaa\xaa\3\0\0\0\x08\0" + inner4), 0, REST),
        Case("authentication header over IPv4", four(51, b"\6\4\0\0" + bytes(20) + tcp()), 0, REST),
    ]


def _fragments() -> list[Case]:
    return [
        Case("first fragment with its header", four(TCP, tcp(data=bytes(4)), more=True), 0, WEB),
        Case("tiny first fragment (RFC 1858)", four(TCP, tcp()[:8], more=True), _TRANSPORT, WEB),
        Case("the same, padded by Ethernet", four(TCP, tcp()[:8], more=True, padded=True), _TRANSPORT, WEB),
        Case("first fragment without ports", four(UDP, b"", more=True, padded=True), _TRANSPORT, ANY_UDP),
        Case("overwrites TCP's flags (RFC 3128)", four(TCP, bytes(16), place=1), _OVERWRITES, ANY_TCP),
        Case("the same, the last one", four(TCP, b"\x50\2" + bytes(6), place=1, padded=True), _OVERWRITES, ANY_TCP),
        Case("UDP from its data on", four(UDP, bytes(8), place=1), 0, ANY_UDP),
        Case("later fragment, made up as a header", four(TCP, tcp(), place=185), 0, ANY_TCP),
        Case("overlaps the data of another", four(TCP, tcp(), place=3, more=True), 0, ANY_TCP),
        Case("later fragment cut off", four(TCP, b"", place=185, total=48), _LENGTH, ANY_TCP),
        Case("first fragment over IPv6", six(TCP, tcp(data=bytes(4)), fragment6(more=True)), 0, WEB),
        Case("tiny first fragment over IPv6", six(TCP, tcp()[:8], fragment6(more=True)), _TRANSPORT, WEB),
        Case("the same, with more behind its end",
             six(TCP, tcp(), fragment6(more=True), total=16), _TRANSPORT, WEB),
        Case("overwrites TCP's flags over IPv6", six(TCP, bytes(16), fragment6(1)), _OVERWRITES, ANY_TCP),
        Case("later fragment over IPv6", six(UDP, udp(), fragment6(9, more=True)), 0, ANY_UDP),
        Case("overlapping fragment over IPv6 (RFC 5722)", six(TCP, tcp(), fragment6(2)), 0, ANY_TCP),
        Case("later fragment of options", six(60, bytes(16), fragment6(9)), 0, ANY_IPV6),
        Case("first fragment without all headers (RFC 7112)",
             six(TCP, b"", fragment6(more=True), _PADDING), _TRANSPORT, ANY_TCP),
        Case("the same, cut in its options",
             six(TCP, b"", fragment6(more=True), (60, b"\4" + bytes(6))), _CUT, ANY_IPV6),
        Case("atomic fragment (RFC 6946)", six(TCP, tcp(), fragment6()), 0, WEB),
        Case("the same, reserved bits set", six(TCP, tcp(), fragment6(reserved=3)), 0, WEB),
        Case("atomic fragment of a fragment", six(TCP, tcp(), fragment6(), fragment6(9)), 0, ANY_TCP),
    ]  # fmt: skip


def _extensions() -> list[Case]:
    return [
        Case("hop-by-hop options", six(TCP, tcp(), options6(0)), 0, WEB),
        Case("hop-by-hop options not first", six(TCP, tcp(), _PADDING, options6(0)), 0, WEB),
        Case("options of 2,048 bytes", six(TCP, tcp(), options6(60, 255)), 0, WEB),
        Case("eight headers of padding", six(TCP, tcp(), *[_PADDING] * 8), 0, WEB),
        Case("nine headers of padding", six(TCP, tcp(), *[_PADDING] * 9), _CUT, ANY_IPV6),
        Case("header longer than the packet", six(TCP, tcp(), (60, b"\xff" + bytes(6))), _CUT, ANY_IPV6),
        Case("header behind the packet's end", six(TCP, tcp(), _PADDING, total=4), _CUT, ANY_IPV6),
        Case("TCP behind the packet's end", six(TCP, tcp(), _PADDING, total=8), _TRANSPORT, ANY_TCP),
        Case("routing header", six(TCP, tcp(), (43, b"\2\0\1" + bytes(20))), 0, WEB),
        Case("authentication header", six(TCP, tcp(), (51, b"\4" + bytes(22))), 0, WEB),
        Case("encrypted", six(50, tcp()), 0, ANY_IPV6),
        Case("no next header, and a header behind it", six(59, tcp()), 0, ANY_IPV6),
        Case("an unknown header", six(253, b"\6\0" + bytes(6) + tcp()), 0, ANY_IPV6),
    ]


def _lies() -> list[Case]:
    short, long = four(TCP, tcp(words=6)), four(TCP, tcp(words=15, data=bytes(40)))
    other = bytearray(four(TCP, tcp()))
    other[14] = 0x65
    small = bytearray(four(TCP, tcp()))
    small[14] = 0x44
    return [
        Case("options, all padding", four(TCP, tcp(), options=b"\1" * 40), 0, WEB),
        Case("source route", four(TCP, tcp(), options=_LOOSE_ROUTE), 0, WEB),
        Case("options cut off", four(TCP, b"", options=b"\1" * 40)[:50], _LENGTH, REST),
        Case("options longer than the packet", four(TCP, tcp(), options=b"\1" * 8, total=24), _HEADER, WEB),
        Case("header of four words", bytes(small), _HEADER, REST),
        Case("version 6 in IPv4's frame", bytes(other), _HEADER, REST),
        Case("IPv4 in IPv6's frame", ethernet(0x86DD, four(TCP, tcp(data=bytes(9)))[14:]), _HEADER, REST),
        Case("no length", four(TCP, tcp(), total=0), _HEADER, WEB),
        Case("longer than it is", four(TCP, tcp(), total=41), _LENGTH, WEB),
        Case("longer than it is, over IPv6", six(TCP, tcp(), total=21), _LENGTH, WEB),
        Case("shorter than it is", four(TCP, tcp(data=bytes(9)), total=40), 0, WEB),
        Case("ports in the padding", four(TCP, tcp(), total=20, padded=True), _TRANSPORT, ANY_TCP),
        Case("flags in the padding", four(TCP, tcp(), total=32, padded=True), _TRANSPORT, WEB),
        Case("TCP header of four words", four(TCP, tcp(words=4)), _TRANSPORT, WEB),
        Case("TCP header longer than the packet", short, _TRANSPORT, WEB),
        Case(
            "TCP header longer than the packet, padded",
            ethernet(0x0800, short[14:], padded=True),
            _TRANSPORT,
            WEB,
        ),
        Case("TCP options of 40 bytes", long, 0, WEB),
        Case("every TCP flag, and none", four(TCP, tcp(flags=0xFF)), 0, WEB),
        Case("UDP longer than the packet", four(UDP, udp(length=999)), 0, NAMES),
        Case("UDP shorter than its header", six(UDP, udp(length=3)), 0, NAMES),
        Case("UDP cut off", four(UDP, udp()[:7]), _TRANSPORT, NAMES),
        Case("no checksum", six(UDP, udp()), 0, NAMES),
        Case("ICMP cut off", four(ICMP, bytes(7)), _TRANSPORT, REST),
        Case("ICMPv6 over IPv4", four(ICMPV6, bytes(8)), 0, REST),
        Case("nothing but Ethernet", ethernet(0x0800, b""), _HEADER, REST),
        Case("a fragment header's number over IPv4", four(FRAGMENT, tcp()), 0, REST),
        Case("not IP", ethernet(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(20)), 0, REST),
    ]


CASES = (*_tagged(), *_tunnels(), *_fragments(), *_extensions(), *_lies())
