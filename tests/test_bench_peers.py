"""The peers' output parsers on recorded output, their process keeper, and the readers on frames built here.

No peer is started: these tests need neither DPDK nor tcpreplay nor root, and measure nothing.
"""

from __future__ import annotations

import ipaddress
import os
import struct
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.peers import FiveTuple, PeerUnavailable, dpkt_match, pinned, read_capture, scapy_match
from bench.peers.libpcap import FilterResult, parse_filter_result
from bench.peers.memif import _measurement as memif_measurement, parse_port_statistics
from bench.peers.namespaces import parse_received
from bench.peers.process import Console, run, shown
from bench.peers.replay import parse_replay_report
from bench.peers.ring import _measurement as ring_measurement, elements_per_second, parse_ring_report
from bench.peers.ring_loop import parse_ring_loop
from bench.peers.versions import (
    parse_cpu_model,
    parse_dpdk_version,
    parse_libpcap_version,
    parse_tcpreplay_version,
)

# dpdk-test of DPDK 22.11.11 with --log-level=lib.eal:debug, shortened.
RING_22_11 = """\
EAL: TSC frequency is ~2600000 KHz
APP: HPET is not enabled, using TSC as default timer
RTE>>ring_perf_autotest

### Testing single element enq/deq ###
legacy APIs: SP/SC: single: 16.96
legacy APIs: MP/MC: single: 41.10

### Testing bulk enq/deq ###
legacy APIs: SP/SC: bulk (size: 8): 35.98
legacy APIs: SP/SC: bulk (size: 32): 75.51

### Testing using two physical cores ###
legacy APIs: SP/SC: bulk (size: 8): 12.26
legacy APIs: MP/MC: bulk (size: 8): 30.56
legacy APIs: SP/SC: bulk (size: 32): 6.69
legacy APIs: MP/MC: bulk (size: 32): 10.01

### Testing using all worker nodes ###

Bulk enq/dequeue count on size 8
Core [0] count = 575786
Total count (size: 8): 1152374

### Testing bulk enq/deq ###
elem APIs: element size 16B: SP/SC: bulk (size: 8): 35.94
elem APIs: element size 16B: SP/SC: bulk (size: 32): 75.92

### Testing empty bulk deq ###
elem APIs: element size 16B: SP/SC: bulk (size: 8): 6.53

### Testing using two physical cores ###
elem APIs: element size 16B: SP/SC: bulk (size: 8): 13.49
elem APIs: element size 16B: MP/MC: bulk (size: 8): 33.43
elem APIs: element size 16B: SP/SC: bulk (size: 32): 7.19
elem APIs: element size 16B: MP/MC: bulk (size: 32): 11.07

### Testing using all worker nodes ###
Test OK
""".splitlines()

# The form that later releases print.
RING_LATER = """\
### Testing using two physical cores ###
elem APIs (size:16B) - SP/SC - bulk (n:8  ) - cycles per elem: 13.490
elem APIs (size:16B) - SP/SC - bulk (n:128) - cycles per elem: 3.250
elem APIs (size:16B) - SP/SC - single - cycles per elem: 9.125
""".splitlines()

# dpdk-testpmd of DPDK 22.11.11, `show port stats all`.
PORT_STATISTICS = """
  ######################## NIC statistics for port 0  ########################
  RX-packets: 136661120  RX-missed: 3          RX-bytes:  8746311680
  RX-errors: 2
  RX-nombuf:  1         
  TX-packets: 0          TX-errors: 0          TX-bytes:  0

  Throughput (since last show)
  Rx-pps:     30362154          Rx-bps:  15545422896
  Tx-pps:            0          Tx-bps:            0
  ############################################################################
"""  # noqa: W291

# tcpreplay 4.4.3.
REPLAY = """\
Actual: 1021501 packets (322283539 bytes) sent in 2.00 seconds
Rated: 161077016.5 Bps, 1288.61 Mbps, 510545.26 pps
Statistics for network device: near
\tSuccessful packets:        1021499
\tFailed packets:            2
\tTruncated packets:         0
\tRetried packets (ENOBUFS): 0
\tRetried packets (EAGAIN):  0
"""


def test_ring_lines_are_told_apart_by_section_api_and_threads() -> None:
    report = parse_ring_report(RING_22_11)
    assert report.between_cores(16) == {8: 13.49, 32: 7.19}
    assert report.between_cores(None) == {8: 12.26, 32: 6.69}
    assert report.tsc_hertz == 2.6e9
    assert report.ended


def test_ring_lines_of_later_releases_are_read_too() -> None:
    report = parse_ring_report(RING_LATER)
    assert report.between_cores(16) == {8: 13.49, 128: 3.25}
    assert [line.batch for line in report.lines if line.operation == "single"] == [1]
    assert not report.ended
    assert report.tsc_hertz is None


