"""Header views against independent readers: Scapy and dpkt on made and captured packets."""

from __future__ import annotations

import linecache

import dpkt
import pytest

from packet_cases import (
    assert_same_in_both_worlds,
    made_packets,
    needs_native,
    truncated_packets,
    whole_packets,
)
from raceway.compile import headers
from raceway.compile.addresses import IPv4Address, IPv6Address, MACAddress
from raceway.compile.function import packet_function
from raceway.compile.packet import Packet
from raceway.compile.state.hash_table import HashTable


def scapy_layers():
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import ARP, Dot1Q, Ether

    flags = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
    return {
        "ethernet": (Ether, {"destination": "dst", "source": "src", "ethertype": "type"}),
        "vlan": (Dot1Q, {"priority": "prio", "identifier": "vlan", "ethertype": "type"}),
        "arp": (ARP, {"operation": "op", "sender_hardware": "hwsrc", "sender_protocol": "psrc",
                      "target_hardware": "hwdst", "target_protocol": "pdst", "hardware_type": "hwtype",
                      "protocol_type": "ptype"}),
        "ipv4": (IP, {"version": "version", "internet_header_length": "ihl", "type_of_service": "tos", "ttl": "ttl",
                      "total_length": "len", "identification": "id", "fragment_offset": "frag", "protocol": "proto",
                      "checksum": "chksum", "source": "src", "destination": "dst"}),
        "ipv6": (IPv6, {"version": "version", "traffic_class": "tc", "flow_label": "fl", "payload_length": "plen",
                        "next_header": "nh", "hop_limit": "hlim", "source": "src", "destination": "dst"}),
        "tcp": (TCP, {"source_port": "sport", "destination_port": "dport", "sequence_number": "seq",
                      "checksum": "chksum", "acknowledgment_number": "ack", "data_offset": "dataofs",
                      "window": "window",
                      "urgent_pointer": "urgptr"}),
        "udp": (UDP, {"source_port": "sport", "destination_port": "dport", "length": "len", "checksum": "chksum"}),
        "icmp": (ICMP, {"type": "type", "code": "code", "checksum": "chksum"}),
    }, flags  # fmt: skip


def test_fields_are_scapys():
    from scapy.layers.l2 import Dot1AD, Ether

    layers, flags = scapy_layers()
    met = set()
    for raw in (*made_packets()[:20], *whole_packets()):
        packet, other = Packet(raw), Ether(raw)
        for name, (layer, fields) in layers.items():
            view = getattr(packet, name)
            theirs = other.getlayer(layer)
            if name == "vlan" and Dot1AD in other:
                theirs = other[Dot1AD]
            if not view:
                continue
            if theirs is None or (theirs.underlayer is None and name != "ethernet"):
                continue
            met.add(name)
            for mine, field in fields.items():
                expected = getattr(theirs, field)
                value = getattr(view, mine)
                same = (
                    str(value) == expected.lower()
                    if isinstance(expected, str)
                    else int(value) == int(expected)
                )
                assert same, f"{name}.{mine}: {value!r}, Scapy has {expected!r} in {packet!r}"
            if name == "tcp":
                assert view.flags == int(theirs.flags) & 0xFF
                for bit, flag in enumerate(flags):
                    assert getattr(view, flag) == bool(int(theirs.flags) >> bit & 1)
    assert met == set(layers)


def test_five_tuples_are_dpkts():
    # So many of each capture that the project's own are enough.
    packets = whole_packets(2000)
    compared = 0
    for raw in packets:
        frame = dpkt.ethernet.Ethernet(raw)
        packet = Packet(raw)
        if isinstance(frame.data, dpkt.ip.IP) and isinstance(frame.data.data, dpkt.tcp.TCP | dpkt.udp.UDP):
            ip, l4 = frame.data, frame.data.data
            flow = packet.five_tuple
            theirs = (ip.p, int.from_bytes(ip.src, "big"), int.from_bytes(ip.dst, "big"), l4.sport, l4.dport)
            assert tuple(int(one) for one in flow) == theirs
            name = "tcp" if isinstance(l4, dpkt.tcp.TCP) else "udp"
            start = packet.payload_offset
            assert getattr(packet, name)
            assert raw[start : start + len(l4.data)] == bytes(l4.data)
            compared += 1
    assert compared > 500


def test_headers_behind_extensions_and_tags():
    packets = [Packet(one) for one in made_packets()]
    assert packets[8].ipv4
    assert packets[8].udp
    assert packets[8].vlan.inner.inner.inner.identifier == 4
    assert not packets[8].vlan.inner.inner.inner.inner
    assert packets[9].ethertype == 0x8100, "a fifth tag is not skipped"
    assert not packets[9].ipv4
    assert packets[13].tcp.destination_port == 80
    assert packets[13].protocol == 6
    assert packets[14].udp
    assert packets[17].tcp
    assert packets[18].udp
    assert packets[19].protocol == -1, "a ninth extension header is not walked"
    assert not packets[19].udp
    first, later = packets[15], packets[16]
    assert first.is_fragment
    assert not first.is_later_fragment
    assert first.udp
    assert later.is_later_fragment
    assert not later.udp
    assert later.five_tuple.source_port == 0
    assert packets[20].is_fragment
    assert packets[20].udp
    assert packets[21].is_later_fragment
    assert packets[21].protocol == 17
    assert not packets[21].udp
    assert packets[22].five_tuple.source_port == 0x1234
    assert packets[22].protocol == 132


