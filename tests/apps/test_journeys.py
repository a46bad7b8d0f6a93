"""Real captures on their whole way: replay, pipe, dump; and everything that bridge, dump and replay promise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import raceway
from conftest import own_captures, shared_captures
from raceway.apps.forwarder.forwarder import Forwarder, Pace, Way
from raceway.apps.replay import Replay

RACEWAY = [sys.executable, "-c", "from raceway.faces.cli import main; main()"]
DEMO = Path(raceway.__file__).parent / "data" / "demo.pcapng.gz"


def captures() -> list:
    found = own_captures() + shared_captures()
    cases = [pytest.param(path, id=path.name) for path in found if path.name != "demo.pcapng.gz"]
    if not shared_captures():
        cases.append(
            pytest.param(None, id="shared", marks=pytest.mark.skip(reason="no ../shared/data/captures here"))
        )
    return cases


def replay_into(path: Path, name: str, **options) -> Replay:
    with raceway.open(name) as target:
        source = raceway.open(f"pcap:{path}", slots=1024, region=target.region)
        with source:
            replay = Replay(source, target, Pace(), **options)
            replay.run()
            # Closing right away: what was published stays readable for the other end.
            return replay


@pytest.mark.parametrize("path", captures())
def test_every_capture_goes_replay_pipe_dump_and_comes_out_the_same(path, pipe_name, tmp_path):
    expected = raceway.load_capture(path)
    out = tmp_path / "out.pcapng"
    b = raceway.open(pipe_name + "}1", slots=256)
    sender = threading.Thread(target=replay_into, args=(path, pipe_name + "{1"))
    sender.start()
    with b, raceway.open(f"pcap:{out}", write=True, region=b.region, slots=256) as target:
        forwarder = Forwarder([Way(b, target)])
        forwarder.run()
        counted = forwarder.counters()
        drops = forwarder.drops()
    sender.join(30)
    got = raceway.load_capture(out)
    assert got.lengths.tolist() == expected.lengths.tolist()
    assert (got.data == expected.data).all()
    assert not drops
    assert counted["taken"] == counted["sent"] == len(expected)


@pytest.mark.parametrize("path", captures()[:12])
def test_a_capture_copied_file_to_file_keeps_times_wire_lengths_and_link_types(path, tmp_path):
    out = tmp_path / "copy.pcapng"
    with raceway.open(f"pcap:{path}") as source, raceway.open(f"pcap:{out}", write=True) as target:
        assert source.region is not target.region
        Forwarder([Way(source, target)]).run()
    expected, got = raceway.load_capture(path), raceway.load_capture(out)
    assert list(got) == list(expected)
    known = expected.timestamps != 0
    assert (got.timestamps[known] == expected.timestamps[known]).all()
    assert (got.link_types == expected.link_types).all()


def test_chains_cross_regions_of_different_buffer_sizes_whole(pipe_name):
    frames = [os.urandom(length) for length in (1, 64, 65, 1000, 4096, 9000, 3)]
    with (
        raceway.open(pipe_name + "x{1", buffer_size=256) as a,
        raceway.open(pipe_name + "x}1") as b,
        raceway.open(pipe_name + "y{1", buffer_size=1024) as c,
        raceway.open(pipe_name + "y}1") as d,
    ):
        a.send(frames)
        forwarder = Forwarder([Way(b, c, limit=len(frames))])
        forwarder.run()
        batch = d.receive(5)
        assert batch.to_bytes() == frames
        assert forwarder.counters()["sent"] == len(frames)


def test_a_packet_that_no_ring_can_hold_is_dropped_by_name(pipe_name):
    with (
        raceway.open(pipe_name + "x{1") as a,
        raceway.open(pipe_name + "x}1") as b,
        raceway.open(pipe_name + "y{1", buffer_size=64, slots=4) as c,
        raceway.open(pipe_name + "y}1") as d,
    ):
        a.send([b"ok", bytes(64 * 3 + 1), b"fine"])
        forwarder = Forwarder([Way(b, c, limit=3)])
        forwarder.run()
        assert forwarder.drops() == {"too_long": 1}
        assert d.receive(5).to_bytes() == [b"ok", b"fine"]


def test_a_slow_target_slows_its_source_and_nothing_is_dropped(pipe_name):
    with (
        raceway.open(pipe_name + "x{1", slots=64) as a,
        raceway.open(pipe_name + "x}1") as b,
        raceway.open(pipe_name + "y{1", slots=8, region=b.region) as c,
        raceway.open(pipe_name + "y}1") as d,
    ):
        assert c.region is b.region
        assert a.send([b"%d" % number for number in range(50)], timeout=0) == 50
        forwarder = Forwarder([Way(b, c)])
        got = []
        while len(got) < 50:
            forwarder.step(1_000_000)
            got += d.receive(0, limit=3).to_bytes()
        assert got == [b"%d" % number for number in range(50)]
        held = np.sort(np.concatenate(b.region.inventory()))
        assert (held == np.arange(1, b.region.allocated_buffers + 1)).all()


@raceway.packet_function
def by_length(packet):
    if len(packet) == 1:
        return raceway.DROP
    if len(packet) == 2:
        return raceway.TX
    if len(packet) == 3:
        return packet.load8(3)
    if len(packet) == 4:
        return 77
    if len(packet) == 5:
        return raceway.REDIRECT
    if len(packet) == 6:
        return raceway.ABORTED
    return raceway.PASS


@pytest.mark.parametrize("interpreted", [False, True])
def test_verdicts_are_carried_out_and_everything_taken_is_accounted_for(pipe_name, interpreted):
    frames = [b"x" * (1 + number % 8) for number in range(800)]
    with (
        raceway.open(pipe_name + "x{1") as a,
        raceway.open(
            pipe_name + "x}1",
        ) as b,
        raceway.open(pipe_name + "y{1", region=b.region) as c,
        raceway.open(pipe_name + "y}1") as d,
    ):
        a.send(frames)
        forwarder = Forwarder([Way(b, c, by_length, limit=800, interpreted=interpreted)])
        forwarder.run()
        counted = forwarder.counters()
        assert forwarder.drops() == {"function": 100, "aborted": 300}
        assert forwarder.abort_reasons() == {
            "out_of_bounds": 100,
            "arithmetic": 0,
            "bad_verdict": 100,
            "other_error": 0,
        }
        assert (counted["sent"], counted["returned"], counted["taken"]) == (300, 100, 800)
        passed, back = [], []
        while len(passed) < 300:
            passed += d.receive(5).to_bytes()
        while len(back) < 100:
            back += a.receive(5).to_bytes()
        assert passed == [frame for frame in frames if len(frame) in (5, 7, 8)]
        assert set(back) == {b"xx"}


def test_a_function_sees_a_packet_in_several_slots_once_its_first_slot(pipe_name):
    seen = raceway.Counters(2)

    @raceway.packet_function
    def count(packet):
        seen.add(0, 1)
        seen.add(1, len(packet))
        return raceway.PASS

    frames = [bytes([number]) * (100 + number * 37 % 700) for number in range(200)]
    with (
        raceway.open(pipe_name + "x{1", buffer_size=256) as a,
        raceway.open(pipe_name + "x}1") as b,
        raceway.open(pipe_name + "y{1", region=b.region) as c,
        raceway.open(pipe_name + "y}1") as d,
    ):
        a.send(frames)
        Forwarder([Way(b, c, count, limit=200)]).run()
        got = []
        while len(got) < 200:
            got += d.receive(5).to_bytes()
        assert got == frames
        assert seen[0] == 200
        assert seen[1] == sum(min(256, len(frame)) for frame in frames)


def test_tx_from_a_port_that_cannot_send_is_counted(tmp_path):
    @raceway.packet_function
    def everything_back(packet):
        return raceway.TX

    with raceway.open(f"pcap:{DEMO}") as source, raceway.open("null:") as target:
        forwarder = Forwarder([Way(source, target, everything_back)])
        forwarder.run()
        assert forwarder.drops() == {"no_way_back": forwarder.counters()["taken"]}


def test_both_directions_of_a_bridge_run_at_once(pipe_name):
    with (
        raceway.open(pipe_name + "x{1") as a,
        raceway.open(pipe_name + "x}1") as b,
        raceway.open(pipe_name + "y{1", region=b.region) as c,
        raceway.open(pipe_name + "y}1") as d,
    ):
        a.send([b"a%d" % number for number in range(300)])
        d.send([b"d%d" % number for number in range(300)])
        forwarder = Forwarder([Way(b, c), Way(c, b)])
        there, back = [], []
        while len(there) < 300 or len(back) < 300:
            forwarder.step(1_000_000)
            there += d.receive(0).to_bytes()
            back += a.receive(0).to_bytes()
        assert there == [b"a%d" % number for number in range(300)]
        assert back == [b"d%d" % number for number in range(300)]


def test_replay_loops_and_ends_after_a_number_of_packets(pipe_name):
    small = own_captures()[0]
    each = len(raceway.load_capture(small))
    for options, expected in (({"loops": 3}, 3 * each), ({"loops": 0, "limit": 2 * each + 1}, 2 * each + 1)):
        with raceway.open(f"pcap:{small}") as source, raceway.open("null:") as target:
            replay = Replay(source, target, Pace(), **options)
            replay.run()
            assert replay.packets == expected
            assert target.counters()["tx_packets"] == expected


def test_paces_are_checked_and_say_what_they_expect():
    for pace, words in (
        (Pace(speed=0), "speed 0"),
        (Pace(packets=0.1), "packets a second 0.1"),
        (Pace(bits=1e13), "bits a second"),
        (Pace(speed=1, packets=1), "expected one of them"),
    ):
        with pytest.raises(ValueError, match=words):
            pace.numbers()


def run(*arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "120"}
    return subprocess.run(
        [*RACEWAY, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=check,
        **options,
    )


def test_the_tools_end_with_a_json_object_on_the_last_line(tmp_path):
    out = tmp_path / "kept.pcapng"
    function = tmp_path / "mine.py"
    function.write_text(
        "import raceway\n@raceway.packet_function\ndef web(packet):\n"
        "    if packet.tcp and packet.tcp.destination_port == 80:\n        return raceway.PASS\n"
        "    return raceway.DROP\n"
    )
    done = run("bridge", "-i", f"pcap:{DEMO}", "-i", f"pcap:{out}", "--through", f"{function}:web", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    total = len(raceway.load_capture(DEMO))
    kept = len(raceway.load_capture(out))
    assert told["tool"] == "bridge"
    assert told["packets"] == total == kept + told["drops"]["function"]
    assert 0 < kept < total
    told = json.loads(run("dump", f"pcap:{out}", "-c", "7", "--json").stdout.splitlines()[-1])
    assert (told["tool"], told["packets"]) == ("dump", 7)
    told = json.loads(
        run("replay", str(out), "null:", "--top", "--loop", "2", "--json").stdout.splitlines()[-1]
    )
    assert (told["tool"], told["packets"], told["drops"]) == ("replay", 2 * kept, {})


def test_dump_prints_a_line_a_packet_and_hexadecimal_if_asked():
    done = run("dump", f"pcap:{DEMO}", "-c", "40")
    assert len(done.stdout.splitlines()) == 40
    assert any(" IP 192.0.2" in line or " IP6 2001:db8" in line for line in done.stdout.splitlines())
    done = run("dump", f"pcap:{DEMO}", "-c", "1", "-x")
    first = next(iter(raceway.load_capture(DEMO)))
    assert first[:16].hex(" ") in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["bridge", "-i", "null:"], 2, "expected twice"),
        (["bridge", "-i", "pcap:/nonexistent", "-i", "null:"], 1, "raceway: /nonexistent: No such file"),
        (
            ["bridge", "-i", "null:", "-i", "null:", "--through", "nothing.py:f"],
            2,
            "there is no file nothing.py",
        ),
        (["bridge", "-i", "null:", "-i", "null:", "--through", "nothing"], 2, "expected FILE.py:FUNCTION"),
        (["bridge", "-i", "netmap:x{", "-i", "null:"], 2, "^"),
        (["dump", "vale0:a"], 1, "not built yet"),
        (["replay", "/nonexistent", "null:"], 1, "raceway: /nonexistent: No such file or directory\n"),
        (["replay", str(DEMO), "null:", "--pps", "5", "--top"], 2, "expected one of them"),
        (["replay", str(DEMO), "null:", "--pps", "-5"], 2, "expected more than 0"),
        (["dump", "null:", "-w", "/nonexistent/file"], 1, "No such file"),
    ],
)
def test_errors_are_short_and_say_what_is_wrong(arguments, status, words):
    done = run(*arguments, check=False)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_help_by_example_for_every_tool():
    assert "pkt-gen" in run("--help").stdout
    for tool in ("bridge", "dump", "replay", "pkt-gen", "demo"):
        assert f"raceway {tool}" in run(tool, "--help").stdout


def test_dump_records_what_comes_through_a_pipe_until_the_stream_ends(pipe_name, tmp_path):
    out = tmp_path / "recorded.pcap"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    a = raceway.open(pipe_name + "{1")
    recorder = subprocess.Popen(
        [*RACEWAY, "dump", pipe_name + "}1", "-w", str(out), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    frames = [os.urandom(60 + number % 3000) for number in range(2000)]
    a.send(frames)
    while a.tx[0].space < a.tx[0].size - 1:
        a.wait(0.01)
        a.sync()
    a.close()
    output, _ = recorder.communicate(timeout=60)
    told = json.loads(output.splitlines()[-1])
    assert (told["packets"], told["drops"]) == (2000, {})
    assert list(raceway.load_capture(out)) == frames


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda one: one.name)
def test_who_ends_a_recording_gets_a_whole_file_and_the_report(tmp_path, ending):
    out = tmp_path / "out.pcapng"
    command = [*RACEWAY, "pkt-gen", "-f", "tx", "-i", f"pcap:{out}", "-R", "1000", "-T", "50", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tool:
        assert tool.stderr is not None
        try:
            while "pps" not in (line := tool.stderr.readline()) or ": 0 pps" in line:
                assert line, "it sent nothing"
            tool.send_signal(ending)
            said, _ = tool.communicate(timeout=60)
        finally:
            tool.kill()
    report = json.loads(said.splitlines()[-1])
    assert (report["ended"], tool.returncode) == ("interrupted", 0)
    assert len(raceway.load_capture(out)) == report["packets"] > 0
