"""Whatever a file says, reading it ends: in its packets, or in its packets up to an error that names the byte."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import pcap_harness as harness
from pcap_harness import HandRing, Packet, drain
from raceway.ports.pcap.formats import CaptureFileError
from raceway.ports.pcap.reader import CaptureReader

PACKETS = [
    Packet(bytes([65 + n]) * length, 1_000_000 * n, length, 1) for n, length in enumerate([3, 60, 0, 130, 8])
]


def small_file(form: str) -> bytes:
    order = form[0]
    if form[1:] == "pcap":
        return harness.pcap_file(PACKETS, order=order)
    options = harness.option(2, b"eth0", order) + harness.resolution(6, order) + harness.option(0, b"", order)
    pieces = [
        harness.section(order, options=harness.option(4, b"by hand", order)),
        harness.interface(order, options=options),
    ]
    pieces += [harness.enhanced(packet, packet.time // 1000, 0, order) for packet in PACKETS[:2]]
    pieces += [harness.block(5, b"statistics..", order), harness.simple(b"simple", 0, order)]
    pieces += [harness.section(order), harness.interface(order)]
    pieces += [harness.enhanced(packet, packet.time // 1000, 0, order) for packet in PACKETS[2:]]
    return b"".join(pieces)


FORMS = ["<pcap", ">pcap", "<pcapng", ">pcapng"]


def read(path: Path, *, window: int = 4096) -> tuple[list[Packet], CaptureFileError | None]:
    """All packets up to the end or the error, which must name a byte of the file."""
    try:
        reader = CaptureReader(path, window=window)
    except CaptureFileError as error:
        check(error, path)
        return [], error
    with reader:
        ring = HandRing(reader.record_address, transmit=False, slot_count=16, buffer_size=256)
        found = drain(reader, ring)
        assert reader.ended
        error = reader.error
        if error is not None:
            assert isinstance(error, CaptureFileError)
            check(error, path)
        return found, error


def check(error: CaptureFileError, path: Path) -> None:
    assert 0 <= error.offset <= path.stat().st_size
    assert error.path == str(path)
    assert error.found
    assert error.expected
    text = str(error)
    assert text.startswith(f"{path}: byte {error.offset:,}")
    assert text.endswith(f"found {error.found}, expected {error.expected}")


@pytest.mark.parametrize("form", FORMS)
def test_file_cut_at_any_length_gives_the_packets_before_and_says_where_it_ends(
    form: str, tmp_path: Path
) -> None:
    path = tmp_path / "cut"
    whole = small_file(form)
    path.write_bytes(whole)
    expected, error = read(path)
    assert error is None
    assert [packet.data for packet in expected if packet.data != b"simple"] == [
        packet.data for packet in PACKETS
    ]
    sound = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found, error = read(path, window=64 if length % 2 else 4096)
        assert found == expected[: len(found)]
        if error is None:
            sound += 1
        else:
            assert "end of the file" in error.found or "empty" in error.found or "the bytes" in error.found
    # Only between two records is a cut file a sound one: behind the header, each packet and each other block.
    assert sound == (5 if form.endswith("pcap") else 10)


MUTATION = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["flip", "set", "absurd", "remove", "repeat"]),
    st.integers(0, 255),
)
ABSURD = [
    0,
    1,
    3,
    4,
    11,
    12,
    15,
    16,
    31,
    32,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    0xFFFFFFFC,
    1 << 24,
    (1 << 24) + 4,
    262_144,
    262_145,
]


def mutate(file: bytes, mutations: list[tuple[float, str, int]]) -> bytes:
    for place, how, value in mutations:
        at = int(place * len(file))
        if how == "flip":
            file = file[:at] + bytes([file[at] ^ (1 << value % 8)]) + file[at + 1 :]
        elif how == "set":
            file = file[:at] + bytes([value]) + file[at + 1 :]
        elif how == "absurd":
            at = at // 4 * 4
            number = struct.pack("<>"[value % 2] + "I", ABSURD[value % len(ABSURD)])
            file = file[:at] + number + file[at + 4 :]
        elif how == "remove":
            file = file[:at] + file[at + value :]
        else:
            file = file[:at] + file[at : at + value] + file[at:]
        if not file:
            break
    return file


@settings(deadline=None, max_examples=400)
@given(
    form=st.sampled_from(FORMS),
    mutations=st.lists(MUTATION, min_size=1, max_size=4),
    window=st.sampled_from([1, 100, 4096]),
)
def test_mutated_file_is_parsed_or_named_wrong(
    form: str, mutations: list[tuple[float, str, int]], window: int, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("mutated") / "m"
    path.write_bytes(mutate(small_file(form), mutations))
    small = read(path, window=window)
    large = read(path, window=1 << 20)
    # The window is the reader's own affair.
    assert small[0] == large[0]
    assert str(small[1]) == str(large[1])


@settings(deadline=None, max_examples=200)
@given(form=st.sampled_from(FORMS), rest=st.binary(max_size=300))
def test_any_bytes_behind_a_header_are_parsed_or_named_wrong(
    form: str, rest: bytes, tmp_path_factory: Any
) -> None:
    header = small_file(form)[: 24 if form.endswith("pcap") else 84]
    path = tmp_path_factory.mktemp("random") / "r"
    path.write_bytes(header + rest)
    read(path)


def test_pieces_of_many_files_in_any_order_never_hang(tmp_path: Path) -> None:
    chance = random.Random(5)
    files = [small_file(form) for form in FORMS]
    path = tmp_path / "pieces"
    for _ in range(100):
        pieces = []
        for _ in range(chance.randrange(2, 8)):
            file = chance.choice(files)
            start = chance.randrange(len(file)) // 4 * 4
            pieces.append(file[start : start + chance.randrange(200)])
        path.write_bytes(chance.choice(files)[:100] + b"".join(pieces))
        read(path, window=chance.choice([1, 4096]))


def error_of(path: Path, file: bytes) -> tuple[int, int, str, str]:
    """How many packets came, and the error's offset and two halves; the error must be there."""
    path.write_bytes(file)
    found, error = read(path)
    assert error is not None
    return len(found), error.offset, error.found, error.expected


