"""The demo as people see it: pure functions from a `View` to rich's renderables, for any width and height.

A short terminal gets the function alone with its counts, a tall one the whole file, a wide one both beside the
figures. The same rows go to a terminal, to a picture and, without colours, into a pipe.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.console import Group, OverflowMethod, RenderableType
from rich.table import Table
from rich.text import Text

from raceway.apps.demo.listing import Listing
from raceway.apps.report import WIRE_OVERHEAD, scaled

if TYPE_CHECKING:
    from raceway.apps.demo.journey import Passage
    from raceway.apps.demo.measure import Cost

WIDE = 118
"""Columns from which on the figures stand beside the source."""
_SOURCE_WIDTH = 80
_GAP = 3
_COUNT, _BAR = 7, 8


@dataclass(frozen=True)
class Glyphs:
    """Characters for drawing; another set for terminals that have only ASCII."""

    spark: str = "▁▂▃▄▅▆▇█"
    part: str = "▏▎▍▌▋▊▉█"
    gutter: str = "│"
    arrow: str = "→"
    pipe: str = "═══"
    times: str = "×"  # noqa: RUF001
    right: str = "✔"
    wrong: str = "✘"
    dot: str = "·"
    spinner: str = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    overflow: OverflowMethod = "ellipsis"


UNICODE = Glyphs()
ASCII = Glyphs(".:-=+*%#", "########", "|", "->", "===", "x", "ok:", "NOT SO:", "-", "|/-\\", "crop")


@dataclass
class View:
    """Everything that the screen shows. The tool writes it, the screen reads it, at any time."""

    listing: Listing
    recording: str
    pipe: str
    sender: int
    receiver: int
    speed: float
    recorded: Passage
    top: Passage
    expected_seconds: float = 0.0
    step: str = ""
    stepped: float = field(default_factory=time.monotonic)
    phase: str = "compiling"
    compile_seconds: float = 0.0
    cost: Cost | None = None
    kept_file: str = ""
    interpreted: bool = False

    def begin(self, phase: str, step: str) -> None:
        """Say what is being done now."""
        self.stepped = time.monotonic()
        self.phase, self.step = phase, step


def render(view: View, width: int, height: int | None, glyphs: Glyphs = UNICODE) -> RenderableType:
    """The whole screen, for so many columns and rows; height None: as many rows as it takes to show the function."""
    head = [_title(glyphs), _route(view, width, glyphs)]
    closing = [Text(), *_next_steps(view)] if view.phase == "done" else []
    # A terminal shows as much of the file as it has rows for, and the function in any case.
    room = (height or 0) - len(head) - len(closing)
    if width >= WIDE:
        beside = width - _SOURCE_WIDTH - _GAP
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        grid.add_column(width=_SOURCE_WIDTH, no_wrap=True)
        grid.add_column(width=beside)
        source = Group(*_source(view, room - 1, _SOURCE_WIDTH, glyphs))
        grid.add_row(source, Group(*_figures_as_column(view, beside, glyphs)))
        return Group(*head, Text(), grid, *closing)
    figures = _figures_as_rows(view, width, glyphs)
    blank = [Text()] if closing or room > 28 else []
    room -= 2 * len(blank)
    if not closing and not blank:
        # What is newest is at the bottom, and the function has to be seen whole.
        least = view.listing.last - view.listing.starts[-1] + 1
        figures = figures[-max(2, room - least) :]
    return Group(
        *head, *blank, *_source(view, room - len(figures), width, glyphs), *blank, *figures, *closing
    )


def _title(glyphs: Glyphs) -> Text:
    return Text.assemble(
        ("raceway demo", "bold"),
        (f"  {glyphs.dot}  a real recording, two processes, one Python function", "dim"),
        no_wrap=True, overflow=glyphs.overflow,
    )  # fmt: skip


def _route(view: View, width: int, glyphs: Glyphs) -> Text:
    word = "process" if width >= 96 else "pid"
    arrow = (f" {glyphs.arrow} ", "dim")
    return Text.assemble(
        (view.recording, "cyan"), arrow, f"{word} {view.sender} ", (f"{glyphs.pipe} ", "magenta"),
        (f"{view.pipe}{{1 {glyphs.pipe} }}1", "magenta"), (f" {glyphs.pipe}", "magenta"),
        f" {word} {view.receiver}", arrow, ("kept", "green"),
        no_wrap=True, overflow=glyphs.overflow,
    )  # fmt: skip


# The source.


def _source(view: View, rows: int, width: int, glyphs: Glyphs) -> list[Text]:
    """The function's lines, and beside each that drops how many packets it has dropped."""
    listing = view.listing
    compiling = view.phase == "compiling"
    start, last = listing.start_for(rows), listing.last
    if view.phase == "done" and start == listing.starts[-1]:
        start = listing.starts[-2]
    if compiling and start > 1:
        # Too short a screen for the whole file, and nothing to count yet: first what the function keeps.
        start = listing.starts[2]
        last = min(last, start + max(rows, 1) - 1)
    counts: dict[int, tuple[int, str]] = {}
    if not compiling:
        dropped = view.recorded.dropped or [0] * len(listing.rules)
        counts = {rule.line: (count, "red") for rule, count in zip(listing.rules, dropped, strict=True)}
        counts[listing.last] = view.recorded.kept, "green"
    largest = max([1, *(count for count, _ in counts.values())])
    digits = len(str(listing.last))
    texts = []
    for number, code in enumerate(highlighted(tuple(listing.lines[start - 1 : last])), start):
        row = Text.assemble((f"{number:>{digits}} {glyphs.gutter} ", "dim"), no_wrap=True, overflow="crop")
        row.append_text(code)
        if number in counts:
            count, colour = counts[number]
            row.truncate(width - _COUNT - _BAR - 3)
            row.pad_right(width - _COUNT - _BAR - 2 - row.cell_len)
            row.append(f"{count:>{_COUNT},} ", f"bold {colour}")
            row.append(_bar(count, largest, glyphs), colour)
        else:
            row.truncate(width, overflow=glyphs.overflow)
        texts.append(row)
    return texts