def test_ring_output_cut_off_before_the_16_byte_section_has_no_figure() -> None:
    report = parse_ring_report(RING_22_11[: RING_22_11.index("### Testing using all worker nodes ###")])
    assert report.between_cores(None) == {8: 12.26, 32: 6.69}
    with pytest.raises(PeerUnavailable, match="two physical cores"):
        ring_measurement(report, 32, (0, 1), "")


def test_ring_rate_takes_the_printed_cycles_as_the_sum_of_two_cores() -> None:
    assert elements_per_second(cycles=8.0, tsc_hertz=2e9) == 5e8
    measured = ring_measurement(parse_ring_report(RING_22_11), 32, (0, 1), "")
    assert measured.value == pytest.approx(2 * 2600 / 7.19)
    assert measured.unit == "million elements/s"


def test_ring_bulk_size_that_the_build_lacks_is_named_with_those_that_it_has() -> None:
    with pytest.raises(PeerUnavailable, match="no bulk size 128, only 8, 32"):
        ring_measurement(parse_ring_report(RING_22_11), 128, (0, 1), "")


def test_ring_without_a_logged_tsc_frequency_has_no_rate() -> None:
    with pytest.raises(PeerUnavailable, match="TSC frequency"):
        ring_measurement(parse_ring_report(RING_LATER), 128, (0, 1), "")


def test_ring_loop_line_is_read_and_anything_else_refused() -> None:
    line = "EAL: noise\nelements 392364032 seconds 0.500104490 tsc_hertz 2596122442 preempted 3\n"
    assert parse_ring_loop(line) == (392364032, 0.50010449, 2596122442.0, 3)
    with pytest.raises(PeerUnavailable, match="no result line"):
        parse_ring_loop("an element came out of its order\n")


def test_port_statistics_are_read_by_name() -> None:
    fields = parse_port_statistics(PORT_STATISTICS)
    assert (fields["RX-packets"], fields["RX-missed"], fields["RX-errors"], fields["RX-nombuf"]) == (
        136661120,
        3,
        2,
        1,
    )
    assert (fields["Rx-pps"], fields["Tx-pps"]) == (30362154, 0)


def test_memif_figure_is_the_receivers_rate_with_losses_in_the_interval_named() -> None:
    before = {"RX-packets": 1000, "RX-missed": 5, "Rx-pps": 0}
    after = {"RX-packets": 31000, "RX-missed": 7, "Rx-pps": 10100}
    measured = memif_measurement(before, after, 3.0, True, "")
    assert measured.value == 10100
    assert measured.detail["packets/s by counters"] == 10000
    assert measured.detail["RX-missed"] == 2


def test_memif_run_whose_two_clocks_disagree_is_refused() -> None:
    with pytest.raises(PeerUnavailable, match="not a clean run"):
        memif_measurement({"RX-packets": 0}, {"RX-packets": 30000, "Rx-pps": 20000}, 3.0, True, "")


def test_memif_run_in_which_nothing_arrived_is_refused() -> None:
    with pytest.raises(PeerUnavailable, match="no packet"):
        memif_measurement({"RX-packets": 9}, {"RX-packets": 9, "Rx-pps": 0}, 3.0, True, "")


def test_replay_summary_is_read_with_its_failures() -> None:
    report = parse_replay_report(REPLAY)
    assert (report.packets, report.seconds, report.rate) == (1021501, 2.0, 510545.26)
    assert (report.successful, report.failed, report.truncated) == (1021499, 2, 0)


def test_replay_without_a_summary_is_refused_with_its_last_words() -> None:
    with pytest.raises(PeerUnavailable, match="no such device"):
        parse_replay_report("Fatal Error: no such device: near\n")


def test_interface_statistics_are_read_and_anything_else_refused() -> None:
    assert (
        parse_received('[{"ifname":"far","stats64":{"rx":{"bytes":60,"packets":7},"tx":{"packets":1}}}]') == 7
    )
    for broken in ("", "[]", "[{}]", '{"stats64": 1}'):
        with pytest.raises(PeerUnavailable, match="not of the form"):
            parse_received(broken)


def test_libpcap_line_is_read_and_anything_else_refused() -> None:
    line = "packets 751 repeats 100 matches 700 mean_ns 15.783 best_ns 15.670 instructions 20\n"
    assert parse_filter_result(line) == FilterResult(751, 100, 700, 15.783, 15.67, 20)
    with pytest.raises(PeerUnavailable, match="no result line"):
        parse_filter_result("packets 751\n")


