"""What is sent, as Scapy reads it: every checksum right, every range walked in netmap's order."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import pytest

import raceway
from exchange import sent_frames
from raceway.apps.generator.frames import template
from raceway.apps.generator.options import read
from raceway.apps.generator.records import MAGIC_SEQUENCE

layers = pytest.importorskip("scapy.layers.inet")
layers6 = pytest.importorskip("scapy.layers.inet6")
ether = pytest.importorskip("scapy.layers.l2")


def checked(frame: bytes) -> Any:
    """The frame as Scapy's layers, after a look at its lengths and checksums."""
    packet = ether.Ether(frame)
    fresh = ether.Ether(frame)
    ip = fresh[1]
    if packet.type == 0x0800:
        assert packet[1].len == len(frame) - 14
        del ip.chksum
    else:
        assert packet[1].plen == len(frame) - 54
    assert packet[layers.UDP].len == len(frame) - (34 if packet.type == 0x0800 else 54)
    assert packet[layers.UDP].chksum != 0
    del fresh[layers.UDP].chksum
    assert bytes(fresh) == frame
    return packet


@pytest.mark.parametrize("size", [42, 43, 60, 61, 64, 65, 1514, 9001, 65_536])
@pytest.mark.parametrize("version", [4, 6])
def test_template_has_right_lengths_and_checksums(version: int, size: int) -> None:
    size = max(size, 62) if version == 6 else size
    frame = template(read("null:", "tx", sizes=[size], version=version), size)
    assert len(frame) == size
    checked(frame)


def test_plain_frames_are_all_the_template(pipe_name: str) -> None:
    options = read("null:", "tx", sizes=[100])
    frames, report = sent_frames(pipe_name, 2500, sizes=[100])
    assert set(frames) == {template(options, 100)}
    assert (report.packets, report.bytes) == (2500, 250_000)


def test_ranges_walk_source_port_source_address_destination_port_destination_address(pipe_name: str) -> None:
    frames, _ = sent_frames(
        pipe_name, 100, source="10.0.0.254:7-10.0.1.1:9", destination="10.1.0.1:65534-10.1.0.2:65535"
    )
    found = [(p[1].src, p.sport, p[1].dst, p.dport) for p in map(checked, frames)]
    walk = itertools.cycle(
        (source, sport, destination, dport)
        for destination in ("10.1.0.1", "10.1.0.2")
        for dport in (65534, 65535)
        for source in ("10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1")
        for sport in (7, 8, 9)
    )
    assert found == list(itertools.islice(walk, 100))


def test_ipv6_ranges_walk_the_same_way(pipe_name: str) -> None:
    frames, _ = sent_frames(
        pipe_name,
        40,
        version=6,
        sizes=[80],
        source="[2001:db8:1:2:ffff:ffff:ffff:fffe]:1-[2001:db8:1:2:ffff:ffff:ffff:ffff]:2",
        destination="fe80::7fff:ffff:ffff:ffff-fe80::8000:0:0:1",
    )
    found = [(p[1].src, p.sport, p[1].dst, p.dport) for p in map(checked, frames)]
    walk = itertools.cycle(
        (f"2001:db8:1:2:ffff:ffff:ffff:{end}", sport, destination, 1234)
        for destination in ("fe80::7fff:ffff:ffff:ffff", "fe80::8000:0:0:0", "fe80::8000:0:0:1")
        for end in ("fffe", "ffff")
        for sport in (1, 2)
    )
    assert found == [tuple(row) for row in itertools.islice(walk, 40)]


def test_mac_ranges_step_with_every_packet(pipe_name: str) -> None:
    frames, _ = sent_frames(
        pipe_name,
        10,
        source_mac="02:00:00:ff:ff:fe-02:00:01:00:00:00",
        destination_mac="02:00:00:00:00:01-02:00:00:00:00:02",
    )
    packets = list(map(checked, frames))
    sources = ["02:00:00:ff:ff:fe", "02:00:00:ff:ff:ff", "02:00:01:00:00:00"]
    assert [packet.src for packet in packets] == [sources[index % 3] for index in range(10)]
    assert [packet.dst[-1] for packet in packets] == ["1", "2"] * 5


@pytest.mark.parametrize("version", [4, 6])
def test_random_addresses_and_sizes_have_right_checksums(pipe_name: str, version: int) -> None:
    frames, report = sent_frames(
        pipe_name, 400, version=version, sizes=[300, 70], random_source=True, random_destination=True
    )
    packets = list(map(checked, frames))
    assert len({(p[1].src, p.sport) for p in packets}) > 390
    assert len({(p[1].dst, p.dport) for p in packets}) > 390
    sizes = {len(frame) for frame in frames}
    assert min(sizes) >= 70
    assert max(sizes) < 300
    assert len(sizes) > 100
    assert report.bytes == sum(map(len, frames))
    if version == 6:
        assert all(p[1].src.startswith("2001:db8::") for p in packets)


def test_random_source_leaves_the_destination_walking(pipe_name: str) -> None:
    frames, _ = sent_frames(pipe_name, 6, random_source=True, destination="10.1.0.1:1-10.1.0.1:3")
    assert [packet.dport for packet in map(checked, frames)] == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("version", [4, 6])
def test_txseq_numbers_packets_in_network_order(pipe_name: str, version: int) -> None:
    frames, _ = sent_frames(pipe_name, 1500, function="txseq", version=version, sizes=[200, 90])
    for number, frame in enumerate(frames):
        payload = bytes(checked(frame)[layers.UDP].payload)
        assert struct.unpack("!IQ", payload[:12]) == (MAGIC_SEQUENCE, number)


def test_frame_larger_than_a_buffer_is_a_chain(pipe_name: str) -> None:
    frames, report = sent_frames(pipe_name, 30, sizes=[9000], rings="16")
    assert set(frames) == {template(read("null:", "tx", sizes=[9000]), 9000)}
    assert report.bytes == 270_000
    frames, _ = sent_frames(pipe_name, 50, sizes=[5000, 1000], source="10.0.0.1-10.0.0.255")
    assert [checked(frame)[1].src for frame in frames] == [f"10.0.0.{1 + index}" for index in range(50)]


def test_frame_that_no_ring_can_hold_is_refused(pipe_name: str) -> None:
    with pytest.raises(ValueError, match="frames of 9000 bytes take 5 slots"):
        sent_frames(pipe_name, 1, sizes=[9000], rings="4")


def captures() -> list[Path]:
    folder = Path(__file__).parents[1] / "data" / "captures"
    return sorted(path for path in folder.iterdir() if ".pcap" in path.name)


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.name)
def test_file_is_sent_whole_in_order_and_again(pipe_name: str, path: Path) -> None:
    packets = list(raceway.load_capture(path))
    if not packets:
        pytest.skip("the capture has no packets")
    count = min(2 * len(packets) + 1, 3000)
    frames, report = sent_frames(pipe_name, count, file=path)
    assert frames == list(itertools.islice(itertools.cycle(packets), count))
    assert report.packets == count