@lru_cache(maxsize=8)
def highlighted(lines: tuple[str, ...]) -> Sequence[Text]:
    """Python source in the colours of the terminal's own theme."""
    from rich.syntax import Syntax

    colours = Syntax("", "python", theme="ansi_dark", background_color="default")
    marked = colours.highlight("\n".join(lines)).split("\n", allow_blank=True)
    return list(marked)[: len(lines)]


def _bar(count: int, largest: int, glyphs: Glyphs) -> str:
    if not count:
        return ""
    full, part = divmod(max(1, round(count / largest * _BAR * 8)), 8)
    return glyphs.part[-1] * full + (glyphs.part[part - 1] if part else "")


# The figures: below the source, one row each, or beside it, in a column.


def _figures_as_rows(view: View, width: int, glyphs: Glyphs) -> list[Text]:
    if view.phase == "compiling":
        return [_working(view, glyphs)]
    columns = max(10, min(64, width - 37))
    rows = []
    for label, which, total, style in _curves(view):
        curve = _curve(view, which, columns, glyphs)
        row = Text.assemble((f"{label} ", "bold"), (curve, style), f"  {total:>6,} packets", no_wrap=True)
        rows.append(row.append(f"  {_rate(view, total):>7,.0f}/s", "dim"))
    passage = view.recorded
    row = Text.assemble(
        (f"{passage.offered:,}", "bold cyan"), " = ", (f"{passage.kept:,} kept", "green"), no_wrap=True
    )
    for _, count in _drops(view):
        row.append(" + ").append(f"{count:,}", "red")
    row.append(" dropped", "red").append_text(_verdict(view, glyphs, short=width < 96))
    rows.append(row)
    if view.top.samples:
        rate, bits = _speed(view.top)
        row = Text.assemble(
            (rate, "bold yellow"), " packets a second through pipe and function", no_wrap=True
        )
        rows.append(row.append(f" {glyphs.dot} {bits}", "dim"))
    if view.cost is not None:
        rows.append(Text(f" {glyphs.dot} ").join(_costs(view.cost, glyphs)))
    # On a short screen the figures of what runs now say that something runs.
    if view.phase in ("top", "measuring"):
        rows.append(_working(view, glyphs))
    for row in rows:
        row.no_wrap, row.overflow = True, glyphs.overflow
    return rows


def _figures_as_column(view: View, width: int, glyphs: Glyphs) -> list[Text]:
    if view.phase == "compiling":
        return [_working(view, glyphs)]
    rows = []
    for label, which, total, style in _curves(view):
        heading = Text.assemble(
            (f"{label} ", "bold"), f"{total:>6,} packets", (f"  {_rate(view, total):,.0f}/s", "dim")
        )
        rows += [heading, Text(_curve(view, which, min(width, 64), glyphs), style), Text()]
    passage = view.recorded
    rows.append(Text.assemble((f"{passage.offered:>7,}", "bold cyan"), " came"))
    rows.append(Text.assemble((f"{passage.kept:>7,}", "green"), " kept"))
    rows += [Text.assemble((f"{count:>7,}", "red"), f" dropped: {name}") for name, count in _drops(view)]
    rows += [_verdict(view, glyphs, short=False), Text()]
    if view.top.samples:
        rate, bits = _speed(view.top)
        rows.append(Text.assemble((rate, "bold yellow"), " packets a second"))
        rows += [Text("through pipe and function"), Text(bits, "dim"), Text()]
    if view.cost is not None:
        rows += [*_costs(view.cost, glyphs), Text()]
    if view.phase != "done":
        rows.append(_working(view, glyphs))
    return rows


def _working(view: View, glyphs: Glyphs) -> Text:
    since = time.monotonic() - view.stepped
    turn = glyphs.spinner[int(since * 10) % len(glyphs.spinner)]
    slow = ", once for this version" if view.phase == "compiling" and since > 3 else ""
    return Text.assemble((f"{turn} ", "yellow"), (f"{since:.1f} s  ", "dim"), view.step, (slow, "dim"))