def test_each_absurd_number_of_a_pcap_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    good = harness.pcap_file(PACKETS[:1])
    end = len(good)
    absurd = struct.pack("<IIII", 0, 0, 262_145, 262_145) + bytes(300_000)
    assert error_of(path, good + absurd) == (1, end + 8, "a packet of 262,145 bytes", "at most 262,144")
    absurd = struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 10)
    assert error_of(path, good + absurd) == (1, end + 8, "a packet of 4,294,967,295 bytes", "at most 262,144")
    cut = struct.pack("<IIII", 0, 0, 100, 100) + bytes(99)
    assert error_of(path, good + cut) == (
        1,
        end,
        "the end of the file after 115 bytes of a record",
        "116 bytes",
    )
    assert error_of(path, good + b"\0") == (
        1,
        end,
        "the end of the file after 1 bytes of a record",
        "16 bytes",
    )
    assert error_of(path, good[:4] + b"\x03" + good[5:])[1:] == (
        4,
        "version 3.4",
        "a version from 2.0 to 2.4",
    )


def test_each_absurd_number_of_a_pcapng_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    good = harness.section() + harness.interface() + harness.enhanced(PACKETS[0], 0)
    end = len(good)
    header = struct.Struct("<IIIIIII")

    def packet(total: int, number: int, captured: int, size: int, trailer: int | None = None) -> bytes:
        head = header.pack(6, total, number, 0, 0, captured, captured)
        return head + bytes(size - 32) + struct.pack("<I", total if trailer is None else trailer)

    cases = [
        (packet(33, 0, 0, 36), 4, "a block of 33 bytes", "a multiple of 4 from 12 to 16,777,216"),
        (packet(8, 0, 0, 36), 4, "a block of 8 bytes", "a multiple of 4 from 12 to 16,777,216"),
        (packet(0, 0, 0, 36), 4, "a block of 0 bytes", "a multiple of 4 from 12 to 16,777,216"),
        (
            packet(16_777_220, 0, 0, 36),
            4,
            "a block of 16,777,220 bytes",
            "a multiple of 4 from 12 to 16,777,216",
        ),
        (packet(36, 0, 4, 36, 32), 32, "32 as the length at a block's end", "36 as at its beginning"),
        (packet(36, 1, 4, 36), 8, "a packet of interface 1", "one of the 1 described"),
        (packet(36, 0xFFFFFFFF, 4, 36), 8, "a packet of interface 4,294,967,295", "one of the 1 described"),
        (packet(36, 0, 5, 36), 20, "a packet of 5 bytes", "at most 4 in this block"),
        (packet(300_032, 0, 300_000, 300_032), 20, "a packet of 300,000 bytes", "at most 262,144"),
        (packet(400, 0, 368, 400)[:399], 0, "the end of the file after 399 bytes of a record", "400 bytes"),
        (harness.block(6, b"0123"), 4, "a block of 16 bytes", "at least 32 for its type"),
        (harness.block(2, b"0123"), 4, "a block of 16 bytes", "at least 32 for its type"),
        (harness.block(3, b""), 4, "a block of 12 bytes", "at least 16 for its type"),
        (harness.simple(b"01234567", 9), 8, "a packet of 9 bytes", "at most 8 in this block"),
        (harness.section() + harness.simple(b"x"), 36, "a packet of interface 0", "one described before it"),
        (harness.section(version=(2, 0)), 12, "pcapng version 2.0", "1.0 or 1.2"),
        (harness.section(length=-2), 16, "a section of -2 bytes", "a multiple of 4, or -1 for unknown"),
        (harness.section(length=30), 16, "a section of 30 bytes", "a multiple of 4, or -1 for unknown"),
        (harness.section()[:27], 0, "the end of the file after 27 bytes of a record", "28 bytes"),
        (harness.block(1, b""), 4, "a block of 12 bytes", "a multiple of 4 from 20 to 16,777,216"),
        (
            harness.interface()[:-4] + b"\0\0\0\0",
            16,
            "0 as the length at a block's end",
            "20 as at its beginning",
        ),
        (harness.interface(options=b"\1\0\5\0abcd"), 18, "an option of 5 bytes", "at most 4 in this block"),
        (
            harness.interface(options=b"\1\0\xff\xff"),
            18,
            "an option of 65,535 bytes",
            "at most 0 in this block",
        ),
        (harness.interface(options=harness.option(9, b"\6\6")), 16, "an if_tsresol of 2 bytes", "1 byte"),
        (harness.interface(options=harness.option(14, b"\6\6")), 16, "an if_tsoffset of 2 bytes", "8 bytes"),
    ]
    for bad, offset, found, expected in cases:
        assert error_of(path, good + bad) == (1, end + offset, found, expected)
    wrong_magic = harness.section()[:8] + b"abcd" + harness.section()[12:]
    assert error_of(path, good + wrong_magic)[:3] == (1, end + 8, "the bytes 61 62 63 64")


