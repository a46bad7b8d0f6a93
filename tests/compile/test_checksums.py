"""After a setter the checksums are what full recomputation gives, and where there was none there is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from packet_cases import made_packets
from raceway.compile import headers
from raceway.compile.packet import Packet

# Fields whose change makes another packet of it, so that a full recomputation is over other bytes.
STRUCTURE = {
    "ipv4": {
        "version",
        "internet_header_length",
        "total_length",
        "protocol",
        "more_fragments",
        "fragment_offset",
    },
    "ipv6": {"version", "payload_length", "next_header"},
    "tcp": {"data_offset"},
    "udp": {"length"},
    "icmp": {"type"},
    "icmpv6": {"type", "code"},
}


def recomputed(raw: bytes) -> bytes:
    """The packet with every checksum made anew by Scapy."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest
    from scapy.layers.l2 import Ether

    packet = Ether(raw)
    for layer, name in (
        (IP, "chksum"),
        (TCP, "chksum"),
        (UDP, "chksum"),
        (ICMP, "chksum"),
        (ICMPv6EchoRequest, "cksum"),
    ):
        if layer in packet and not (layer is UDP and packet[UDP].chksum == 0):
            delattr(packet[layer], name)
    return bytes(packet)


def whole_packets() -> list[bytes]:
    """Made packets whose checksums Scapy can recompute: no fragments, no tags too deep."""
    found = []
    for raw in made_packets()[:20]:
        packet = Packet(raw)
        if not packet.is_fragment and packet.protocol >= 0 and recomputed(raw) == raw:
            found.append(raw)
    return found


CASES = [
    (header.name, field)
    for header in headers.HEADERS.values()
    for field in header.fields
    if header.name in STRUCTURE and field.writable and field.name != "checksum"
    and field.name not in STRUCTURE[header.name]
]  # fmt: skip


def test_there_are_enough_whole_packets():
    kinds = {Packet(one).protocol for one in whole_packets()}
    assert kinds >= {1, 6, 17, 58}
    assert len(whole_packets()) > 10


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}.{case[1].name}")
@settings(max_examples=15, deadline=None)
@given(value=st.integers(0, (1 << 128) - 1), edge=st.sampled_from([None, 0, -1]))
def test_setter_leaves_checksums_as_recomputed(case, value, edge):
    name, field = case
    value = (value if edge is None else edge) & ((1 << field.bits) - 1)
    used = 0
    for raw in whole_packets():
        packet = Packet(raw)
        view = getattr(packet, name)
        if not view:
            continue
        if name == "ipv6" and field.name == "destination" and packet.load8(20) == 43:
            continue
        kind = headers.HEADERS[name].by_name[field.name].kind
        setattr(view, field.name, type(view.source)(value) if kind == "ipv6" else value)
        assert int(getattr(view, field.name)) == value
        assert bytes(packet) == recomputed(bytes(packet)), repr(packet)
        used += 1
    assert used


def test_values_are_cut_to_the_width_of_the_field():
    packet = Packet(made_packets()[0])
    packet.ipv4.ttl = 256 + 7
    packet.tcp.window = -1
    packet.ipv4.dscp = 0xFF
    assert (packet.ipv4.ttl, packet.tcp.window, packet.ipv4.dscp, packet.ipv4.ecn) == (7, 0xFFFF, 63, 0)


def test_udp_without_checksum_stays_without():
    packet = Packet(made_packets()[2])
    assert packet.udp.checksum == 0
    packet.ipv4.source = "1.1.1.1"
    packet.udp.source_port = 5
    assert packet.udp.checksum == 0


def test_udp_checksum_that_comes_out_as_zero_is_ones():
    raw = made_packets()[1]
    for port in range(65536):
        packet = Packet(raw)
        packet.udp.source_port = port
        if packet.udp.checksum == 0xFFFF:
            assert recomputed(bytes(packet)) == bytes(packet)
            return
    pytest.fail("no port gives 0xffff")


def test_checksum_field_is_stored_as_given():
    packet = Packet(made_packets()[0])
    packet.tcp.checksum = 0x1234
    packet.ipv4.checksum = 0x4321
    assert (packet.tcp.checksum, packet.ipv4.checksum) == (0x1234, 0x4321)


def test_later_fragments_keep_their_bytes_when_an_address_is_set():
    packet = Packet(made_packets()[21])
    before = bytes(packet)[34:]
    packet.ipv4.source = "9.9.9.9"
    assert bytes(packet)[34:] == before


def test_routing_header_decides_whether_the_destination_is_summed():
    from scapy.layers.inet import UDP
    from scapy.layers.l2 import Ether

    raw = made_packets()[14]
    packet = Packet(raw)
    packet.ipv6.destination = "2001:db8::77"
    again = Ether(bytes(packet))
    del again[UDP].chksum
    assert bytes(again) == bytes(packet)


def test_ethernet_and_vlan_setters_touch_no_checksum():
    packet = Packet(made_packets()[6])
    before = bytes(packet)[18:]
    packet.ethernet.source = "02:00:00:00:00:77"
    packet.vlan.identifier = 9
    assert bytes(packet)[18:] == before
    assert packet.vlan.identifier == 9


def test_wrong_values_are_refused():
    packet = Packet(made_packets()[0])
    for value, error in (
        ("10.0.0.0/8", ValueError),
        ("02:00:00:00:00:01", TypeError),
        ("x", ValueError),
        (1.5, TypeError),
    ):
        with pytest.raises(error):
            packet.ipv4.source = value
    with pytest.raises(AttributeError, match="header_length cannot be set"):
        packet.ipv4.header_length = 20
    with pytest.raises(AttributeError, match="does not exist"):
        packet.ipv4.tttl = 20
