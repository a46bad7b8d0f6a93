"""Checksums and segmentation in software, against packets made one by one in plain Python."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest

from conftest import scaled
from frame_check import (
    ADDRESSES,
    ICMPV6,
    TCP,
    UDP,
    addresses_of,
    checked,
    checksum,
    ethernet,
    internet_sum,
    ip_header,
    pseudo_header,
    tcp_header,
    udp_frame,
    udp_header,
)
from raceway.memory.access import copy, store_64
from raceway.memory.jit import entry
from raceway.memory.structures import allocate, structure
from raceway.ports.offload import (
    GSO_TCP4,
    GSO_TCP6,
    GSO_UDP,
    Offload,
    begin_segments,
    complete_checksum,
    finish_checksum,
    next_segment,
)

Task: Any = structure(
    "Task",
    np.dtype([(name, "<i8") for name in (
        "packet", "length", "kind", "size", "start", "offset", "state", "out", "out_size", "lengths", "limit",
    )]),
)  # fmt: skip


@entry
def cut(address: int) -> int:
    """Copy every segment to `out`, one behind the other, and its length to `lengths`; how many, -1: no room."""
    task = Task(address)
    state = Offload(task.state)
    if begin_segments(state, task.packet, task.length, task.kind, task.size, task.start) == 0:
        return 0
    count = 0
    used = 0
    while True:
        if count == task.limit or used + state.length > task.out_size:
            return -1
        copy(task.out + used, state.frame, state.length)
        store_64(task.lengths + 8 * count, state.length)
        used += state.length
        count += 1
        if next_segment(state) == 0:
            return count


@entry
def finish(address: int) -> int:
    task = Task(address)
    return finish_checksum(task.packet, task.length, task.start, task.offset)


@entry
def complete(address: int) -> int:
    task = Task(address)
    return complete_checksum(task.packet, task.length)


GUARD = 64


class Work:
    """A packet in memory of its own, with untouchable bytes before and behind it."""

    def __init__(self, packet: bytes, **fields: int) -> None:
        self.memory = np.full(len(packet) + 2 * GUARD, 0xA5, dtype=np.uint8)
        self.memory[GUARD : GUARD + len(packet)] = np.frombuffer(packet, dtype=np.uint8)
        self.task, self.state = allocate(Task), allocate(Offload)
        self.size = len(packet)
        self.out, self.lengths = np.zeros(1 << 18, dtype=np.uint8), np.zeros(1 << 14, dtype=np.int64)
        values = {
            "packet": self.memory.ctypes.data + GUARD, "length": len(packet), "state": self.state.ctypes.data,
            "out": self.out.ctypes.data, "out_size": len(self.out),
            "lengths": self.lengths.ctypes.data, "limit": len(self.lengths),
        }  # fmt: skip
        for name, value in (values | fields).items():
            self.task[name] = value

    def call(self, function: Any) -> int:
        result: int = function(self.task.ctypes.data)
        assert (self.memory[:GUARD] == 0xA5).all(), "wrote before the packet"
        assert (self.memory[GUARD + self.size :] == 0xA5).all(), "wrote behind the packet"
        return result

    @property
    def packet(self) -> bytes:
        return self.memory[GUARD : GUARD + self.size].tobytes()

    def segments(self) -> list[bytes]:
        count = self.call(cut)
        assert count >= 0
        ends = np.cumsum(self.lengths[:count])
        return [
            self.out[end - length : end].tobytes()
            for end, length in zip(ends, self.lengths[:count], strict=True)
        ]


OPTIONS = bytes.fromhex("0101080a0000000100000002")
DESTINATION_OPTIONS = bytes.fromhex("0600010400000000")


def tcp_segment(
    version: int, payload: bytes, *, sequence: int, flags: int, number: int = 0, options: bytes = OPTIONS,
    tags: tuple[tuple[int, int], ...] = (), extension: bytes = b"", unfinished: bool = False,
) -> bytes:  # fmt: skip
    """A whole TCP packet; `unfinished`: with the sum of its pseudo-header for a checksum, as a sender leaves it."""
    length = 20 + len(options) + len(payload)
    pseudo = pseudo_header(addresses_of(version), TCP, length)
    total = internet_sum(pseudo)
    if not unfinished:
        # The kernel writes 0xffff for a sum of 0, which is the same number.
        total = checksum(pseudo + tcp_header(sequence, flags, options) + payload) or 0xFFFF
    ip = ip_header(version, TCP, length, identification=number, extension=extension)
    return ethernet(version, tags) + ip + tcp_header(sequence, flags, options, total) + payload


FIN, PSH, ACK, CWR = 1, 8, 16, 128
TAGGED = ((0x88A8, 0x2003), (0x8100, 5))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tags", [(), TAGGED[1:], TAGGED], ids=["plain", "tagged", "twice"])
@pytest.mark.parametrize(
    ("length", "size"),
    [
        (4096, 1448),
        (2896, 1448),
        (1449, 1448),
        (1448, 1448),
        (1, 1448),
        (0, 1448),
        (3000, 700),
        (333, 40),
        (50, 1),
    ],
)
def test_tcp_is_cut_into_the_packets_a_card_would_have_sent(
    version: int, tags: tuple[tuple[int, int], ...], length: int, size: int
) -> None:
    payload = random.Random(length).randbytes(length)
    # Sequence and identification run over their ends on the way.
    sequence, number, flags = 0xFFFFFF00, 0xFFFE, FIN | PSH | ACK | CWR
    whole = tcp_segment(
        version, payload, sequence=sequence, flags=flags, number=number, tags=tags, unfinished=True
    )
    start = len(whole) - length - 20 - len(OPTIONS)
    kind = GSO_TCP4 if version == 4 else GSO_TCP6
    expected = []
    for index, at in enumerate(range(0, max(length, 1), size)):
        last = at + size >= length
        expected.append(
            tcp_segment(
                version,
                payload[at : at + size],
                sequence=(sequence + at) & 0xFFFFFFFF,
                flags=flags & ~(0 if index == 0 else CWR) & ~(0 if last else FIN | PSH),
                number=(number + index) & 0xFFFF,
                tags=tags,
            )
        )
    for told in (start, 0):
        assert Work(whole, kind=kind, size=size, start=told).segments() == expected
    for segment in expected:
        checked(segment)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("with_checksum", [True, False], ids=["checksum", "none"])
def test_udp_is_cut_into_datagrams(version: int, with_checksum: bool) -> None:
    payload = random.Random(1).randbytes(3333)
    total = internet_sum(pseudo_header(addresses_of(version), UDP, 8 + len(payload))) if with_checksum else 0
    whole = (
        ethernet(version)
        + ip_header(version, UDP, 8 + len(payload))
        + udp_header(len(payload), total)
        + payload
    )
    segments = Work(whole, kind=GSO_UDP, size=1000, start=0).segments()
    assert [checked(segment).transport[8:] for segment in segments] == [
        payload[at : at + 1000] for at in range(0, 3333, 1000)
    ]
    assert all((checked(segment).transport[6:8] != b"\0\0") == with_checksum for segment in segments)


def test_extension_headers_stay_before_every_segment() -> None:
    payload = bytes(range(200)) * 20
    whole = tcp_segment(6, payload, sequence=1, flags=ACK, extension=DESTINATION_OPTIONS, unfinished=True)
    segments = Work(whole, kind=GSO_TCP6, size=1440, start=54 + 8).segments()
    assert b"".join(checked(segment).transport[32:] for segment in segments) == payload
    assert all(segment[54:62] == DESTINATION_OPTIONS for segment in segments)


def test_packets_of_more_than_64_kb_are_cut_and_lose_their_jumbo_option() -> None:
    payload = random.Random(2).randbytes(100_000)
    # As the kernel makes them: a length of 0, and for IPv6 a hop-by-hop header that says it (RFC 2675).
    jumbo = struct.pack("!BBBBI", TCP, 0, 0xC2, 4, 8 + 32 + len(payload))
    for version, start in ((4, 34), (6, 62)):
        pseudo = pseudo_header(addresses_of(version), TCP, 32 + len(payload) if version == 6 else 0)
        tcp = tcp_header(1, ACK, OPTIONS, internet_sum(pseudo))
        ip = ip_header(version, TCP, 32)
        ip = ip[:2] + b"\0\0" + ip[4:] if version == 4 else ip[:4] + b"\0\0\0" + ip[7:] + jumbo
        kind = GSO_TCP4 if version == 4 else GSO_TCP6
        segments = Work(ethernet(version) + ip + tcp + payload, kind=kind, size=1428, start=start).segments()
        assert b"".join(checked(segment).transport[32:] for segment in segments) == payload
        assert max(map(len, segments)) == 14 + (20 if version == 4 else 40) + 32 + 1428


def test_what_cannot_be_cut_is_refused_and_left_alone() -> None:
    payload = bytes(4000)
    good = tcp_segment(4, payload, sequence=1, flags=ACK, unfinished=True)
    good6 = tcp_segment(6, payload, sequence=1, flags=ACK, unfinished=True)
    fragment = good[:20] + b"\x20\0" + good[22:]
    tunnel = ethernet(4) + ip_header(4, UDP, 8 + 8 + len(good)) + udp_header(8 + len(good)) + bytes(8) + good
    gre = ethernet(4) + ip_header(4, 47, 4 + len(good)) + b"\0\0\x65\x58" + good
    routed = bytes([TCP, 0, 4, 1]) + bytes(4)
    routing = tcp_segment(6, payload, sequence=1, flags=ACK, extension=routed, unfinished=True)
    routing = routing[:20] + bytes([43]) + routing[21:]
    arp = ADDRESSES + b"\x08\x06" + bytes(60)
    cases = [
        (good, GSO_TCP6, 1000, 34), (good6, GSO_TCP4, 1000, 54), (good, GSO_UDP, 1000, 34), (good, 3, 1000, 34),
        (good, GSO_TCP4, 0, 34), (good, GSO_TCP4, -1, 34), (good, GSO_TCP4, 1000, 38), (fragment, GSO_TCP4, 1000, 34),
        (tunnel, GSO_TCP4, 1000, 84), (tunnel, GSO_UDP, 1000, 84), (gre, GSO_TCP4, 1000, 72),
        (routing, GSO_TCP6, 1000, 62), (good[:40], GSO_TCP4, 1000, 34), (good[:33], GSO_TCP4, 1000, 34),
        (good[:13], GSO_TCP4, 1000, 34), (b"", GSO_TCP4, 1000, 0), (arp, GSO_TCP4, 9, 0),
        (good[:46] + b"\xf0" + good[47:90], GSO_TCP4, 1000, 34), (good[:46] + b"\x40" + good[47:], GSO_TCP4, 1000, 34),
    ]  # fmt: skip
    for packet, kind, size, start in cases:
        work = Work(packet, kind=kind, size=size, start=start)
        assert work.call(cut) == 0, (len(packet), kind, size, start)
        assert work.packet == packet


def test_hostile_packets_never_lead_out_of_their_memory() -> None:
    dice = random.Random(3)
    shapes = [
        tcp_segment(4, bytes(600), sequence=1, flags=ACK), tcp_segment(6, bytes(600), sequence=1, flags=ACK),
        tcp_segment(6, bytes(600), sequence=1, flags=ACK, extension=DESTINATION_OPTIONS, tags=TAGGED),
        udp_frame(bytes(600)), udp_frame(bytes(600), 6),
    ]  # fmt: skip
    cuts = 0
    for _ in range(scaled(20_000, 300)):
        packet = bytearray(
            dice.choice(shapes)[: dice.choice((dice.randrange(80), dice.randrange(700), 1000))]
        )
        for _ in range(dice.randrange(6)):
            if packet:
                packet[dice.randrange(min(len(packet), 90))] = dice.randrange(256)
        work = Work(
            bytes(packet), kind=dice.choice((1, 4, 5)), size=dice.choice((1, 7, 100, 1448, 65535)),
            start=dice.choice((0, 0, 34, 54, dice.randrange(65536))), offset=dice.choice((2, 6, 8, 16, 65535)),
        )  # fmt: skip
        cuts += work.call(dice.choice((cut, finish, complete))) > 0
    assert cuts


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 15, 16, 17, 1459, 1460])
def test_an_unfinished_checksum_is_completed_and_a_finished_one_left_alone(version: int, length: int) -> None:
    payload = random.Random(length).randbytes(length)
    right = tcp_segment(version, payload, sequence=5, flags=ACK)
    left = tcp_segment(version, payload, sequence=5, flags=ACK, unfinished=True)
    wrong = right[:-12] + bytes([right[-12] ^ 0x10]) + right[-11:]
    start = 34 if version == 4 else 54
    for packet, changed, expected in ((left, 1, right), (right, 0, right), (wrong, 0, wrong)):
        work = Work(packet)
        assert (work.call(complete), work.packet) == (changed, expected)
    work = Work(left, start=start, offset=16)
    assert (work.call(finish), work.packet) == (1, right)


def test_padding_behind_a_short_packet_is_not_summed() -> None:
    right = tcp_segment(4, b"", sequence=5, flags=ACK, options=b"")
    left = tcp_segment(4, b"", sequence=5, flags=ACK, options=b"", unfinished=True)
    work = Work(left + b"\xee" * 6)
    assert (work.call(complete), work.packet) == (1, right + b"\xee" * 6)


@pytest.mark.parametrize("version", [4, 6])
def test_a_udp_checksum_that_comes_out_as_0_is_sent_as_ffff(version: int) -> None:
    pseudo = pseudo_header(addresses_of(version), UDP, 10)
    # The payload that makes the sum of everything 0xffff.
    payload = checksum(pseudo + udp_header(2)).to_bytes(2, "big")
    head = ethernet(version) + ip_header(version, UDP, 10)
    work = Work(head + udp_header(2, internet_sum(pseudo)) + payload)
    assert work.call(complete) == 1
    assert work.packet == head + udp_header(2, 0xFFFF) + payload


def test_icmpv6_is_completed_and_icmp_has_no_pseudo_header() -> None:
    body = bytes.fromhex("8000") + bytes(2) + b"echo, echo"
    pseudo = pseudo_header(addresses_of(6), ICMPV6, len(body))
    left = body[:2] + internet_sum(pseudo).to_bytes(2, "big") + body[4:]
    work = Work(ethernet(6) + ip_header(6, ICMPV6, len(body)) + left)
    assert work.call(complete) == 1
    checked(work.packet)
    work = Work(ethernet(4) + ip_header(4, 1, len(body)) + left)
    assert work.call(complete) == 0


def test_sctp_gets_its_own_checksum() -> None:
    # RFC 3720, B.4: the CRC32c of 32 bytes of zeros is aa 36 91 8a.
    work = Work(bytes(10) + bytes(32), start=10, offset=8)
    assert work.call(finish) == 1
    assert work.packet == bytes(18) + bytes.fromhex("aa36918a") + bytes(20)


@pytest.mark.parametrize(("start", "offset"), [(50, 16), (65535, 16), (-1, 16), (34, -1), (52, 8), (60, 0)])
def test_a_checksum_outside_of_the_packet_is_refused(start: int, offset: int) -> None:
    work = Work(bytes(60), start=start, offset=offset)
    assert (work.call(finish), work.packet) == (0, bytes(60))
