"""`raceway demo` from start to end: what it says is what an independent count of the recording says."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from demo_oracle import judge, packets_of, tally
from demo_running import PATIENCE, RACEWAY, environment, start
from raceway.apps.demo import firewall

RULES = ("bad_flags", "port_scan", "syn_flood", "udp_flood", "error_flood", "answers")


@pytest.fixture(scope="module")
def recording() -> list[tuple[int, bytes]]:
    with as_file(files("raceway") / "data" / "demo.pcapng.gz") as path:
        return packets_of(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("demo")
    kept, picture = place / "kept.pcapng", place / "demo.svg"
    demo = start(place / "tmp", "--json", "--keep", str(kept), "--svg", str(picture))
    said, complaints = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, complaints.decode()
    return {
        "said": said, "complaints": complaints, "kept": kept, "picture": picture,
        "json": json.loads(said.decode().splitlines()[-1]),
    }  # fmt: skip


def test_without_a_terminal_there_is_plain_text(run: dict[str, Any]) -> None:
    assert b"\x1b" not in run["said"]
    assert b"\r" not in run["said"]
    assert run["complaints"] == b""


def test_every_packet_that_was_sent_is_kept_or_dropped_by_name(run: dict[str, Any], recording: Any) -> None:
    told = run["json"]
    assert told["tool"] == "demo"
    assert told["packets"] == len(recording)
    assert told["bytes"] == sum(len(data) for _, data in recording)
    dropped = sum(rule["packets"] for rule in told["dropped"].values())
    assert told["packets"] == told["kept"] + dropped
    assert told["drops"] == {"function": dropped}
    top = told["top_speed"]
    assert top["packets"] == top["kept"] + sum(top["drops"].values()) > 0
    assert told["balanced"]
    assert top["balanced"]


def test_each_rule_drops_what_an_independent_count_of_it_finds(run: dict[str, Any], recording: Any) -> None:
    expected = tally(judge(recording))
    dropped = {name: rule["packets"] for name, rule in run["json"]["dropped"].items()}
    assert dropped == {rule: expected[rule] for rule in RULES}
    assert all(dropped.values())
    assert run["json"]["kept"] == expected["kept"]


def test_the_kept_file_has_the_kept_packets_in_order_and_their_times(
    run: dict[str, Any], recording: Any
) -> None:
    verdicts = judge(recording)
    expected = [packet for packet, verdict in zip(recording, verdicts, strict=True) if verdict == "kept"]
    assert packets_of(run["kept"]) == expected


def test_no_packet_of_ordinary_use_is_dropped(recording: Any) -> None:
    """By the lab's addresses, which the function does not know."""
    rogue = [bytes([198, 51, 100, 66]), bytes.fromhex("20010db8005100000000000000000066")]
    nets = [bytes([198, 18]), bytes([198, 19]), bytes([203, 0, 113])]
    for (_, data), verdict in zip(recording, judge(recording), strict=True):
        start = 14
        while data[start - 2 : start] == b"\x81\x00":
            start += 4
        if data[start - 2 : start] == b"\x08\x00":
            ends = [data[start + 12 : start + 16], data[start + 16 : start + 20]]
        elif data[start - 2 : start] == b"\x86\xdd":
            ends = [data[start + 8 : start + 24], data[start + 24 : start + 40]]
        else:
            ends = []
        known = any(
            end in rogue or any(end.startswith(net) and len(end) == 4 for net in nets) for end in ends
        )
        assert known or verdict == "kept"


def test_counts_stand_beside_the_lines_that_drop(run: dict[str, Any]) -> None:
    source = Path(firewall.__file__).read_text().splitlines()
    said = run["said"].decode()
    for name, rule in run["json"]["dropped"].items():
        assert f"drop({name.upper()}" in source[rule["line"] - 1]
        assert re.search(
            rf"^{rule['line']} .*drop\({name.upper()}.* {rule['packets']:,} ", said, re.MULTILINE
        )


def test_both_ways_of_running_were_measured_and_agree(run: dict[str, Any]) -> None:
    costs = run["json"]["ns_per_packet"]
    assert run["json"]["same_verdicts"]
    if os.environ.get("NUMBA_DISABLE_JIT", "") in ("", "0"):
        assert 0 < costs["native"] < costs["interpreted"]


