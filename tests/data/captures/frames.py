"""The packets of the small captures: each function returns one file's frames, made by Scapy.

Promises the same bytes at every call: every field that Scapy would choose by chance is given, and addresses
are those reserved for documentation (RFC 5737, RFC 3849, RFC 7042).  Checksums are right unless a function is
about wrong ones.  The functions' docstrings are the README's descriptions.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption_LSRR,
    IPOption_NOP,
    IPOption_Router_Alert,
    IPOption_RR,
    IPOption_Timestamp,
)
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

MAC_A, MAC_B, EVERYBODY = "00:00:5e:00:53:0a", "00:00:5e:00:53:0b", "ff:ff:ff:ff:ff:ff"
NOBODY = "00:00:00:00:00:00"
A4, B4, C4 = "192.0.2.10", "192.0.2.11", "198.51.100.12"
A6, B6, C6 = "2001:db8::a", "2001:db8::b", "2001:db8::c"


@dataclass(frozen=True)
class Frame:
    """The bytes kept of a packet, and its length on the wire where that is more."""

    kept: bytes
    length: int


def frames(*packets: Packet | bytes) -> list[Frame]:
    return [Frame(bytes(packet), len(bytes(packet))) for packet in packets]


def ether(*layers: Packet, kind: int | None = None) -> Packet:
    """An Ethernet frame from A to B around the layers."""
    frame = Ether(src=MAC_A, dst=MAC_B) if kind is None else Ether(src=MAC_A, dst=MAC_B, type=kind)
    for layer in layers:
        frame = frame / layer
    return frame


def ip4(**fields: Any) -> Packet:
    return IP(**{"src": A4, "dst": B4, "id": 0x1234, "ttl": 64, **fields})


def ip6(**fields: Any) -> Packet:
    return IPv6(**{"src": A6, "dst": B6, "hlim": 64, **fields})


def tcp(**fields: Any) -> Packet:
    return TCP(**{"sport": 49152, "dport": 80, "seq": 1000, "ack": 0, "window": 64240, **fields})


def udp(**fields: Any) -> Packet:
    return UDP(**{"sport": 49153, "dport": 4000, **fields})


def summed(payload: bytes) -> Packet:
    """A UDP datagram from A6 to B6 with its checksum, for behind AH, through which Scapy computes none."""
    return Raw(bytes(ip6() / udp() / Raw(payload))[40:])


def filler(length: int) -> bytes:
    """Bytes that tell their own offset, so that a wrong copy shows."""
    return bytes(offset % 251 for offset in range(length))


def six() -> list[Frame]:
    """ARP, ICMP, DNS, TCP, ICMPv6, a frame of 1,514 bytes."""
    return frames(
        Ether(src=MAC_A, dst=EVERYBODY) / ARP(op=1, hwsrc=MAC_A, psrc=A4, hwdst=NOBODY, pdst=B4),
        ether(ip4(), ICMP(type=8, id=7, seq=1), Raw(filler(56))),
        ether(ip4(), udp(dport=53), DNS(id=0x4242, rd=1, qd=DNSQR(qname="www.example", qtype="A"))),
        ether(ip4(flags="DF"), tcp(flags="S", options=[("MSS", 1460)])),
        ether(ip6(), ICMPv6EchoRequest(id=7, seq=1, data=filler(32))),
        ether(ip4(), tcp(flags="A", seq=1001, ack=2001), Raw(filler(1460))),
    )


def ipv6_extension_headers() -> list[Frame]:
    """Hop-by-hop options (UDP, MLD), routing type 0 and 4, two fragments, an atomic fragment, destination
    options, AH, all of them in a chain, a 64-byte hop-by-hop header with an unknown option, no next header,
    ESP."""
    pad = PadN(optdata=bytes(4))
    segments = IPv6ExtHdrSegmentRouting(addresses=[B6, C6], segleft=0, lastentry=1)
    authentication = AH(nh=17, payloadlen=4, spi=0x100, seq=1, icv=filler(12))
    atomic = IPv6ExtHdrFragment(id=0x0A70, offset=0, m=0)
    whole = bytes(ip6() / udp() / Raw(filler(2000)))[40:]  # a datagram with its checksum, to be cut in two
    chain = [  # RFC 8200, section 4.1: the recommended order
        IPv6ExtHdrHopByHop(options=[pad]),
        IPv6ExtHdrDestOpt(options=[pad]),
        IPv6ExtHdrRouting(addresses=[C6], segleft=0),
        atomic,
        AH(nh=60, payloadlen=4, spi=0x100, seq=2, icv=filler(12)),
        IPv6ExtHdrDestOpt(nh=17, options=[pad]),
        summed(b"chain"),
    ]
    unknown = HBHOptUnknown(otype=0x1E, optdata=filler(60))
    return frames(
        ether(ip6(), IPv6ExtHdrHopByHop(options=[pad]), udp(), Raw(b"hop-by-hop")),
        ether(ip6(dst="ff02::16", hlim=1), IPv6ExtHdrHopByHop(options=[RouterAlert()]), ICMPv6MLReport2()),
        ether(ip6(), IPv6ExtHdrRouting(addresses=[C6], segleft=0), tcp(flags="S")),
        ether(ip6(), segments, udp(), Raw(b"segment routing")),
        ether(ip6(), IPv6ExtHdrFragment(nh=17, id=0xF4A6, offset=0, m=1), Raw(whole[:1232])),
        ether(ip6(), IPv6ExtHdrFragment(nh=17, id=0xF4A6, offset=154, m=0), Raw(whole[1232:])),
        ether(ip6(), atomic, udp(), Raw(b"an atomic fragment, RFC 6946")),
        ether(ip6(), IPv6ExtHdrDestOpt(options=[pad]), ICMPv6EchoRequest(id=9, seq=1, data=b"options")),
        ether(ip6(), authentication, summed(b"authenticated")),
        ether(ip6(), *chain),
        ether(ip6(), IPv6ExtHdrHopByHop(options=[unknown]), tcp(flags="S")),
        ether(ip6(nh=59), Raw(b"no next header")),
        ether(ip6(nh=50), Raw(struct.pack("!II", 0x200, 1) + filler(40))),
    )


def vlan_qinq() -> list[Frame]:
    """Untagged, 802.1Q, priority tag, VLAN 4094 with DEI, 802.1ad over 802.1Q, 802.1Q over 802.1Q, three
    tags."""
    inner = ip4() / udp() / Raw(b"tagged")
    request = ARP(op=1, hwsrc=MAC_A, psrc=A4, hwdst=NOBODY, pdst=B4)
    return frames(
        ether(inner),
        ether(Dot1Q(vlan=10, prio=5), inner),
        ether(Dot1Q(vlan=0, prio=7), request),
        ether(Dot1Q(vlan=4094, prio=0, id=1), ip6(), tcp(flags="S")),
        ether(Dot1AD(vlan=100), Dot1Q(vlan=10), ip4(), tcp(flags="S")),
        ether(Dot1Q(vlan=100, type=0x8100), Dot1Q(vlan=10), ip6(), udp(), Raw(b"two of 802.1Q")),
        ether(Dot1AD(vlan=1), Dot1Q(vlan=2, type=0x8100), Dot1Q(vlan=3), inner),
    )


def arp() -> list[Frame]:
    """Request, reply, unicast request, probe and announcement (RFC 5227), gratuitous reply, request padded
    to 60 bytes."""

    def said(op: int, to: str, **fields: Any) -> Packet:
        return Ether(src=MAC_A, dst=to) / ARP(
            **{"op": op, "hwsrc": MAC_A, "psrc": A4, "hwdst": NOBODY, **fields}
        )

    return frames(
        said(1, EVERYBODY, pdst=B4),
        Ether(src=MAC_B, dst=MAC_A) / ARP(op=2, hwsrc=MAC_B, psrc=B4, hwdst=MAC_A, pdst=A4),
        said(1, MAC_B, hwdst=MAC_B, pdst=B4),
        said(1, EVERYBODY, psrc="0.0.0.0", pdst=A4),
        said(1, EVERYBODY, pdst=A4),
        said(2, EVERYBODY, hwdst=EVERYBODY, pdst=A4),
        bytes(said(1, EVERYBODY, pdst=B4)) + bytes(18),
    )


def icmp_errors() -> list[Frame]:
    """ICMP echo, reply, port unreachable, fragmentation needed, time exceeded, redirect, parameter problem;
    ICMPv6 reply, port unreachable, packet too big, time exceeded, parameter problem; the errors quote UDP
    or TCP."""
    quoted4 = bytes(ip4(src=B4, dst=A4) / udp(dport=9) / Raw(filler(20)))[:28]  # header and 64 bits, RFC 792
    quoted6 = bytes(ip6(src=B6, dst=A6) / udp(dport=9) / Raw(filler(20)))
    sent4 = bytes(ip4(src=B4, dst=C4) / tcp(flags="S"))[:28]
    return frames(
        ether(ip4(), ICMP(type=8, id=1, seq=1), Raw(filler(16))),
        ether(ip4(), ICMP(type=0, id=1, seq=1), Raw(filler(16))),
        ether(ip4(tos=0xC0), ICMP(type=3, code=3), Raw(quoted4)),
        ether(ip4(tos=0xC0), ICMP(type=3, code=4, nexthopmtu=1400), Raw(sent4)),
        ether(ip4(tos=0xC0), ICMP(type=11, code=0), Raw(sent4)),
        ether(ip4(tos=0xC0), ICMP(type=5, code=1, gw="192.0.2.1"), Raw(sent4)),
        ether(ip4(tos=0xC0), ICMP(type=12, code=0, ptr=20), Raw(quoted4)),
        ether(ip6(), ICMPv6EchoReply(id=1, seq=1, data=filler(16))),
        ether(ip6(), ICMPv6DestUnreach(code=4), Raw(quoted6)),
        ether(ip6(), ICMPv6PacketTooBig(mtu=1280), Raw(quoted6)),
        ether(ip6(), ICMPv6TimeExceeded(code=0), Raw(quoted6)),
        ether(ip6(), ICMPv6ParamProblem(code=1, ptr=6), Raw(quoted6)),
    )


def ipv4_options_fragments() -> list[Frame]:
    """Router alert, record route (60-byte header), timestamp, loose source route; DF; three fragments in
    order, three in reverse, two of a datagram without its last, the first of 8 bytes."""
    whole = bytes(ip4() / udp() / Raw(filler(3000)))[20:]

    def fragment(first: int, last: int, number: int) -> Packet:
        more = "MF" if last < len(whole) else 0
        return ether(ip4(proto=17, id=number, flags=more, frag=first // 8), Raw(whole[first:last]))

    record = IPOption_RR(length=39, pointer=4, routers=["0.0.0.0"] * 9)
    in_order = [fragment(0, 1480, 0x51), fragment(1480, 2960, 0x51), fragment(2960, len(whole), 0x51)]
    reversed_ = [fragment(2960, len(whole), 0x52), fragment(1480, 2960, 0x52), fragment(0, 1480, 0x52)]
    return frames(
        ether(ip4(options=[IPOption_Router_Alert()]), udp(), Raw(b"router alert")),
        ether(ip4(options=[record]), udp(), Raw(b"60-byte header")),
        ether(ip4(options=[IPOption_Timestamp(flg=0, timestamp=0)]), ICMP(type=8, id=2, seq=1)),
        # No pseudo header here: with a source route it would speak of the last destination.
        ether(
            ip4(options=[IPOption_NOP(), IPOption_LSRR(pointer=4, routers=[C4])]), ICMP(type=8, id=2, seq=2)
        ),
        ether(ip4(flags="DF"), udp(), Raw(b"do not fragment")),
        *in_order,
        *reversed_,
        fragment(0, 8, 0x53),
        fragment(8, 1488, 0x53),
    )


def tcp_options() -> list[Frame]:
    """None, the usual, SYN+ACK, two SACK blocks, timestamps with data, fast open, MD5 signature, end of
    list, 40 NOPs (60-byte header), ECN set-up, urgent, FIN, RST, no flags, FIN+PSH+URG."""
    usual = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (100, 0)), ("NOP", None), ("WScale", 7)]
    stamp = [("NOP", None), ("NOP", None), ("Timestamp", (200, 100))]
    sack = [*stamp, ("NOP", None), ("NOP", None), ("SAck", (3000, 4000, 5000, 6000))]
    signature = [("NOP", None), ("NOP", None), (19, filler(16))]  # RFC 2385
    cookie = [("MSS", 1460), (34, filler(8)), ("NOP", None), ("NOP", None)]  # RFC 7413
    return frames(
        ether(ip4(), tcp(flags="S")),
        ether(ip4(), tcp(flags="S", options=usual)),
        ether(ip4(src=B4, dst=A4), tcp(sport=80, dport=49152, flags="SA", ack=1001, options=usual)),
        ether(ip4(), tcp(flags="A", seq=1001, ack=1001, options=sack)),
        ether(ip4(), tcp(flags="PA", seq=1001, ack=1001, options=stamp), Raw(b"GET / HTTP/1.0\r\n\r\n")),
        ether(ip4(), tcp(flags="S", options=cookie), Raw(b"GET / HTTP/1.0\r\n\r\n")),
        ether(ip4(), tcp(flags="A", seq=1019, ack=1001, options=signature), Raw(b"signed")),
        ether(ip4(), tcp(flags="S", options=[("MSS", 536), ("EOL", None)])),
        ether(ip6(), tcp(flags="A", seq=1001, ack=1001, options=[("NOP", None)] * 40)),
        ether(ip6(), tcp(flags="SEC", options=usual)),
        ether(ip4(), tcp(flags="PAU", seq=1025, ack=1001, urgptr=2), Raw(b"urgent")),
        ether(ip4(), tcp(flags="FA", seq=1031, ack=1001)),
        ether(ip4(), tcp(flags="R", seq=1031)),
        ether(ip4(), tcp(flags=0)),
        ether(ip4(), tcp(flags="FPU")),
    )


def udp_zero_checksum() -> list[Frame]:
    """IPv4 without a checksum, with one, with one that sums to zero (sent as ffff), empty and without; IPv6
    without one in VXLAN (RFC 6935 allows it, tshark objects); *odd*: IPv6 without one in plain UDP."""
    # A checksum that comes out as zero is sent as all ones (RFC 768): look for the two bytes that make it so.
    sums = (ether(ip4(), udp(), Raw(struct.pack("!H", word))) for word in range(65536))
    all_ones = next(frame for frame in sums if bytes(frame)[40:42] == b"\xff\xff")
    tunnel = VXLAN(vni=42, flags=8) / ether(ip4(), udp(), Raw(b"inside"))
    return frames(
        ether(ip4(), udp(chksum=0), Raw(b"not computed")),
        ether(ip4(), udp(), Raw(b"computed")),
        all_ones,
        ether(ip4(), udp(chksum=0)),
        ether(ip6(), udp(dport=4789, chksum=0), tunnel),
        ether(ip6(), udp(chksum=0), Raw(b"not allowed")),
    )


def snapped() -> list[Frame]:
    """TCP cut to 64, 54, 34 and 14 bytes, UDP over IPv6 to 64 and 54, tagged UDP to 46, one whole of 47."""
    long4 = bytes(ether(ip4(), tcp(flags="A", seq=1, ack=1), Raw(filler(1460))))
    long6 = bytes(ether(ip6(), udp(), Raw(filler(1400))))
    tagged = bytes(ether(Dot1Q(vlan=10), ip4(), udp(), Raw(filler(500))))
    short = bytes(ether(ip4(), udp(), Raw(b"whole")))
    cuts = [
        (long4, 64),
        (long4, 54),
        (long4, 34),
        (long4, 14),
        (long6, 64),
        (long6, 54),
        (tagged, 46),
        (short, 47),
    ]
    return [Frame(frame[:kept], len(frame)) for frame, kept in cuts]


def zero_length_and_runts() -> list[Frame]:
    """*Odd*: 0 of 0 bytes, 0 of 60, frames that end inside each header, lengths that lie (IHL, total
    length, version, data offset, UDP length, payload length, an extension header beyond the end), an 802.3
    frame, an unknown EtherType, all zeros."""
    good = bytes(ether(ip4(), tcp(flags="S")))
    good6 = bytes(ether(ip6(), udp(), Raw(b"six")))
    tagged = bytes(ether(Dot1Q(vlan=10), ip4(), udp()))
    return [
        Frame(b"", 0),
        Frame(b"", 60),
        *frames(
            good[:1], good[:13], good[:14], good[:15], good[:33], good[:34], good[:35], good[:53],
            tagged[:15], tagged[:18], good6[:53], good6[:54], good6[:61],
            ether(ip4(ihl=4, chksum=0), tcp(flags="S")),
            ether(ip4(ihl=15, chksum=0), tcp(flags="S")),
            ether(ip4(len=1500), tcp(flags="S")),
            ether(ip4(len=10), tcp(flags="S")),
            ether(ip4(version=7), tcp(flags="S")),
            ether(ip4(), tcp(flags="S", dataofs=4)),
            ether(ip4(), tcp(flags="S", dataofs=15)),
            ether(ip4(), udp(len=3)),
            ether(ip4(), udp(len=900)),
            ether(ip6(plen=1400), udp()),
            ether(ip6(nh=0), Raw(b"\x11\xff\x01\x04\0\0\0\0")),
            ether(Raw(filler(40)), kind=40),
            ether(Raw(filler(46)), kind=0xFFFF),
            bytes(60),
        ),
    ]  # fmt: skip


def jumbo() -> list[Frame]:
    """9,014 bytes (UDP, an MTU of 9,000), 9,000 bytes (TCP over IPv6)."""
    return frames(
        ether(ip4(), udp(), Raw(filler(9000 - 28))),
        ether(ip6(), tcp(flags="A", seq=1, ack=1), Raw(filler(9000 - 74))),
    )


def raw_ip() -> list[Frame]:
    """IPv4 and IPv6 in turn without Ethernet header: UDP, UDP, ICMP, TCP."""
    return frames(
        ip4() / udp() / Raw(b"no link layer"),
        ip6() / udp() / Raw(b"no link layer"),
        ip4() / ICMP(type=8, id=3, seq=1) / Raw(filler(16)),
        ip6() / tcp(flags="S", options=[("MSS", 1440)]),
    )
