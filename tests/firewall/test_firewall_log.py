"""`log`: rules that decide nothing, the ring that they sample into, and the file that comes of it."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

import raceway
from labs import lab as lab, needs, needs_root, reaches
from raceway.apps.firewall.log import writer as log
from raceway.apps.firewall.log.sampling import Reader
from raceway.apps.firewall.log.writer import Log
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.language import parse_rules
from raceway.compile.state import samples
from raceway.compile.state.samples import BYTES, SAMPLES, STRIDE
from raceway.memory.jit import INTERPRETED
from raceway.ports.pcap.capture import load_capture

in_the_kernel = pytest.mark.skipif(
    INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
)


def packet(port: int = 53, size: int = 60, fill: bytes = b"\0", protocol: int = 17) -> bytes:
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    header = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0, 64, protocol, 0) + addresses
    return (bytes(12) + b"\x08\x00" + header + struct.pack("!HHHH", 1000, port, size - 34, 0)).ljust(
        size, fill
    )


def fate(rules: str | Program, data: bytes, time: int = 0) -> tuple[str, int, int]:
    """The verdict, the rule that decides, and the rule that logs."""
    program = Program(parse_rules(rules)) if isinstance(rules, str) else rules
    one = program.judge(raceway.Packet(data, time=time))
    return one.verdict.name, one.rule, one.logged


# What log rules mean.


def test_a_rule_that_logs_does_not_decide():
    assert fate("log udp\ndrop udp", packet()) == ("DROP", 1, 0)
    assert fate("log udp\npass tcp\ndefault drop", packet()) == ("DROP", -1, 0)
    assert fate("pass tcp\nlog any", packet()) == ("PASS", -1, 1)


def test_what_a_rule_before_decides_is_not_logged():
    rules = "log tcp\ndrop udp dst port 53\nlog udp\npass udp\nlog any"
    assert fate(rules, packet(53)) == ("DROP", 1, -1)
    assert fate(rules, packet(54)) == ("PASS", 3, 2)
    assert fate(rules, packet(54, protocol=1)) == ("PASS", -1, 4)


def test_the_first_rule_that_logs_is_the_one_that_does():
    program = Program(parse_rules("log udp dst port 53\nlog udp\ndrop any"))
    assert fate(program, packet(53)) == ("DROP", 2, 0)
    assert fate(program, packet(54)) == ("DROP", 2, 1)
    assert program.counts.values()[:3] == [1, 1, 2]
    assert [one.rule for one in Reader(program.samples).take()] == [0, 1]


def test_what_is_over_a_rate_is_not_logged_and_counted():
    program = Program(parse_rules("log 2/s burst 2 udp\nlimit 3/s burst 3 udp\nlog 1/s per src tcp"))
    fates = [fate(program, packet(), at) for at in (1, 2, 3, 4, 10**9 + 5)]
    assert fates == [
        ("PASS", 1, 0), ("PASS", 1, 0), ("PASS", 1, -1), ("DROP", 1, -1), ("PASS", 1, 0),
    ]  # fmt: skip
    assert (program.counts.values()[:3], program.limited.values()[:3]) == ([3, 4, 0], [2, 1, 0])


def test_what_is_malformed_is_logged_only_where_rules_are_asked_about_it():
    cut = packet()[:-1]
    assert fate("malformed drop\nlog any", cut) == ("DROP", -1, -1)
    assert fate("malformed match\nlog any", cut) == ("PASS", -1, 0)


def test_what_is_asked_of_libpcap_can_be_logged():
    rules = "log udp[8] == 0x61\ndrop udp[9] == 0x62"
    assert fate(rules, packet(fill=b"a")) == ("PASS", -1, 0)
    assert fate(rules, packet(fill=b"b")) == ("DROP", 1, -1)


# The ring.


def filled(*packets: bytes, time: int = 5) -> Program:
    program = Program(parse_rules("malformed match\nlog any"))
    for number, data in enumerate(packets):
        program.function.run(raceway.Packet(data, time=time + number))
    return program


def test_a_sample_has_the_beginning_of_its_packet_and_its_length_and_time():
    rng = random.Random(3)
    packets = [rng.randbytes(size) for size in range(8, 260)]
    samples = Reader(filled(*packets).samples).take()
    assert [one.data for one in samples] == [data[:BYTES] for data in packets]
    assert [one.length for one in samples] == [len(data) for data in packets]
    assert [one.time for one in samples] == list(range(5, 5 + len(packets)))


@in_the_kernel
@pytest.mark.parametrize("target", ["native", pytest.param("kernel", marks=needs_root)])
def test_compiled_samples_are_the_same(target):
    rng = random.Random(4)
    packets = [rng.randbytes(size) for size in (14, 15, 16, 60, 191, 192, 193, 200, 1500)]
    program = Program(parse_rules("malformed match\nlog any"))
    verdicts = raceway.simulate(program.function, packets, target, times=[7] * len(packets)).verdicts
    assert list(verdicts) == [raceway.PASS] * len(packets)
    samples = Reader(program.samples).take()
    assert [(one.data, one.length) for one in samples] == [(data[:BYTES], len(data)) for data in packets]


def test_what_is_overwritten_before_it_is_read_is_counted_as_lost():
    program = filled(packet())
    reader = Reader(program.samples)
    program.samples.add(samples.GIVEN, SAMPLES + 9)
    program.function.run(raceway.Packet(packet(99)))
    assert reader.waiting == SAMPLES + 11
    found = reader.take(SAMPLES, final=True)
    # The newest is whole; the first was overwritten, as were those that the ring never had.
    assert [one.length for one in found] == [60]
    assert (len(found) + reader.lost, reader.waiting) == (SAMPLES + 11, 0)


def test_a_sample_in_the_making_is_waited_for_but_not_for_ever():
    now = [0.0]
    program = filled(packet(), packet(), packet())
    reader = Reader(program.samples, lambda: now[0])
    # As if the second were being filled.
    turn = samples.FIRST + STRIDE
    whole = program.samples[turn]
    program.samples[turn] = 0
    assert len(reader.take()) == 1
    assert (reader.take(), reader.lost, reader.waiting) == ([], 0, 2)
    program.samples[turn] = whole
    assert len(reader.take()) == 2
    program = filled(packet(), packet())
    reader = Reader(program.samples, lambda: now[0])
    program.samples[samples.FIRST] = 0
    assert reader.take() == []
    now[0] += 1
    reader.take()
    assert (len(reader.take()), reader.lost, reader.waiting) == (1, 1, 0)


def test_who_finds_somebody_else_in_his_place_leaves_it_to_him():
    program = filled(packet())
    program.samples[samples.FIRST + STRIDE + 1] = 1
    program.function.run(raceway.Packet(packet(99)))
    assert program.samples[samples.FIRST + STRIDE + 1] == 1
    reader = Reader(program.samples)
    assert len(reader.take(final=True)) == 1
    assert reader.lost == 1


# The file.


def blocks(path) -> list[tuple[int, bytes]]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert struct.unpack_from("<I", data, at + size - 4)[0] == size
        found.append((kind, data[at : at + size]))
        at += size
    return found


def comments(path) -> list[str]:
    """The opt_comment of each enhanced packet block."""
    found = []
    for kind, block in blocks(path):
        if kind == 6:
            (captured,) = struct.unpack_from("<I", block, 20)
            at = 28 + (captured + 3) // 4 * 4
            code, size = struct.unpack_from("<HH", block, at)
            assert code == 1
            found.append(block[at + 4 : at + 4 + size].decode())
    return found


def logged(program: Program, path, **options) -> log.LogStatus:
    """Write what is in a program's ring to a file."""
    one = Log(path, "veth7", **options)
    try:
        one.follow(program)
    finally:
        one.close()
    return one.status()


