"""Groups, classes and tries as one array of words, as `walk` reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from raceway.compile.classifier import walk
from raceway.compile.classifier.groups import NO_RULE, SIDES, Group, Parted, TooComplexError
from raceway.compile.classifier.sets import NO_PORT, NO_PROTOCOL
from raceway.compile.classifier.tries import LEAF, Words, narrow_trie, number_table, wide_trie

_Numbers = np.ndarray[Any, np.dtype[np.int64]]
LARGEST_RULE = (1 << 21) - 2
JOINT = 1 << 19
"""Numbers that the table of all combinations may have."""
FLAT = 1 << 16
"""Combinations that a table of rules for each of them may have."""
_CLASSES = (1 << 16) - 1
_WINDOW = 4096
"""Bases that are tried at once."""


def packed(parted: Parted) -> _Numbers:
    """Return the words."""
    groups = parted.groups
    words = Words(walk.GROUP + walk.GROUP_WORDS * max(len(groups), 1))
    header = np.zeros(words.count, np.int64)
    header[walk.GROUP_COUNT] = len(groups)
    combs = [_comb(one) for one in groups]
    places = [words.add(comb) for _, comb in combs]
    bases = [base + place for (base, _), place in zip(combs, places, strict=True)]
    for side, at, rows in (
        (0, walk.SOURCE, _columns(parted, 0, bases)),
        (1, walk.DESTINATION, parted.dimensions[1].rows),
    ):
        four, six, _ = parted.lines[side]
        # What a trie finds is where the row of a class is.
        place, width = words.add(rows), rows.shape[1]
        found = [place + one * width for one in parted.dimensions[side].of_intervals]
        header[at] = narrow_trie(words, four.starts, found[0])
        header[at + 1] = wide_trie(words, six.starts, found[1])
        header[at + 2] = found[2][0]
    for side, at, bits, none in (
        (2, walk.SOURCE_PORT, 16, NO_PORT),
        (3, walk.DESTINATION_PORT, 16, NO_PORT),
        (4, walk.PROTOCOL, 8, NO_PROTOCOL),
        (5, walk.ANSWERS, 12, 0),
    ):
        starts, classes = parted.lines[side][0].starts, parted.dimensions[side].of_intervals[0]
        if classes.max() > _CLASSES:
            raise TooComplexError(f"the rules' ranges of ports are {classes.max() + 1:,} classes of ports")
        header[at] = number_table(words, starts, classes, bits)
        header[at + 1] = classes[np.searchsorted(starts, none, side="right") - 1]
    joint = _rest(parted, words, header)
    roots = [header[side + line] & 3 for side in (walk.SOURCE, walk.DESTINATION) for line in (0, 1)]
    if len(groups) == 1 and joint is not None and joint.size <= FLAT and all(kind == LEAF for kind in roots):
        _flat(parted, words, header, joint)
    for index, one in enumerate(groups):
        at = walk.GROUP + walk.GROUP_WORDS * index
        fits = _bits(one.fits)
        header[at + walk.FITS : at + walk.GROUP_WORDS] = [
            words.add(fits),
            fits.shape[1],
            words.add_halves((one.firsts + 1).reshape(-1)),
            one.fits.shape[1],
        ]
    return np.concatenate([header, *words.blocks])


def _rest(parted: Parted, words: Words, header: _Numbers) -> _Numbers | None:
    """Ports, protocol and answers: a table of every group's class for each combination if there are few of those, and
    else a table a group. Returns the first, if it is that."""
    groups = parted.groups
    counts = [len(one.rows) for one in parted.dimensions[2:]]
    columns = []
    joint = None
    for side in range(2, SIDES):
        # What a class adds to the number of a group's combination.
        steps = [int(np.prod(one.rest_counts[side - 1 :])) for one in groups]
        sizes = [one.rest_counts[side - 2] for one in groups]
        columns.append(
            _columns(parted, side, [np.arange(n) * step for n, step in zip(sizes, steps, strict=True)])
        )
    if groups and int(np.prod(counts)) * len(groups) <= JOINT:
        joint = np.zeros((*counts, len(groups)), np.int64)
        for index, one in enumerate(groups):
            added = [column[:, index] for column in columns]
            combined = np.add.outer(np.add.outer(np.add.outer(added[0], added[1]), added[2]), added[3])
            joint[..., index] = one.rest_classes[combined]
        header[walk.JOINT] = words.add_halves(joint.reshape(-1))
        steps = [int(np.prod(counts[side + 1 :])) for side in range(len(counts))]
    else:
        steps = [len(groups)] * len(counts)
        for index, rows in enumerate(columns):
            header[walk.ROWS + index] = words.add(rows)
        for index, one in enumerate(groups):
            header[walk.GROUP + walk.GROUP_WORDS * index] = words.add_halves(one.rest_classes)
    for at, step in zip(walk.NUMBERS, steps, strict=True):
        header[at + walk.STEP] = step * len(groups) if joint is not None else step
    return joint


def _flat(parted: Parted, words: Words, header: _Numbers, classes: _Numbers) -> None:
    """The first rule for each combination of ports, protocol and answers: for packets in IPv4, IPv6, and others.

    classes: the joint table, of the only group.
    """
    (group,) = parted.groups
    for line in range(3):
        source, destination = (int(one.rows[one.of_intervals[line][0], 0]) for one in parted.dimensions[:2])
        cell = np.flatnonzero((group.sources == source) & (group.destinations == destination))
        firsts = np.full(group.fits.shape[1], NO_RULE, np.int64)
        if len(cell):
            content = int(group.contents[cell[0]])
            if content < 0:
                firsts = group.firsts[-1 - content]
            else:
                firsts = np.where(group.fits[content & walk.FIT], content >> walk.RULE, NO_RULE)
        header[walk.RULES + line] = words.add_halves(firsts[classes.reshape(-1)] + 1)


def _columns(parted: Parted, side: int, values: list[_Numbers]) -> _Numbers:
    """A dimension's rows, with each group's class replaced by a value of it."""
    rows = parted.dimensions[side].rows
    if not values:
        return rows
    return np.stack([value[rows[:, group]] for group, value in enumerate(values)], axis=1)


def _bits(fits: Any) -> _Numbers:
    """Truth values, bool (rows, columns), as words: int64 (rows, words)."""
    words = -(-fits.shape[1] // 64)
    padded = np.zeros((fits.shape[0], words * 64), dtype=bool)
    padded[:, : fits.shape[1]] = fits
    return np.packbits(padded, axis=1, bitorder="little").view(np.int64)


def _comb(group: Group) -> tuple[_Numbers, _Numbers]:
    """Lay the rows of a sparse matrix over each other so that no two cells meet (first fit, the fullest row first).

    Return for each source class its base, and above `walk.OWNER` what its cells bear; and the cells.
    """
    bases = np.full(max(group.counts[0], 1), (walk.NOBODY - 1) << walk.OWNER, np.int64)
    width = max(group.counts[1], 1)
    if not len(group.sources):
        return bases, np.full(width, walk.NOBODY << walk.OWNER, np.int64)
    owners, begins, lengths = np.unique(group.sources, return_index=True, return_counts=True)
    order = np.argsort(-lengths, kind="stable")
    taken = np.zeros(2 * (width + _WINDOW), dtype=bool)
    free = 0
    chosen = np.zeros(len(owners), np.int64)
    for row in order[lengths[order] > 1].tolist():
        mine = group.destinations[begins[row] : begins[row] + lengths[row]]
        base = max(free - int(mine[0]), 0)
        while True:
            if len(taken) < base + width + _WINDOW:
                taken = np.concatenate((taken, np.zeros(len(taken) + width, dtype=bool)))
            clashes = taken[base + mine[0] : base + mine[0] + _WINDOW].copy()
            for at in mine[1:].tolist():
                clashes |= taken[base + at : base + at + _WINDOW]
            first = int(clashes.argmin())
            if not clashes[first]:
                break
            base += _WINDOW
        base += first
        taken[base + mine] = True
        while taken[free]:
            free += int(np.argmin(taken[free : free + _WINDOW])) or len(taken[free : free + _WINDOW])
            if free >= len(taken):
                taken = np.concatenate((taken, np.zeros(_WINDOW, dtype=bool)))
        chosen[row] = base
    # Rows of one cell go where there is room, all at once.
    single = np.flatnonzero(lengths == 1)
    single = single[np.argsort(group.destinations[begins[single]], kind="stable")]
    mine = group.destinations[begins[single]]
    length = len(single) + width + int(taken.sum()) + 1
    room = np.flatnonzero(~np.concatenate((taken, np.zeros(max(length - len(taken), 0), dtype=bool))))
    number = np.arange(len(single))
    chosen[single] = room[np.maximum.accumulate(np.searchsorted(room, mine) - number) + number] - mine
    bases[owners] = owners << walk.OWNER | chosen
    cells = np.full(int(chosen.max()) + width, walk.NOBODY << walk.OWNER, np.int64)
    owner = np.repeat(owners, lengths)
    place = np.repeat(chosen, lengths) + group.destinations
    several = group.contents < 0
    row_start = (-1 - group.contents) * group.fits.shape[1] | 1 << walk.ROW
    cells[place] = owner << walk.OWNER | np.where(several, row_start, group.contents)
    return bases, cells