def test_the_picture_is_of_this_run_and_loads_nothing_from_the_network(run: dict[str, Any]) -> None:
    picture = run["picture"].read_text()
    assert picture.startswith("<svg")
    assert f"{run['json']['kept']:,}" in picture
    assert "@font-face" not in picture
    assert not re.search(r"(href|url)\W+https?:", picture)


def raceway(place: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*RACEWAY, *words],
        cwd=place,
        env=environment(place),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_commands_to_try_next_work(run: dict[str, Any], tmp_path: Path) -> None:
    commands = [command for command in run["json"]["next"] if "pkt-gen" not in command]
    assert len(commands) == 3
    for command in commands:
        tool, *words = shlex.split(command)
        assert tool == "raceway"
        done = raceway(tmp_path, *words)
        assert done.returncode == 0, (command, done.stderr.decode())
        assert done.stdout


def test_unpacking_twice_overwrites_nothing(tmp_path: Path) -> None:
    assert raceway(tmp_path, "demo", "--unpack", ".").returncode == 0
    mine = tmp_path / "firewall.py"
    mine.write_text("my own work")
    again = raceway(tmp_path, "demo", "--unpack", ".")
    assert again.returncode != 0
    assert b"firewall.py" in again.stderr
    assert mine.read_text() == "my own work"


def test_a_generator_fills_a_pipe_as_the_last_two_commands_say(run: dict[str, Any], tmp_path: Path) -> None:
    receive, send = [shlex.split(command)[1:] for command in run["json"]["next"] if "pkt-gen" in command]
    # Another pipe than people's own, and an end.
    receive, send = (
        [word.replace("netmap:x", f"netmap:x{os.getpid()}") for word in words] for words in (receive, send)
    )
    with subprocess.Popen(
        [*RACEWAY, *receive, "-n", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    ) as receiver:
        sent = raceway(tmp_path, *send, "-n", "100000")
        said, complaints = receiver.communicate(timeout=PATIENCE)
    assert (sent.returncode, receiver.returncode) == (0, 0), (sent.stderr, complaints)
    assert b"100,000 packets" in said


def test_bridge_with_the_unpacked_function_keeps_the_same_packets(
    run: dict[str, Any], tmp_path: Path
) -> None:
    assert raceway(tmp_path, "demo", "--unpack", ".").returncode == 0
    ports = ["-i", "pcap:demo.pcapng.gz", "-i", "pcap:new.pcapng"]
    assert raceway(tmp_path, "bridge", *ports, "--through", "firewall.py:firewall").returncode == 0
    assert packets_of(tmp_path / "new.pcapng") == packets_of(run["kept"])


def test_interpreted_it_comes_to_the_same_counts_and_says_so(run: dict[str, Any], tmp_path: Path) -> None:
    demo = start(tmp_path, "--json", NUMBA_DISABLE_JIT="1")
    said, complaints = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, complaints.decode()
    told = json.loads(said.decode().splitlines()[-1])
    assert told["dropped"] == run["json"]["dropped"]
    assert told["kept"] == run["json"]["kept"]
    assert told["ns_per_packet"]["native"] is None
    assert "NUMBA_DISABLE_JIT" in said.decode()
    # Without --keep: a file of its own among the temporary ones, named on the screen.
    (kept,) = tmp_path.iterdir()
    assert told["file"] == str(kept)
    assert str(kept) in said.decode()
    assert packets_of(kept) == packets_of(run["kept"])


@pytest.mark.parametrize("colours", [True, False])
def test_on_a_terminal_it_draws_and_leaves_the_cursor_as_it_was(tmp_path: Path, colours: bool) -> None:
    ours, theirs = pty.openpty()
    more = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"} | ({} if colours else {"NO_COLOR": "1"})
    with subprocess.Popen(
        [*RACEWAY, "demo"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(tmp_path, **more)
    ) as demo:
        os.close(theirs)
        drawn = b""
        while True:
            try:
                drawn += os.read(ours, 65536)
            except OSError:
                break
        assert demo.wait(PATIENCE) == 0
    os.close(ours)
    assert drawn.rfind(b"\x1b[?25h") > drawn.rfind(b"\x1b[?25l") >= 0
    assert "kept" in drawn.decode()
    assert bool(re.search(rb"\x1b\[[0-9;]*3[1-7]m", drawn)) == colours
