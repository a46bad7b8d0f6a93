"""One dimension of the rules: where their ranges begin and end, and which points no rule can tell apart.

A dimension has one line or several (of addresses: IPv4, IPv6, and a line of one point for packets without any). Where a
range begins or ends on a line, an interval begins. Each group of rules sees only its own ranges, so intervals that it
cannot tell apart are one class to it; what no group can tell apart is one class of all.

    line        |--------|-----|---|-------------|
    intervals       0       1    2        3           of all rules
    group's class   0       1    1        0           of the rules of one group
    class           0       1    2        0           as soon as some group sees a difference
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Line:
    """Ranges on a line. starts: where intervals begin, the first at 0, whatever kind of number; conditions, first, end:
    for each range whose it is, its first interval, and the interval after its last."""

    starts: Any
    conditions: _Numbers
    first: _Numbers
    end: _Numbers


def line(starts: Any, conditions: Any, first: Any, behind: Any, start_of_all: Any) -> Line:
    """Make a line of ranges. starts, behind: where each begins, and the point behind its end, as sortable arrays."""
    begins = np.unique(np.concatenate((np.asarray([start_of_all], dtype=starts.dtype), starts, behind)))
    return Line(
        begins,
        np.asarray(conditions, np.int64),
        np.searchsorted(begins, first),
        np.searchsorted(begins, behind),
    )


@dataclass(frozen=True)
class Dimension:
    """A dimension cut into classes.

    of_intervals: for each line the class of each interval; rows: int64 (classes, groups), each group's own class;
    counts: classes of each group; members: for each group, for each condition of it, the group's classes in it.
    """

    of_intervals: list[_Numbers]
    rows: _Numbers
    counts: list[int]
    members: list[dict[int, _Numbers]]


def _numbered(values: _Numbers) -> tuple[_Numbers, int]:
    """Equal values get equal numbers, in the order in which they appear: ranges within ranges become neighbours."""
    found, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.empty(len(found), np.int64)
    order[np.argsort(first, kind="stable")] = np.arange(len(found))
    return order[inverse], len(found)


def dimension(lines: Sequence[Line], condition_count: int, groups: Sequence[Sequence[int]]) -> Dimension:
    """Cut a dimension into classes. groups: for each the conditions that its rules have."""
    # The sum of its conditions' random numbers tells an interval from others: 64 bits of them.
    weights = np.random.default_rng(1).integers(-(1 << 63), 1 << 63, size=condition_count, dtype=np.int64)
    sizes = [len(one.starts) for one in lines]
    borders = np.cumsum([0, *sizes])
    columns, counts, members = [], [], []
    for wanted in groups:
        mine = np.zeros(condition_count, dtype=bool)
        mine[list(wanted)] = True
        sums = np.zeros(borders[-1], np.int64)
        for one, start, size in zip(lines, borders, sizes, strict=False):
            chosen = mine[one.conditions]
            changes = np.zeros(size + 1, np.int64)
            weight = weights[one.conditions[chosen]]
            np.add.at(changes, one.first[chosen], weight)
            np.subtract.at(changes, one.end[chosen], weight)
            sums[start : start + size] = np.cumsum(changes)[:size]
        column, count = _numbered(sums)
        columns.append(column)
        counts.append(count)
        members.append(_members(lines, borders, column, mine))
    if not columns:
        columns = [np.zeros(borders[-1], np.int64)]
    rows, inverse = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    of_intervals = [inverse[start : start + size] for start, size in zip(borders, sizes, strict=False)]
    return Dimension(of_intervals, rows, counts, members)


def _members(lines: Sequence[Line], borders: _Numbers, column: _Numbers, mine: Any) -> dict[int, _Numbers]:
    pieces: dict[int, list[_Numbers]] = {int(one): [] for one in np.flatnonzero(mine)}
    for one, start in zip(lines, borders, strict=False):
        chosen = mine[one.conditions]
        for condition, first, end in zip(
            one.conditions[chosen].tolist(), one.first[chosen].tolist(), one.end[chosen].tolist(), strict=True
        ):
            pieces[condition].append(column[start + first : start + end])
    return {
        condition: np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
        for condition, found in pieces.items()
    }
