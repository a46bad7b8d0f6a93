"""Host rings: what the host sends is received from them, and what is sent to them has arrived at the host."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from host_world import (
    KIND,
    addresses,
    collect,
    datagram,
    device,
    frame,
    heard,
    ip,
    is_experiment,
    link_counters,
    nature,
    open_at,
    protocol_counters,
    raw_socket,
    tcp_segment,
    udp_socket,
    until,
)

from conftest import scaled
from frame_check import TCP, UDP, checked
from labs import lab as lab, needs_root
from raceway.errors import RacewayError

pytestmark = [pytest.mark.root, needs_root]

WAYS = ["tap", "live"]


def is_udp(one: bytes) -> bool:
    return one[12:14] in (b"\x08\0", b"\x86\xdd") and checked(one).protocol == UDP


def is_solicitation(one: bytes) -> bool:
    """A neighbour solicitation: RFC 4861, section 4.3."""
    return one[12:14] == b"\x86\xdd" and checked(one).transport[:1] == b"\x87"


# -- from the host ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_what_the_host_sends_comes_out_of_its_ring_whole_and_goes_nowhere_else(lab, version):
    two = lab()
    with open_at(two) as port, udp_socket(two, "a", version, 5000) as sender, raw_socket(two, "b") as outside:
        neighbour = (
            f"neighbour replace {two.address('b', version)} lladdr {two.mac('b')} dev {two.interface('a')}"
        )
        ip(two, "a", neighbour)
        for length in range(0, 1400, 20):
            sender.sendto(bytes([length % 256]) * length, (two.address("b", version), 9))
        got = collect(port, 70, is_udp)
        assert [checked(one).transport[8:] for one in got] == [
            bytes([length % 256]) * length for length in range(0, 1400, 20)
        ]
        outside.settimeout(0.05)
        assert heard(outside, 1, b"\x08\0") == []


def test_arp_and_neighbour_discovery_come_out_of_the_ring_too(lab):
    two = lab()
    with open_at(two) as port, udp_socket(two, "a", 4, 5000) as four, udp_socket(two, "a", 6, 5000) as six:
        four.sendto(b"?", (two.address("b", 4), 9))
        (request,) = collect(port, 1, lambda one: one[12:14] == b"\x08\x06")
        assert request[:6] == b"\xff" * 6
        assert request[20:22] == b"\0\1"
        assert request[38:42] == socket.inet_aton(two.address("b"))
        six.sendto(b"?", (two.address("b", 6), 9))
        (request,) = collect(port, 1, is_solicitation)
        assert checked(request).transport[8:24] == addresses(two, 6, "b", "a")[:16]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_large_segments_of_tcp_are_cut_to_the_mtu_and_have_right_checksums(lab, version, mtu):
    """The port is the host's peer: it answers the handshake by hand, and the host sends all that the window allows."""
    two = lab(mtu=mtu, offloads=True)
    ip(two, "a", f"neighbour replace {two.address('b', version)} lladdr {two.mac('b')} dev veth0")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with two.inside("a"):
        client = socket.socket(family, socket.SOCK_STREAM)
    with open_at(two) as port, client:
        client.setblocking(False)
        client.connect_ex((two.address("b", version), 80))
        (syn,) = collect(port, 1, tcp_segment)
        answer = _answer(two, checked(syn).transport, version, mtu)
        port.send([answer])
        assert until(lambda: _connected(client))
        # As much as TCP sends before it has heard anything: ten segments.
        data = bytes(range(256)) * (min(9 * (mtu - 100), 60000) // 256)
        client.send(data)
        seen: dict[int, bytes] = {}
        deadline = time.monotonic() + 20
        while sum(map(len, seen.values())) < len(data) and time.monotonic() < deadline:
            for one in collect(port, 1, tcp_segment, 1):
                transport = checked(one).transport
                payload = transport[(transport[12] >> 4) * 4 :]
                assert len(one) <= mtu + 14
                if payload:
                    seen[int.from_bytes(transport[4:8], "big")] = payload
        assert b"".join(seen[key] for key in sorted(seen)) == data
        assert max(map(len, seen.values())) > mtu - 100


def _answer(two, syn: bytes, version: int, mtu: int) -> bytes:
    """SYN and ACK with a window of 64,000 bytes and the MSS of the MTU."""
    from frame_check import checksum, pseudo_header

    both = addresses(two, version)
    options = struct.pack("!BBH", 2, 4, mtu - (40 if version == 4 else 60))
    ports = syn[2:4] + syn[0:2]
    acknowledged = int.from_bytes(syn[4:8], "big") + 1 & 0xFFFFFFFF
    tcp = ports + struct.pack("!IIBBHHH", 1, acknowledged, 0x60, 0x12, 64000, 0, 0) + options
    tcp = tcp[:16] + checksum(pseudo_header(both, TCP, len(tcp)) + tcp).to_bytes(2, "big") + tcp[18:]
    model = datagram(two, tcp[8:], version)
    start = 14
    if version == 4:
        head = bytearray(model[start : start + 20])
        head[9], head[10:12] = TCP, b"\0\0"
        head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
        return model[:start] + bytes(head) + tcp
    head = bytearray(model[start : start + 40])
    head[6] = TCP
    return model[:start] + bytes(head) + tcp


def _connected(client: socket.socket) -> bool:
    try:
        client.getpeername()
    except OSError:
        return False
    return True


def test_a_burst_that_nobody_reads_in_time_is_counted_to_the_packet(lab):
    two = lab(ipv6=False)
    ip(two, "a", f"neighbour replace {two.address('b')} lladdr {two.mac('b')} dev veth0")
    with open_at(two, slots=64) as port, udp_socket(two, "a", 4, 5000) as sender:
        for _ in range(5000):
            sender.sendto(b"x", (two.address("b"), 9))
        sent = protocol_counters(two)["UdpOutDatagrams"]
        assert sent == 5000
        got = len(collect(port, 5000, lambda one: True, 2))
        assert port.drops() == {"host_queue_full": 5000 - got}
        kernel = link_counters(two, device(two))
        assert kernel["tx_packets"] == got == port.rx[0].packets
        assert kernel["tx_dropped"] == 5000 - got


# -- to the host -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", [4, 6])
def test_what_is_sent_to_the_ring_arrives_at_the_hosts_sockets_and_ip_counts_it(lab, version, way):
    two = lab()
    count = scaled(3000, 100)
    with open_at(two, f"^@host:tx={way}") as port, udp_socket(two, "a", version) as receiver:
        # IPv6 has receivers of its own besides: the other host's neighbour discovery arrives by the NIC.
        name = "IpInReceives" if version == 4 else "Udp6InDatagrams"
        before = protocol_counters(two)[name]
        payloads = [number.to_bytes(4, "big") + bytes(number % 1400) for number in range(count)]
        assert port.send([datagram(two, each, version) for each in payloads], timeout=20) == count
        port.flush()
        assert [receiver.recv(2000) for _ in range(count)] == payloads
        assert protocol_counters(two)[name] - before == count
        assert port.transmits_by == way
        assert port.drops() == {}


@pytest.mark.parametrize("way", WAYS)
def test_a_packet_arrives_on_that_interface_as_what_it_is_for_the_host(lab, way):
    """For this host, for another, for all or for a group: by the interface's address, not by the TAP device's."""
    two = lab(ipv6=False)
    other, group = bytes.fromhex("020000000077"), bytes.fromhex("01005e000001")
    with open_at(two, f"^@host:tx={way}") as port, raw_socket(two, "a") as raw:
        kinds = {None: 0, b"\xff" * 6: 1, group: 2, other: 3}
        for number, (target, kind) in enumerate(kinds.items()):
            port.send([frame(two, number, to=target)])
            port.flush()
            assert heard(raw, 1) == [(kind, frame(two, number, to=target))]


@pytest.mark.parametrize("way", WAYS)
def test_a_packet_for_another_host_does_not_reach_ip_s_users_and_a_wrong_checksum_stays_wrong(lab, way):
    two = lab()
    with open_at(two, f"^@host:tx={way}") as port, udp_socket(two) as receiver:
        before = protocol_counters(two)
        elsewhere = bytes.fromhex("020000000077") + datagram(two, b"not for you")[6:]
        port.send([elsewhere, datagram(two, b"damaged", damage=1), datagram(two, b"right")])
        assert receiver.recv(2000) == b"right"
        after = protocol_counters(two)
        assert after["UdpInCsumErrors"] - before["UdpInCsumErrors"] == 1
        assert after["UdpInDatagrams"] - before["UdpInDatagrams"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_hostile_lengths_are_dropped_by_name_and_the_rest_arrives(lab, way):
    two = lab(ipv6=False)
    with open_at(two, f"^@host:tx={way}") as port, raw_socket(two, "a") as raw:
        lengths = [0, 1, 13, 14, 60, 1514, 1518, 1519, 4000]
        port.send([frame(two, length, length) for length in lengths], timeout=10)
        port.send([frame(two, 77)], timeout=10)
        port.flush()
        assert [len(one) for _, one in heard(raw, 5)] == [14, 60, 1514, 1518, 60]
        assert port.drops() == {"invalid": 3, "too_long": 2}
        assert port.counters()["tx_packets"] == len(lengths) + 1


@pytest.mark.parametrize("way", ["tap", ""])
def test_frames_of_9000_bytes_cross_in_both_directions(lab, way):
    two = lab(mtu=9000)
    with open_at(two, "^" + (f"@host:tx={way}" if way else "")) as port, udp_socket(two) as user:
        payload = bytes(range(256)) * 35
        port.send([datagram(two, payload)] * 50, timeout=10)
        assert [user.recv(9000) for _ in range(50)] == [payload] * 50
        ip(two, "a", f"neighbour replace {two.address('b')} lladdr {two.mac('b')} dev veth0")
        for _ in range(50):
            user.sendto(payload, (two.address("b"), 9))
        assert [checked(one).transport[8:] for one in collect(port, 50, is_udp)] == [payload] * 50


def test_live_frames_that_are_insisted_on_but_cannot_be_had_are_an_error_that_says_why(lab):
    two = lab(mtu=9000)
    with pytest.raises(RacewayError, match="live frames cannot be had: frames of up to 9018 bytes"):
        open_at(two, "^@host:tx=live")
    assert device(two) not in ip(two, "a", "link")


@pytest.mark.parametrize("way", WAYS)
def test_vlan_tags_are_in_the_frame_from_the_host_and_towards_it(lab, way):
    two = lab(vlan=5)
    with open_at(two, f"^@host:tx={way}") as port, udp_socket(two) as user:
        port.send([datagram(two, b"tagged", tag=b"\x81\0\0\5")])
        assert user.recv(100) == b"tagged"
        user.sendto(b"answer", (two.address("b"), 9))
        (request,) = collect(port, 1, lambda one: one[16:18] == b"\x08\x06")
        assert request[12:16] == b"\x81\0\0\5"


@pytest.mark.parametrize("way", WAYS)
def test_what_is_injected_can_be_forwarded_by_the_host(lab, way):
    three = lab("router")
    with three.inside("router"):
        import raceway

        port = raceway.open(f"netmap:to_a^@host:tx={way}")
    with port, udp_socket(three, "b", 4, 2000) as receiver:
        end = three.end("router", "a")
        both = b"".join(socket.inet_aton(three.address(host)) for host in ("a", "b"))
        frames = [_routed(three, end.mac, both, b"%d" % number) for number in range(20)]
        port.send(frames)
        assert [receiver.recv(100) for _ in range(20)] == [b"%d" % number for number in range(20)]


def _routed(three, target: str, both: bytes, payload: bytes) -> bytes:
    from frame_check import checksum

    udp = struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, UDP, 0) + both
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    macs = bytes.fromhex((target + three.mac("a")).replace(":", ""))
    return macs + b"\x08\0" + head + udp


# -- both, and what stays as it was ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_the_kernels_counters_and_the_ports_agree_to_the_packet(lab, way):
    two = lab(ipv6=False)
    ip(two, "a", f"neighbour replace {two.address('b')} lladdr {two.mac('b')} dev veth0")
    outward, inward = scaled(2000, 100), scaled(4000, 200)
    with open_at(two, f"^@host:tx={way}") as port, udp_socket(two) as user:
        for _ in range(outward):
            user.sendto(b"x", (two.address("b"), 9))
        sent = collect(port, outward, lambda one: True)
        port.send([datagram(two, b"%d" % number) for number in range(inward)], timeout=20)
        port.flush()
        for _ in range(inward):
            user.recv(100)
        host, kernel, counted = protocol_counters(two), link_counters(two, device(two)), port.counters()
        assert (
            len(sent) == outward == host["UdpOutDatagrams"] == counted["rx_packets"] == kernel["tx_packets"]
        )
        assert inward == host["UdpInDatagrams"] == host["IpInReceives"] == counted["tx_packets"]
        assert kernel["rx_packets"] == (inward if way == "tap" else 0)
        assert counted["rx_bytes"] == kernel["tx_bytes"] == sum(len(one) for one in sent)
        assert not [name for name in counted if name.startswith("drop")]
        untouched = link_counters(two, "veth0")
        assert untouched["tx_packets"] == untouched["tx_dropped"] == untouched["rx_dropped"] == 0


def test_a_stream_goes_by_live_frames_and_a_trickle_by_the_tap_device_and_order_holds(lab):
    two = lab(ipv6=False)
    bursts, size = scaled(40, 3), scaled(2000, 50)
    with open_at(two, slots=1024) as port, raw_socket(two, "a") as raw:
        raw.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)
        ways, number, got = set(), 0, []
        for burst in range(bursts):
            count = size if burst % 4 else 1
            frames = [frame(two, number + each) for each in range(count)]
            number += count
            port.send(frames, timeout=20)
            ways.add(port.transmits_by)
            port.flush()
            got += [int.from_bytes(one[14:22], "big") for _, one in heard(raw, count)]
        assert got == list(range(number))
        assert "tap" in ways


