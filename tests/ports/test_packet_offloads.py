"""What two hosts say with every offload of veth on, as a packet port delivers it: right checksums, legal sizes."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from conftest import scaled
from frame_check import TCP, UDP, checked, ethernet, internet_sum, ip_header, pseudo_header, tcp_header
from labs import lab as lab, needs_root
from packet_pair import DEVICE, Pair, collect, jumbo_pair as jumbo_pair, pair as pair
from raceway.apps.forwarder.forwarder import Forwarder, Way
from raceway.apps.lab import Lab
from raceway.ports.geometry import Geometry
from raceway.ports.packet.port import PacketPort

pytestmark = needs_root

UDP_SEGMENT = 103  # <linux/udp.h>
PACKET_VNET_HDR = 15  # <linux/if_packet.h>


@contextlib.contextmanager
def talkers(lab: Lab, family: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection from a to b."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with contextlib.ExitStack() as stack:
        with lab.inside("b"):
            server = stack.enter_context(socket.create_server((lab.address("b", family), 5000), family=kind))
        server.settimeout(10)
        with lab.inside("a"):
            client = stack.enter_context(socket.socket(kind, socket.SOCK_STREAM))
        client.settimeout(10)
        client.connect((lab.address("b", family), 5000))
        accepted = stack.enter_context(server.accept()[0])
        accepted.settimeout(10)
        yield client, accepted


def transfer(client: socket.socket, server: socket.socket, data: bytes) -> None:
    """Send data and close, and see that it comes out at the other end."""
    found: list[str] = []

    def take() -> None:
        digest = hashlib.sha256()
        while part := server.recv(1 << 16):
            digest.update(part)
        found.append(digest.hexdigest())

    thread = threading.Thread(target=take)
    thread.start()
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    thread.join(60)
    assert found == [hashlib.sha256(data).hexdigest()]


def overheard(port: PacketPort, work: Callable[[], None]) -> list[bytes]:
    """Do something, and return what a port has received meanwhile."""
    packets: list[bytes] = []
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(work)
        while (batch := port.receive(0.1).to_bytes()) or not doing.done():
            packets += batch
        doing.result()
    return packets


def at_rest(port: PacketPort, packets: list[bytes]) -> dict[str, int]:
    """Take what is left, and return the counters of a moment in which the kernel holds nothing more."""
    while True:
        batch = port.receive(0.1).to_bytes()
        packets += batch
        counted = port.statistics()
        if not batch and counted["taken"] == counted["kernel_packets"]:
            return counted


def stream_of(packets: list[bytes], length: int) -> bytes:
    """The bytes of the one TCP connection in these packets, to port 5000; every packet checked."""
    first, stream = None, bytearray(length)
    for packet in packets:
        found = checked(packet)
        if found.protocol != TCP or found.transport[2:4] != (5000).to_bytes(2, "big"):
            continue
        sequence, flags = int.from_bytes(found.transport[4:8], "big"), found.transport[13]
        if flags & 2:
            first = sequence + 1
        assert first is not None
        payload = found.transport[(found.transport[12] >> 4) * 4 :]
        at = (sequence - first) & 0xFFFFFFFF
        stream[at : at + len(payload)] = payload
    return bytes(stream)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_tcp_of_the_hosts_own_stacks_is_seen_whole_and_right(lab: Any, family: int, mtu: int) -> None:
    two = lab(mtu=mtu)
    data = random.Random(mtu + family).randbytes(scaled(4_000_000, 200_000))
    with two.inside("b"):
        port = PacketPort("netmap:b", two.interface("b"), Geometry(receive_slots=4096), queues=1)
    with port:
        with talkers(two, family) as (client, server):
            packets = overheard(port, lambda: transfer(client, server, data))
        counted = at_rest(port, packets)
        assert port.drops() == {}
        assert max(map(len, packets)) == mtu + 14
        assert stream_of(packets, len(data)) == data
        # Or this has tested nothing: the sender left the cutting to a card.
        assert counted["cut"] > 0
        assert counted["finished"] > 0
        assert len(packets) == counted["taken"] - counted["cut"] + counted["segments"]


@pytest.mark.parametrize("family", [4, 6])
def test_udp_is_right_in_one_datagram_and_cut_into_many(lab: Any, family: int) -> None:
    two = lab()
    address = two.address("b", family)
    payload = random.Random(family).randbytes(20_000)
    with two.inside("b"):
        port = PacketPort("netmap:b", two.interface("b"), Geometry(), queues=1)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with two.inside("a"):
        sender = socket.socket(kind, socket.SOCK_DGRAM)
    with port, sender:
        sender.connect((address, 6000))
        with contextlib.suppress(ConnectionRefusedError):
            for length in (0, 1, 7, 1200):
                sender.send(payload[:length])
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
        with contextlib.suppress(ConnectionRefusedError):
            sender.send(payload)
        packets = collect(port, 64, 1)
        datagrams = [found.transport[8:] for found in map(checked, packets) if found.protocol == UDP]
        whole = [payload[at : at + 1200] for at in range(0, len(payload), 1200)]
        assert datagrams[-len(whole) :] == whole
        assert datagrams[: -len(whole)][0] == b""
        assert port.drops() == {}
        assert port.statistics()["cut"] == 1


# -- frames made by hand, with the work left undone -------------------------------------------------------------


def send_unfinished(pair: Pair, packet: bytes, *, kind: int, size: int, start: int, offset: int = 16) -> None:
    """Give `near` a packet as a virtual machine would: struct virtio_net_hdr says what is left to do."""
    header = start + offset + 2 if not kind else start + 20
    with pair.inside("near"):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with raw:
        raw.setsockopt(263, PACKET_VNET_HDR, 1)
        raw.bind((DEVICE, 0))
        raw.send(struct.pack("=BBHHHH", 1, kind, header, size, start, offset) + packet)


def unfinished_tcp(version: int, tags: tuple[tuple[int, int], ...], payload: bytes) -> tuple[bytes, int]:
    """A TCP packet with the pseudo-header's sum for a checksum, and where its TCP header is."""
    ip = ip_header(version, TCP, 20 + len(payload))
    addresses = ip[12:20] if version == 4 else ip[8:40]
    total = internet_sum(pseudo_header(addresses, TCP, 20 + len(payload)))
    head = ethernet(version, tags) + ip
    return head + tcp_header(1, 0x19, b"", total) + payload, len(head)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "tags", [(), ((0x8100, 0x6007),), ((0x88A8, 9), (0x8100, 8))], ids=["none", "one", "two"]
)
def test_vlan_tags_and_unfinished_work_go_together(
    pair: Pair, version: int, tags: tuple[tuple[int, int], ...]
) -> None:
    payload = random.Random(version).randbytes(5000)
    with pair.open("far") as far:
        packet, start = unfinished_tcp(version, tags, payload[:900])
        send_unfinished(pair, packet, kind=0, size=0, start=start)
        packet, start = unfinished_tcp(version, tags, payload)
        send_unfinished(pair, packet, kind=1 if version == 4 else 4, size=1000, start=start)
        one, *cut = collect(far, 6)
        assert far.drops() == {}
        assert [checked(packet).tags for packet in (one, *cut)] == [tags] * 6
        assert checked(one).transport[20:] == payload[:900]
        assert [checked(packet).transport[20:] for packet in cut] == [
            payload[at : at + 1000] for at in range(0, 5000, 1000)
        ]
        # FIN and PSH in the last one only.
        assert [checked(packet).transport[13] for packet in cut] == [0x10] * 4 + [0x19]