def _curves(view: View) -> list[tuple[str, int, int, str]]:
    """Label, place in a sample, total and colour of the two curves."""
    return [("came", 1, view.recorded.offered, "cyan"), ("kept", 2, view.recorded.kept, "green")]


def _rate(view: View, total: int) -> float:
    return total / view.recorded.seconds if view.recorded.seconds > 0 else 0.0


def _curve(view: View, which: int, columns: int, glyphs: Glyphs) -> str:
    """Packets over the recording's time, both curves on the scale of what came."""
    samples = list(view.recorded.samples)
    values = binned(samples, which, columns, view.expected_seconds)
    highest = max([1, *binned(samples, 1, columns, view.expected_seconds)])
    top = len(glyphs.spark) - 1
    return "".join(" " if value < 0 else glyphs.spark[round(value / highest * top)] for value in values)


def binned(samples: list[tuple[float, int, int]], which: int, columns: int, expected: float) -> list[float]:
    """Packets in each column's share of the expected seconds; -1 where the time has not come yet.

    Between two samples packets are taken to have come evenly: a column may be shorter than a slice of work.
    """
    if not samples or expected <= 0:
        return [-1.0] * columns
    times: list[float] = [0.0]
    counts: list[float] = [0.0]
    for sample in samples:
        times.append(max(sample[0], times[-1]))
        counts.append(sample[which])
    edges = [expected * column / columns for column in range(columns + 1)]
    # What came after the expected end belongs to the last column.
    edges[-1] = max(expected, times[-1])
    totals = [_interpolated(edge, times, counts) for edge in edges]
    return [
        totals[column + 1] - totals[column] if edges[column] < times[-1] else -1.0
        for column in range(columns)
    ]


def _interpolated(time: float, times: list[float], counts: list[float]) -> float:
    after = bisect_right(times, time)
    if after == len(times):
        return counts[-1]
    span = times[after] - times[after - 1]
    share = (time - times[after - 1]) / span if span > 0 else 1.0
    return counts[after - 1] + share * (counts[after] - counts[after - 1])


def _drops(view: View) -> list[tuple[str, int]]:
    """Every drop by name: the function's by rule, then those of other places, if there are any."""
    passage = view.recorded
    dropped = passage.dropped or [0] * len(view.listing.rules)
    named = [(rule.name, count) for rule, count in zip(view.listing.rules, dropped, strict=True)]
    return named + [(name, count) for name, count in passage.drops.items() if name != "function" and count]


def _verdict(view: View, glyphs: Glyphs, *, short: bool) -> Text:
    """Whether the sum is right, once it must be."""
    if not view.recorded.done:
        return Text()
    if view.recorded.balanced:
        return Text(f"  {glyphs.right}" if short else f"  {glyphs.right} none lost in silence", "bold green")
    return Text(f"  {glyphs.wrong} the sum is wrong", "bold red")


def _speed(passage: Passage) -> tuple[str, str]:
    seconds = max(passage.seconds, 1e-9)
    rate = passage.offered / seconds
    bits = 8 * (passage.octets + WIRE_OVERHEAD * passage.offered) / seconds
    return (
        f"{rate / 1e6:.1f} million" if rate >= 1e6 else f"{rate:,.0f}",
        f"{scaled(bits, 'bit/s')} on a wire",
    )


def _costs(cost: Cost, glyphs: Glyphs) -> list[Text]:
    if cost.native is None:
        return [
            Text.assemble((f"{cost.interpreted:,.0f} ns", "bold yellow"), " a packet interpreted"),
            Text("nothing is compiled: NUMBA_DISABLE_JIT is set", "dim"),
        ]
    native = Text.assemble((f"{cost.native:,.0f} ns", "bold yellow"), " a packet native")
    times = f"{cost.interpreted / cost.native:,.0f}{glyphs.times}"
    interpreted = Text.assemble(
        f"{cost.interpreted:,.0f} ns interpreted, ", (f"{times} the time", "bold yellow")
    )
    same = ("same verdicts", "dim") if cost.same_verdicts else ("NOT the same verdicts", "bold red")
    return [native, interpreted, Text(*same)]


def next_commands(view: View) -> list[tuple[str, str]]:
    """What to try now: a command, and what it is for."""
    commands = [
        ("raceway demo --unpack .", "firewall.py and the recording, to change"),
        ("raceway bridge -i pcap:demo.pcapng.gz -i null: --through firewall.py:firewall", ""),
    ]
    if view.kept_file:
        commands.append((f"raceway dump pcap:{view.kept_file} -c 20", "what was kept"))
    return [
        *commands,
        ("raceway pkt-gen -f rx -i 'netmap:x}1'", "in one terminal, and in another"),
        ("raceway pkt-gen -f tx -i 'netmap:x{1'", "what a pipe can carry"),
    ]


def _next_steps(view: View) -> list[Text]:
    rows = [Text("Try next", "bold")]
    for command, purpose in next_commands(view):
        row = Text.assemble("  ", (command, "cyan"), overflow="fold")
        if purpose:
            row.append(f"   {purpose}", "dim")
        rows.append(row)
    return rows
