"""dpkt and Scapy: what a packet costs when Python objects are made of it.

Each function loads a capture into memory, parses every frame with the library and puts one `FiveTuple`
question to it, over and over until the time is up. It runs in this very process and interpreter. Only the
layers that the question needs are imported for Scapy (Ethernet, VLAN, IPv4, IPv6, TCP, UDP, SCTP): with all
of `scapy.all` it is slower still.

The libraries follow VLAN tags and IPv6 extension headers to the transport, which pcap-filter's `tcp` or
`port` do not, so compare the counts of matches before the times. Non-first fragments have no ports, there as
here.
"""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from .capture import Capture, read_capture
from .five_tuple import PROTOCOLS, FiveTuple, Match
from .measurement import Detail, Measurement, PeerUnavailable

Verdict: TypeAlias = Callable[[bytes], bool]
Decoder: TypeAlias = Callable[[bytes], Any]

_FRAMES_PER_CLOCK_READING = 16
_IPV4, _IPV6 = 4, 6
_WITH_PORTS = frozenset(PROTOCOLS.values())
_ETHERNET, _RAW_IP, _LINUX_COOKED = 1, 101, 113  # LINKTYPE_ values of the pcap format
_LINKS = "Ethernet (1), raw IP (101) or Linux cooked (113)"


def dpkt_match(capture: Path, question: FiveTuple, seconds: float = 2.0) -> Measurement:
    """ns a packet for dpkt to parse and answer `question`, for about `seconds`. Raises PeerUnavailable."""
    loaded = read_capture(capture)
    return _timed(
        "dpkt", loaded, _dpkt_verdict(loaded.link_type, question.matcher()), seconds, question, capture
    )


def scapy_match(capture: Path, question: FiveTuple, seconds: float = 2.0) -> Measurement:
    """ns a packet for Scapy to parse and answer `question`, for about `seconds`. Raises PeerUnavailable."""
    loaded = read_capture(capture)
    return _timed(
        "scapy", loaded, _scapy_verdict(loaded.link_type, question.matcher()), seconds, question, capture
    )


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PeerUnavailable(f"{name} cannot be imported: {error}") from error


def _decoder(link_type: int, decoders: dict[int, Decoder]) -> Decoder:
    try:
        return decoders[link_type]
    except KeyError:
        raise PeerUnavailable(f"link type {link_type}; expected {_LINKS}") from None


def _dpkt_verdict(link_type: int, match: Match) -> Verdict:
    dpkt = _library("dpkt")
    ipv4, ipv6 = dpkt.ip.IP, dpkt.ip6.IP6
    ethernet, cooked = dpkt.ethernet.Ethernet, dpkt.sll.SLL
    network_layer = _decoder(
        link_type,
        {
            _ETHERNET: lambda frame: ethernet(frame).data,
            _RAW_IP: lambda frame: (ipv6 if frame[0] >> 4 == _IPV6 else ipv4)(frame),
            _LINUX_COOKED: lambda frame: cooked(frame).data,
        },
    )

    def verdict(frame: bytes) -> bool:
        packet = network_layer(frame)
        if isinstance(packet, ipv4):
            version, protocol = _IPV4, packet.p
        elif isinstance(packet, ipv6):
            # `p` is the header after the extension headers; dpkt sets none if they end in nothing.
            version, protocol = _IPV6, getattr(packet, "p", packet.nxt)
        else:
            return False
        source, destination = int.from_bytes(packet.src, "big"), int.from_bytes(packet.dst, "big")
        transport = packet.data
        if protocol in _WITH_PORTS and not isinstance(transport, bytes):
            return match(version, protocol, source, destination, transport.sport, transport.dport)
        return match(version, protocol, source, destination, -1, -1)

    return verdict


def _scapy_verdict(link_type: int, match: Match) -> Verdict:
    inet, inet6, l2 = (_library(f"scapy.layers.{name}") for name in ("inet", "inet6", "l2"))
    ipv4, ipv6, extension = inet.IP, inet6.IPv6, inet6._IPv6ExtHdr
    transports = (inet.TCP, inet.UDP, _library("scapy.layers.sctp").SCTP)
    tags = (l2.Dot1Q, l2.Dot1AD)
    ethernet, cooked = l2.Ether, l2.CookedLinux
    network_layer = _decoder(
        link_type,
        {
            _ETHERNET: lambda frame: ethernet(frame).payload,
            _RAW_IP: lambda frame: (ipv6 if frame[0] >> 4 == _IPV6 else ipv4)(frame),
            _LINUX_COOKED: lambda frame: cooked(frame).payload,
        },
    )

    def verdict(frame: bytes) -> bool:
        header = network_layer(frame)
        while isinstance(header, tags):
            header = header.payload
        if isinstance(header, ipv4):
            version, family, protocol, transport = _IPV4, socket.AF_INET, header.proto, header.payload
        elif isinstance(header, ipv6):
            version, family, protocol, transport = _IPV6, socket.AF_INET6, header.nh, header.payload
            while isinstance(transport, extension):
                protocol, transport = transport.nh, transport.payload
        else:
            return False
        source = int.from_bytes(socket.inet_pton(family, header.src), "big")
        destination = int.from_bytes(socket.inet_pton(family, header.dst), "big")
        if isinstance(transport, transports):
            return match(version, protocol, source, destination, transport.sport, transport.dport)
        return match(version, protocol, source, destination, -1, -1)

    return verdict


def _timed(
    name: str, capture: Capture, verdict: Verdict, seconds: float, question: FiveTuple, path: Path
) -> Measurement:
    frames = capture.frames
    matches = malformed = done = 0
    first_matches = -1
    start = time.perf_counter_ns()
    deadline = start + int(seconds * 1e9)
    now = start
    while now < deadline:
        for at in range(0, len(frames), _FRAMES_PER_CLOCK_READING):
            piece = frames[at : at + _FRAMES_PER_CLOCK_READING]
            for frame in piece:
                try:
                    matches += verdict(frame)
                except Exception:  # hostile packets make these libraries raise nearly anything; counted below
                    malformed += 1
            done += len(piece)
            if done == len(frames):
                first_matches = matches
            now = time.perf_counter_ns()
            if now >= deadline:
                break
    if done == 0:
        raise PeerUnavailable(f"{name} was given {seconds} s: too little for one packet")
    detail: Detail = {
        "packets parsed": done,
        "packets in capture": len(frames),
        "malformed for the library": malformed,
    }
    if first_matches >= 0:
        detail["matches"] = first_matches  # in one whole pass, to compare with libpcap's
    else:
        detail["matches in the packets parsed"] = matches
    return Measurement(
        name,
        (now - start) / done,
        "ns/packet",
        detail,
        f"{name}: parse and match {question.expression()!r} on {path.name}, in Python",
    )
