"""Compressed captures: read like others, in bounded memory, and a defect is named after everything before it."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import pcap_harness as harness
from pcap_harness import HandRing, Packet, drain, read_file
from raceway.ports.pcap.formats import CaptureFileError
from raceway.ports.pcap.reader import CaptureReader

CHANCE = random.Random(7)
PACKETS = [Packet(CHANCE.randbytes(100), 1_000_000 * n, 100, 1) for n in range(200)]
FILE = harness.pcap_file(PACKETS)


def read_to_error(path: Path) -> tuple[list[Packet], CaptureFileError | None]:
    try:
        reader = CaptureReader(path)
    except CaptureFileError as error:
        return [], error
    with reader:
        found = drain(reader)
        assert reader.error is None or isinstance(reader.error, CaptureFileError)
        return found, reader.error


@pytest.mark.parametrize("name", ["a.pcap.gz", "a.pcap", "a"])
def test_compressed_capture_is_known_by_its_bytes_not_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(FILE))
    assert read_file(path) == PACKETS
    with CaptureReader(path) as reader:
        assert reader.format == "pcap"
        drain(reader)
        size = path.stat().st_size
        assert reader.progress == (size, size)
        reader.rewind()
        assert drain_again(reader) == PACKETS


def drain_again(reader: CaptureReader) -> list[Packet]:
    ring = HandRing(reader.record_address, transmit=False)
    found: list[Packet] = []
    while not ring.kring.ended or ring.owned():
        ring.sync()
        found += ring.take()
        if ring.kring.attention:
            reader.service()
    return found


def test_compressed_pcapng_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng.gz"
    blocks = [harness.enhanced(packet, packet.time // 1000) for packet in PACKETS]
    path.write_bytes(gzip.compress(harness.section() + harness.interface() + b"".join(blocks)))
    assert read_file(path) == PACKETS


def test_members_follow_one_another_and_zeros_may_fill_the_end(tmp_path: Path) -> None:
    path = tmp_path / "members.gz"
    pieces = [FILE[at : at + 777] for at in range(0, len(FILE), 777)]
    members = b"".join(gzip.compress(piece) for piece in pieces)
    path.write_bytes(members)
    assert read_file(path) == PACKETS
    path.write_bytes(members + bytes(1_000_000))
    assert read_file(path) == PACKETS


def test_garbage_behind_the_last_member_is_named_after_all_packets(tmp_path: Path) -> None:
    path = tmp_path / "garbage.gz"
    whole = gzip.compress(FILE)
    path.write_bytes(whole + b"garbage")
    found, error = read_to_error(path)
    assert found == PACKETS
    assert error is not None
    assert len(whole) <= error.offset <= len(whole) + 2
    assert "header" in error.found


def test_truncated_at_any_length_gives_what_was_there_and_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    whole = gzip.compress(FILE)
    best = 0
    for length in [*range(2, 40), *range(40, len(whole), 501), *range(len(whole) - 12, len(whole))]:
        path.write_bytes(whole[:length])
        found, error = read_to_error(path)
        assert found == PACKETS[: len(found)]
        assert error is not None
        # In compressed bytes: the end of the file is where it went wrong.
        assert error.offset == length
        assert not error.decompressed
        assert len(found) >= best
        best = len(found)
    # The last eight bytes are only the check value and the length.
    assert best == len(PACKETS)


def test_one_wrong_bit_loses_nothing_before_it(tmp_path: Path) -> None:
    path = tmp_path / "flipped.gz"
    whole = gzip.compress(FILE)
    for at in range(60, len(whole), 997):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        found, error = read_to_error(path)
        inflater = zlib.decompressobj(wbits=31)
        before = inflater.decompress(whole[: at - 1])
        certain = max(0, (len(before) - 24) // 116)
        assert found[:certain] == PACKETS[:certain]
        assert error is not None
        assert error.offset <= (len(FILE) if error.decompressed else len(whole))


def test_wrong_check_value_is_an_error_behind_the_last_packet(tmp_path: Path) -> None:
    path = tmp_path / "crc.gz"
    whole = gzip.compress(FILE)
    path.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    found, error = read_to_error(path)
    assert found == PACKETS
    assert error is not None
    assert "data check" in error.found
    assert len(whole) - 8 <= error.offset <= len(whole)


def test_malformed_record_is_named_by_its_place_in_the_decompressed_data(tmp_path: Path) -> None:
    path = tmp_path / "bad.gz"
    path.write_bytes(gzip.compress(FILE + b"\xff" * 16))
    found, error = read_to_error(path)
    assert found == PACKETS
    assert error is not None
    assert error.decompressed
    assert error.offset == len(FILE) + 8
    assert str(error).startswith(
        f"{path}: byte {len(FILE) + 8:,} of the decompressed data: found a packet of"
    )


READ_BOMB = """
import sys, resource
from raceway.ports.pcap.reader import CaptureReader
import pcap_harness
reader = CaptureReader(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(int(sys.argv[2])):
    record = reader._record
    record.begin = record.end
    record.needed = 16
    reader.service()
print(record.base, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_gzip_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    deflater = zlib.compressobj(9, wbits=31)
    file = deflater.compress(harness.pcap_file([]))
    mebibyte = bytes(1 << 20)
    file += b"".join(deflater.compress(mebibyte) for _ in range(300)) + deflater.flush()
    path.write_bytes(file)
    assert len(file) < 400_000
    # A process of its own, for its peak of memory; the window is thrown away instead of parsed.
    command = [sys.executable, "-c", READ_BOMB, str(path), "70"]
    environment = {"PYTHONPATH": ":".join([*sys.path, str(Path(__file__).parent)]), "PATH": "/usr/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    place, grown = map(int, done.stdout.split())
    assert place > 200 << 20
    assert grown < 24 << 10, "KiB of memory for a window of 4 MiB"