def test_the_file_has_times_lengths_bytes_and_the_rule(tmp_path):
    path = tmp_path / "wall.pcapng"
    packets = [packet(size=100, fill=b"x"), packet(size=1500, fill=b"y")]
    begin = 1_700_000_000_123_456_789
    status = logged(filled(*packets, time=begin), path)
    assert (status.written, status.lost, status.waiting, status.error) == (2, 0, 0, "")
    assert status.bytes == path.stat().st_size
    capture = load_capture(path)
    assert [bytes(one) for one in capture] == [packets[0], packets[1][:BYTES]]
    assert capture.timestamps.tolist() == [begin, begin + 1]
    assert capture.wire_lengths.tolist() == [100, 1500]
    assert comments(path) == ["rules:2: log any"] * 2


@needs("tshark")
def test_tshark_reads_it(tmp_path):
    path = tmp_path / "wall.pcapng"
    logged(filled(packet(size=100), packet(size=1500), time=10**18 + 1), path)
    fields = [
        word for name in ("time_epoch", "len", "cap_len", "comment") for word in ("-e", f"frame.{name}")
    ]
    done = subprocess.run(
        ["tshark", "-r", str(path), "-T", "fields", *fields], capture_output=True, text=True, check=True
    )
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["1000000000.000000001", "100", "100", "rules:2: log any"],
        ["1000000000.000000002", "1500", "192", "rules:2: log any"],
    ]


