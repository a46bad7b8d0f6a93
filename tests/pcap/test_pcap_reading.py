"""Packets of a file come out of the ring with the same bytes, times and lengths, whatever the file's form."""

from __future__ import annotations

import itertools
import os
import random
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import pcap_harness as harness
from pcap_harness import HandRing, Packet, drain, read_file
from raceway.ports.pcap.formats import LINK_NULL_EXPLICIT
from raceway.ports.pcap.reader import CaptureReader

TIME = 1_700_000_000_123_456_789
MICRO = TIME // 1000 * 1000


def several(count: int = 20, time: int = TIME) -> list[Packet]:
    chance = random.Random(count)
    lengths = [0, 1, 14, 60, 63, 64, 65, 512, 513, 1514, 2047, 2048, 2049, 5000]
    return [
        Packet(chance.randbytes(length), time + number * 1_000_000, length, 1)
        for number, length in zip(range(count), itertools.cycle(lengths), strict=False)
    ]


@pytest.mark.parametrize("path", harness.captures())
def test_every_capture_comes_out_as_editcap_sees_it(path: Path, tmp_path: Path) -> None:
    expected = harness.nanosecond_pcap(path, tmp_path / "theirs.pcap")
    assert read_file(path, window=100_000) == expected
    assert read_file(path, slot_count=1100, buffer_size=64) == expected


