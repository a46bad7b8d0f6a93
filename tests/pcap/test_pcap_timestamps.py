"""Every resolution that pcapng can say becomes nanoseconds, exactly and without overflow."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

import pcap_harness as harness
from pcap_harness import Packet, read_file
from raceway.memory.structures import allocate
from raceway.ports.pcap.blocks import InterfaceDescription
from raceway.ports.pcap.parse import nanoseconds
from raceway.ports.pcap.reader import CaptureReader, _set_clock
from raceway.ports.pcap.records import Interface

LATEST = (1 << 63) - 1
RESOLUTIONS = [*range(20), *(0x80 | bits for bits in range(64))]


def exact(ticks: int, resolution: int, offset: int) -> int | None:
    """The time in whole nanoseconds since 1970, None where signed 64 bits or the years before 1970 are left."""
    second = Fraction(1, 2 ** (resolution & 0x7F)) if resolution & 0x80 else Fraction(1, 10**resolution)
    unshifted = int(ticks * second * 10**9)
    time = unshifted + offset * 10**9
    return time if unshifted <= LATEST and 0 <= time <= LATEST else None


def _call(address: int) -> int:
    state = Interface(address)
    return nanoseconds(Interface(state.link_type), state.snaplen, state.clock)


_entry: list[Any] = []


def converted(ticks: int, resolution: int, offset: int) -> int | None:
    base, exponent = (2, resolution & 0x7F) if resolution & 0x80 else (10, resolution)
    rows = allocate(Interface, 2)
    row: Any = Interface(rows.ctypes.data)
    _set_clock(row, InterfaceDescription(1, 0, base, exponent, offset))
    # The second row brings the arguments: one address is all that a compiled entry takes.
    arguments: Any = Interface(rows.ctypes.data + Interface.size)
    arguments.link_type, arguments.snaplen, arguments.clock = row.address, ticks >> 32, ticks & 0xFFFFFFFF
    if not _entry:
        _entry.append(harness._compiled(_call))
    time = _entry[0](arguments.address)
    assert np.iinfo(np.int64).min <= time <= LATEST
    return time if time >= 0 else None


@settings(deadline=None, max_examples=2000)
@given(
    ticks=st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 62).map(lambda n: (1 << 64) - 1 - n)),
    shift=st.integers(0, 63),
    resolution=st.sampled_from(RESOLUTIONS),
    offset=st.one_of(st.just(0), st.integers(-(1 << 40), 1 << 40), st.integers(-(1 << 63), (1 << 63) - 1)),
)
@example((1 << 64) - 1, 0, 9, 0)
@example((1 << 64) - 1, 0, 10, 0)
@example((1 << 64) - 1, 0, 19, 0)
@example((1 << 64) - 1, 0, 0x80, 0)
@example((1 << 64) - 1, 0, 0x80 | 63, 0)
@example(1 << 63, 0, 9, -9_000_000_000)
@example(LATEST, 0, 9, 1)
def test_conversion_is_exact_or_unknown(ticks: int, shift: int, resolution: int, offset: int) -> None:
    ticks >>= shift
    expected, found = exact(ticks, resolution, offset), converted(ticks, resolution, offset)
    seconds = ticks >> (resolution & 0x7F) if resolution & 0x80 else 0
    if seconds >= LATEST // 10**9 or abs(offset * 10**9) > LATEST:
        # The very last second of 2262 may be given up.
        assert found is None or found == expected
    else:
        assert found == expected


@pytest.mark.parametrize("order", ["<", ">"])
def test_files_of_every_resolution_are_read(order: str, tmp_path: Path) -> None:
    path = tmp_path / "all.pcapng"
    pieces, expected = [harness.section(order)], []
    for number, resolution in enumerate(RESOLUTIONS):
        second = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        ticks = min(int(Fraction(1_234_567_890_123_456_789, 10**9) * second), (1 << 64) - 1)
        options = harness.resolution(resolution, order)
        pieces += [
            harness.interface(order, options=options),
            harness.enhanced(Packet(b"x"), ticks, number, order),
        ]
        expected.append(exact(ticks, resolution, 0))
    path.write_bytes(b"".join(pieces))
    assert [packet.time for packet in read_file(path)] == expected


# Not finer than a nanosecond: there Wireshark's own arithmetic leaves 64 bits (seen in 4.0, at 10^-12).
@pytest.mark.parametrize("resolution", [3, 6, 9, 0x80 | 10, 0x80 | 20])
def test_times_agree_with_tshark(resolution: int, tmp_path: Path) -> None:
    path = tmp_path / "times.pcapng"
    second = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    offset = harness.option(14, (1_000_000_000).to_bytes(8, "little"))
    times = [Fraction(n * 987_654_321_987, 10**6) for n in range(8)]
    blocks = [harness.enhanced(Packet(b"0123456789abcdef"), int(time * second)) for time in times]
    described = harness.interface(options=harness.resolution(resolution) + offset)
    path.write_bytes(harness.section() + described + b"".join(blocks))
    assert [packet.time for packet in read_file(path)] == [row[0] for row in harness.tshark_rows(path)]


def test_time_that_cannot_be_said_is_unknown_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "far.pcapng"
    before_1970 = harness.option(14, (-5).to_bytes(8, "little", signed=True))
    pieces = [
        harness.section(),
        harness.interface(options=harness.resolution(9)),
        harness.interface(options=before_1970),
        harness.enhanced(Packet(b"a"), (1 << 64) - 1),
        harness.enhanced(Packet(b"b"), 7),
        harness.enhanced(Packet(b"c"), 4_999_999, 1),
        harness.enhanced(Packet(b"d"), 5_000_001, 1),
    ]
    path.write_bytes(b"".join(pieces))
    with CaptureReader(path) as reader:
        assert [packet.time for packet in harness.drain(reader)] == [0, 7, 0, 1000]
        assert reader.timestamps_unknown == 2


def test_unbelievable_resolution_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fine.pcapng"
    for resolution in (20, 127, 0x80 | 64, 0xFF):
        path.write_bytes(harness.section() + harness.interface(options=harness.resolution(resolution)))
        with pytest.raises(ValueError, match=r"byte 44: found an if_tsresol of .*, expected at finest"):
            CaptureReader(path)
