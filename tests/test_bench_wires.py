"""The rows about interfaces: what is read from the peers' and raceway's output, and how rows are filled.

Nothing is measured and no peer is started: these tests need neither DPDK nor root.
"""

from __future__ import annotations

import itertools
import json
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.peers import Measurement, PeerUnavailable
from bench.peers.af_xdp import Testpmd as RunningTestpmd, check_ports, command_line
from bench.peers.kernel_paths import parse_udp_ping
from bench.peers.process import Console
from bench.row import Row, contest
from bench.source import packet
from bench.stage import check_running, delivered, parse_snmp, rate, received_all, settled
from bench.wire_rows import _better, _judge_source
from bench.wires import parse_report, round_trips

# dpdk-testpmd of DPDK 22.11.11 with one af_xdp port, shortened.
PORTS = """\
Configuring Port 0 (socket 0)
libxdp: Falling back to loading single prog without dispatcher
Port 0: 02:00:00:00:00:02
Checking link statuses...
Done
testpmd> """

# The same with an interface that is not there.
NO_PORTS = """\
EAL: Selected IOVA mode 'VA'
init_internals(): Failed to get channel info of interface: nosuch0
rte_pmd_af_xdp_probe(): Failed to init internals
EAL: Bus (vdev) probe failed.
testpmd: No probed ethernet devices
Done
testpmd> """

PORT_1 = """
  ######################## NIC statistics for port 1  ########################
  RX-packets: 0          RX-missed: 7          RX-bytes:  0
  RX-errors: 0
  RX-nombuf:  0
  TX-packets: 268168     TX-errors: 0          TX-bytes:  16090080

  Throughput (since last show)
  Rx-pps:            0          Rx-bps:            0
  Tx-pps:            0          Tx-bps:            0
  ############################################################################
"""

# /proc/net/snmp of Linux 6.18, shortened.
SNMP = """\
Ip: Forwarding DefaultTTL InReceives InHdrErrors
Ip: 2 64 268288 0
Icmp: InMsgs InErrors
Icmp: 0 0
Udp: InDatagrams NoPorts InErrors
Udp: 1 0 268287
"""

# `raceway pkt-gen -f ping --json`, shortened.
PING = {
    "tool": "pkt-gen",
    "function": "ping",
    "packets": 21440,
    "drops": {},
    "sent": 21441,
    "lost": 1,
    "rtt_ns": {"min": 5207, "avg": 9000.5, "p50": 6591.5, "p90": 8000, "p99": 12610, "max": 11776905},
}


def test_ports_that_testpmd_opened_are_counted() -> None:
    check_ports(PORTS, 1)
    with pytest.raises(PeerUnavailable, match="opened 1 of 2"):
        check_ports(PORTS, 2)


def test_port_that_testpmd_could_not_open_is_explained_in_its_own_words() -> None:
    with pytest.raises(PeerUnavailable, match="Failed to get channel info of interface: nosuch0"):
        check_ports(NO_PORTS, 1)


def test_testpmd_gets_one_device_an_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.af_xdp.find_program", lambda name: name)
    monkeypatch.setattr("bench.peers.af_xdp.two_cores", lambda cores: cores)
    words = command_line("io", ["left", "right"], "prefix", ["--txpkts=60"])
    assert "--vdev=net_af_xdp0,iface=left,start_queue=0,queue_count=1" in words
    assert "--vdev=net_af_xdp1,iface=right,start_queue=0,queue_count=1" in words
    assert words.index("--no-pci") < words.index("--") < words.index("--forward-mode=io")
    assert words[-1] == "--txpkts=60"


class _Recorded(Console):
    """A console that has said what was recorded."""

    def __init__(self, output: str) -> None:
        self.name, self.output, self._read, self.sent = "recorded", output, 0, list[str]()

    def send(self, line: str) -> None:
        self.sent.append(line)

    def _take(self, deadline: float, awaited: str) -> None:
        raise PeerUnavailable(f"{awaited} was not recorded")


