"""TCP between the hosts of two namespaces, over TAP ports that raceway joins: whole, or cut; and right either way."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from tap_world import Background, Space, eventually, is_sound, needs_root

import raceway
from conftest import scaled
from raceway.apps.forwarder.forwarder import Forwarder, Way

pytestmark = [pytest.mark.root, needs_root]

FAMILIES = {
    "ipv4": (socket.AF_INET, "10.9.0.1", "10.9.0.2", "/24"),
    "ipv6": (socket.AF_INET6, "fd00::1", "fd00::2", "/64"),
}


@pytest.fixture
def pair():
    """Two namespaces with a TAP port each, as wished for."""
    with ExitStack() as stack:

        def make(options: str = "", family: str = "ipv4", **wishes) -> tuple[Space, Space]:
            _, left, right, size = FAMILIES[family]
            spaces = []
            for name, address, peer in (("left", left, right), ("right", right, left)):
                space = Space(ipv6=family == "ipv6")
                stack.callback(space.end)
                port = space.open(f"tap:{name}{options}", **wishes)
                space.ip(f"address add {address}{size} dev {port.device}")
                # An IPv6 address is there a little later than it was given.
                assert eventually(lambda space=space: not space.ip("address show tentative"))
                # However slow the machine is now, the first that TCP hands over is one piece of many segments.
                space.sysctl("ipv4/tcp_min_tso_segs", "44")
                space.ip(f"route add {peer} dev {port.device} initcwnd 44 initrwnd 44")
                spaces.append(space)
            return spaces[0], spaces[1]

        yield make


def transfer(
    source: Space,
    target: Space,
    size: int,
    *,
    family: str = "ipv4",
    segment: int = 0,
    step: Callable[[], object],
    address: str = "",
) -> None:
    """Send `size` random bytes by TCP from one namespace to the other while `step` is called; the hashes are equal."""
    kind, _, right, _ = FAMILIES[family]
    data = random.Random(size).randbytes(size)
    server, client = target.socket(kind, socket.SOCK_STREAM), source.socket(kind, socket.SOCK_STREAM)
    got = []

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(60)
            digest, count = hashlib.sha256(), 0
            while chunk := connection.recv(1 << 20):
                digest.update(chunk)
                count += len(chunk)
            got.append((count, digest.digest()))

    with server, client, Background(step):
        server.bind((address or right, 5000))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            if segment:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
            client.settimeout(60)
            client.connect((address or right, 5000))
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        finally:
            server.settimeout(1)
            thread.join(60)
    assert got == [(size, hashlib.sha256(data).digest())]


class Wire:
    """Passes packets between ports in Python, and remembers their lengths and whether they were sound."""

    def __init__(self, *ways: tuple[raceway.Port, raceway.Port]) -> None:
        self.ways, self.lengths, self.unsound = ways, Counter(), []

    def step(self) -> None:
        for source, target in self.ways:
            packets = source.receive(timeout=0).to_bytes()
            for packet in packets:
                self.lengths[len(packet)] += 1
                if not is_sound(packet):
                    self.unsound.append(packet)
            target.send(packets, timeout=10)
        if not packets:
            time.sleep(0.0005)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_offload_packets_of_many_segments_cross_whole_and_are_right_packets(pair, family):
    left, right = pair("@tap:offload=on", family)
    a, b = left.ports[0], right.ports[0]
    wire = Wire((a, b), (b, a))
    transfer(left, right, scaled(20_000_000, 1_500_000), family=family, step=wire.step)
    assert wire.unsound == []
    # How many segments the stack puts together grows with the speed of the way, which is slow when interpreted.
    assert max(wire.lengths) > scaled(9000, 2000)
    assert b.segmented > 0
    assert a.drops() == b.drops() == {}
    assert a.mode == "new tap, 1 queue, virtio header, checksum tso4 tso6 ecn"
    # The kernel's own counters: nothing was thrown away on the way.
    for space, name in ((left, "left"), (right, "right")):
        counters, port = space.network.link_counters(name), space.ports[0].counters()
        assert counters["rx_dropped"] == counters["tx_dropped"] == counters["rx_errors"] == 0
        assert (counters["tx_packets"], counters["tx_bytes"]) == (port["rx_packets"], port["rx_bytes"])
        assert (counters["rx_packets"], counters["rx_bytes"]) == (port["tx_packets"], port["tx_bytes"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_without_offload_every_packet_fits_the_mtu_and_is_a_right_packet(pair, family, mtu):
    left, right = pair(f"@tap:mtu={mtu}", family)
    a, b = left.ports[0], right.ports[0]
    wire = Wire((a, b), (b, a))
    transfer(left, right, scaled(5_000_000, 700_000), family=family, step=wire.step)
    assert wire.unsound == []
    assert max(wire.lengths) == mtu + 14
    assert a.drops() == b.drops() == {}


@pytest.mark.parametrize(
    "wishes", [{}, {"buffer_size": 2048, "slots": 1024}], ids=["64 KB", "chains of 2 KB"]
)
@pytest.mark.parametrize("shared", [False, True], ids=["two regions", "one region"])
def test_the_forwarder_joins_two_devices(pair, shared, wishes):
    left, right = pair("@tap:offload=on", **wishes)
    a, b = left.ports[0], right.ports[0]
    if shared:
        b.close()
        b = right.ports[0] = right.open("tap:right@tap:offload=on", region=a.region, **wishes)
        right.ip("address add 10.9.0.2/24 dev right")
    forwarder = Forwarder([Way(a, b), Way(b, a)])
    transfer(left, right, scaled(50_000_000, 1_500_000), step=lambda: forwarder.step(5_000_000))
    counters = forwarder.counters()
    assert counters["taken"] == counters["sent"] == b.counters()["tx_packets"]
    assert counters["sent_bytes"] / counters["sent"] > 1600
    assert a.drops() == b.drops() == {}


def test_segments_keep_the_size_that_their_sender_chose_beyond_the_next_router(pair):
    """left -(whole)- raceway -(whole)- right, a router -(cut)- raceway - far: what the router cuts is no larger than
    left's connection has agreed on, though the MTU on the way would allow more."""
    left, right = pair("@tap:offload=on")
    far = Space()
    try:
        for space, name in ((right, "inner"), (far, "outer")):
            space.open(f"tap:{name}")
        right.ip("address add 10.8.0.1/24 dev inner")
        far.ip("address add 10.8.0.2/24 dev outer")
        right.sysctl("ipv4/ip_forward", "1")
        left.ip("route add 10.8.0.0/24 via 10.9.0.2")
        far.ip("route add 10.9.0.0/24 via 10.8.0.1")
        a, b = left.ports[0], right.ports[0]
        whole = Forwarder([Way(a, b), Way(b, a)])
        cut = Wire((right.ports[1], far.ports[0]), (far.ports[0], right.ports[1]))
        transfer(
            left,
            far,
            scaled(3_000_000, 300_000),
            segment=536,
            address="10.8.0.2",
            step=lambda: (whole.step(1_000_000), cut.step()),
        )
        assert cut.unsound == []
        assert max(cut.lengths) <= 14 + 20 + 20 + 536
        assert b.segmented > 0
    finally:
        far.end()


