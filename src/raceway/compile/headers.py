"""The one table of headers and their fields, from which both worlds, the checker and the documentation are made.

A field is where it stands in its header (first bit, number of bits), how its value is shown, and which checksums
depend on it. Reading it is a load of the bytes that hold it, a shift and a mask; the containers below are chosen so
that none of more than one byte begins at an odd offset, for checksums are sums of 16-bit words (RFC 1071).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

MAXIMUM_PACKET = 65_535
"""Bytes of a packet that can be reached: what Linux's verifier allows for packet pointers (MAX_PACKET_OFF)."""

ABSENT = -(1 << 20)
"""Offset of a header that is not there: so far below zero that no field of it can be inside a packet."""

# What a setter keeps right.
NOTHING = "nothing"
IP_HEADER = "IPv4 header checksum"
IP_ADDRESS = "IPv4 header and transport checksum"
PSEUDO_HEADER = "transport checksum"
DESTINATION = "transport checksum, unless a routing header names the final destination"
TRANSPORT = "its own checksum"
TRANSPORT_LENGTH = "its own checksum, field and pseudo-header"


class Container(NamedTuple):
    """The bytes that are loaded to read a field: offset, size in bytes, then shift right and mask."""

    offset: int
    size: int
    shift: int
    mask: int


@dataclass(frozen=True)
class Field:
    """One field: `bit` from the start of the header, `bits` wide; `kind` is number, flag, ipv4, ipv6 or mac."""

    name: str
    bit: int
    bits: int
    kind: str = "number"
    keeps: str = NOTHING
    scale: int = 0
    """For read-only fields counted in units: the value is shifted left by this (header lengths in 32-bit words)."""
    meaning: str = ""

    @property
    def writable(self) -> bool:
        """Fields that show another field in other units are for reading."""
        return not self.scale

    @property
    def container(self) -> Container:
        """Where to load, for fields of up to 32 bits and for whole 64-bit words."""
        if self.bits in (48, 128):
            return Container(self.bit // 8, self.bits // 8, 0, (1 << self.bits) - 1)
        first, last = self.bit // 8, (self.bit + self.bits - 1) // 8
        size = last - first + 1
        if size == 3:
            size = 4
        shift = (first + size) * 8 - self.bit - self.bits
        if shift < 0 or (size > 1 and first % 2):
            first -= 1
            size = {2: 4, 3: 4, 4: 4}[size]
            shift = (first + size) * 8 - self.bit - self.bits
        return Container(first, size, shift, (1 << self.bits) - 1)


@dataclass(frozen=True)
class Header:
    """One header: `size` is its fixed part in bytes, wholly inside the packet or the header is absent."""

    name: str
    size: int
    standard: str
    meaning: str
    fields: tuple[Field, ...]
    by_name: dict[str, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {one.name: one for one in self.fields})


def _ip(name: str, bit: int, bits: int, kind: str = "number") -> Field:
    return Field(name, bit, bits, kind, IP_HEADER if kind != "ipv4" else IP_ADDRESS)


def _l4(name: str, bit: int, bits: int, kind: str = "number") -> Field:
    return Field(name, bit, bits, kind, TRANSPORT)


ETHERNET = Header("ethernet", 14, "IEEE 802.3-2022, 3.2", "The Ethernet header.", (
    Field("destination", 0, 48, "mac"),
    Field("source", 48, 48, "mac"),
    Field("ethertype", 96, 16, meaning="what follows, or the TPID of a VLAN tag; packet.ethertype looks behind tags"),
))  # fmt: skip

VLAN = Header("vlan", 6, "IEEE 802.1Q-2022, 9.6", "The outer VLAN tag; .inner is the tag behind it.", (
    Field("protocol", 0, 16, meaning="TPID: 0x8100, 0x88a8 or 0x9100"),
    Field("priority", 16, 3, meaning="PCP"),
    Field("drop_eligible", 19, 1, "flag", meaning="DEI"),
    Field("identifier", 20, 12, meaning="VID"),
    Field("ethertype", 32, 16, meaning="what follows the tag"),
))  # fmt: skip

ARP = Header("arp", 28, "RFC 826", "ARP for IPv4 over Ethernet (lengths 6 and 4).", (
    Field("hardware_type", 0, 16),
    Field("protocol_type", 16, 16),
    Field("hardware_length", 32, 8),
    Field("protocol_length", 40, 8),
    Field("operation", 48, 16, meaning="1 request, 2 reply"),
    Field("sender_hardware", 64, 48, "mac"),
    Field("sender_protocol", 112, 32, "ipv4"),
    Field("target_hardware", 144, 48, "mac"),
    Field("target_protocol", 192, 32, "ipv4"),
))  # fmt: skip

IPV4 = Header("ipv4", 20, "RFC 791, 3.1", "The IPv4 header (version 4, at least five words).", (
    _ip("version", 0, 4),
    _ip("internet_header_length", 4, 4),
    Field("header_length", 4, 4, scale=2, meaning="bytes, options included"),
    _ip("type_of_service", 8, 8),
    _ip("dscp", 8, 6),
    _ip("ecn", 14, 2),
    _ip("total_length", 16, 16),
    _ip("identification", 32, 16),
    _ip("reserved_flag", 48, 1, "flag"),
    _ip("dont_fragment", 49, 1, "flag"),
    _ip("more_fragments", 50, 1, "flag"),
    _ip("fragment_offset", 51, 13),
    _ip("ttl", 64, 8),
    _ip("protocol", 72, 8),
    Field("checksum", 80, 16, meaning="stored as given"),
    _ip("source", 96, 32, "ipv4"),
    _ip("destination", 128, 32, "ipv4"),
))  # fmt: skip

IPV6 = Header("ipv6", 40, "RFC 8200, 3", "The IPv6 header (version 6).", (
    Field("version", 0, 4),
    Field("traffic_class", 4, 8),
    Field("dscp", 4, 6),
    Field("ecn", 10, 2),
    Field("flow_label", 12, 20),
    Field("payload_length", 32, 16),
    Field("next_header", 48, 8, meaning="of this header; packet.protocol looks behind extension headers"),
    Field("hop_limit", 56, 8),
    Field("source", 64, 128, "ipv6", PSEUDO_HEADER),
    Field("destination", 192, 128, "ipv6", DESTINATION),
))  # fmt: skip

TCP = Header("tcp", 20, "RFC 9293, 3.1", "The TCP header (data offset at least five words).", (
    _l4("source_port", 0, 16),
    _l4("destination_port", 16, 16),
    _l4("sequence_number", 32, 32),
    _l4("acknowledgment_number", 64, 32),
    _l4("data_offset", 96, 4),
    Field("header_length", 96, 4, scale=2, meaning="bytes, options included"),
    _l4("reserved", 100, 4),
    _l4("flags", 104, 8, ),
    _l4("cwr", 104, 1, "flag"),
    _l4("ece", 105, 1, "flag"),
    _l4("urg", 106, 1, "flag"),
    _l4("ack", 107, 1, "flag"),
    _l4("psh", 108, 1, "flag"),
    _l4("rst", 109, 1, "flag"),
    _l4("syn", 110, 1, "flag"),
    _l4("fin", 111, 1, "flag"),
    _l4("window", 112, 16),
    Field("checksum", 128, 16, meaning="stored as given"),
    _l4("urgent_pointer", 144, 16),
))  # fmt: skip

UDP = Header("udp", 8, "RFC 768", "The UDP header.", (
    _l4("source_port", 0, 16),
    _l4("destination_port", 16, 16),
    Field("length", 32, 16, keeps=TRANSPORT_LENGTH),
    Field("checksum", 48, 16, meaning="stored as given; 0 is none"),
))  # fmt: skip

ICMP = Header("icmp", 8, "RFC 792", "The ICMP header.", (
    _l4("type", 0, 8),
    _l4("code", 8, 8),
    Field("checksum", 16, 16, meaning="stored as given"),
    _l4("identifier", 32, 16, "number"),
    _l4("sequence_number", 48, 16),
    _l4("rest", 32, 32),
    _l4("gateway", 32, 32, "ipv4"),
))  # fmt: skip

ICMPV6 = Header("icmpv6", 8, "RFC 4443, 2.1", "The ICMPv6 header and its first body word.", (
    _l4("type", 0, 8),
    _l4("code", 8, 8),
    Field("checksum", 16, 16, meaning="stored as given"),
    _l4("identifier", 32, 16),
    _l4("sequence_number", 48, 16),
    _l4("rest", 32, 32),
))  # fmt: skip

HEADERS: dict[str, Header] = {
    one.name: one for one in (ETHERNET, VLAN, ARP, IPV4, IPV6, TCP, UDP, ICMP, ICMPV6)
}  # fmt: skip

# Attributes of a packet that are numbers: (meaning, is it a truth value).
FACTS: dict[str, tuple[str, bool]] = {
    "ethertype": ("EtherType behind all VLAN tags (at most 4); -1 if the packet is too short", False),
    "protocol": ("transport protocol behind options and extension headers (at most 8); -1 if none", False),
    "network_offset": ("where the header behind Ethernet and VLAN tags starts; negative if there is none", False),
    "transport_offset": ("where the transport header starts; negative if none, as in a later fragment", False),
    "payload_offset": ("where the data behind TCP, UDP, ICMP or ICMPv6 starts; negative if none", False),
    "is_fragment": ("whether this is a part of an IP datagram (first, middle or last)", True),
    "is_later_fragment": ("whether this is a fragment other than the first: no transport header is in it", True),
}  # fmt: skip

# Attributes that the loop hands in.
GIVEN: dict[str, str] = {
    "time": "when the packet came, nanoseconds since 1970",
    "port": "number of the port that it came in through",
    "ring": "number of the ring that it came in through",
}

LOADS = {"load8": 1, "load16": 2, "load32": 4, "load64": 8}
STORES = {"store8": 1, "store16": 2, "store32": 4, "store64": 8}
LITTLE = {f"{name}_little": size for name, size in {**LOADS, **STORES}.items() if size > 1}
