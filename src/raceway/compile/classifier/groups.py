"""The rules in groups, and what is in each cell of a group: a pair of a source class and a destination class.

A cell's content is an entry: nothing, one rule with the ports that it wants, or a row that has the first rule for each
class of ports. Rows that are equal are stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raceway.compile.classifier.classes import (
    Axis,
    Dimension,
    Line,
    chunks,
    dimension,
    distinct_rows,
    expanded,
    line,
)
from raceway.compile.classifier.sets import Addresses, Box, Ranges

_Numbers = np.ndarray[Any, np.dtype[np.int64]]
_CELLS = 1 << 23
_REST_CELLS = 1 << 19
_ROW_CELLS = 1 << 25
_FEW_RULES, _FEW_CELLS, _FEW_FIRSTS = 1 << 9, 1 << 16, 1 << 18
SIDES = 6
GROUPS = 32
"""At most. A packet's cost grows with them."""
NO_RULE = -1


class TooComplexError(ValueError):
    """The rules' ranges overlap in more ways than the classifier has room for."""


def address_lines(conditions: Sequence[Addresses]) -> list[Line]:
    """The lines of IPv4, of IPv6 and of packets without an address."""
    four = [one.ipv4.bounds for one in conditions]
    owners = np.repeat(np.arange(len(four)), [len(one) for one in four])
    bounds = np.concatenate([np.zeros((0, 2), np.int64), *four])
    sixes = [pair for one in conditions for pair in one.ipv6]
    owners_6 = np.repeat(np.arange(len(conditions)), [len(one.ipv6) for one in conditions])
    none = np.array([owner for owner, one in enumerate(conditions) if one.none], np.int64)
    return [
        line(bounds[:, 0], owners, bounds[:, 1] + 1),
        _six_line(sixes, owners_6),
        Line(np.zeros(1, np.int64), none, np.zeros(len(none), np.int64), np.ones(len(none), np.int64)),
    ]


def _six_line(ranges: list[tuple[int, int]], owners: _Numbers) -> Line:
    """The line of IPv6, whose numbers are Python's."""
    first = [one for one, _ in ranges]
    behind = [one + 1 for _, one in ranges]
    starts = sorted({0, *first, *behind})
    rank = {number: index for index, number in enumerate(starts)}
    return Line(
        starts,
        owners,
        np.fromiter(map(rank.__getitem__, first), np.int64, len(first)),
        np.fromiter(map(rank.__getitem__, behind), np.int64, len(behind)),
    )


def number_line(conditions: Sequence[Ranges]) -> list[Line]:
    """The line of ports, or of protocols."""
    bounds = np.concatenate([np.zeros((0, 2), np.int64), *(one.bounds for one in conditions)])
    owners = np.repeat(np.arange(len(conditions)), [len(one.bounds) for one in conditions])
    return [line(bounds[:, 0], owners, bounds[:, 1] + 1)]


@dataclass
class Group:
    """One group's tables, in its own classes.

    sources, destinations: int64 (cells,), where each cell that is not empty is; contents: the entry of each: a rule's
    number * 2**20 + its row of `fits` for one rule alone, or minus (row of `firsts` + 1). rest_counts: classes of
    source ports, destination ports, protocols and answers, the rest in short; rest_classes: of each combination of
    those; fits: bool (combinations that rules want, rest classes); firsts: int64 (rows, rest classes), the first rule,
    or NO_RULE.
    """

    sources: _Numbers
    destinations: _Numbers
    contents: _Numbers
    counts: tuple[int, int]
    rest_counts: tuple[int, ...]
    rest_classes: _Numbers
    fits: Any
    firsts: _Numbers


@dataclass
class Parted:
    """All rules in groups. dimensions: source, destination, source ports, destination ports, protocols, answers."""

    dimensions: list[Dimension]
    lines: list[list[Line]]
    groups: list[Group]


def _distinct(values: Sequence[Any]) -> tuple[list[Any], _Numbers]:
    """Different values, and which each is."""
    # Many are the same object, and need to be compared but once.
    numbers: dict[Any, int] = {}
    known = {
        key: numbers.setdefault(one, len(numbers)) for key, one in {id(one): one for one in values}.items()
    }
    return list(numbers), np.fromiter(map(known.__getitem__, map(id, values)), np.int64, len(values))