def test_statistics_are_those_of_the_port_that_was_asked_for() -> None:
    console = _Recorded(PORT_1 + "testpmd> ")
    fields = RunningTestpmd(console, "").statistics(1)
    assert console.sent == ["show port stats 1"]
    assert (fields["TX-packets"], fields["RX-missed"]) == (268168, 7)
    with pytest.raises(PeerUnavailable, match="not recorded"):
        RunningTestpmd(_Recorded(PORT_1 + "testpmd> "), "").statistics(0)


def test_statistics_without_a_counter_are_refused() -> None:
    with pytest.raises(PeerUnavailable, match="lack a counter"):
        RunningTestpmd(_Recorded(PORT_1.replace("RX-missed", "Missed") + "testpmd> "), "").statistics(1)


def test_what_ip_has_received_is_read() -> None:
    counters = parse_snmp(SNMP)
    assert counters["Ip", "InReceives"] == 268288
    assert counters["Udp", "InErrors"] == 268287


@pytest.mark.parametrize("text", ["", "Ip: InReceives\n", "Ip: Forwarding\nIp: 1\n"])
def test_counters_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(PeerUnavailable, match="not of the form expected"):
        parse_snmp(text)


def test_round_trips_of_udp_sockets_are_read() -> None:
    line = "trips 5482 lost 2 p50 42023 p99 4588233 min 30585 max 11002410\r\n"
    assert parse_udp_ping(line) == {
        "trips": 5482, "lost": 2, "p50": 42023, "p99": 4588233, "min": 30585, "max": 11002410,
    }  # fmt: skip
    with pytest.raises(PeerUnavailable, match="no result line"):
        parse_udp_ping("no echo came\n")


def test_round_trips_of_pkt_gen_are_in_microseconds() -> None:
    median, high = round_trips("ping", parse_report(json.dumps(PING)), "pkt-gen")
    assert (median.value, high.value) == (6.5915, 12.61)
    assert (median.unit, high.unit) == ("us", "us")
    assert median.detail["lost"] == 1


def test_ping_without_an_echo_has_no_round_trips() -> None:
    with pytest.raises(PeerUnavailable, match="no echo of 3 packets"):
        round_trips("ping", {"packets": 0, "drops": {}, "sent": 3, "rtt_ns": {}}, "")


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"packets": "many", "drops": {}}', '{"packets": 1}'])
def test_report_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(PeerUnavailable, match="report"):
        parse_report(line)


