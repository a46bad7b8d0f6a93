"""What a kernel leaves to the card, and there is none: checksums, segments, VLAN tags.

veth's default offloads are on. What raceway delivers must be what a wire would have carried: right checksums, no
packet longer than the MTU, tags among the bytes; and a kernel that gets it from raceway must accept it.
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading

import pytest

from conftest import scaled
from frame_check import ICMP, ICMPV6, TCP, UDP, checked
from labs import lab as lab, needs_root
from nic_world import collect, features, frame, ip, open_at, until

pytestmark = [needs_root, pytest.mark.root]


class Inspector:
    """Carries packets between two ports, one after the other, and looks at each."""

    def __init__(self, left, right, longest):
        self.ports, self.longest = (left, right), longest
        self.seen: dict[tuple[int, int], int] = {}
        self.tags: set[tuple[tuple[int, int], ...]] = set()
        self.greatest = self.fragments = 0
        self.faults: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        left, right = self.ports
        try:
            while not self._stop.is_set():
                moved = 0
                for source, target in ((left, right), (right, left)):
                    frames = source.receive(0).to_bytes()
                    for one in frames:
                        self._look(one)
                    moved += target.send(frames) if frames else 0
                if not moved:
                    left.wait(0.002)
        except Exception as error:
            self.faults.append(repr(error))

    def _is_fragment(self, one):
        """Of IPv4: its checksum is another one's. Those of IPv6 are a protocol of their own."""
        at = 14
        while one[at - 2 : at] == b"\x81\0":
            at += 4
        return one[at - 2 : at] == b"\x08\0" and int.from_bytes(one[at + 6 : at + 8], "big") & 0x3FFF

    def _look(self, one):
        if self._is_fragment(one):
            self.fragments += 1
            return
        try:
            found = checked(one)
        except AssertionError as fault:
            self.faults.append(f"{fault}: {one[:80].hex()}")
            return
        if found.protocol == TCP:
            self.tags.add(found.tags)
        self.greatest = max(self.greatest, len(one) - 4 * len(found.tags))
        version = one[14 + 4 * len(found.tags)] >> 4 if found.protocol else 0
        self.seen[version, found.protocol] = self.seen.get((version, found.protocol), 0) + 1
        if len(one) - 4 * len(found.tags) > self.longest:
            self.faults.append(f"{len(one)} bytes at an MTU of {self.longest - 14}")


def families(wire):
    """For IPv4 and IPv6: the family, and the address of b."""
    return [(socket.AF_INET, wire.address("b")), (socket.AF_INET6, wire.address("b", 6))]


def transfer(wire, family, address, octets):
    """TCP from a to b through whatever is between; whether the bytes are the same."""
    data = random.Random(octets).randbytes(octets)
    heard = hashlib.sha256()
    with wire.inside("b"):
        server = socket.create_server((address, 5001), family=family)
    with wire.inside("a"):
        client = socket.socket(family, socket.SOCK_STREAM)
    with server, client:

        def serve():
            server.settimeout(60)
            connection, _ = server.accept()
            with connection:
                connection.settimeout(60)
                while part := connection.recv(1 << 16):
                    heard.update(part)
                connection.sendall(heard.digest())

        thread = threading.Thread(target=serve)
        thread.start()
        client.settimeout(60)
        client.connect((address, 5001))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        told = client.recv(64)
        thread.join()
    return told == hashlib.sha256(data).digest()