def test_whatever_a_hostile_sender_leaves_undone_nothing_is_lost_uncounted(pair: Pair) -> None:
    dice = random.Random(8)
    shapes = [
        unfinished_tcp(version, tags, bytes(2000)) for version in (4, 6) for tags in ((), ((0x8100, 5),))
    ]
    with pair.inside("near"):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with raw, pair.open("far", Geometry(receive_slots=64), queues=2) as far:
        raw.setsockopt(263, PACKET_VNET_HDR, 1)
        raw.bind((DEVICE, 0))
        sent = taken = 0
        before = pair.counters("far")["rx_packets"]
        for _ in range(scaled(20_000, 500)):
            shape, start = dice.choice(shapes)
            packet = bytearray(shape[: dice.choice((22, 40, start + 20, dice.randrange(22, 1514), 2500))])
            for _ in range(dice.randrange(4)):
                packet[dice.randrange(len(packet))] = dice.randrange(256)
            header = struct.pack(
                "=BBHHHH", dice.randrange(2), dice.choice((0, 0, 1, 4, 5, 0x81)), dice.choice((0, 54, start + 20)),
                dice.choice((1, 8, 100, 536, 1448, 65535)), dice.choice((start, start, 14, dice.randrange(2000))),
                dice.choice((2, 6, 8, 16, 16, 16)),
            )  # fmt: skip
            with contextlib.suppress(OSError):  # The kernel's own checks come first.
                raw.send(header + packet)
                sent += 1
            taken += len(far.receive(0)) if sent % 8 == 0 else 0
        rest: list[bytes] = []
        counted, drops = at_rest(far, rest), far.drops()
        taken += len(rest)
        # (A frame that ends within its tag would be dropped by the stack before any socket sees it.)
        arrived = pair.counters("far")["rx_packets"] - before
        assert counted["kernel_packets"] + counted["kernel_drops"] == arrived > 0
        here = sum(drops.values()) - drops.get("socket", 0)
        assert taken == counted["taken"] - here - counted["cut"] + counted["segments"]
        assert min(counted["cut"], counted["finished"], drops["unsupported_offload"]) > 0


