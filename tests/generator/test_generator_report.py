"""Reports: arithmetic, words, JSON."""

from __future__ import annotations

import io
import json

import pytest

from raceway.apps.report import Report, Sample, Ticker, final_report, named, rate_line, scaled


def report(**changes: object) -> Report:
    values: dict[str, object] = {
        "tool": "pkt-gen", "function": "rx", "port": "null:", "packets": 1000, "bytes": 60_000, "seconds": 2.0,
        "batches": 10, "drops": {"peer_gone": 3},
    }  # fmt: skip
    return Report(**(values | changes))  # type: ignore[arg-type]


def test_rate_counts_what_the_wire_adds() -> None:
    made = report()
    assert made.pps == 500
    assert made.bits_per_second == 500 * 60 * 8
    assert made.bits_per_second_wire == 500 * 84 * 8
    assert made.average_batch == 100


def test_packets_of_the_first_look_do_not_count_for_the_rate() -> None:
    assert report(first=500).pps == 250
    assert report(first=1000).pps == 500
    assert report(seconds=0.0).pps == 0
    assert report(packets=0, bytes=0, batches=0).bits_per_second_wire == 0


def test_json_is_the_last_line_and_has_everything() -> None:
    file = io.StringIO()
    report(ended="interrupted", extras={"lost": 4}).show(as_json=True, file=file)
    lines = file.getvalue().splitlines()
    found = json.loads(lines[-1])
    assert found["drops"] == {"peer_gone": 3}
    assert (found["lost"], found["ended"], found["packets"]) == (4, "interrupted", 1000)
    assert "peer_gone 3" in "\n".join(lines[:-1])


@pytest.mark.parametrize(
    ("value", "normal", "words"),
    [
        (14_880_952, True, "14.88 Mpps"),
        (14_880_952, False, "14880952 pps"),
        (999, True, "999 pps"),
        (0, True, "0 pps"),
    ],
)
def test_numbers_are_scaled(value: float, normal: bool, words: str) -> None:
    assert scaled(value, "pps", normal=normal) == words


def test_rate_line_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    line = rate_line(
        "", Sample(1.0, 0, 0, 0), Sample(1.5, 1000, 60_000, 10, {"short": 2, "none": 0}, "lost 1")
    )
    assert line == "2 kpps, 1.344 Mbit/s wire, 1 kpkt 60 kB in 0.500 s, batch 100.0, drops short 2, lost 1"
    assert named({}) == named(0) == "none"
    ticker = Ticker("x", 1e-9)
    ticker.tick(5, 300, 7)
    assert "drops 7" in capsys.readouterr().err
    silent = Ticker("x", 0)
    silent.tick(5, 300)
    assert (silent.left, capsys.readouterr().err) == (None, "")


def test_a_tool_that_counts_by_itself_reports_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {"packets": 2, "bytes": 120, "batches": 1, "seconds": 1.0, "drops": {}, "file": "x"}
    final_report("dump", "null:", summary, json=True)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["tool"], found["port"], found["file"], found["pps"]) == ("dump", "null:", "x", 2.0)
    final_report("dump", "null:", summary, to_stderr=True)
    assert capsys.readouterr().out == ""