def test_illegal_headers_are_absent():
    broken, short, offset = (Packet(one) for one in made_packets()[-7:-4])
    assert not broken.ipv4
    assert broken.protocol == -1
    assert not short.ipv4
    assert offset.ipv4
    assert not offset.tcp
    assert offset.five_tuple.source_port == 1234


def test_reading_an_absent_header_raises_index_error():
    packet = Packet(made_packets()[0])
    with pytest.raises(IndexError, match="does not have"):
        _ = packet.udp.length
    with pytest.raises(IndexError):
        packet.ipv6.hop_limit = 3
    with pytest.raises(IndexError):
        packet.load32(len(packet) - 3)
    with pytest.raises(IndexError):
        packet.load8(-1)


def test_a_packet_without_ip_has_a_false_five_tuple_of_zeros():
    flow = Packet(b"\xff" * 60).five_tuple
    assert not flow
    assert tuple(flow) == (0, 0, 0, 0, 0)


def test_locating_never_raises():
    names = [*headers.HEADERS, *headers.FACTS, "five_tuple"]
    for raw in truncated_packets():
        packet = Packet(raw)
        for name in names:
            getattr(packet, name)
        repr(packet)


def test_containers_of_the_table_are_inside_their_headers_and_even():
    for header in headers.HEADERS.values():
        assert header.standard
        for field in header.fields:
            at, size, shift, _ = field.container
            assert at >= 0
            assert at + size <= header.size
            assert shift >= 0
            assert size == 1 or at % 2 == 0


def test_packet_over_a_buffer_writes_through():
    buffer = bytearray(made_packets()[0])
    packet = Packet(memoryview(buffer))
    packet.ipv4.ttl = 9
    assert buffer[22] == 9
    assert packet.data.obj is buffer
    kept = bytes(buffer)
    copied = Packet(kept)
    copied.store8(0, 1)
    assert kept == buffer
    assert len(copied) == len(kept)


def test_addresses_are_numbers_that_compare_with_text():
    address = IPv4Address("10.1.2.3")
    assert address == "10.0.0.0/8"
    assert address != "10.0.0.0/16"
    assert address == 0x0A010203
    assert address + 1 == 0x0A010204
    assert address in ("192.168.0.0/16", "10.1.0.0/16")
    assert hash(address) == hash(0x0A010203)
    assert IPv6Address("2001:db8::1") == "2001:db8::/32"
    assert MACAddress("01:00:5e:00:00:05") == "01:00:5e:00:00:00/25"
    assert address != MACAddress(0x0A010203)
    assert f"{address}" == "10.1.2.3"
    for wrong in ("10.0.0.1/8", "10.0.0.0/33", "10.0.0", "::1/129", "fe80::1%eth0", "", "1.2.3.4/"):
        with pytest.raises(ValueError, match=r"prefix|address|behind"):
            _ = address == wrong


def _compiled_from(text: str, name: str, scope: dict):
    file = f"<made for the test {name}>.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), scope)
    return packet_function(scope[name])


@pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")
@pytest.mark.parametrize("header", headers.HEADERS.values(), ids=lambda one: one.name)
def test_every_field_reads_the_same_in_both_worlds(header):
    table = HashTable(4096, key_words=2)
    lines = [
        f"def reads(packet):\n    view = packet.{header.name}\n    if not view:\n        return 2\n    base = len(T)\n"
    ]
    for index, field in enumerate(header.fields):
        if field.kind == "ipv6":
            lines.append(f"    T.put(({index}, base), view.{field.name}.high ^ view.{field.name}.low)\n")
        else:
            lines.append(f"    T.put(({index}, base), int(view.{field.name}))\n")
    text = "".join([*lines, "    return 1\n"])
    function = _compiled_from(text, "reads", {"T": table})
    packets = (*made_packets(), *whole_packets(20))
    assert_same_in_both_worlds(function, packets[: 4096 // len(header.fields)], table)
    assert len(table) > 0


@pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")
@pytest.mark.parametrize("header", headers.HEADERS.values(), ids=lambda one: one.name)
def test_every_field_is_set_the_same_in_both_worlds(header):
    values = {
        "ipv4": '"192.0.2.77"',
        "ipv6": '"2001:db8:5::77"',
        "mac": '"02:11:22:33:44:55"',
        "flag": "value & 1 == 0",
    }
    lines = [
        f"def sets(packet):\n    view = packet.{header.name}\n    value = packet.load32(len(packet) - 8)\n"
    ]
    lines.append("    which = packet.load8(len(packet) - 1)\n")
    writable = [field for field in header.fields if field.writable]
    for index, field in enumerate(writable):
        lines.append(
            f"    if which == {index}:\n        view.{field.name} = {values.get(field.kind, 'value')}\n"
        )
    function = _compiled_from("".join([*lines, "    return 3\n"]), "sets", {})
    packets = [
        one[:-1] + bytes([index]) for one in made_packets() if len(one) > 8 for index in range(len(writable))
    ]
    outcome = assert_same_in_both_worlds(function, packets)
    assert 3 in outcome.verdicts
