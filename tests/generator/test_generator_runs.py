"""Generators at both ends of a pipe: exact counts, conservation, ends, dumps, files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import raceway
from conftest import scaled
from exchange import Run, run_pair, sent_frames
from raceway.apps.generator.generator import Generator, open_port
from raceway.apps.generator.options import read
from raceway.errors import RacewayError
from raceway.memory.jit import INTERPRETED

MANY = scaled(2_000_000, 3_000)


@pytest.mark.parametrize("sizes", [[60], [64], [1514], [1514, 60], [5000, 60]])
def test_every_packet_sent_is_received(pipe_name: str, sizes: list[int]) -> None:
    count = MANY if sizes[0] < 100 else MANY // 10
    sent, got = run_pair(
        pipe_name, {"function": "tx", "count": str(count), "sizes": sizes}, {"function": "rx"}
    )
    assert (sent.packets, got.packets) == (count, count)
    assert sent.bytes == got.bytes
    assert sum(sent.drops.values()) == sum(got.drops.values()) == 0
    assert sent.extras["queued"] == 0
    assert (sent.ended, got.ended) == ("count reached", "end of stream")
    assert sent.average_batch > 1
    assert got.seconds > 0


@pytest.mark.parametrize("rings", ["2", "3", "16", "4096"])
@pytest.mark.parametrize("burst", [1, 7, 512])
def test_any_ring_and_burst_deliver_all(pipe_name: str, rings: str, burst: int) -> None:
    count = scaled(20_000, 300)
    near = {"function": "txseq", "count": str(count), "rings": rings, "burst": burst}
    sent, got = run_pair(pipe_name, near, {"function": "rxseq", "rings": rings, "burst": burst})
    assert (sent.packets, got.packets, got.extras["in_order"]) == (count, count, count)
    assert got.average_batch <= burst


def test_receiver_takes_exactly_its_count_and_the_sender_names_the_rest(pipe_name: str) -> None:
    near = {"function": "tx", "count": str(MANY)}
    sent, got = run_pair(pipe_name, near, {"function": "rx", "count": "1777"})
    assert (got.packets, got.ended) == (1777, "count reached")
    assert sent.packets == got.packets + sent.drops["peer_gone"] + sent.extras["queued"]
    assert sent.ended == ("end of stream" if sent.packets < MANY else "count reached")


def test_interrupted_receiver_leaves_nothing_uncounted(pipe_name: str) -> None:
    receiver = Run(read(f"{pipe_name}}}1", "rx"))
    sender = Run(read(f"{pipe_name}{{1", "tx"))
    receiver.start()
    sender.start()
    while receiver.generator._total("packets") < 1000:
        time.sleep(0.001)
    receiver.generator.interrupt()
    got = receiver.report()
    sent = sender.report()
    assert sent.packets == got.packets + sent.drops["peer_gone"]


def test_threads_share_rings_and_counts(pipe_name: str) -> None:
    count = scaled(300_001, 1_001)
    near = {"function": "tx", "count": str(count), "threads": 3, "rings": "256,256,3"}
    sent, got = run_pair(pipe_name, near, {"function": "rx", "threads": 2, "rings": "256,256,3"})
    assert (sent.packets, got.packets) == (count, count)


def test_one_thread_drives_all_rings(pipe_name: str) -> None:
    count = scaled(100_000, 1_000)
    near = {"function": "tx", "count": str(count), "rings": "64,64,4"}
    sent, got = run_pair(pipe_name, near, {"function": "rx", "rings": "64,64,4"})
    assert (sent.packets, got.packets) == (count, count)


def test_more_threads_than_rings_are_refused(pipe_name: str) -> None:
    with pytest.raises(ValueError, match=r"-p 2: .* has 1 tx rings"):
        Run(read(f"{pipe_name}{{1", "tx", threads=2))


def test_rxseq_counts_numbered_streams_and_names_foreign_packets(pipe_name: str) -> None:
    count = str(scaled(1_000_000, 3_000))
    sent, got = run_pair(pipe_name, {"function": "txseq", "count": count}, {"function": "rxseq"})
    assert sent.packets == got.packets == int(count)
    assert got.extras == {
        "lost": 0, "reordered": 0, "duplicates": 0, "stale": 0, "in_order": int(count), "foreign": 0,
    }  # fmt: skip
    sent, got = run_pair(pipe_name, {"function": "tx", "count": "500"}, {"function": "rxseq"})
    assert (got.extras["foreign"], got.extras["in_order"], got.extras["lost"]) == (500, 0, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_rxseq_finds_what_was_lost_repeated_and_late(pipe_name: str, version: int) -> None:
    frames, _ = sent_frames(pipe_name, 100, function="txseq", version=version, sizes=[74])
    broken = (
        frames[:10] + frames[12:40] + [frames[10], frames[20], b"", b"short", frames[5][:50]] + frames[45:]
    )
    receiver = Run(read(f"{pipe_name}}}1", "rxseq"))
    with raceway.open(f"{pipe_name}{{1") as port:
        receiver.start()
        port.send(broken)
    got = receiver.report()
    assert got.packets == len(broken)
    assert got.extras == {
        "lost": 6, "reordered": 1, "duplicates": 1, "stale": 0, "in_order": 93, "foreign": 3,
    }  # fmt: skip


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [100, 3000])
def test_ping_hears_every_echo_of_pong(pipe_name: str, version: int, size: int) -> None:
    count = scaled(2_000, 100)
    words = {"count": str(count), "version": version, "sizes": [size]}
    ping, pong = run_pair(pipe_name, {"function": "ping", **words}, {"function": "pong", "count": str(count)})
    assert (ping.packets, pong.packets, ping.extras["sent"]) == (count, count, count)
    assert ping.bytes == pong.bytes == count * size
    assert (ping.extras["lost"], ping.extras["late"], ping.extras["foreign"]) == (0, 0, 0)
    assert sum(pong.drops.values()) == 0
    trips = ping.extras["rtt_ns"]
    assert 0 < trips["min"] <= trips["p50"] <= trips["p90"] <= trips["p99"] <= trips["p99.9"] <= trips["max"]
    assert trips["min"] <= trips["avg"] <= trips["max"]
    assert sum(count for _, _, count in ping.extras["histogram_ns"]) == count


def test_pong_swaps_source_and_destination_and_leaves_checksums_right(pipe_name: str) -> None:
    scapy = pytest.importorskip("scapy.all")
    pong = Run(read(f"{pipe_name}}}1", "pong", count="5"))
    make = scapy.Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    sent = [
        make / scapy.IP(src="1.2.3.4", dst="5.6.7.8") / scapy.UDP(sport=1, dport=2) / b"payload",
        make
        / scapy.IP(src="1.2.3.4", dst="5.6.7.8", options=[scapy.IPOption_NOP()] * 4)
        / scapy.TCP(sport=3, dport=4),
        make / scapy.IPv6(src="fe80::1", dst="fe80::2") / scapy.UDP(sport=5, dport=6) / b"x",
        make / scapy.ARP(),
        scapy.Raw(b"\1\2\3"),
    ]
    with raceway.open(f"{pipe_name}{{1") as port:
        pong.start()
        port.send([bytes(packet) for packet in sent])
        back = []
        while len(back) < 5:
            back += port.receive(timeout=20).to_bytes()
    pong.report()
    for packet, echo in zip(sent[:4], back, strict=False):
        assert echo[:6] == bytes(packet)[6:12]
        assert echo[6:12] == bytes(packet)[:6]
    swapped = [scapy.Ether(echo) for echo in back[:3]]
    assert [(p[1].src, p[1].dst, p[1].payload.sport, p[1].payload.dport) for p in swapped] == [
        ("5.6.7.8", "1.2.3.4", 2, 1), ("5.6.7.8", "1.2.3.4", 4, 3), ("fe80::2", "fe80::1", 6, 5),
    ]  # fmt: skip
    for packet in swapped:
        fresh = packet.copy()
        del fresh[1].payload.chksum
        if fresh.type == 0x0800:
            del fresh[1].chksum
        assert bytes(fresh) == bytes(packet)
    assert back[3][12:] == bytes(sent[3])[12:]
    assert back[4] == b"\1\2\3"


def test_ping_gives_up_on_echoes_that_do_not_come(pipe_name: str) -> None:
    ping = Run(read(f"{pipe_name}{{1", "ping", count="3"))
    ping.generator.workers[0].record["timeout"] = 20_000_000
    with raceway.open(f"{pipe_name}}}1") as port:
        ping.start()
        heard = []
        while len(heard) < 3:
            heard += port.receive(timeout=20).to_bytes()
        report = ping.report()
    assert (report.packets, report.extras["sent"], report.extras["lost"]) == (0, 3, 3)
    assert report.extras["rtt_ns"] == {}


def test_dump_shows_every_packet_on_both_sides(pipe_name: str) -> None:
    receiver = Run(read(f"{pipe_name}}}1", "rx", dump=True))
    sender = Run(read(f"{pipe_name}{{1", "tx", count="7", sizes=[62], dump=True, source="10.0.0.1-10.0.0.9"))
    receiver.start()
    sender.start()
    assert sender.report().packets == receiver.report().packets == 7
    for run in (sender, receiver):
        lines = run.output.getvalue().splitlines()
        assert sum("62 bytes" in line for line in lines) == 7
        assert sum(line.startswith("  0030  ") for line in lines) == 7
        # The last byte of the source address, in order.
        assert [line.split()[14] for line in lines if line.startswith("  0010  ")] == [
            f"{n:02x}" for n in range(1, 8)
        ]


def test_run_ends_soon_when_interrupted(pipe_name: str) -> None:
    receiver = Run(read(f"{pipe_name}}}1", "rx"))
    sender = Run(read(f"{pipe_name}{{1", "tx"))
    receiver.start()
    sender.start()
    while receiver.generator._total("packets") < 1000:
        time.sleep(0.001)
    sender.generator.interrupt()
    sent = sender.report()
    got = receiver.report()
    assert sent.ended == "interrupted"
    assert got.packets == sent.packets


def test_sender_waits_for_the_other_end_to_be_opened(
    pipe_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sender = Run(read(f"{pipe_name}{{1", "tx", count="10"))
    sender.start()
    while "waiting for the other end" not in capsys.readouterr().err:
        time.sleep(0.001)
    assert sender.generator._total("packets") == 0
    receiver = Run(read(f"{pipe_name}}}1", "rx"))
    receiver.start()
    assert receiver.report().packets == sender.report().packets == 10


def test_sender_told_not_to_wait_fills_the_ring_and_waits_there(pipe_name: str) -> None:
    sender = Run(read(f"{pipe_name}{{1", "tx", count="100", wait=0, rings="64"))
    sender.start()
    while sender.generator._total("packets") < 63:
        time.sleep(0.001)
    receiver = Run(read(f"{pipe_name}}}1", "rx"))
    receiver.start()
    assert sender.report().packets == receiver.report().packets == 100


def test_receiver_ends_when_it_is_quiet_if_asked_to(pipe_name: str) -> None:
    receiver = Run(read(f"{pipe_name}}}1", "rx", stop_when_quiet=True))
    with raceway.open(f"{pipe_name}{{1") as port:
        receiver.start()
        port.send([b"x" * 60] * 5)
        report = receiver.report()
    assert (report.packets, report.ended) == (5, "nothing came")


def test_packets_into_a_file_and_out_of_it(tmp_path: Path) -> None:
    count = scaled(50_000, 500)
    path = tmp_path / "sent.pcapng"
    options = read(f"pcap:{path}", "txseq", count=str(count), sizes=[1000, 60])
    with open_port(options) as port:
        sent = Generator(port, options).run()
    before = time.time_ns()
    capture = raceway.load_capture(path)
    assert len(capture) == sent.packets == count
    assert int(capture.lengths.sum()) == sent.bytes
    assert before - 3600 * 10**9 < capture.timestamps.min() <= capture.timestamps.max() <= before
    options = read(f"pcap:{path}", "rxseq")
    with open_port(options) as port:
        got = Generator(port, options).run()
    assert (got.packets, got.bytes, got.extras["in_order"]) == (count, sent.bytes, count)
    assert got.ended == "end of stream"
    with pytest.raises(RacewayError, match="nothing can be sent"), raceway.open(f"pcap:{path}") as port:
        Generator(port, read(f"pcap:{path}", "tx"))


@pytest.mark.parametrize("function", ["tx", "rx"])
def test_null_supplies_and_swallows(function: str) -> None:
    count = scaled(1_000_000, 2_000)
    options = read("null:", function, count=str(count))
    with open_port(options) as port:
        report = Generator(port, options).run()
    assert (report.packets, report.bytes) == (count, 60 * count)


def test_spoilt_ring_is_an_error_that_names_it(pipe_name: str) -> None:
    with raceway.open(f"{pipe_name}}}1"):
        sender = Run(read(f"{pipe_name}{{1", "tx"))
        sender.port.tx[0].slots["buffer"][5] = 1 << 30
        sender.start()
        with pytest.raises(raceway.RingError, match="slot 5 names buffer 1073741824"):
            sender.report()


@pytest.mark.skipif(INTERPRETED, reason="a rate is a matter of speed")
@pytest.mark.parametrize(("rate", "count"), [("100", 20), ("1000", 200), ("1M", 200_000)])
def test_rate_limit_is_never_exceeded(rate: str, count: int) -> None:
    options = read("null:", "tx", rate=rate, count=str(count))
    with open_port(options) as port:
        report = Generator(port, options).run()
    # Later is the machine's business; earlier would be ours.
    assert report.packets == count
    assert report.seconds >= count / options.rate