def test_a_file_that_is_full_is_begun_anew_and_the_one_before_is_kept(tmp_path):
    path = tmp_path / "wall.pcapng"
    path.write_bytes(b"from before")
    one = Log(path, "veth7", size=10_000)
    assert one.previous == tmp_path / "wall.1.pcapng"
    assert one.previous.read_bytes() == b"from before"
    for _ in range(3):
        one.follow(filled(*[packet(size=200)] * 50))
    one.close()
    status = one.status()
    assert (status.written, status.lost) == (150, 0)
    # Some 250 bytes each: the first fifty fill a file, and so do the next.
    assert [len(load_capture(name)) for name in (path, one.previous)] == [0, 50]
    assert one.previous.stat().st_size < 20_000


def test_a_disk_that_is_full_is_said_and_what_it_did_not_take_is_counted(tmp_path):
    path = tmp_path / "wall.pcapng"
    one = Log(path, "veth7")
    real = one._writer._raw
    with open("/dev/full", "wb", buffering=0) as full:
        one._writer._raw = full
        for _ in range(4):
            one.follow(filled(*[packet(size=200)] * 1500))
        one.follow(filled())
        status = one.status()
        assert status.lost > 0, "the window is full too"
        assert "No space left" in status.error
        assert status.written + status.lost + status.waiting == 6000
        # There is room again: what was kept is written, and what follows.
        one._writer._raw = real
    one.follow(filled(packet(99)))
    one.follow(filled())
    assert one.status().error == ""
    one.close()
    status = one.status()
    assert status.written == len(load_capture(path))
    assert status.written + status.lost == 6001


def test_a_disk_that_is_full_from_the_beginning_is_an_error():
    with pytest.raises(OSError, match="No space left"):
        Log("/dev/full", "veth7")


@pytest.mark.parametrize("name", ["none/wall.pcapng", "."])
def test_a_file_that_cannot_be_opened_is_an_error(tmp_path, name):
    with pytest.raises(OSError, match=r"none|directory"):
        Log(tmp_path / name, "veth7")
    with pytest.raises(ValueError, match="at least 10,000 bytes"):
        Log(tmp_path / "x", "veth7", size=10)


