"""Diverted packets of one flow go back into the host's stack together: what sockets, routers and counters see."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from pathlib import Path

import pytest
from divert_world import firewall_at, firewall_on, not_eleven, settled
from firewall_world import SO_RCVBUFFORCE, received, receiver, send
from tap_world import ones_sum

from labs import lab as lab, needs_root, reaches, until
from raceway import PASS
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]

SO_NO_CHECK = 11


@pytest.mark.parametrize("checksummed", [True, False])
def test_a_stream_stays_in_order_whichever_way_it_goes_back_and_is_counted_exactly(lab, checksummed):
    """Without checksums nothing goes together, and what is too much for one by one goes as live frames."""
    two = lab(ipv6=False)
    count = 20_000
    with firewall_at(two, function=not_eleven) as firewall, receiver(two, 10, size=1 << 26) as ten:
        numbers = (number.to_bytes(4, "big") for number in range(count))
        send(two, 10, *numbers, options=() if checksummed else (SO_NO_CHECK,))
        found = [int.from_bytes(one, "big") for one in received(ten, count)]
        status = settled(firewall)
        assert found == sorted(set(found))
        assert len(found) == status.divert.reinjected
        assert status.divert.diverted == count
        if not checksummed:
            assert status.divert.joined == 0


def capture(two, host: str, towards: str | None = None) -> socket.socket:
    """A socket that sees what arrives at a host's interface."""
    with two.inside(host):
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        one.bind((two.interface(host, towards), 3))
        one.settimeout(0.5)
        return one


def test_what_goes_through_the_hosts_stack_together_leaves_it_as_the_same_packets(lab):
    """A router diverts what a sends and forwards it to b: there it is as a sent it, but for the hop."""
    three = lab("router", offloads=False)
    assert reaches(three, "a", three.address("b"))
    with three.inside("a"):
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind((three.interface("a"), 0))
    ends = bytes.fromhex((three.mac("router", "a") + three.mac("a")).replace(":", ""))
    addresses = {
        version: socket.inet_pton(family, three.address("a", version))
        + socket.inet_pton(family, three.address("b", version))
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6))
    }
    frames = []
    for number in range(60):
        for version in (4, 6):
            for protocol in (6, 17):
                size = 700 if number % 20 != 19 else 33
                payload = os.urandom(size)
                wrong = number in (7, 8, 40)
                at = number // 20 * (700 * 19 + 33) + number % 20 * 700
                frames.append(
                    ends + datagram(version, protocol, addresses[version], number, at, payload, wrong)
                )
    go = threading.Event()

    def waits(packet):
        go.wait(20)
        return PASS

    where = "router", three.interface("router", "a")
    firewall = firewall_on(three, *where, "divert inspector dst port 4000", waits)
    with sender, capture(three, "b") as seen, firewall as wall:
        for frame in frames:
            sender.send(frame)
        assert until(lambda: wall.status().divert.diverted == len(frames))
        go.set()
        status = settled(wall)
        found = []
        with contextlib.suppress(TimeoutError):
            while len(found) < len(frames):
                one = seen.recv(1 << 16)
                if one[12:14] in (b"\x08\x00", b"\x86\xdd") and FOUR_THOUSAND in one[14:64]:
                    found.append(one[14:])
    assert status.divert.reinjected == len(frames) == 240
    assert status.divert.joined > 200

    def of(one: bytes) -> bytes:
        """The flow, and all that the hop leaves as it was."""
        return one[:8] + one[9:10] + one[12:] if one[0] >> 4 == 4 else one[:7] + one[8:]

    for version in (4, 6):
        for protocol in (6, 17):
            place = 9 if version == 4 else 6
            sent_ones = [
                of(one[14:]) for one in frames if one[14] >> 4 == version and one[14 + place] == protocol
            ]
            got = [of(one) for one in found if one[0] >> 4 == version and one[place] == protocol]
            assert got == sent_ones, (version, protocol, len(got))


FOUR_THOUSAND = (3000).to_bytes(2, "big") + (4000).to_bytes(2, "big")


def datagram(
    version: int, protocol: int, addresses: bytes, number: int, at: int, payload: bytes, wrong: bool
) -> bytes:
    """An Ethernet type and an IP packet from port 3000 to 4000; at: TCP's sequence number."""
    if protocol == 17:
        head, field = FOUR_THOUSAND + struct.pack(">HH", 8 + len(payload), 0), 6
    else:
        head, field = FOUR_THOUSAND + struct.pack(">IIBBHHH", at, 9, 0x50, 0x10, 500, 0, 0), 16
    length = len(head) + len(payload)
    right = 0xFFFF - ones_sum(addresses + struct.pack(">II", length, protocol) + head + payload) or 0xFFFF
    head = head[:field] + struct.pack(">H", right ^ wrong) + head[field + 2 :]
    if version == 6:
        return b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, length, protocol, 64) + addresses + head + payload
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, number, 0, 64, protocol, 0) + addresses
    ip = ip[:10] + struct.pack(">H", 0xFFFF - ones_sum(ip)) + ip[12:]
    return b"\x08\x00" + ip + head + payload


def test_a_socket_gets_the_datagrams_that_were_sent_and_the_hosts_udp_counts_them(lab):
    two = lab(ipv6=False)
    texts = [os.urandom(500 if number % 10 else 77) for number in range(600)]
    with receiver(two, 10) as ten, firewall_at(two, function=not_eleven) as firewall:
        before = udp_arrivals(two)
        send(two, 10, *texts)
        assert received(ten, len(texts)) == texts
        status = settled(firewall)
        assert status.divert.reinjected == len(texts) == udp_arrivals(two) - before


def test_apart_is_one_packet_of_the_hosts_for_each(lab):
    two = lab(ipv6=False)
    go = threading.Event()

    def waits(packet):
        go.wait(20)
        return PASS

    with receiver(two, 10) as ten, firewall_at(two, function=waits, apart=True) as firewall:
        texts = [str(number).encode() for number in range(200)]
        send(two, 10, *texts)
        assert until(lambda: firewall.status().divert.diverted == len(texts))
        go.set()
        assert received(ten, len(texts)) == texts
        status = settled(firewall)
        assert (status.divert.reinjected, status.divert.joined) == (len(texts), 0)


def udp_arrivals(two) -> int:
    """Datagrams that b's UDP has delivered."""
    with two.inside("b"):
        rows = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()]
    names, values = (row for row in rows if row[0] == "Udp:")
    return int(values[names.index("InDatagrams")])
