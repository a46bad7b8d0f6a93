"""`raceway firewall top` as people see it: a pure function from a `View` to rich's renderables, for every terminal.

The rows that there are go to rules, drops and talkers as each has use for them, and what finds no row is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from raceway.apps.firewall.watch.top import Row, View

_T = TypeVar("_T")
_COLOURS = {
    "drop": "red", "pass": "green", "limit": "yellow", "log": "cyan", "divert": "magenta", "malformed": "red",
    "aborted": "bold red",
}  # fmt: skip
_BAR, _LINE = 8, "─"
_LEAST = 3
"""Rows that each part has, if it has something to show."""


def render(view: View, width: int, height: int, sort: str = "rate", *, keys: bool = True) -> RenderableType:
    """The whole screen, of exactly `height` rows at most. keys: whether to say which there are."""
    rules, drops = view.sorted_rules(sort), view.drops
    footer = [_keys(sort, width)] if keys else []
    room = height - 2 - len(footer) - 3
    if room < 3:
        # Too short for three parts.
        shown = _rows(rules, max(height - 3 - len(footer), 0), view, width)
        return Group(*[*_head(view, width), _heading("rules", width), *shown, *footer][:height])
    shares = _shared(
        room,
        [
            len(rules),
            max(len(drops), 1),
            len(view.talkers) + (view.sources > len(view.talkers) or not view.sources),
        ],
    )
    parts = [
        _heading("rules", width),
        *_rows(rules, shares[0], view, width),
        _heading("dropped, by name", width),
        *(_rows(drops, shares[1], view, width) if drops else [Text("  nothing", "dim")]),
        _heading(_sampled(view), width),
        *_talkers(view, shares[2], width),
    ]
    lines = [*_head(view, width), *parts]
    if footer:
        lines += [Text()] * (height - len(lines) - 1)
    return Group(*lines, *footer)


def _shared(room: int, wanted: Sequence[int]) -> list[int]:
    """Rows for each part: what it wants, or at least a fair share of what there is."""
    given = [min(one, _LEAST) for one in wanted]
    while sum(given) < room and any(one < want for one, want in zip(given, wanted, strict=True)):
        hungry = [index for index, want in enumerate(wanted) if given[index] < want]
        given[min(hungry, key=lambda index: given[index])] += 1
    while sum(given) > room:
        given[given.index(max(given))] -= 1
    return given


def _head(view: View, width: int) -> list[Text]:
    first = Text.assemble(
        ("firewall ", "bold"),
        (view.interface, "bold cyan"),
        f"  {view.mode} mode, up {_clock(view.uptime)}, ",
        f"{view.rule_count:,} rules for {_clock(view.rules_for)}",
        f", {view.reloads:,} reloads" if view.reloads else "",
    )
    second = Text.assemble(
        ("in ", "dim"), (f"{short(view.seen)}/s", "bold"),
        ("  ~", "dim"), f"{short(view.bytes_per_second * 8)}bit/s",
        ("  passed ", "dim"), (f"{short(view.passed)}/s", "green"),
        ("  dropped ", "dim"), (f"{short(view.dropped)}/s", "red"),
        ("  in all ", "dim"), f"{view.packets:,}",
    )  # fmt: skip
    return [_cut(first, width), _cut(second, width)]


def _heading(text: str, width: int) -> Text:
    line = Text.assemble((f"{_LINE * 2} ", "dim"), (text, "bold"), (f" {_LINE * width}", "dim"))
    line.truncate(width)
    return _cut(line, width)


def _sampled(view: View) -> str:
    if not view.samples:
        return "who sends: waiting for samples"
    how = "every packet" if view.one_in == 1 else f"1 packet in {view.one_in:,}"
    return f"who sends, estimated from {how} ({view.samples:,} of {view.sources:,} sources)"


def _rows(rows: Sequence[Row], room: int, view: View, width: int) -> list[Text]:
    made = []
    for row in _fitting(rows, room):
        if isinstance(row, int):
            made.append(_more(row))
            continue
        colour = _COLOURS.get(row.action, "") if row.per_second else "dim"
        share = row.per_second / view.seen if view.seen else 0.0
        line = Text.assemble(
            (f"{short(row.per_second):>7}/s ", colour),
            (f"{_bar(share):<{_BAR}} ", colour),
            f"{row.packets:>15,}  ",
            (_plain(row.name), colour),
        )
        made.append(_cut(line, width))
    return made


def _talkers(view: View, room: int, width: int) -> list[Text]:
    if not view.talkers:
        return [Text("  nobody more than others" if view.sources else "  nobody", "dim")]
    made = []
    # Those that chance alone can have put there are counted, and not shown.
    for one in _fitting(view.talkers, room, view.sources - len(view.talkers)):
        if isinstance(one, int):
            made.append(_more(one))
            continue
        line = Text.assemble(
            f"{short(one.per_second):>7}/s ",
            (f"{_bar(one.share):<{_BAR}} ", "cyan"),
            f"{short(one.bytes_per_second * 8):>8}bit/s  ",
            (f"{one.source}  ", "cyan"),
            (one.mostly, "dim"),
        )
        made.append(_cut(line, width))
    return made


def _fitting(rows: Sequence[_T], room: int, rest: int = 0) -> list[_T | int]:
    """The first rows, and how many more there are, of these and the `rest`, where not all have room."""
    shown: list[_T | int] = list(rows)
    if len(shown) + (rest > 0) > room:
        del shown[max(room - 1, 0) :]
        rest += len(rows) - len(shown)
    return [*shown, *([rest] if rest else [])][:room]


def _more(count: int) -> Text:
    return Text(f"          and {count:,} more", "dim")


def _keys(sort: str, width: int) -> Text:
    return _cut(Text.assemble(("q", "bold"), " quit  ", ("s", "bold"), f" sort (now by {sort})"), width)


def _cut(line: Text, width: int) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    line.truncate(width, overflow="ellipsis")
    return line


def _plain(text: str) -> str:
    """What an operator wrote, without letters that would move the cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _bar(share: float) -> str:
    eighths = round(min(share, 1.0) * _BAR * 8)
    if share > 0 and not eighths:
        eighths = 1
    full, part = divmod(eighths, 8)
    return "█" * full + ("▏▎▍▌▋▊▉"[part - 1] if part else "")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def short(value: float) -> str:
    """A number in at most six letters: 0, 7, 1.23k, 45.6M. Between 0 and 1: with a decimal."""
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    if value < 999.5:
        return f"{value:.0f}"
    for unit in ("k", "M", "G", "T"):
        value /= 1000
        if value < 999.5:
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f}{unit}"
    return f"{value:.0f}T"
