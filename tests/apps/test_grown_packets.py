"""Packets that a function makes longer or shorter on their way: through the forwarder, files, pipes, and the bridge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from moving_functions import COUNT, grow_thirty_two, pop_tag, push_tag, return_with_tag

import raceway
from conftest import own_captures
from raceway.apps.forwarder.forwarder import Forwarder, Way

RACEWAY = [sys.executable, "-c", "from raceway.faces.cli import main; main()"]
ADDRESSES = bytes(range(2, 14))


def frames(count: int, length: int = 60) -> list[bytes]:
    return [
        (ADDRESSES + b"\x88\xb5" + number.to_bytes(4, "big")).ljust(length, b"\x5a")
        for number in range(count)
    ]


def tagged(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\x00\x20\x07" + frame[12:]


def written(path, packets, **options) -> str:
    with raceway.open(f"pcap:{path}", write=True, **options) as port:
        port.send(packets)
    return f"pcap:{path}"


@pytest.mark.parametrize("shared", [True, False], ids=["one region", "two regions"])
@pytest.mark.parametrize("interpreted", [True, False], ids=["interpreted", "native"])
def test_a_capture_is_tagged_and_untagged_from_file_to_file(tmp_path, shared, interpreted):
    packets = [*frames(300), *frames(40, 14), *frames(40, 1400)]
    source = written(tmp_path / "in.pcap", packets)
    for function, name, before, after in (
        (push_tag, "tagged.pcapng", packets, [tagged(one) for one in packets]),
        (pop_tag, "again.pcap", [tagged(one) for one in packets], packets),
    ):
        with (
            raceway.open(source) as port,
            raceway.open(
                f"pcap:{tmp_path / name}", write=True, **({"region": port.region} if shared else {})
            ) as out,
        ):
            forwarder = Forwarder([Way(port, out, function=function, interpreted=interpreted)])
            forwarder.run()
            counted = forwarder.counters()
        source = f"pcap:{tmp_path / name}"
        capture = raceway.load_capture(tmp_path / name)
        assert list(capture) == after
        # Nobody has cut them: they are as long on the wire as here.
        assert capture.wire_lengths.tolist() == [len(one) for one in after]
        assert counted["taken"] == counted["sent"] == len(packets)
        assert counted["taken_bytes"] == sum(map(len, before))
        assert counted["sent_bytes"] == sum(map(len, after))


def test_what_a_capture_has_cut_grows_on_the_wire_too(tmp_path):
    written(tmp_path / "in.pcap", frames(5, 100))
    whole = (tmp_path / "in.pcap").read_bytes()
    # A capture that was cut to 60 bytes: sizes in its records, 16 bytes before each packet.
    cut, at = whole[:24], 24
    for _ in range(5):
        cut += whole[at : at + 8] + (60).to_bytes(4, "little") + whole[at + 12 : at + 16 + 60]
        at += 116
    (tmp_path / "cut.pcap").write_bytes(cut)
    with (
        raceway.open(f"pcap:{tmp_path / 'cut.pcap'}") as port,
        raceway.open(f"pcap:{tmp_path / 'out.pcap'}", write=True) as out,
    ):
        Forwarder([Way(port, out, function=push_tag)]).run()
    capture = raceway.load_capture(tmp_path / "out.pcap")
    assert capture.lengths.tolist() == [64] * 5
    assert capture.wire_lengths.tolist() == [104] * 5


@pytest.mark.parametrize("path", own_captures(), ids=lambda path: path.name)
def test_every_capture_can_be_grown(path, tmp_path):
    expected = raceway.load_capture(path)
    with (
        raceway.open(f"pcap:{path}", slots=1024) as port,
        raceway.open(f"pcap:{tmp_path / 'out.pcapng'}", write=True) as out,
    ):
        forwarder = Forwarder([Way(port, out, function=grow_thirty_two, limit=2000)])
        forwarder.run()
        counted, drops = forwarder.counters(), forwarder.drops()
    got = list(raceway.load_capture(tmp_path / "out.pcapng"))
    wanted = list(expected)[:2000]
    assert drops == {}
    assert counted["taken"] == counted["sent"] == len(got) == len(wanted)
    for mine, one in zip(got, wanted, strict=True):
        # A packet that fills its buffer, or lies in several, has no room; one that is too short stays below 14 bytes.
        assert mine in (bytes(32) + one, one)
        if 14 <= len(one) <= 1500:
            assert mine == bytes(32) + one
    assert counted["sent_bytes"] == sum(map(len, got))


def test_each_packet_is_judged_once_whatever_waits_for_room(pipe_name):
    """Two receive rings, and a target that takes seven at a time: what waits has been judged, and is not again."""
    COUNT.clear()
    with (
        raceway.open(pipe_name + "a{1@conf:tx-rings=2,rx-rings=2,tx-slots=64,rx-slots=64") as feed,
        raceway.open(pipe_name + "a}1") as source,
        raceway.open(pipe_name + "b{1@conf:slots=8") as target,
        raceway.open(pipe_name + "b}1") as sink,
    ):
        sent = frames(100)
        for index, ring in enumerate(feed.tx):
            for number in range(50):
                slot = ring.slots[ring.head]
                data = sent[index * 50 + number]
                slot["offset"], slot["length"], slot["flags"] = 0, len(data), 0
                ring.buffer(ring.head)[: len(data)] = memoryview(data)
                ring.advance(1)
            ring.sync()
        forwarder = Forwarder([Way(source, target, function=push_tag)])
        came: list[bytes] = []
        for _ in range(400):
            forwarder.step(1_000_000)
            came += sink.receive(0).to_bytes()
            if len(came) == 100:
                break
        assert sorted(came) == sorted(tagged(one) for one in sent)
        assert COUNT["pushed"] == 100
        counted = forwarder.counters()
        assert (counted["taken"], counted["sent"]) == (100, 100)
        assert (counted["taken_bytes"], counted["sent_bytes"]) == (6000, 6400)


def test_packets_behind_the_limit_stay_as_they_came(pipe_name):
    COUNT.clear()
    with (
        raceway.open(pipe_name + "a{1") as feed,
        raceway.open(pipe_name + "a}1") as source,
        raceway.open(pipe_name + "b{1") as target,
        raceway.open(pipe_name + "b}1") as sink,
    ):
        sent = frames(20)
        feed.send(sent)
        Forwarder([Way(source, target, function=push_tag, limit=5)]).run()
        assert sink.receive(0).to_bytes() == [tagged(one) for one in sent[:5]]
        assert COUNT["pushed"] == 5
        assert source.receive(0).to_bytes() == sent[5:]


def test_what_goes_back_has_grown_too(pipe_name):
    with (
        raceway.open(pipe_name + "a{1") as feed,
        raceway.open(pipe_name + "a}1") as source,
        raceway.open("null:") as target,
    ):
        for _ in range(3):
            sent = frames(100)
            feed.send(sent)
            forwarder = Forwarder([Way(source, target, function=return_with_tag, limit=100)])
            forwarder.run()
            assert feed.receive(0).to_bytes() == [tagged(one) for one in sent]
            assert forwarder.counters()["returned"] == 100


def test_bridge_tags_a_file_on_the_command_line(tmp_path):
    packets = frames(50)
    written(tmp_path / "in.pcap", packets)
    functions = Path(__file__).parents[1] / "compile" / "moving_functions.py"
    done = subprocess.run(
        [*RACEWAY, "bridge", "-i", f"pcap:{tmp_path / 'in.pcap'}", "-i", f"pcap:{tmp_path / 'out.pcap'}", "--json",
         "--through", f"{functions}:push_tag"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(raceway.load_capture(tmp_path / "out.pcap")) == [tagged(one) for one in packets]
    # Bytes are counted as they came.
    assert json.loads(done.stdout.splitlines()[-1])["bytes"] == 50 * 60