def datagrams(wire, family, address, sizes):
    """UDP from a to b of these sizes; those that b's kernel has given to its socket."""
    with wire.inside("b"):
        receiver = socket.socket(family, socket.SOCK_DGRAM)
        receiver.bind((address, 5002))
    with wire.inside("a"):
        sender = socket.socket(family, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.settimeout(5)
        got = []
        for size in sizes:
            sender.sendto(random.Random(size).randbytes(size), (address, 5002))
            got.append(receiver.recv(1 << 16))
    return [len(one) for one in got] == sizes and all(
        one == random.Random(len(one)).randbytes(len(one)) for one in got
    )


@pytest.mark.parametrize("vlan", [0, 7], ids=["untagged", "tagged"])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_what_a_kernel_sends_is_whole_and_legal_and_another_kernel_takes_it(lab, mtu, vlan):
    wire = lab(hosts=3, mtu=mtu, vlan=vlan)
    assert features(wire, "a")["tx-checksum-ip-generic"]
    assert features(wire, "a")["tx-tcp-segmentation"]
    with (
        open_at(wire, "m", towards="a") as left,
        open_at(wire, "m", towards="b") as right,
        Inspector(left, right, mtu + 14) as inspector,
    ):
        for family, address in families(wire):
            done = wire.run(
                "a", ["ping", "-c", "2", "-i", "0.1", "-s", "1000", "-W", "5", address], capture_output=True
            )
            assert done.returncode == 0, done.stdout
            assert transfer(wire, family, address, scaled(1_000_000, 30_000))
            # The last one is more than the MTU holds: in fragments, which have no checksum to look at.
            assert datagrams(wire, family, address, [0, 1, 17, 1000, 1001, mtu - 48, 3 * mtu + 1])
    assert inspector.faults == []
    assert {(4, ICMP), (6, ICMPV6), (4, TCP), (6, TCP), (4, UDP), (6, UDP)} <= set(inspector.seen)
    assert inspector.greatest == mtu + 14
    assert inspector.fragments >= 4
    assert inspector.tags == {((0x8100, 7),) if vlan else ()}
    if not vlan:
        assert sum(int(socket.record[0]["finished"]) for socket in left.sockets) > 4


def test_checksums_of_jumbo_packets_are_finished_over_all_their_buffers(lab):
    """With the port's own count of what it finished, so that nobody else has."""
    wire = lab(mtu=9000, ipv6=False)
    ip(wire, "a", f"neigh replace {wire.address('b')} lladdr {wire.mac('b')} dev veth0")
    with wire.inside("a"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with open_at(wire, "b") as port, sender:
        for size in (10, 1700, 1750, 1751, 1752, 1753, 1754, 2000, 3900, 3901, 4100, 8971, 8972):
            sender.sendto(random.Random(size).randbytes(size), (wire.address("b"), 5002))
            (came,) = collect(port, 1, kind=b"\x08\0")
            assert checked(came).transport[8:] == random.Random(size).randbytes(size)
        assert int(port.sockets[0].record[0]["finished"]) == 13


def test_a_wrong_checksum_is_not_made_right(lab):
    """A packet that was spoilt on its way must look so."""
    wire = lab(ipv6=False)
    header = struct.pack("!HHHH", 1, 2, 8 + 20, 0x1234)
    spoilt = (
        bytes.fromhex("020000000002020000000001 0800 4500003000004000401126bb0a0000010a000002")
        + header
        + bytes(20)
    )
    with open_at(wire, "a") as one, open_at(wire, "b") as other:
        one.send([spoilt])
        assert collect(other, 1, kind=b"") == [spoilt]


@pytest.mark.parametrize(
    ("tag", "kept"),
    [((0x8100, 0x0005), "veth0.5"), ((0x8100, 0xEFFE), "veth0.4094")],
    ids=["5", "priority 7, 4094"],
)
@pytest.mark.parametrize("way", ["", "@xdp:rx=memory"])
def test_a_tag_that_a_kernel_keeps_beside_the_packet_is_put_into_it(lab, tag, kept, way):
    """tx-vlan-offload is on at the sender, so no byte of the tag crosses the veth pair."""
    wire = lab(vlan=tag[1] & 0xFFF, ipv6=False)
    assert features(wire, "a")["tx-vlan-hw-insert"]
    assert wire.end("a").addressed == kept
    with open_at(wire, "b", way) as port:
        with wire.inside("a"):
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sender.bind((kept, 3))
        with sender:
            for number, length in enumerate((60, 61, 1514)):
                sender.send(frame(number, length))
        came = collect(port, 3, kind=b"\x81\0")
    assert [one[:12] + one[16:] for one in came] == [frame(0), frame(1, 61), frame(2, 1514)]
    assert {int.from_bytes(one[14:16], "big") & 0xFFF for one in came} == {tag[1] & 0xFFF}


def test_tags_beside_jumbo_packets_too(lab):
    wire = lab(vlan=9, mtu=9000, ipv6=False)
    with open_at(wire, "b") as port:
        with wire.inside("a"):
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sender.bind(("veth0.9", 3))
        with sender:
            for number, length in enumerate((2000, 4000, 9014)):
                sender.send(frame(number, length))
        came = collect(port, 3, kind=b"\x81\0")
    assert [one[:12] + one[16:] for one in came] == [frame(0, 2000), frame(1, 4000), frame(2, 9014)]


def test_a_mode_in_which_tags_may_be_lost_says_so(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "b") as port:
        assert not any("VLAN" in note for note in port.notes)
    with open_at(wire, "b", "@xdp:mode=generic") as port:
        assert any("VLAN tags that are kept beside the packets are lost" in note for note in port.notes)


def test_generic_mode_hands_over_whole_packets_with_right_checksums(lab):
    """Behind the driver segmentation is not switched off at the other end by itself: docs/kernel-ports.md says so."""
    for offloads in (False, None):
        wire = lab(hosts=3, offloads=offloads)
        with (
            open_at(wire, "m", "@xdp:mode=generic", towards="a") as left,
            open_at(wire, "m", "@xdp:mode=generic", towards="b") as right,
            Inspector(left, right, 1514 if offloads is False else 1 << 17) as inspector,
        ):
            for family, address in families(wire):
                assert datagrams(wire, family, address, [0, 1, 1000, 1452])
                if offloads is False:
                    assert transfer(wire, family, address, scaled(1_000_000, 30_000))
        assert inspector.faults == []
        wire.close()


def test_what_is_longer_than_the_mtu_in_generic_mode_is_counted_by_who_will_not_send_it(lab):
    wire = lab(hosts=3, ipv6=False)
    with (
        open_at(wire, "m", "@xdp:mode=generic", towards="a") as left,
        open_at(wire, "m", "@xdp:mode=generic", towards="b") as right,
        Inspector(left, right, 1 << 17) as inspector,
    ):
        with wire.inside("b"):
            server = socket.create_server((wire.address("b"), 5001))
        with wire.inside("a"):
            client = socket.create_connection((wire.address("b"), 5001), timeout=10)
        with server, client:
            # Several segments in one, which nobody cuts.
            client.sendall(bytes(10_000))
            assert until(lambda: right.drops().get("too_long"))
    assert inspector.faults == []
    assert inspector.greatest > 1518


def test_order_of_what_the_kernel_sent_is_kept(lab):
    wire = lab(ipv6=False)
    ip(wire, "a", f"neigh replace {wire.address('b')} lladdr {wire.mac('b')} dev veth0")
    with wire.inside("a"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with open_at(wire, "b") as port, sender:
        for number in range(scaled(900, 60)):
            sender.sendto(struct.pack("!I", number), (wire.address("b"), 7))
        came = collect(port, scaled(900, 60), kind=b"\x08\0")
        assert [int.from_bytes(checked(one).transport[8:12], "big") for one in came] == list(
            range(scaled(900, 60))
        )
