"""A capture loaded into arrays holds what a ring would have been given."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import pcap_harness as harness
from pcap_harness import Packet, read_file
from raceway.ports import pcap
from raceway.ports.pcap import Capture, CaptureFileError, load_capture
from raceway.ports.pcap.formats import LINK_NULL_EXPLICIT


@pytest.mark.parametrize("path", harness.captures())
def test_arrays_are_what_the_ring_delivers(path: Path) -> None:
    capture = load_capture(path)
    packets = read_file(path)
    assert list(capture) == [packet.data for packet in packets]
    assert capture.timestamps.tolist() == [packet.time for packet in packets]
    assert capture.wire_lengths.tolist() == [packet.wire for packet in packets]
    assert capture.lengths.tolist() == [len(packet.data) for packet in packets]
    assert capture.link_types.tolist() == [packet.link_type % LINK_NULL_EXPLICIT for packet in packets]
    for column in (
        capture.offsets,
        capture.lengths,
        capture.wire_lengths,
        capture.timestamps,
        capture.link_types,
    ):
        assert column.dtype == np.int64
        assert column.shape == (len(packets),)
    assert capture.data.dtype == np.uint8
    assert len(capture.data) == capture.lengths.sum()


def many(count: int) -> bytes:
    return harness.pcap_file([Packet(bytes([n % 251]) * (n % 100), n * 1000) for n in range(count)])


def test_more_than_one_window_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "many.pcap.gz"
    path.write_bytes(gzip.compress(many(3000) + harness.pcap_file([Packet(bytes(262_144))])[24:] * 40, 1))
    capture = load_capture(path)
    assert len(capture) == 3040
    assert capture[2999] == bytes([2999 % 251]) * 99
    assert capture[3039] == bytes(262_144)
    assert len(capture.data) == sum(n % 100 for n in range(3000)) + 40 * 262_144


def test_number_of_packets_can_be_limited(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(many(100) + b"\xff" * 16)
    for count in (0, 1, 99, 100):
        capture = load_capture(path, packets=count)
        assert len(capture) == count
        assert len(capture.data) == sum(n % 100 for n in range(count))
    for wanted in (101, None):
        with pytest.raises(
            CaptureFileError, match=r"found a packet of 4,294,967,295 bytes, expected at most 262,144"
        ):
            load_capture(path, packets=wanted)


def test_empty_captures_have_empty_arrays(tmp_path: Path) -> None:
    for file in (harness.pcap_file([]), harness.section()):
        path = tmp_path / "empty"
        path.write_bytes(file)
        capture = load_capture(path)
        assert len(capture) == len(capture.data) == 0
        assert list(capture) == []


def test_null_link_type_is_zero_in_arrays(tmp_path: Path) -> None:
    path = tmp_path / "null.pcap"
    path.write_bytes(harness.pcap_file([Packet(b"x")], link_type=0))
    assert load_capture(path).link_types.tolist() == [0]


def test_package_exports_its_names() -> None:
    assert isinstance(load_capture, type(test_package_exports_its_names))
    assert pcap.Capture is Capture
    assert pcap.CaptureReader.__name__ == "CaptureReader"
    assert pcap.CaptureWriter.__name__ == "CaptureWriter"
    with pytest.raises(AttributeError, match="no_such"):
        _ = pcap.no_such  # type: ignore[attr-defined]
