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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_Numbers = np.ndarray[Any, np.dtype[np.int64]]
_CHUNK = 1 << 21


@dataclass(frozen=True)
class Line:
    """Ranges on a line. starts: where intervals begin, the first at 0, whatever kind of number; conditions, first, end:
    for each range whose it is, its first interval, and the interval after its last."""

    starts: Any
    conditions: _Numbers
    first: _Numbers
    end: _Numbers


def line(starts: Any, conditions: Any, behind: Any) -> Line:
    """Make a line of ranges of numbers below 2**62. starts, behind: where each begins, and the point behind its end."""
    begins = np.sort(np.concatenate((np.zeros(1, np.int64), starts, behind)))
    begins = begins[np.concatenate(([True], begins[1:] != begins[:-1]))]
    return Line(
        begins,
        np.asarray(conditions, np.int64),
        np.searchsorted(begins, starts),
        np.searchsorted(begins, behind),
    )


@dataclass(frozen=True)
class Members:
    """Which of a group's classes each condition holds: those of condition c are classes[starts[c]:starts[c + 1]]."""

    starts: _Numbers
    classes: _Numbers

    @property
    def counts(self) -> _Numbers:
        """How many classes each condition holds."""
        return np.diff(self.starts)

    def __getitem__(self, condition: int) -> _Numbers:
        return self.classes[self.starts[condition] : self.starts[condition + 1]]


@dataclass(frozen=True)
class Dimension:
    """A dimension cut into classes.

    of_intervals: for each line the class of each interval; rows: int64 (classes, groups), each group's own class;
    counts: classes of each group; members: for each group, which of its classes its conditions hold.
    """

    of_intervals: list[_Numbers]
    rows: _Numbers
    counts: list[int]
    members: list[Members]


def _first_places(numbers: _Numbers, count: int) -> _Numbers:
    """Where each of the numbers below count stands first."""
    places = np.zeros(count, np.int64)
    # What is assigned last stays.
    places[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1)
    return places


def _ranked(values: _Numbers) -> tuple[_Numbers, int]:
    """The rank of each value among those that there are, from 0, and how many there are."""
    found = np.unique(values)
    return np.searchsorted(found, values), len(found)


def _numbered(values: _Numbers) -> tuple[_Numbers, int]:
    """Equal values get equal numbers, in the order in which they appear: ranges within ranges become neighbours."""
    ranks, count = _ranked(values)
    order = np.empty(count, np.int64)
    order[np.argsort(_first_places(ranks, count))] = np.arange(count)
    return order[ranks], count


def distinct_rows(columns: Sequence[_Numbers]) -> tuple[_Numbers, _Numbers]:
    """The distinct rows of some columns of numbers from 0, in order, int64 (rows, columns); and which each row is."""
    numbers, count = np.zeros(len(columns[0]), np.int64), 1
    if not len(numbers):
        return np.zeros((0, len(columns)), np.int64), numbers
    for column in columns:
        values = int(column.max()) + 1
        numbers = numbers * values + column
        if count * values <= 4 * len(numbers) + (1 << 16):
            # There are few that could be, so nothing needs sorting.
            there = np.zeros(count * values, dtype=bool)
            there[numbers] = True
            ranks = np.cumsum(there) - 1
            numbers, count = ranks[numbers], int(ranks[-1]) + 1
        else:
            numbers, count = _ranked(numbers)
    places = _first_places(numbers, count)
    return np.stack([column[places] for column in columns], axis=1), numbers