def test_a_large_packet_with_a_wrong_checksum_is_not_made_right(pair):
    """The kernel of the receiving side finds it: TCP's counter of bad checksums grows, the data arrive all the same."""
    left, right = pair("@tap:offload=on")
    a, b = left.ports[0], right.ports[0]
    spoilt = []

    def step() -> None:
        for source, target in ((a, b), (b, a)):
            packets = source.receive(timeout=0).to_bytes()
            for index, packet in enumerate(packets):
                if len(packet) > 2000 and len(spoilt) < 3:
                    spoilt.append(len(packet))
                    packets[index] = packet[:-1] + bytes([packet[-1] ^ 1])
            target.send(packets, timeout=10)

    transfer(left, right, scaled(5_000_000, 700_000), step=step)
    assert len(spoilt) == 3
    with right.inside():
        told = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    lines = [line.split() for line in told if line.startswith("Tcp:")]
    counted = dict(zip(lines[0], lines[1], strict=True))
    assert int(counted["InCsumErrors"]) == 3


def test_udp_keeps_its_datagrams_apart(pair):
    """Linux lets a sender hand over many datagrams as one (UDP_SEGMENT): they come one by one, offload or not."""
    left, right = pair("@tap:offload=on")
    wire = Wire((left.ports[0], right.ports[0]), (right.ports[0], left.ports[0]))
    receiver = right.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender = left.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender, Background(wire.step):
        receiver.bind(("10.9.0.2", 2000))
        sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
        data = random.Random(1).randbytes(10_500)
        sender.sendto(data, ("10.9.0.2", 2000))
        assert [receiver.recv(20_000) for _ in range(11)] == [
            data[at : at + 1000] for at in range(0, 10_500, 1000)
        ]
    assert wire.unsound == []


def test_large_packets_go_into_a_file_as_right_packets(pair, tmp_path):
    left, right = pair("@tap:offload=on")
    a, b = left.ports[0], right.ports[0]
    path = str(tmp_path / "large.pcapng")
    with raceway.open(f"pcap:{path}", write=True) as file:

        def step() -> None:
            for source, target in ((a, b), (b, a)):
                packets = source.receive(timeout=0).to_bytes()
                target.send(packets, timeout=10)
                file.send(packets)

        transfer(left, right, scaled(3_000_000, 700_000), step=step)
    with raceway.open(f"pcap:{path}", buffer_size=65_536, slots=64) as file:
        packets = [packet for batch in file for packet in batch.to_bytes()]
    assert max(map(len, packets)) > 9000
    assert all(map(is_sound, packets))