def test_versions_are_found_in_what_the_programs_say() -> None:
    assert (
        parse_dpdk_version("EAL: Detected NUMA nodes: 1\nEAL: RTE Version: 'DPDK 22.11.11'\n") == "22.11.11"
    )
    assert parse_tcpreplay_version("tcpreplay version: 4.4.3 (build git:v4.4.3) (debug)\n") == "4.4.3"
    assert parse_libpcap_version("libpcap version 1.10.3 (with TPACKET_V3)") == "1.10.3"
    assert parse_cpu_model("processor\t: 0\nmodel name\t: AMD EPYC \nmodel name\t: other\n") == "AMD EPYC"
    assert parse_dpdk_version("") is None
    assert parse_tcpreplay_version("") is None
    assert parse_libpcap_version("") is None
    assert parse_cpu_model("processor\t: 0\n") is None


def test_shown_command_has_no_path_of_the_machine() -> None:
    assert (
        shown(["/usr/bin/tcpreplay", "--intf1=near", "/some where/a.pcap"]) == "tcpreplay --intf1=near a.pcap"
    )


def test_pinning_to_a_cpu_that_is_not_ours_is_refused() -> None:
    assert pinned(None) == []
    with pytest.raises(PeerUnavailable, match="cannot pin to CPU 99999"):
        pinned(99999)


def test_program_that_does_not_end_is_killed_after_its_time() -> None:
    began = time.monotonic()
    with pytest.raises(PeerUnavailable, match=r"sleep had not ended after 0\.2 s"):
        run(["sleep", "60"], timeout=0.2)
    assert time.monotonic() - began < 30


def test_program_that_fails_is_unavailable_with_its_last_words() -> None:
    with pytest.raises(PeerUnavailable, match="status 3: no such port"):
        run(["sh", "-c", "echo no such port >&2; exit 3"], timeout=30)
    with pytest.raises(PeerUnavailable):
        run(["/nonexistent/program"], timeout=30)


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_closed_console_takes_the_programs_children_with_it() -> None:
    with Console(["sh", "-c", "sleep 600 & echo child $!; read line; echo got $line; wait"]) as console:
        child = int(console.wait_for(r"child (\d+)\n", 30)[1])
        console.send("hello")
        assert console.wait_for(r"got (\w+)\n", 30)[1] == "hello"
        assert _is_running(child)
    assert console.process.returncode is not None
    deadline = time.monotonic() + 30
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_running(child)


def test_console_that_ends_or_stays_silent_says_what_was_awaited() -> None:
    with (
        Console(["sh", "-c", "echo goodbye"]) as console,
        pytest.raises(PeerUnavailable, match=r"ended before 'prompt': goodbye"),
    ):
        console.wait_for("prompt", 30)
    with (
        Console(["sleep", "600"]) as console,
        pytest.raises(PeerUnavailable, match="did not come to 'prompt'"),
    ):
        console.wait_for("prompt", 0.1)


def test_console_lines_come_whole() -> None:
    with Console(["sh", "-c", "printf 'one\\ntw'; printf 'o\\nthree\\n'; read line"]) as console:
        lines = console.lines(30)
        assert [next(lines) for _ in range(3)] == ["one", "two", "three"]


def test_nothing_of_a_console_stays_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Console(["true"]):
        pass
    assert set(os.listdir("/proc/self/fd")) == before


def _segment(source: str, destination: str, ports: tuple[int, int], tag: int | None = None) -> bytes:
    """An Ethernet frame with a bare TCP segment in IPv4 or IPv6, optionally in a VLAN."""
    sender, receiver = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    tcp = struct.pack("!HHIIBBHHH", *ports, 1, 0, 5 << 4, 2, 1024, 0, 0)
    if sender.version == 4:
        kind = 0x0800
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0)
    else:
        kind = 0x86DD
        header = struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64)
    vlan = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
    ethernet = b"\x02\0\0\0\0\1\x02\0\0\0\0\2" + vlan + struct.pack("!H", kind)
    return ethernet + header + sender.packed + receiver.packed + tcp


def _pcap(frames: list[bytes], order: str = "<", magic: int = 0xA1B2C3D4) -> bytes:
    records = (struct.pack(order + "IIII", 1, 2, len(frame), len(frame)) + frame for frame in frames)
    return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1) + b"".join(records)


def _pcapng(frames: list[bytes], order: str) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += b"\0" * (-len(body) % 4)
        return (
            struct.pack(order + "II", kind, 12 + len(body)) + body + struct.pack(order + "I", 12 + len(body))
        )

    blocks = [
        block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(1, struct.pack(order + "HHI", 1, 0, 65535)),
    ]
    for number, frame in enumerate(frames):
        if number % 2:
            blocks.append(block(3, struct.pack(order + "I", len(frame)) + frame))
        else:
            blocks.append(block(6, struct.pack(order + "IIIII", 0, 0, 0, len(frame), len(frame)) + frame))
    return b"".join(blocks)