def test_the_device_says_what_it_is_and_says_nothing_by_itself(lab):
    two = lab()
    with open_at(two) as port:
        shown = ip(two, "a", f"-d link show {device(two)}")
        assert "alias raceway host rings of veth0" in shown
        assert "NOARP" in shown
        assert "addrgenmode none" in shown
        # As a daemon would that talks on every interface.
        with raw_socket(two, "a", device(two)) as raw, pytest.raises(OSError, match="No buffer space"):
            raw.send(b"\xff" * 6 + bytes(6) + KIND + bytes(46))
        with raw_socket(two, "a") as raw:
            raw.send(frame(two, 7, to=b"\xff" * 6))
        assert collect(port, 1, is_experiment) == [frame(two, 7, to=b"\xff" * 6)]
        assert link_counters(two, device(two))["tx_packets"] == port.rx[0].packets


def test_everything_is_as_before_when_the_port_is_closed(lab):
    two = lab()
    before = nature(two)
    with open_at(two) as port:
        assert nature(two)["programs"] == before["programs"] | {"egress": 1}
        port.send([frame(two, 1)])
    assert nature(two) == before
    with udp_socket(two, "a") as one, udp_socket(two, "b") as other:
        one.sendto(b"hello", (two.address("b"), 2000))
        assert other.recv(100) == b"hello"