class Axis:
    """One dimension's ranges, all of its lines behind each other as one, before it is cut.

    lines: of its ranges, whose conditions are numbers below `condition_count`.
    """

    def __init__(self, lines: Sequence[Line], condition_count: int) -> None:
        self.lines, self.condition_count = lines, condition_count
        self.sizes = [len(one.starts) for one in lines]
        self.borders = np.cumsum([0, *self.sizes])
        self._conditions = np.concatenate([one.conditions for one in lines])
        starts = self.borders[:-1].tolist()
        self._first = np.concatenate([one.first + start for one, start in zip(lines, starts, strict=True)])
        self._end = np.concatenate([one.end + start for one, start in zip(lines, starts, strict=True)])
        # The sum of its conditions' random numbers tells an interval from others: 64 bits of them.
        chance = np.random.default_rng(1)
        self._weights = chance.integers(-(1 << 63), 1 << 63, size=condition_count, dtype=np.int64)

    def cut(self, wanted: Any) -> tuple[_Numbers, int]:
        """The class of each interval for rules with those conditions, and how many classes there are."""
        chosen = self._chosen(wanted)
        weight = self._weights[self._conditions[chosen]]
        changes = np.zeros(self.borders[-1] + 1, np.int64)
        np.add.at(changes, self._first[chosen], weight)
        np.subtract.at(changes, self._end[chosen], weight)
        return _numbered(np.cumsum(changes)[:-1])

    def _chosen(self, wanted: Any) -> Any:
        mine = np.zeros(self.condition_count, dtype=bool)
        mine[wanted] = True
        return slice(None) if mine.all() else np.flatnonzero(mine[self._conditions])

    def members(self, wanted: Any, column: _Numbers) -> Members:
        """Which classes those conditions hold. column: the class of each interval, as `cut` gives it for them."""
        chosen = self._chosen(wanted)
        conditions, first, end = self._conditions[chosen], self._first[chosen], self._end[chosen]
        # Neighbours of one class are one.
        begins = np.concatenate(([True], column[1:] != column[:-1]))
        run = np.cumsum(begins) - 1
        classes = column[begins]
        start, behind = run[first], run[end - 1] + 1
        # Where the class before stood: a range holds a class at one place, the first in it.
        order = np.argsort(classes, kind="stable")
        again = classes[order[1:]] == classes[order[:-1]]
        before = np.full(len(classes), -1, np.int64)
        before[order[1:][again]] = order[:-1][again]
        found, counts = [np.zeros(0, np.int64)], []
        for part in chunks(behind - start):
            rows, within = expanded((behind - start)[part])
            here = start[part][rows] + within
            new = before[here] < start[part][rows]
            found.append(classes[here[new]])
            counts.append(np.bincount(rows[new], minlength=part.stop - part.start))
        return _by_condition(conditions, np.concatenate(found), counts, self.condition_count)


def _by_condition(
    conditions: _Numbers, classes: _Numbers, counts: list[_Numbers], condition_count: int
) -> Members:
    """Members, from those of each range. conditions: whose the ranges are; counts: how many classes each has."""
    owners = np.repeat(conditions, np.concatenate(counts)) if counts else conditions
    several = np.bincount(conditions, minlength=condition_count) > 1
    if several.any():
        # What has several ranges may find a class in each.
        one = ~several[owners]
        count = int(classes.max(initial=0)) + 1
        pairs = np.unique(owners[~one] * count + classes[~one])
        owners = np.concatenate((owners[one], pairs // count))
        classes = np.concatenate((classes[one], pairs % count))
    if (owners[1:] < owners[:-1]).any():
        order = np.argsort(owners, kind="stable")
        owners, classes = owners[order], classes[order]
    return Members(np.searchsorted(owners, np.arange(condition_count + 1)), classes)


def dimension(axis: Axis, groups: Sequence[Any]) -> Dimension:
    """Cut a dimension into classes. groups: for each the conditions that its rules have."""
    columns, counts, members = [], [], []
    for wanted in groups:
        column, count = axis.cut(wanted)
        columns.append(column)
        counts.append(count)
        members.append(axis.members(wanted, column))
    rows, inverse = distinct_rows(columns or [np.zeros(axis.borders[-1], np.int64)])
    starts = axis.borders[:-1].tolist()
    of_intervals = [inverse[start : start + size] for start, size in zip(starts, axis.sizes, strict=True)]
    return Dimension(of_intervals, rows, counts, members)


def chunks(sizes: _Numbers) -> Iterator[slice]:
    """Part things of some sizes into slices of about `_CHUNK` in all, so that no array grows beyond measure."""
    total = np.cumsum(sizes)
    at = 0
    while at < len(sizes):
        before = int(total[at - 1]) if at else 0
        following = max(int(np.searchsorted(total, before + _CHUNK, side="right")), at + 1)
        yield slice(at, following)
        at = following


def expanded(sizes: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Each of some things as often as its size says: which it is, and the number of the time, from 0."""
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
