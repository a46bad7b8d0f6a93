"""The demo's parts one by one: the listing, the screen at all sizes, the tape."""

from __future__ import annotations

import gzip
import io
import itertools
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from rich.console import Console

from raceway.apps.demo import firewall
from raceway.apps.demo.journey import Passage
from raceway.apps.demo.listing import listing_of
from raceway.apps.demo.measure import Cost
from raceway.apps.demo.screen import ASCII, UNICODE, View, binned, render
from raceway.apps.demo.tape import Tape
from raceway.ports.geometry import Geometry

PHASES = ("compiling", "recorded", "top", "measuring", "done")


def view_at(phase: str) -> View:
    """A view with large numbers, as far as the phase has come."""
    listing = listing_of(firewall)
    view = View(listing, "demo.pcapng.gz", "netmap:demo4194303", 4194304, 4194303, 3.5, Passage(), Passage())
    view.begin(phase, "doing something that has a rather long name")
    view.expected_seconds = 1.5
    if phase != "compiling":
        view.recorded = Passage(9_999, 999_999, 2_003, 1.4, True, [1_333, 1_333, 1_333, 1_333, 1_332, 1_332])
        view.recorded.samples = [(0.02 * i, 140 * i, 28 * i) for i in range(72)]
    if phase in ("top", "measuring", "done"):
        view.top = Passage(99_999_999, 9_999_999_999, 1, 0.5, True, samples=[(0.1, 1, 1)])
    if phase == "done":
        view.cost = Cost(9_999, 55.0, 33_333.0, 25, True)
        view.kept_file = "/tmp/raceway-demo-abcdefgh.pcapng"
    return view


def drawn(view: View, width: int, height: int | None, **options: object) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height or 100, highlight=False)
    console.print(render(view, width, height, **options))  # type: ignore[arg-type]
    return out.getvalue().splitlines()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("width", "height"), [(80, 23), (80, 24), (100, 40), (120, 40), (120, 24), (200, 60), (60, 24)]
)
def test_rows_fit_the_terminal(phase: str, width: int, height: int) -> None:
    rows = drawn(view_at(phase), width, height)
    assert max(len(row) for row in rows) <= width
    if phase != "done" and width < 118:
        assert len(rows) <= height


@pytest.mark.parametrize("phase", PHASES[1:])
@pytest.mark.parametrize(("width", "height"), [(80, 23), (120, 40), (100, None)])
def test_every_line_that_drops_is_shown_with_its_count(phase: str, width: int, height: int | None) -> None:
    text = "\n".join(drawn(view_at(phase), width, height))
    for rule, count in zip(listing_of(firewall).rules, view_at(phase).recorded.dropped, strict=True):
        (row,) = [row for row in text.splitlines() if row.startswith(f"{rule.line} ")]
        assert f"drop({rule.name.upper()}" in row
        assert f"{count:,}" in row
    assert "…" not in "\n".join(row for row in text.splitlines() if "│" in row and row[:2].isdigit())


def test_a_terminal_without_unicode_gets_ascii() -> None:
    for phase in PHASES:
        for width in (80, 120):
            rows = drawn(view_at(phase), width, 40, glyphs=ASCII)
            "\n".join(rows).encode("ascii")
    assert UNICODE != ASCII


def test_a_sum_that_is_wrong_is_said_to_be_wrong() -> None:
    view = view_at("done")
    assert view.recorded.balanced
    assert "wrong" not in "\n".join(drawn(view, 100, None))
    view.recorded.kept -= 1
    assert not view.recorded.balanced
    assert "the sum is wrong" in "\n".join(drawn(view, 100, None))


def test_bins_hold_every_packet_once() -> None:
    samples = [(0.1, 10, 1), (0.15, 30, 2), (0.8, 31, 3), (1.3, 100, 50)]
    for columns in (1, 7, 40):
        for which in (1, 2):
            bins = binned(samples, which, columns, 1.0)
            assert sum(bins) == pytest.approx(samples[-1][which])
    assert binned(samples[:2], 1, 10, 1.0)[2:] == [-1.0] * 8
    assert binned([], 1, 3, 1.0) == [-1.0] * 3


def test_the_listing_names_each_rule_and_its_line() -> None:
    listing = listing_of(firewall)
    assert [rule.name.upper() for rule in listing.rules] == [
        "BAD_FLAGS", "PORT_SCAN", "SYN_FLOOD", "UDP_FLOOD", "ERROR_FLOOD", "ANSWERS",
    ]  # fmt: skip
    assert listing.lines[listing.last - 1].strip() == "return PASS"
    assert listing.start_for(1000) == 1
    assert listing.lines[listing.start_for(1) - 1] == "def firewall(packet):"


def test_each_time_the_tape_is_played_later_than_the_time_before() -> None:
    with (
        as_file(files("raceway") / "data" / "demo.pcapng.gz") as path,
        Tape(str(path), Geometry(receive_slots=16_384)) as tape,
    ):
        ends = []
        for _ in range(3):
            times: list[int] = []
            for batch in tape:
                times += batch.timestamps.tolist()
            assert len(times) == tape.packets
            ends.append((times[0], times[-1]))
            tape.rewind()
        for before, after in itertools.pairwise(ends):
            assert after[0] - before[1] == 1_000_000_000
            assert after[1] - after[0] == before[1] - before[0]


def test_a_tape_of_another_kind_is_refused(tmp_path: Path) -> None:
    for content in (
        b"",
        b"\xd4\xc3\xb2\xa1" + bytes(40),
        bytes.fromhex("0a0d0d0a1c0000004d3c2b1a") + bytes(16),
    ):
        file = tmp_path / "other.gz"
        file.write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=r"other\.gz: "):
            Tape(str(file), Geometry())