def test_segments_wait_in_the_block_while_the_ring_is_full(jumbo_pair: Pair) -> None:
    payload = random.Random(5).randbytes(60_000)
    # 60 segments of 3 slots, and never more than 3 of them at a time: 2 slots stay free.
    with jumbo_pair.open("far", Geometry(receive_slots=12, buffer_size=512)) as far:
        for _ in range(3):
            packet, start = unfinished_tcp(4, (), payload)
            send_unfinished(jumbo_pair, packet, kind=1, size=1000, start=start)
        packets = collect(far, 180)
        assert [checked(packet).transport[20:] for packet in packets] == 3 * [
            payload[at : at + 1000] for at in range(0, 60_000, 1000)
        ]
        assert far.counters()["rx_bytes"] == sum(map(len, packets))


def test_work_that_is_not_known_here_is_counted_and_not_delivered(lab: Any) -> None:
    two = lab()
    data = random.Random(6).randbytes(300_000)
    for host, number in (("a", 1), ("b", 2)):
        other = two.address("b" if host == "a" else "a")
        for command in (
            f"link add tunnel type vxlan id 1 remote {other} dstport 4789 dev {two.interface(host)}",
            f"addr add 192.168.77.{number}/24 dev tunnel",
            "link set tunnel up",
        ):
            done = two.run(host, ["ip", *command.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no VXLAN here: {done.stderr}")
    with two.inside("b"):
        port = PacketPort("netmap:b", two.interface("b"), Geometry(), queues=1)
        server = socket.create_server(("192.168.77.2", 5000))
    with two.inside("a"):
        client = socket.create_connection(("192.168.77.2", 5000), timeout=10)
    with port, server, client, server.accept()[0] as accepted:
        packets = overheard(port, lambda: transfer(client, accepted, data))
        counted = at_rest(port, packets)
        dropped = port.drops()["unsupported_offload"]
        assert dropped > 0
        assert len(packets) + dropped == counted["taken"]
        for packet in packets:
            found = checked(packet)
            if found.protocol == UDP and found.transport[2:4] == (4789).to_bytes(2, "big"):
                # The tunnel's own packets, down to the TCP inside.
                checked(found.transport[16:])


# -- a bridge of two packet ports -------------------------------------------------------------------------------


@pytest.mark.parametrize("vlan", [0, 7])
@pytest.mark.parametrize(("family", "mtu"), [(4, 1500), (6, 1500), (4, 9000), (6, 9000)])
def test_tcp_crosses_a_bridge_of_packet_ports_unharmed(lab: Any, family: int, mtu: int, vlan: int) -> None:
    line = lab("line", 3, mtu=mtu, vlan=vlan)
    data = random.Random(7).randbytes(scaled(5_000_000, 100_000))
    with line.inside("m"):
        left, right = (PacketPort(f"netmap:{name}", name, Geometry(), queues=1) for name in ("left", "right"))
    with left, right:
        forwarder = Forwarder([Way(left, right), Way(right, left)])
        stop = threading.Event()
        thread = threading.Thread(target=lambda: forwarder.run(lambda _: not stop.is_set()))
        thread.start()
        try:
            with talkers(line, family) as (client, server):
                transfer(client, server, data)
        finally:
            stop.set()
            thread.join()
        assert {**left.drops(), **right.drops()} == {}
        assert left.statistics()["cut"] > 0
        for way, out in ((0, right), (1, left)):
            assert forwarder.counters(way)["sent"] == out.counters()["tx_packets"] == out.statistics()["sent"]