@pytest.mark.parametrize("length", [60, 61, 1514])
def test_packet_of_the_source_is_a_sound_udp_packet(length: int) -> None:
    frame = packet("02:00:00:00:00:04", "10.0.0.2", length)
    assert len(frame) == length
    assert frame[:6] == b"\x02\0\0\0\0\4"
    header = frame[14:34]
    total = sum(struct.unpack("!10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
    assert struct.unpack("!H", header[2:4])[0] == length - 14
    assert struct.unpack("!HHHH", frame[34:42]) == (9, 9, length - 34, 0)


# -- rates ---------------------------------------------------------------------------------------------------


def test_rate_counts_only_what_came_in_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("bench.stage.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("bench.stage.time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    # Nothing for a second, then 1,000 a second until the fifth.
    assert rate(lambda: round(1000 * min(max(clock[0] - 1, 0), 4)), 2.0) == pytest.approx(1000, rel=0.01)


def test_rate_of_what_never_comes_is_refused() -> None:
    with pytest.raises(PeerUnavailable, match=r"nothing had arrived after 0\.02 s"):
        rate(lambda: 7, 1.0, patience=0.02)


def test_rate_of_what_stops_at_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.stage.time.sleep", lambda seconds: None)
    counts = itertools.chain([0], itertools.repeat(5))
    with pytest.raises(PeerUnavailable, match="after a start"):
        rate(lambda: next(counts), 1.0)


def test_count_settles_when_it_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.stage.time.sleep", lambda seconds: None)
    counts = itertools.chain([3, 5, 8], itertools.repeat(9))
    assert settled(lambda: next(counts)) == 9


def test_program_that_has_ended_is_named_with_its_last_words() -> None:
    command = [sys.executable, "-c", "print('raceway: x: not built yet')"]
    with Console(command) as console:
        console.process.wait(10)
        with pytest.raises(PeerUnavailable, match="has ended: raceway: x: not built yet"):
            check_running(console)


def test_what_xdp_has_given_to_sockets_is_added_up_over_queues() -> None:
    statistics = {
        "rx_queue_0_xdp_redirect": 5,
        "rx_queue_0_xdp_redirect_errors": 9,
        "rx_queue_1_xdp_redirect": 2,
    }
    assert delivered(statistics | {"rx_queue_0_drops": 3}) == 7
    with pytest.raises(PeerUnavailable, match="lack xdp_redirect"):
        delivered({"rx_packets": 1})


def test_receiver_that_counts_more_or_far_less_than_it_was_given_is_refused() -> None:
    received_all("x", 1000, 1000)
    received_all("x", 1000, 1512)
    for given in (999, 100_000):
        with pytest.raises(PeerUnavailable, match=f"delivered {given}"):
            received_all("x", 1000, given)


# -- rows ----------------------------------------------------------------------------------------------------


def _figure(value: float, **detail: Any) -> Measurement:
    return Measurement("x", value, "Mpps", detail)


def _from(figures: Sequence[float | str]) -> Callable[[], Sequence[Measurement]]:
    """Gives one figure after the other; a word is the reason why there is none."""
    left = iter(figures)

    def measure() -> Sequence[Measurement]:
        figure = next(left)
        if isinstance(figure, str):
            raise PeerUnavailable(figure)
        return [_figure(figure)]

    return measure


def _row(peer: str) -> Row:
    return Row("forward", peer, "Mpps", 1.2, group="nic")


def test_rows_of_one_contest_share_raceways_figures() -> None:
    first, second = _row("DPDK"), _row("bridge")
    rows = contest(_from([2, 4, 6]), [(_from([1, 1, 1]), [first]), (_from([4, 4, 4]), [second])], 3)
    assert rows == [first, second]
    assert first.ours == second.ours == [2, 4, 6]
    assert (first.ratio, second.ratio) == (4, 1)


def test_ratio_of_what_should_be_low_is_turned_round() -> None:
    row = Row("round trip", "sockets", "us", 1, [5, 6], [10, 18], better="lower")
    assert row.ratio == 2.5


def test_peer_that_fails_once_is_not_asked_again_and_its_row_says_why() -> None:
    first, second = _row("DPDK"), _row("bridge")
    contest(_from([2, 2, 2]), [(_from([1, "not installed"]), [first]), (_from([4, 4, 4]), [second])], 3)
    assert first.ratio is None
    assert first.note == "peer not measured: not installed"
    assert "| - | - |" in first.text()
    assert second.ratio == 0.5


def test_raceway_that_fails_leaves_the_peers_figures_and_says_why() -> None:
    row = _row("DPDK")
    contest(_from(["not built yet"]), [(_from([1, 3]), [row])], 2)
    assert (row.ours, row.theirs, row.ratio) == ([], [1, 3], None)
    assert row.note == "raceway not measured: not built yet"


def test_only_asks_by_group_work_or_peer() -> None:
    row = _row("DPDK af_xdp")
    assert all(row.matches(word) for word in ("nic", "forward", "dpdk", ""))
    assert not row.matches("memory")


def test_better_way_counts_and_one_that_fails_does_not() -> None:
    assert _better(_from([1]), _from([3]), _from(["no"]))()[0].value == 3
    with pytest.raises(PeerUnavailable, match=r"^no; never$"):
        _better(_from(["no"]), _from(["never"]), _from(["no"]))()


def test_row_says_if_the_source_bounds_it() -> None:
    row = _row("DPDK")
    row.details = [
        {"raceway": {"offered": 1000, "received": 990}, "peer": {"offered": 1000, "received": 600}}
    ]
    _judge_source(row)
    assert row.note == "raceway: 990 of 1000 packets came through: the source bounds the figure"