@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_of_each_byte_order_and_resolution(order: str, nano: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    packets = several(time=TIME if nano else MICRO)
    path.write_bytes(harness.pcap_file(packets, order=order, nano=nano))
    assert read_file(path) == packets
    assert read_file(path) == harness.nanosecond_pcap(path, tmp_path / "theirs.pcap")
    with CaptureReader(path) as reader:
        assert reader.format == "pcap"
        assert reader.link_type == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_of_each_byte_order(order: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    packets = several()
    comment = harness.option(1, b"a comment", order) + harness.option(0, b"", order)
    blocks = [harness.enhanced(packet, packet.time, 0, order, options=comment) for packet in packets]
    described = harness.interface(order, options=harness.resolution(9, order))
    path.write_bytes(harness.section(order) + described + b"".join(blocks))
    assert read_file(path) == packets
    assert read_file(path) == harness.nanosecond_pcap(path, tmp_path / "theirs.pcap")
    with CaptureReader(path) as reader:
        assert reader.format == "pcapng"
        assert reader.link_type == 1


def test_old_pcap_versions_have_their_lengths_swapped(tmp_path: Path) -> None:
    path = tmp_path / "old.pcap"
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 2, 0, 0, 65535, 1)
    path.write_bytes(head + struct.pack("<IIII", 1, 2, 1000, 4) + b"abcd")
    assert read_file(path) == [Packet(b"abcd", 1_000_002_000, 1000, 1)]


def test_frame_check_sequence_bits_are_no_part_of_the_link_type(tmp_path: Path) -> None:
    path = tmp_path / "fcs.pcap"
    path.write_bytes(harness.pcap_file([Packet(b"abcd", MICRO)], link_type=0x14000001))
    assert read_file(path) == [Packet(b"abcd", MICRO, 4, 1)]


def test_simple_packets_are_cut_by_the_interface_and_have_no_time(tmp_path: Path) -> None:
    path = tmp_path / "simple.pcapng"
    path.write_bytes(
        harness.section()
        + harness.interface(snaplen=10)
        + harness.simple(b"abcdef")
        + harness.simple(b"0123456789", 900)
    )
    assert read_file(path) == [Packet(b"abcdef", 0, 6, 1), Packet(b"0123456789", 0, 900, 1)]
    assert [row[1:] for row in harness.tshark_rows(path)] == [(6, 6), (900, 10)]


def test_obsolete_packet_blocks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "obsolete.pcapng"
    for order in "<>":
        packets = several(5, MICRO)
        body = b"".join(harness.obsolete(packet, packet.time // 1000, order=order) for packet in packets)
        path.write_bytes(harness.section(order) + harness.interface(order) + body)
        assert read_file(path) == packets


def test_blocks_without_packets_are_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "others.pcapng"
    strange = [
        harness.block(kind, b"\xff" * length) for kind, length in [(4, 8), (5, 24), (10, 300), (0xBAD, 0)]
    ]
    packets = several(6)
    pieces = [harness.section(), strange[0], harness.interface(options=harness.resolution(9))]
    for packet, other in zip(packets, itertools.cycle(strange)):
        pieces += [other, harness.enhanced(packet, packet.time)]
    path.write_bytes(b"".join(pieces) + strange[1])
    assert read_file(path) == packets
    assert read_file(path, window=64) == packets


def test_interfaces_of_many_kinds_and_sections_of_both_byte_orders(tmp_path: Path) -> None:
    path = tmp_path / "many.pcapng"
    pieces, expected = [], []
    for part, order in enumerate("<><"):
        body = []
        for number, (link_type, exponent) in enumerate([(1, 9), (0, 6), (101, 3), (65535, 0)]):
            body.append(harness.interface(order, link_type, options=harness.resolution(exponent, order)))
            for earlier in range(number + 1):
                link, power = [(1, 9), (0, 6), (101, 3), (65535, 0)][earlier]
                data = bytes([part, number, earlier])
                body.append(harness.enhanced(Packet(data), TIME // 10 ** (9 - power), earlier, order))
                time = TIME // 10 ** (9 - power) * 10 ** (9 - power)
                expected.append(Packet(data, time, 3, link or LINK_NULL_EXPLICIT))
        inside = b"".join(body)
        # Unknown, right, and right for a section that is not the last.
        pieces += [harness.section(order, -1 if part == 0 else len(inside)), inside]
    path.write_bytes(b"".join(pieces))
    for window in (64, 100, 4 << 20):
        assert read_file(path, window=window) == expected
    assert [(time, wire) for time, wire, _ in harness.tshark_rows(path)] == [
        (p.time, p.wire) for p in expected
    ]


def test_more_interfaces_than_the_first_table_holds(tmp_path: Path) -> None:
    path = tmp_path / "interfaces.pcapng"
    count = 500
    described = b"".join(harness.interface(link_type=1 + number) for number in range(count))
    sent = b"".join(harness.enhanced(Packet(b"x"), 1, number) for number in range(count))
    path.write_bytes(harness.section() + described + sent)
    assert [packet.link_type for packet in read_file(path)] == [1 + number for number in range(count)]


def test_longest_packet_goes_through_small_buffers_as_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "long.pcap"
    long = Packet(random.Random(1).randbytes(262_144), TIME, 300_000, 1)
    short = Packet(b"short", TIME, 5, 1)
    path.write_bytes(harness.pcap_file([short, long, short, long, long], nano=True))
    assert read_file(path, slot_count=256) == [short, long, short, long, long]
    # 128 buffers, and the slot that stays empty.
    assert read_file(path, slot_count=129) == [short, long, short, long, long]
    assert read_file(path, slot_count=129, window=64) == [short, long, short, long, long]


def test_packet_that_can_never_fit_is_dropped_by_name_and_its_neighbours_are_not(tmp_path: Path) -> None:
    path = tmp_path / "long.pcapng"
    long, short = Packet(bytes(262_144), TIME, 262_144, 1), Packet(b"short", TIME, 5, 1)
    blocks = [harness.enhanced(packet, TIME) for packet in (short, long, long, short)]
    path.write_bytes(harness.section() + harness.interface(options=harness.resolution(9)) + b"".join(blocks))
    with CaptureReader(path) as reader:
        ring = HandRing(reader.record_address, transmit=False, slot_count=128)
        assert drain(reader, ring) == [short, short]
        assert reader.drops() == {"too_long_for_ring": 2}
        assert reader.records == 4
        assert reader.error is None


def test_chain_waits_until_the_user_has_made_room(tmp_path: Path) -> None:
    path = tmp_path / "wait.pcap"
    path.write_bytes(harness.pcap_file([Packet(b"a"), Packet(bytes(130)), Packet(b"b")]))
    with CaptureReader(path) as reader:
        ring = HandRing(reader.record_address, transmit=False, slot_count=4, buffer_size=64)
        ring.sync()
        assert ring.owned() == 1
        ring.sync()
        assert ring.owned() == 1
        assert not ring.kring.attention
        assert len(ring.take()) == 1
        ring.sync()
        assert ring.owned() == 3
        assert [len(packet.data) for packet in ring.take() + drain_rest(reader, ring)] == [130, 1]


def test_ring_of_two_slots_delivers_everything(tmp_path: Path) -> None:
    path = tmp_path / "two.pcap"
    packets = [packet for packet in several(time=MICRO) if len(packet.data) <= 2048]
    path.write_bytes(harness.pcap_file(packets))
    assert read_file(path, slot_count=2) == packets


def test_file_without_packets_ends_at_once(tmp_path: Path) -> None:
    for name, data in [("a", harness.pcap_file([])), ("b", harness.section()), ("c", harness.section(">"))]:
        path = tmp_path / name
        path.write_bytes(data)
        assert read_file(path) == []
    with CaptureReader(tmp_path / "b") as reader:
        assert reader.link_type is None


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    slot_count=st.integers(2, 40),
    buffer_size=st.sampled_from([64, 65, 100, 256, 2048]),
    window=st.integers(1, 5000),
    form=st.sampled_from(["<pcap", ">pcap", "<pcapng", ">pcapng"]),
)
def test_records_in_the_file_are_delivered_or_dropped_by_name(
    data: st.DataObject, slot_count: int, buffer_size: int, window: int, form: str, tmp_path_factory: Any
) -> None:
    lengths = data.draw(st.lists(st.one_of(st.integers(0, 200), st.integers(0, 6000)), max_size=40))
    seed = data.draw(st.randoms(use_true_random=False))
    packets = [Packet(seed.randbytes(length), 1000 * n, length, 1) for n, length in enumerate(lengths)]
    order = form[0]
    if form.endswith("ng"):
        blocks = [harness.enhanced(packet, packet.time // 1000, 0, order) for packet in packets]
        file = harness.section(order) + harness.interface(order) + b"".join(blocks)
    else:
        file = harness.pcap_file(packets, order=order)
    path = tmp_path_factory.mktemp("conservation") / "a"
    path.write_bytes(file)
    fitting = [packet for packet in packets if -(-len(packet.data) // buffer_size) <= slot_count - 1]
    with CaptureReader(path, window=window) as reader:
        ring = HandRing(reader.record_address, transmit=False, slot_count=slot_count, buffer_size=buffer_size)
        # A user who sometimes takes nothing, and sometimes one.
        assert drain(reader, ring, most=lambda: seed.choice([0, 1, 2, 100])) == fitting
        assert reader.records == len(packets)
        assert reader.drops() == {"too_long_for_ring": len(packets) - len(fitting)}


def test_rewind_reads_the_same_again(tmp_path: Path) -> None:
    for name, file in [
        ("a.pcap", harness.pcap_file(several(time=MICRO))),
        (
            "b.pcapng",
            harness.section(">") + harness.interface(">") + harness.enhanced(Packet(b"a"), 5, 0, ">"),
        ),
    ]:
        path = tmp_path / name
        path.write_bytes(file)
        with CaptureReader(path, window=4096) as reader:
            first = drain(reader)
            for again in (2, 3):
                reader.rewind()
                ring = HandRing(reader.record_address, transmit=False)
                found = []
                while not ring.kring.ended or ring.owned():
                    ring.sync()
                    found += ring.take()
                    if ring.kring.attention:
                        reader.service()
                assert found == first
                assert reader.records == again * len(first)


def test_progress_reaches_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(harness.pcap_file(several(500)))
    size = path.stat().st_size
    with CaptureReader(path, window=10_000) as reader:
        assert reader.progress == (24, size)
        ring = HandRing(reader.record_address, transmit=False)
        last = 0
        while not ring.kring.ended:
            ring.sync()
            ring.take()
            reader.service()
            assert last <= reader.progress[0] <= size
            last = reader.progress[0]
        assert reader.progress == (size, size)


READ_STANDARD_INPUT = """
import pcap_harness, errno
from raceway.ports.pcap.reader import CaptureReader
with CaptureReader("-") as reader:
    assert reader.progress[1] is None
    packets = pcap_harness.drain(reader)
    print(len(packets), sum(len(packet.data) for packet in packets), reader.error)
    try:
        reader.rewind()
    except OSError as error:
        assert error.errno == errno.ESPIPE
        print(error.filename)
"""


def test_standard_input_is_read_and_cannot_be_rewound(tmp_path: Path) -> None:
    packets = several(100)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", READ_STANDARD_INPUT],
        input=harness.pcap_file(packets),
        capture_output=True,
        env=environment,
        check=False,
    )
    total = sum(len(packet.data) for packet in packets)
    assert done.stdout.decode() == f"100 {total} None\nstandard input\n", done.stderr.decode()


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_stream_that_dribbles_gives_each_packet_as_soon_as_it_is_whole(form: str, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    packets = [Packet(b"x" * n, 1_000_000, n, 1) for n in range(1, 6)]
    if form == "pcap":
        pieces = [harness.pcap_file([])] + [harness.pcap_file([packet])[24:] for packet in packets]
    else:
        pieces = [harness.section() + harness.interface()] + [
            harness.enhanced(packet, 1000) for packet in packets
        ]
    ready = [threading.Semaphore(0) for _ in pieces]

    def dribble() -> None:
        with path.open("wb", buffering=0) as out:
            for piece, signal in zip(pieces, ready, strict=True):
                signal.acquire()
                for byte in piece:
                    out.write(bytes([byte]))

    writer = threading.Thread(target=dribble)
    writer.start()
    ready[0].release()
    # Opening needs the header alone; each packet is then sent only after the one before it was delivered.
    with CaptureReader(path) as reader:
        ring = HandRing(reader.record_address, transmit=False)
        found: list[Packet] = []
        for signal in ready[1:]:
            signal.release()
            before = len(found)
            while len(found) == before:
                ring.sync()
                if ring.kring.attention:
                    reader.service()
                    ring.sync()
                found += ring.take()
        writer.join()
        assert found + drain_rest(reader, ring) == packets
        assert reader.error is None


def drain_rest(reader: CaptureReader, ring: HandRing) -> list[Packet]:
    found: list[Packet] = []
    while not ring.kring.ended:
        ring.sync()
        found += ring.take()
        if ring.kring.attention:
            reader.service()
    return found


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.pcap", tmp_path):
        with pytest.raises(OSError, match=path.name):
            CaptureReader(path)
    with pytest.raises(ValueError, match="window"):
        CaptureReader(tmp_path / "nothing.pcap", window=0)