def part(boxes: Sequence[tuple[int, Box]]) -> Parted:
    """Part rules (numbers, first is best, and a box of each) into groups. Raises TooComplexError."""
    sides: Any = [*zip(*(box.sides for _, box in boxes), strict=True)] or [()] * SIDES
    rules = np.array([rule for rule, _ in boxes], np.int64)
    distinct, owners = zip(*(_distinct(one) for one in sides), strict=True)
    wanted = np.stack(owners, axis=1) if len(boxes) else np.zeros((0, SIDES), np.int64)
    # What no packet can match is in nobody's way.
    possible = np.ones(len(rules), dtype=bool)
    for side, some in enumerate(distinct):
        possible &= np.array([bool(one) for one in some], dtype=bool)[wanted[:, side]]
    rules, wanted = rules[possible], wanted[possible]
    lines = [
        address_lines(distinct[0]),
        address_lines(distinct[1]),
        *(number_line(one) for one in distinct[2:]),
    ]
    axes = [Axis(one, len(some)) for one, some in zip(lines, distinct, strict=True)]
    waiting = _by_width(wanted, axes[:2]) if len(rules) else []
    most = [axis.cut(np.arange(axis.condition_count))[1] for axis in axes[2:]]
    chosen: list[_Numbers] = []
    while waiting:
        mine = waiting.pop(0)
        if len(mine) == 1 or _small(wanted[mine], axes, most):
            chosen.append(mine)
        else:
            waiting += _halves(mine, wanted)
        if len(chosen) + len(waiting) > GROUPS:
            raise TooComplexError(
                f"{len(rules):,} rules overlap in too many ways: {GROUPS} groups were not enough to keep each below "
                f"{_CELLS:,} cells; write ranges of ports and prefixes that nest rather than cross"
            )
    chosen = _together(chosen, wanted, axes)
    dimensions = [dimension(axis, [wanted[mine, side] for mine in chosen]) for side, axis in enumerate(axes)]
    groups = [_group(index, rules[mine], wanted[mine], dimensions) for index, mine in enumerate(chosen)]
    return Parted(dimensions, lines, groups)


def _by_width(wanted: _Numbers, axes: list[Axis]) -> list[_Numbers]:
    """Up to four groups: is the source wide, is the destination?"""
    key = np.zeros(len(wanted), np.int64)
    for side, axis in enumerate(axes):
        everything = np.arange(axis.condition_count)
        column, count = axis.cut(everything)
        widths = axis.members(everything, column).counts
        key = key * 2 + (widths[wanted[:, side]] > max(4, int(count**0.5)))
    return [np.flatnonzero(key == value) for value in range(4) if (key == value).any()]


def _small(wanted: _Numbers, axes: list[Axis], most: list[int]) -> bool:
    """Tell whether a group's tables stay small. most: classes of the sides behind the addresses for all rules, and a
    group tells no more of them apart."""
    rest = most
    if int(np.prod(rest)) > _REST_CELLS:
        rest = [axis.cut(wanted[:, side])[1] for side, axis in enumerate(axes[2:], 2)]
    if int(np.prod(rest)) > _REST_CELLS:
        return False
    areas = np.ones(len(wanted), np.int64)
    for side in (0, 1):
        column, _ = axes[side].cut(wanted[:, side])
        areas *= axes[side].members(wanted[:, side], column).counts[wanted[:, side]]
    return int(areas.sum()) <= _CELLS


def _together(groups: list[_Numbers], wanted: _Numbers, axes: list[Axis]) -> list[_Numbers]:
    """Make one group of the smallest ones, as long as it stays small: a packet's cost grows with their number."""
    groups = sorted(groups, key=len)
    while len(groups) > 1 and len(groups[0]) + len(groups[1]) <= _FEW_RULES:
        both = np.sort(np.concatenate(groups[:2]))
        mine = wanted[both]
        cut = [dimension(axis, [mine[:, side]]) for side, axis in enumerate(axes)]
        counts = tuple(one.counts[0] for one in cut)
        areas = np.ones(len(mine), np.int64)
        for side in (0, 1):
            areas *= cut[side].members[0].counts[mine[:, side]]
        if int(areas.sum()) > _FEW_CELLS or int(np.prod(counts[2:])) > _FEW_CELLS:
            break
        combinations, _ = distinct_rows([*mine[:, 2:].T])
        fits, _ = _rest(0, combinations, counts[2:], cut)
        # Where cells hold several rules each, they may be as many rows of firsts.
        if counts[0] * counts[1] * fits.shape[1] > _FEW_FIRSTS:
            break
        groups[:2] = [both]
        groups.sort(key=len)
    return groups


def _halves(mine: _Numbers, wanted: _Numbers) -> list[_Numbers]:
    """Part a group in two by the side in which its rules differ most."""
    side = int(np.argmax([len(np.unique(wanted[mine, one])) for one in range(SIDES)]))
    order = mine[np.argsort(wanted[mine, side], kind="stable")]
    middle = len(order) // 2
    return [np.sort(order[:middle]), np.sort(order[middle:])]


