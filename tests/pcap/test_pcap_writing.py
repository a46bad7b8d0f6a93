"""What a transmit ring writes, tshark opens without a complaint, with the same bytes, times and lengths."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import pcap_harness as harness
import raceway
from pcap_harness import HandRing, Packet, feed, read_file, serve
from raceway.ports.pcap.formats import LINK_NULL_EXPLICIT
from raceway.ports.pcap.reader import CaptureReader
from raceway.ports.pcap.writer import CaptureWriter

TIME = 1_700_000_000_123_456_789


def several(count: int = 40, step: int = 1_000_001) -> list[Packet]:
    chance = random.Random(count)
    lengths = [1, 2, 3, 4, 14, 60, 63, 64, 65, 512, 513, 1514, 2047, 2048, 2049, 5000]
    return [
        Packet(chance.randbytes(length), TIME + number * step, length + number % 3, 1)
        for number, length in zip(range(count), itertools.cycle(lengths), strict=False)
    ]


def micro(packets: list[Packet]) -> list[Packet]:
    return [Packet(p.data, p.time // 1000 * 1000, p.wire, p.link_type) for p in packets]


def possible(packets: list[Packet]) -> list[Packet]:
    """Two of the captures say that less was on the wire than was captured, which is not written again."""
    return [Packet(p.data, p.time, max(p.wire, len(p.data)), p.link_type) for p in packets]


def opens_cleanly(path: Path) -> str:
    harness.tool("tshark", "-n", "-r", path)
    return harness.tool("capinfos", path)


@pytest.mark.parametrize("nanosecond", [True, False])
@pytest.mark.parametrize("format", ["pcap", "pcapng"])
def test_written_packets_are_what_wireshark_and_the_reader_see(
    format: str, nanosecond: bool, tmp_path: Path
) -> None:
    path = tmp_path / "w"
    packets = several()
    with CaptureWriter(path, format=format, nanosecond=nanosecond) as writer:
        feed(writer, packets)
        assert writer.packets == len(packets)
        assert sum(writer.drops().values()) == 0
    expected = packets if nanosecond else micro(packets)
    assert read_file(path) == expected
    with CaptureReader(path) as reader:
        assert reader.format == format
    report = opens_cleanly(path)
    assert ("pcapng" in report) == (format == "pcapng")
    assert harness.nanosecond_pcap(path, tmp_path / "theirs") == expected


def test_name_chooses_the_format_unless_told(tmp_path: Path) -> None:
    for name, given_format, format in [
        ("a.pcap", None, "pcap"),
        ("a.pcapng", None, "pcapng"),
        ("a.cap", None, "pcapng"),
        ("b.pcap", "pcapng", "pcapng"),
        ("b.pcapng", "pcap", "pcap"),
    ]:
        with CaptureWriter(tmp_path / name, given_format) as writer:
            assert writer.format == format
        with CaptureReader(tmp_path / name) as reader:
            assert reader.format == format
        opens_cleanly(tmp_path / name)


@pytest.mark.parametrize("path", harness.captures())
@pytest.mark.parametrize("format", ["pcap", "pcapng"])
def test_every_capture_is_the_same_after_a_round_trip(path: Path, format: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with CaptureReader(path) as reader, CaptureWriter(copy, format, reader.link_type or 0) as writer:
        packets = harness.drain(reader)
        feed(writer, packets)
        assert sum(writer.drops().values()) == 0
    # Time 0 is "not known" in a ring; with no clock set, it is written as 0 again.
    assert read_file(copy) == possible(packets)
    if {packet.link_type for packet in packets}.isdisjoint(harness.UNKNOWN_TO_WIRESHARK):
        # editcap reads with what Wireshark reads with; tshark would look into each packet as well, which is not ours.
        theirs, ours = tmp_path / "theirs", tmp_path / "ours"
        assert possible(harness.nanosecond_pcap(path, theirs)) == harness.nanosecond_pcap(copy, ours)


def test_long_packets_are_gathered_from_chains(tmp_path: Path) -> None:
    long = Packet(random.Random(3).randbytes(262_144), TIME, 300_000, 1)
    path = tmp_path / "long.pcapng"
    with CaptureWriter(path) as writer:
        ring = HandRing(writer.record_address, transmit=True, slot_count=160)
        feed(writer, [several(1)[0], long, long], ring)
    assert read_file(path, slot_count=256) == [several(1)[0], long, long]
    assert harness.tshark_rows(path)[1:] == [(TIME, 300_000, 262_144)] * 2


def test_fragments_may_begin_anywhere_in_their_buffers(tmp_path: Path) -> None:
    for offset, piece in [(0, 64), (1, 63), (37, 27), (63, 1), (0, 7)]:
        path = tmp_path / f"{offset}-{piece}"
        packets = [Packet(packet.data[:150], packet.time, packet.wire, 1) for packet in several(60)]
        with CaptureWriter(path) as writer:
            ring = HandRing(writer.record_address, transmit=True, slot_count=200, buffer_size=64)
            feed(writer, packets, ring, offset=offset, piece=piece)
        assert read_file(path) == possible(packets)


def test_unfinished_chain_stays_in_the_ring_until_its_end_comes(tmp_path: Path) -> None:
    path = tmp_path / "chain"
    with CaptureWriter(path) as writer:
        ring = HandRing(writer.record_address, transmit=True, slot_count=8)
        ring.put(Packet(b"whole", TIME))
        ring.put(Packet(b"first, ", TIME + 1), complete=False)
        serve(writer, ring)
        assert (ring.kring.head, writer.packets) == (1, 1)
        ring.put(Packet(b"second, "), complete=False)
        serve(writer, ring)
        assert (ring.kring.head, writer.packets) == (1, 1)
        ring.put(Packet(b"third"))
        serve(writer, ring)
        assert (ring.kring.head, writer.packets) == (4, 2)
    assert read_file(path) == [Packet(b"whole", TIME, 5, 1), Packet(b"first, second, third", TIME + 1, 20, 1)]


def test_chain_longer_than_the_ring_is_dropped_by_name_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "chain"
    with CaptureWriter(path) as writer:
        ring = HandRing(writer.record_address, transmit=True, slot_count=4)
        for _ in range(3):
            assert ring.put(Packet(b"part", TIME), complete=False)
        assert not ring.put(Packet(b"part", TIME), complete=False)
        serve(writer, ring)
        assert ring.owned() == 3
        ring.put(Packet(b"still the same"), complete=False)
        ring.put(Packet(b"its end"))
        ring.put(Packet(b"another", TIME))
        serve(writer, ring)
        assert writer.drops() == {"other_link_type": 0, "bad_link_type": 0, "too_long_for_ring": 1}
        assert ring.kring.dropped == 1
        assert writer.packets == 1
    assert read_file(path) == [Packet(b"another", TIME, 7, 1)]


def test_each_link_type_gets_an_interface_in_pcapng(tmp_path: Path) -> None:
    path = tmp_path / "links"
    kinds = [1, 101, LINK_NULL_EXPLICIT, 113, 1, 101, 147, LINK_NULL_EXPLICIT]
    packets = [Packet(b"%d" % number, TIME + number, 1, kind) for number, kind in enumerate(kinds)]
    with CaptureWriter(path, link_type=113, interface_name="eth0", comment="by hand") as writer:
        feed(writer, packets)
    assert read_file(path) == packets
    with CaptureReader(path) as reader:
        assert reader.link_type == 113
        harness.drain(reader)
        assert [interface.link_type for interface in reader.interfaces] == [113, 1, 101, 0, 147]
        assert [interface.name for interface in reader.interfaces] == ["eth0", "", "", "", ""]
    report = harness.tool("capinfos", path)
    assert "by hand" in report
    assert "Name = eth0" in report


def test_other_link_types_and_impossible_ones_are_dropped_by_name(tmp_path: Path) -> None:
    path = tmp_path / "links.pcap"
    kinds = [1, 101, 0, LINK_NULL_EXPLICIT, 70_000, -1]
    with CaptureWriter(path) as writer:
        ring = feed(writer, [Packet(b"x", TIME, 1, kind) for kind in kinds])
        assert writer.drops() == {"other_link_type": 2, "bad_link_type": 2, "too_long_for_ring": 0}
        assert ring.kring.dropped == 4
        assert writer.packets == 2
    assert len(read_file(path)) == 2


def test_link_type_comes_from_the_packet_then_the_ring_then_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "links"
    with CaptureWriter(path, link_type=10) as writer:
        ring = feed(writer, [Packet(b"a", 1, 1, 12), Packet(b"b", 1, 1, 0)])
        ring.ring.link_type = 11
        feed(writer, [Packet(b"c", 1, 1, 12), Packet(b"d", 1, 1, 0)], ring)
        ring.kring.metadata_used = 0
        feed(writer, [Packet(b"e", 1, 1, 12)], ring)
    assert [packet.link_type for packet in read_file(path)] == [12, 10, 12, 11, 11]


@pytest.mark.parametrize("name", ["again.pcap", "again.pcapng"])
def test_link_type_can_be_chosen_until_something_is_written(tmp_path: Path, name: str) -> None:
    path, other = tmp_path / name, tmp_path / f"other-{name}"
    options = {"snaplen": 99, "nanosecond": False}
    if name.endswith("pcapng"):
        options |= {"interface_name": "eth0", "comment": "by hand"}
    with CaptureWriter(path, link_type=10, **options) as writer:
        address = writer.record_address
        with pytest.raises(ValueError, match="link type 65536: expected 0 to 65,535"):
            writer.be_of_link_type(65_536)
        writer.be_of_link_type(101)
        assert writer.record_address == address
        feed(writer, [Packet(b"a", 1000, 1, 0)])
        with pytest.raises(ValueError, match="has a link type already: 101"):
            writer.be_of_link_type(1)
    # Nothing of the first beginning is in the file: it is the one that a writer of this link type makes.
    with CaptureWriter(other, link_type=101, **options) as writer:
        feed(writer, [Packet(b"a", 1000, 1, 0)])
    assert path.read_bytes() == other.read_bytes()
    with CaptureWriter(path) as writer:
        writer.flush()
        with pytest.raises(ValueError, match="has a link type already: 1"):
            writer.be_of_link_type(101)


@pytest.mark.parametrize("name", ["sent.pcap", "sent.pcapng"])
def test_packets_sent_to_a_port_are_of_the_link_type_chosen_for_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with raceway.open(f"pcap:{path}", write=True) as port:
        port.be_of_link_type(101)
        assert port.link_type == 101
        port.send([b"a", b"b"])
        port.flush()
        assert port.drops() == {}
        with pytest.raises(ValueError, match="has a link type already: 101"):
            port.be_of_link_type(1)
    capture = raceway.load_capture(path)
    assert capture.link_types.tolist() == [101, 101]


def test_time_comes_from_the_packet_then_the_ring_then_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "times"
    with CaptureWriter(path) as writer:
        ring = feed(writer, [Packet(b"a", 0)])
        writer.now = 7
        assert writer.now == 7
        feed(writer, [Packet(b"b", 0), Packet(b"c", 9), Packet(b"d", -9)], ring)
        ring.ring.timestamp = 8
        feed(writer, [Packet(b"e", 0), Packet(b"f", 9)], ring)
        ring.kring.metadata_used = 0
        feed(writer, [Packet(b"g", 9)], ring)
    assert [packet.time for packet in read_file(path)] == [0, 7, 9, 7, 8, 9, 8]


def test_packets_are_cut_to_snaplen_and_keep_their_length_on_the_wire(tmp_path: Path) -> None:
    for format in ("pcap", "pcapng"):
        path = tmp_path / format
        packets = several()
        with CaptureWriter(path, format, snaplen=61, window=1) as writer:
            feed(writer, packets)
            assert writer.cut == sum(len(packet.data) > 61 for packet in packets)
        assert read_file(path) == [Packet(p.data[:61], p.time, p.wire, 1) for p in packets]
        opens_cleanly(path)


def test_length_on_the_wire_is_never_less_than_what_was_captured(tmp_path: Path) -> None:
    path = tmp_path / "w"
    with CaptureWriter(path) as writer:
        ring = feed(writer, [Packet(b"12345", 1, wire) for wire in (0, 4, 5, 6, -1, 0x7FFFFFFF)])
        ring.kring.metadata_used = 0
        feed(writer, [Packet(b"12345", 1, 100)], ring)
    assert [packet.wire for packet in read_file(path)] == [5, 5, 5, 6, 5, 0x7FFFFFFF, 5]


def test_pcap_says_its_latest_second_for_later_ones_and_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "late.pcap"
    with CaptureWriter(path) as writer:
        feed(writer, [Packet(b"a", ((1 << 32) - 1) * 10**9 + 5), Packet(b"b", (1 << 32) * 10**9 + 6)])
        assert writer.timestamps_clamped == 1
    assert [packet.time for packet in read_file(path)] == [(2**32 - 1) * 10**9 + 5, (2**32 - 1) * 10**9 + 6]
    with CaptureWriter(tmp_path / "late.pcapng") as writer:
        feed(writer, [Packet(b"b", (1 << 63) - 1)])
        assert writer.timestamps_clamped == 0
    assert [packet.time for packet in read_file(tmp_path / "late.pcapng")] == [(1 << 63) - 1]


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 9000), max_size=120),
    slot_count=st.integers(12, 60),
    buffer_size=st.sampled_from([1000, 2048]),
    format=st.sampled_from(["pcap", "pcapng"]),
)
def test_full_windows_lose_nothing(
    lengths: list[int], slot_count: int, buffer_size: int, format: str, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("w") / "w"
    packets = [Packet(bytes([n % 256]) * length, n + 1, length, 1) for n, length in enumerate(lengths)]
    with CaptureWriter(path, format, snaplen=9000, window=1) as writer:
        ring = HandRing(writer.record_address, transmit=True, slot_count=slot_count, buffer_size=buffer_size)
        for packet in packets:
            while not ring.put(packet):
                # One sync, and the window written only when it asks: it takes what fits and no more.
                ring.sync()
                if ring.kring.attention:
                    writer.service()
        serve(writer, ring)
        assert ring.kring.head == ring.ring.head
    assert read_file(path) == packets


def test_flushed_file_is_readable_before_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "w"
    writer = CaptureWriter(path)
    try:
        ring = feed(writer, several(5))
        writer.flush()
        assert writer.written == path.stat().st_size
        assert read_file(path) == several(5)
        feed(writer, several(5), ring)
    finally:
        writer.close()
        writer.close()
    assert read_file(path) == several(5) * 2


def test_full_disk_is_an_error_that_names_the_file() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    writer = CaptureWriter("/dev/full")
    ring = HandRing(writer.record_address, transmit=True)
    ring.put(Packet(b"x", 1))
    ring.sync()
    for attempt in (writer.flush, writer.service, writer.close):
        with pytest.raises(OSError, match="/dev/full") as caught:
            attempt()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == "/dev/full"
    writer.close()


FILL = """
import resource, signal, sys
import pcap_harness
from raceway.ports.pcap.writer import CaptureWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
packets = [pcap_harness.Packet(bytes([n]) * 1000, n + 1, 1000, 1) for n in range(200)]
writer = CaptureWriter(sys.argv[1])
ring = pcap_harness.feed(writer, packets)
try:
    writer.flush()