def test_too_many_interfaces_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(harness.section() + harness.interface() * 65_537)
    with CaptureReader(path) as reader:
        assert drain(reader) == []
        assert isinstance(reader.error, CaptureFileError)
        assert reader.error.offset == 28 + 20 * 65_536


@pytest.mark.parametrize(
    ("magic", "what"),
    [
        (b"\x34\xcd\xb2\xa1", "Kuznetzov"),
        (b"\xa1\xb2\xcd\x34", "Kuznetzov"),
        (b"\x28\xb5\x2f\xfd", "zstandard"),
        (b"snoop\0\0\0", "snoop"),
        (b"Hello, world", "48 65 6c 6c"),
        (b"", "an empty file"),
        (b"\xd4\xc3\xb2", "d4 c3 b2"),
        (b"\xd4\xc3\xb2\xa1\2\0", "the end of the file after 6 bytes"),
        (b"\n\r\r\n", "the end of the file after 4 bytes"),
    ],
)
def test_what_is_no_capture_is_refused_by_name(magic: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "strange"
    path.write_bytes(magic + (bytes(100) if len(magic) > 4 and magic[0] in b"sH" else b""))
    found, error = read(path)
    assert found == []
    assert error is not None
    assert what in error.found


def test_sync_after_an_error_only_says_that_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(small_file("<pcap") + b"\0")
    with CaptureReader(path) as reader:
        ring = HandRing(reader.record_address, transmit=False)
        assert len(drain(reader, ring)) == 5
        for _ in range(3):
            reader.service()
            ring.kring.ended = 0
            ring.sync()
            assert ring.kring.ended == 1
            assert ring.owned() == 0
        assert reader.error is not None