def _group(index: int, rules: _Numbers, wanted: _Numbers, dimensions: list[Dimension]) -> Group:
    counts = tuple(dimensions[side].counts[index] for side in (0, 1))
    rest_counts = tuple(dimensions[side].counts[index] for side in range(2, SIDES))
    combinations, of_rule = distinct_rows([*wanted[:, 2:].T])
    columns, rest_classes = _rest(index, combinations, rest_counts, dimensions)
    cell, box = _cells(index, wanted, dimensions, max(counts[1], 1))
    # One rule may come twice to a cell, by two of its boxes; that is two entries of the same number.
    begins = np.flatnonzero(np.concatenate((np.ones(min(len(cell), 1), bool), cell[1:] != cell[:-1])))
    lengths = np.diff(np.concatenate((begins, [len(cell)])))
    contents = rules[box[begins]] << 20 | of_rule[box[begins]]
    several = np.flatnonzero(lengths > 1)
    firsts, row = _firsts(rules, of_rule, box, begins[several], lengths[several], columns)
    contents[several] = -1 - row
    where = cell[begins]
    return Group(
        where // max(counts[1], 1),
        where % max(counts[1], 1),
        contents,
        (counts[0], counts[1]),
        rest_counts,
        rest_classes,
        columns,
        firsts,
    )


def _rest(
    index: int, combinations: _Numbers, counts: tuple[int, ...], dimensions: list[Dimension]
) -> tuple[Any, _Numbers]:
    """Return what each combination of wishes accepts, bool (combinations, classes), and the class of each cell of the
    product of the sides behind the addresses."""
    weights = np.random.default_rng(3).integers(-(1 << 63), 1 << 63, size=len(combinations), dtype=np.int64)
    sums = np.zeros(counts, np.int64)
    sides = range(2, SIDES)
    accepts = [np.zeros((len(combinations), count), dtype=bool) for count in counts]
    for number, wishes in enumerate(combinations.tolist()):
        members = [dimensions[side].members[index][wish] for side, wish in zip(sides, wishes, strict=True)]
        sums[np.ix_(*members)] += weights[number]
        for accepted, some in zip(accepts, members, strict=True):
            accepted[number, some] = True
    _, first, classes = np.unique(sums.reshape(-1), return_index=True, return_inverse=True)
    fits = np.ones((len(combinations), len(first)), dtype=bool)
    for accepted, place in zip(accepts, np.unravel_index(first, counts), strict=True):
        fits &= accepted[:, place]
    return fits, classes.reshape(-1).astype(np.int64)


def _cells(
    index: int, wanted: _Numbers, dimensions: list[Dimension], width: int
) -> tuple[_Numbers, _Numbers]:
    """Return the cell (source class * width + destination class) and the box of everything that is in some cell, in
    order of cells, and in each in order of boxes."""
    sources, destinations = dimensions[0].members[index], dimensions[1].members[index]
    source, destination = sources.starts[wanted[:, 0]], destinations.starts[wanted[:, 1]]
    across = destinations.counts[wanted[:, 1]]
    areas = sources.counts[wanted[:, 0]] * across
    cells, boxes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part in chunks(areas):
        rows, within = expanded(areas[part])
        rows += part.start
        down = within // across[rows]
        cells.append(
            sources.classes[source[rows] + down] * width
            + destinations.classes[destination[rows] + within - down * across[rows]]
        )
        boxes.append(rows)
    cell, box = np.concatenate(cells), np.concatenate(boxes)
    count = len(wanted)
    if int(cell.max(initial=0)) < (1 << 62) // max(count, 1):
        # Both in one number: sorting numbers takes a tenth of sorting pairs.
        both = np.sort(cell * count + box)
        cell = both // count
        return cell, both - cell * count
    order = np.lexsort((box, cell))
    return cell[order], box[order]


def _firsts(
    rules: _Numbers, of_rule: _Numbers, box: _Numbers, begins: _Numbers, lengths: _Numbers, fits: Any
) -> tuple[_Numbers, _Numbers]:
    """Rows of first rules for cells with several, equal ones once; and the row of each."""
    if not len(begins):
        return np.zeros((0, fits.shape[1]), np.int64), np.zeros(0, np.int64)
    # What tells a list of boxes from others: the sum of a random number for each place and box.
    mixed = np.random.default_rng(2).integers(-(1 << 63), 1 << 63, size=len(rules), dtype=np.int64)
    total = np.concatenate(([0], np.cumsum(mixed[box])))
    sums = total[begins + lengths] - total[begins]
    _, first, row = np.unique(sums, return_index=True, return_inverse=True)
    begins, lengths = begins[first], lengths[first]
    if len(begins) * fits.shape[1] > _ROW_CELLS:
        raise TooComplexError(
            f"rules overlap in too many ways: {len(begins):,} different lists of rules with {fits.shape[1]:,} classes "
            "of ports; write fewer different ranges of ports in rules whose addresses overlap"
        )
    firsts = np.full((len(begins), fits.shape[1]), NO_RULE, np.int64)
    for place in range(int(lengths.max()) - 1, -1, -1):
        rows = np.flatnonzero(lengths > place)
        here = box[begins[rows] + place]
        firsts[rows] = np.where(fits[of_rule[here]], rules[here][:, None], firsts[rows])
    return firsts, row.reshape(-1)
