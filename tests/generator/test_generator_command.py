"""`raceway pkt-gen` as a process: options, the report, JSON, Ctrl-C, exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import scaled

PROGRAM = """
import sys
import typer
from raceway.faces.cli import pkt_gen
app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)
app.command("pkt-gen", epilog=pkt_gen.EPILOG)(pkt_gen.command)
try:
    app(prog_name="pkt-gen")
except Exception as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(2)
"""


def start(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100", **environment},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


def last_object(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.rstrip("\n").splitlines()[-1])
    return found


def test_two_processes_deliver_every_packet(pipe_name: str) -> None:
    count = scaled(3_000_000, 2_000)
    receiver = start("-f", "rxseq", "-i", f"{pipe_name}}}1", "--json")
    sender = start(
        "-f", "txseq", "-i", f"{pipe_name}{{1", "-n", str(count), "-l", "64", "--json", "-T", "100"
    )
    sent, lines = finish(sender)
    got, _ = finish(receiver)
    assert (sender.returncode, receiver.returncode) == (0, 0), lines
    for output, function in ((last_object(sent), "txseq"), (last_object(got), "rxseq")):
        keys = {
            "tool", "function", "port", "packets", "bytes", "seconds", "pps", "drops", "bits_per_second_wire",
            "average_batch", "ended",
        }  # fmt: skip
        assert keys <= set(output)
        assert (output["tool"], output["function"]) == ("pkt-gen", function)
        assert (output["packets"], output["bytes"]) == (count, 64 * count)
        assert not any(output["drops"].values())
        assert output["pps"] > 0
        assert output["bits_per_second_wire"] == pytest.approx(output["pps"] * (64 + 24) * 8, rel=1e-6)
    assert last_object(got)["in_order"] == count
    assert last_object(got)["lost"] == 0


def test_rate_lines_come_and_control_c_ends_with_the_report() -> None:
    process = start("-f", "tx", "-i", "null:", "-R", "100k", "-T", "50", "--json")
    assert process.stderr is not None
    line = process.stderr.readline()
    while "bit/s wire" not in line:
        assert line, "no rate line"
        line = process.stderr.readline()
    assert all(word in line for word in ("tx null:", "pps", "pkt", "B in", "batch", "drops none"))
    process.send_signal(signal.SIGINT)
    output, _ = finish(process)
    assert process.returncode == 0
    assert last_object(output)["ended"] == "interrupted"
    assert last_object(output)["packets"] > 0


def test_control_c_while_waiting_for_the_other_end_reports_nothing_sent(pipe_name: str) -> None:
    process = start("-f", "tx", "-i", f"{pipe_name}{{1", "--json")
    assert process.stderr is not None
    line = process.stderr.readline()
    while "waiting for the other end" not in line:
        assert line
        line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    output, _ = finish(process)
    assert process.returncode == 0
    assert (last_object(output)["packets"], last_object(output)["ended"]) == (0, "interrupted")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-f", "send", "-i", "null:"], "-f send: expected one of"),
        (["-f", "tx", "-i", "null:", "-l", "20"], "-l 20: expected 42"),
        (["-f", "tx", "-i", "null:", "-4", "-6"], "-4 -6"),
        (["-f", "tx", "-i", "null:", "-p", "2"], "-p 2: null: has 1 tx rings"),
        (["-f", "tx", "-i", "null:", "-c", "4096"], "-c 4096: this process may use"),
        (["-f", "tx", "-i", "null:", "-a", "4096"], "-a 4096: expected one of"),
        (["-f", "tx", "-i", "null:", "-P", "/nowhere.pcap"], "/nowhere.pcap"),
        (["-f", "tx", "-i", "netmap:x{"], "netmap:x{"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], message: str) -> None:
    process = start(*words)
    _, errors = finish(process)
    assert process.returncode != 0
    assert message in errors


def test_help_comes_quickly_with_examples_and_without_the_compiler() -> None:
    process = start("-h")
    output, _ = finish(process)
    assert process.returncode == 0
    for word in ("-R", "IP[:PORT][-IP[:PORT]]", "raceway pkt-gen -f rx -i 'netmap:x}1'"):
        assert word in output
    code = "import sys; from raceway.faces.cli import pkt_gen; print({'numpy', 'numba'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


def test_all_functions_run_interpreted(pipe_name: str) -> None:
    for near, far in (("tx", "rx"), ("txseq", "rxseq"), ("ping", "pong")):
        receiver = start("-f", far, "-i", f"{pipe_name}}}1", "--json", NUMBA_DISABLE_JIT="1")
        sender = start("-f", near, "-i", f"{pipe_name}{{1", "-n", "100", "--json", NUMBA_DISABLE_JIT="1")
        sent, _ = finish(sender)
        got, _ = finish(receiver)
        assert last_object(sent)["packets"] == last_object(got)["packets"] == 100


def test_packets_of_a_file_go_into_another(tmp_path: Path) -> None:
    import raceway

    source = Path(__file__).parents[1] / "data" / "captures" / "tcp-options.pcap"
    packets = list(raceway.load_capture(source))
    target = tmp_path / "copy.pcapng"
    process = start("-f", "tx", "-i", f"pcap:{target}", "-P", str(source), "-n", str(len(packets)), "-w", "0")
    output, errors = finish(process)
    assert process.returncode == 0, errors
    assert f"{len(packets):,} packets" in output
    assert list(raceway.load_capture(target)) == packets