FRAMES = [
    _segment("10.1.2.3", "192.0.2.1", (40000, 80)),
    _segment("192.0.2.1", "10.1.2.3", (80, 40000)),
    _segment("192.0.2.1", "192.0.2.2", (40000, 80)),
    _segment("10.1.2.3", "192.0.2.1", (40000, 443)),
    _segment("2001:db8::1", "2001:db8::2", (40000, 80)),
    _segment("10.1.2.3", "192.0.2.1", (40000, 80), tag=7),
    b"\xff" * 14,
]


@pytest.mark.parametrize(
    "written",
    [
        _pcap(FRAMES),
        _pcap(FRAMES, ">"),
        _pcap(FRAMES, "<", 0xA1B23C4D),
        _pcapng(FRAMES, "<"),
        _pcapng(FRAMES, ">"),
    ],
    ids=["pcap", "pcap big-endian", "pcap nanoseconds", "pcapng", "pcapng big-endian"],
)
def test_capture_is_read_whole_in_every_format(tmp_path: Path, written: bytes) -> None:
    file = tmp_path / "capture"
    file.write_bytes(written)
    capture = read_capture(file)
    assert capture.link_type == 1
    assert capture.frames == FRAMES


def test_every_truncation_of_a_capture_is_refused_or_read_as_fewer_frames(tmp_path: Path) -> None:
    file = tmp_path / "capture"
    for whole in (_pcap(FRAMES[:2]), _pcapng(FRAMES[:2], "<")):
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            try:
                frames = read_capture(file).frames
            except PeerUnavailable:
                continue
            assert frames == FRAMES[: len(frames)]


def test_file_that_is_no_capture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("this is not a capture")
    with pytest.raises(PeerUnavailable, match="not a pcap or pcapng file"):
        read_capture(file)
    with pytest.raises(PeerUnavailable, match="cannot read the capture"):
        read_capture(tmp_path / "absent")


QUESTIONS = [  # with the count of FRAMES that match when VLAN tags are followed
    (FiveTuple(protocol="tcp", any_port=80, any_network="10.0.0.0/8"), 3),
    (FiveTuple(source_network="10.0.0.0/8", destination_port=80), 2),
    (FiveTuple(source_port=80), 1),
    (FiveTuple(any_network="2001:db8::/32"), 1),
    (FiveTuple(destination_network="192.0.2.1"), 3),
    (FiveTuple(protocol="udp"), 0),
    (FiveTuple(), 6),
]


def test_five_tuple_says_the_same_in_pcap_filters_language() -> None:
    assert QUESTIONS[0][0].expression() == "tcp and net 10.0.0.0/8 and port 80"
    assert QUESTIONS[1][0].expression() == "(ip or ip6) and src net 10.0.0.0/8 and dst port 80"
    assert QUESTIONS[4][0].expression() == "(ip or ip6) and dst net 192.0.2.1/32"


@pytest.mark.parametrize("wrong", [{"protocol": "icmp"}, {"any_port": 65536}, {"any_network": "10.0.0.1/8"}])
def test_five_tuple_that_cannot_be_is_refused(wrong: dict[str, str | int]) -> None:
    with pytest.raises(ValueError, match=r"expected|host bits"):
        FiveTuple(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("question", "expected"), QUESTIONS, ids=[q.expression() for q, _ in QUESTIONS])
@pytest.mark.parametrize("library", ["dpkt", "scapy"])
def test_python_libraries_give_the_expected_verdicts(
    tmp_path: Path, library: str, question: FiveTuple, expected: int
) -> None:
    pytest.importorskip(library)
    file = tmp_path / "capture.pcap"
    file.write_bytes(_pcap(FRAMES))
    measured = {"dpkt": dpkt_match, "scapy": scapy_match}[library](file, question, 0.05)
    assert measured.detail["matches"] == expected
    assert measured.detail["malformed for the library"] == 0
    assert measured.value > 0


@pytest.mark.parametrize("library", ["dpkt", "scapy"])
def test_link_type_that_is_not_supported_is_named(tmp_path: Path, library: str) -> None:
    pytest.importorskip(library)
    file = tmp_path / "capture.pcap"
    written = bytearray(_pcap(FRAMES))
    written[20:24] = struct.pack("<I", 147)
    file.write_bytes(written)
    with pytest.raises(PeerUnavailable, match="link type 147"):
        {"dpkt": dpkt_match, "scapy": scapy_match}[library](file, FiveTuple(), 0.05)