except OSError as error:
    print(error.filename, writer.written)
# Room again: what was not written still is there.
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.close()
print(writer.packets)
"""


def _child(*command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, **options)


def test_nothing_is_lost_when_a_full_disk_has_room_again(tmp_path: Path) -> None:
    path = tmp_path / "w"
    done = _child(sys.executable, "-c", FILL, str(path))
    assert done.stdout.decode() == f"{path} 100000\n200\n"
    assert [packet.data for packet in read_file(path)] == [bytes([n]) * 1000 for n in range(200)]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


STANDARD_OUTPUT = """
import pcap_harness
from raceway.ports.pcap.writer import CaptureWriter
with CaptureWriter("-") as writer:
    pcap_harness.feed(writer, [pcap_harness.Packet(bytes([n]) * 1000, n + 1, 1000, 1) for n in range(200)])
"""


def test_standard_output_is_written_and_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(_child(sys.executable, "-c", STANDARD_OUTPUT).stdout)
    assert len(read_file(path)) == 200
    opens_cleanly(path)


def test_values_that_no_file_can_have_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pcap"
    for wrong, message in [
        ({"format": "snoop"}, "format 'snoop': expected 'pcap' or 'pcapng'"),
        ({"link_type": 65_536}, "link type 65536: expected 0 to 65,535"),
        ({"link_type": -1}, "link type -1"),
        ({"snaplen": 0}, "snaplen 0: expected 1 to 262,144"),
        ({"snaplen": 262_145}, "snaplen 262145"),
        ({"comment": "hello"}, "comment: pcap has no room"),
        ({"format": "pcapng", "comment": "h" * 10_001}, "at most 10,000 bytes"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            CaptureWriter(path, **wrong)  # type: ignore[arg-type]
        assert str(path) in str(caught.value)
        assert not path.exists()
    with pytest.raises(ValueError, match="only read"):
        CaptureWriter(tmp_path / "w.pcap.gz")
    with pytest.raises(OSError, match="nowhere"):
        CaptureWriter(tmp_path / "nowhere" / "w.pcap")


def test_scapy_and_dpkt_read_what_was_written(tmp_path: Path) -> None:
    dpkt = pytest.importorskip("dpkt")
    scapy = pytest.importorskip("scapy.utils")
    packets = several()
    for format in ("pcap", "pcapng"):
        path = tmp_path / format
        with CaptureWriter(path, format) as writer:
            feed(writer, packets)
        with scapy.RawPcapReader(str(path)) as reader:
            assert [data for data, _ in reader] == [packet.data for packet in packets]
        with path.open("rb") as file:
            found = list(dpkt.pcap.UniversalReader(file))
        assert [data for _, data in found] == [packet.data for packet in packets]


def test_a_port_that_writes_counts_each_packet_once_even_those_that_had_to_wait(tmp_path: Path) -> None:
    packets = [bytes(1400)] * 4_000  # More than a window of the writer's holds.
    with raceway.open(f"pcap:{tmp_path / 'w.pcap'}", write=True, slots=4_096) as port:
        ring = port.tx[0]
        for index, packet in enumerate(packets):
            ring.buffer(index)[: len(packet)] = packet
            ring.slots[index]["length"] = len(packet)
        ring.head = ring.cur = len(packets)
        ring.sync()
        assert 0 < ring.packets < len(packets)
        assert ring.bytes == ring.packets * 1400
        port.flush()
        assert port.counters()["tx_packets"] == len(packets)
        assert port.counters()["tx_bytes"] == len(packets) * 1400


def test_windows_written_by_a_thread_make_the_same_file_and_its_failure_is_raised(tmp_path: Path) -> None:
    packets = several(3000)

    def write(path: Path, *, background: bool) -> None:
        with CaptureWriter(path, window=1, background=background) as writer:
            feed(writer, packets)

    write(tmp_path / "a.pcapng", background=False)
    write(tmp_path / "b.pcapng", background=True)
    assert (tmp_path / "a.pcapng").stat().st_size > 1_500_000
    assert (tmp_path / "a.pcapng").read_bytes() == (tmp_path / "b.pcapng").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        write(Path("/dev/full"), background=True)