def test_explain_says_which_rule_logs(tmp_path):
    (tmp_path / "wall.rules").write_text("log udp\ndrop udp dst port 53\n")
    told = [sys.executable, "-m", "raceway", "firewall", "explain", str(tmp_path / "wall.rules")]
    done = subprocess.run(
        [*told, "--packet", packet().hex(), "--json"], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {"matches": [1], "verdicts": ["DROP"], "logs": [0]}
    done = subprocess.run(
        [*told, "--packet", packet().hex()], capture_output=True, text=True, check=True, timeout=60
    )
    first, second = done.stdout.splitlines()
    assert first.endswith("wall.rules:2: drop udp dst port 53")
    assert second.endswith("wall.rules:1: log udp")
    assert "logged by" in second


# On a live interface.


def send(two, port: int, count: int, text: bytes = b"hello") -> None:
    with two.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _ in range(count):
            one.sendto(text, (two.address("b"), port))


def written(firewall, count: int) -> log.LogStatus:
    """The log's status once so many packets are in the file or lost."""
    deadline = time.monotonic() + 20
    while (status := firewall.status().log).written + status.lost < count:
        assert time.monotonic() < deadline, status
        time.sleep(0.01)
    return status


RULES = "drop udp dst port 7\nlog udp dst port 9\ndrop udp dst port 9\nlog 3/h burst 3 udp dst port 10\n"


@in_the_kernel
@needs_root
def test_a_live_interface_logs_and_goes_on_over_a_reload(lab, tmp_path):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    path = tmp_path / "wall.pcapng"
    with (
        two.inside("b"),
        raceway.Firewall(two.interface("b"), RULES, log=path) as firewall,
    ):
        before = time.time_ns()
        for port in (7, 9, 10, 11):
            send(two, port, 5)
        assert written(firewall, 8).lost == 0
        # The file is whole while the firewall runs.
        capture = load_capture(path)
        assert len(capture) == 8
        assert all(before - 10**9 < one < time.time_ns() + 10**9 for one in capture.timestamps.tolist())
        assert all(one.endswith(b"hello") for one in map(bytes, capture))
        said = comments(path)
        assert said.count("rules:2: log udp dst port 9") == 5
        assert said.count("rules:4: log 3/h burst 3 udp dst port 10") == 3
        status = firewall.status()
        assert [(one.packets, one.limited) for one in status.rules] == [(5, 0), (5, 0), (5, 0), (3, 2)]
        # Rules that log decide nothing, and so are no part of what adds up.
        decided = sum(one.packets + one.limited for one in status.rules if one.action != "log")
        assert status.seen == decided + status.default_packets + sum(status.malformed.values())
        firewall.reload("log udp dst port 10, 12\ndrop udp")
        send(two, 12, 4)
        assert written(firewall, 12).lost == 0
        status = firewall.status()
        assert status.gone == 10
        decided = sum(one.packets + one.limited for one in status.rules if one.action != "log")
        assert status.seen == decided + status.default_packets + status.gone + sum(status.malformed.values())
    assert comments(path)[8:] == ["rules:1: log udp dst port 10, 12"] * 4


@in_the_kernel
@needs_root
def test_a_reader_that_is_too_slow_loses_packets_and_says_how_many(lab, tmp_path, monkeypatch):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    monkeypatch.setattr(log, "_IDLE", 60)
    with two.inside("b"):
        firewall = raceway.Firewall(two.interface("b"), "log udp dst port 9", log=tmp_path / "x.pcapng")
        with firewall:
            send(two, 9, SAMPLES + 100)
            assert firewall.status().log.waiting == SAMPLES + 100
        status = firewall._log.status()
    assert (status.written, status.lost, status.waiting) == (SAMPLES, 100, 0)
    assert len(load_capture(tmp_path / "x.pcapng")) == SAMPLES


@in_the_kernel
@needs_root
def test_what_is_logged_needs_a_file(lab):
    two = lab()
    with two.inside("b"):
        with pytest.raises(raceway.RulesError, match=r"rules:2:1: what is logged needs a file"):
            raceway.Firewall(two.interface("b"), "drop tcp\nlog udp")
        with raceway.Firewall(two.interface("b"), "drop udp dst port 9") as firewall:
            with pytest.raises(raceway.RulesError, match="needs a file"):
                firewall.reload("log udp")
            send(two, 9, 1)
            assert firewall.status().rules[0].packets == 1
            assert firewall.status().reloads == 0
        with pytest.raises(FileNotFoundError):
            raceway.Firewall(two.interface("b"), "log udp", log="/nowhere/x.pcapng")
        with raceway.Firewall(two.interface("b"), "drop udp"):
            pass


@in_the_kernel
@needs_root
def test_the_command_logs_to_a_file_that_others_read_while_it_grows(lab, tmp_path):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    (tmp_path / "wall.rules").write_text("log udp dst port 9\ndrop udp dst port 9\n")
    path = tmp_path / "wall.pcapng"
    told = [sys.executable, "-m", "raceway", "firewall", "run", two.interface("b"), "-f",
            str(tmp_path / "wall.rules"), "--log", str(path)]  # fmt: skip
    process = two.popen("b", told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert "in force" in line, line + process.stderr.read()
        for turn in range(1, 4):
            send(two, 9, 10)
            deadline = time.monotonic() + 20
            while len(load_capture(path)) < 10 * turn:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            if shutil.which("capinfos"):
                done = subprocess.run(
                    ["capinfos", "-c", "-M", path], capture_output=True, text=True, check=True
                )
                assert done.stdout.split()[-1] == str(10 * turn)
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert "30  log udp dst port 9  (logged)" in said
    assert f"{path}: 30 packets logged, 0 lost" in said
