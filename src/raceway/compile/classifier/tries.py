"""From an address to what is known of it: a trie of 8-bit steps, whose leaves are numbers or lines of a few boundaries.
And from a port to its class, which is a table.

An entry is a number of 30 bits and a kind: what is looked for (LEAF), or where in the words there is more::

    LINE   up to 7 boundaries of 32 bits, or 4 of 128, in order; and the number before, between and behind them
    TABLE  256 entries, by the key's next 8 bits
    WIDE   65,536 entries, by its first 16

A line stands for as much of the keys as has few boundaries, so a trie of ten prefixes is a single line.

A port's entry is a class (LEAF), or where its table is: as many numbers as there are ports, of 8 bits (BYTES) or of 16
(PAIRS). No branch of that depends on the port.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from raceway.compile.classifier.classes import expanded

_Numbers = np.ndarray[Any, np.dtype[np.int64]]
LEAF, LINE, TABLE, WIDE = range(4)
BYTES, PAIRS = 1, 2
LINE_4, LINE_6 = 7, 4
"""Boundaries in a line."""
LINE_6_WORDS = 12
SIGN = -(1 << 63)
_AT_ONCE = 1024
"""Tables that are made at once: what is worked with stays in the processor's cache."""


_CACHE_LINE = 8


class Words:
    """Words in the making: blocks behind each other, each from the beginning of a cache line."""

    def __init__(self, used: int) -> None:
        self.count = used
        self.blocks: list[_Numbers] = []

    def add(self, block: Any) -> int:
        """Put words at the end; return where they begin."""
        block = np.ascontiguousarray(block, np.int64).reshape(-1)
        at = self._next()
        self.blocks.append(block)
        self.count += len(block)
        return at

    def _next(self) -> int:
        """Where the next block begins."""
        if rest := -self.count % _CACHE_LINE:
            self.blocks.append(np.zeros(rest, np.int64))
            self.count += rest
        return self.count

    def room(self, count: int) -> tuple[int, _Numbers]:
        """Room for words at the end, 0 all of them: where it begins, and itself, to be filled in."""
        self._next()
        block = np.zeros(count, np.int64)
        self.blocks.append(block)
        self.count += count
        return self.count - count, block

    def add_halves(self, numbers: Any) -> int:
        """The same of numbers of 32 bits, two in a word."""
        return self.add(halves(np.asarray(numbers, np.int64)))


def halves(numbers: _Numbers) -> _Numbers:
    """Pack numbers of 32 bits along the last axis, the first in the lower half of a word."""
    if numbers.shape[-1] % 2:
        numbers = np.concatenate((numbers, np.zeros((*numbers.shape[:-1], 1), np.int64)), axis=-1)
    return numbers[..., ::2] | numbers[..., 1::2] << 32


class _Step(NamedTuple):
    """What a step down the trie goes by, of each boundary: the key's digits here, and whether none but zeros are
    behind them; how many digits there are; the kind of table that the step finds its way in."""

    digits: _Numbers
    whole: Any
    digit_count: int
    kind: int


def number_table(words: Words, starts: _Numbers, classes: _Numbers, bits: int) -> int:
    """Build the table of numbers of some bits; return its entry. starts, classes: as for `narrow_trie`."""
    inside = starts < 1 << bits
    starts, classes = starts[inside], classes[inside]
    if (classes == classes[0]).all():
        return int(classes[0]) << 2 | LEAF
    kind, size = (BYTES, np.uint8) if classes.max() < 256 else (PAIRS, np.uint16)
    lengths = np.diff(np.concatenate((starts, [1 << bits])))
    return words.add(np.repeat(classes.astype(size), lengths).view(np.int64)) << 2 | kind


def narrow_trie(words: Words, starts: _Numbers, classes: _Numbers) -> int:
    """Build the trie of keys of 32 bits; return its entry.

    starts: int64, where intervals begin, the first at 0; classes: of each, numbers of 30 bits. What begins at 2**32 or
    behind is left out.
    """
    changes = np.concatenate(([True], classes[1:] != classes[:-1])) & (starts < 1 << 32)
    starts, classes = starts[changes], classes[changes]
    steps = []
    left = 32
    while left:
        size = 16 if left == 32 else 8
        left -= size
        whole = starts & (1 << left) - 1 == 0
        kind = WIDE if size == 16 else TABLE
        steps.append(_Step((starts >> left) & (1 << size) - 1, whole, 1 << size, kind))

    def lines(first: _Numbers, last: _Numbers) -> _Numbers:
        """Lines: int64 (lines, 8). One that has fewer than seven boundaries ends with some that change nothing."""
        at = np.minimum(first[:, None] + np.arange(LINE_4 + 1), last[:, None])
        made = np.zeros((len(first), 8), np.int64)
        boundaries = np.zeros((len(first), 8), np.int64)
        boundaries[:, :LINE_4] = starts[at[:, 1:]]
        made[:, :4] = halves(boundaries)
        made[:, 4:] = halves(classes[at])
        return made

    return _trie(words, classes, steps, LINE_4, lines)


def wide_trie(words: Words, starts: list[int], classes: _Numbers) -> int:
    """Build the trie of keys of 128 bits; return its entry. starts: where intervals begin, the first at 0
    (what begins at 2**128 is left out); classes: of each."""
    inside = len(starts) - (starts[-1] >> 128)
    changes = np.concatenate(([True], classes[1:inside] != classes[: inside - 1]))
    classes = classes[:inside][changes]
    text = b"".join(starts[at].to_bytes(16, "big") for at in np.flatnonzero(changes).tolist())
    digits = np.frombuffer(text, np.uint8).reshape(-1, 16)
    high, low = (np.frombuffer(text, ">u8").astype(np.uint64).view(np.int64) ^ SIGN).reshape(-1, 2).T
    # How many of a boundary's digits count: behind them there are only zeros.
    counting = 16 - np.argmax(np.column_stack((digits[:, ::-1] != 0, np.ones(len(digits), bool))), axis=1)
    numbers = digits.astype(np.int64)
    steps = [_Step(numbers[:, 0] << 8 | numbers[:, 1], counting <= 2, 1 << 16, WIDE)]
    steps += [_Step(numbers[:, at], counting <= at + 1, 1 << 8, TABLE) for at in range(2, 16)]

    def lines(first: _Numbers, last: _Numbers) -> _Numbers:
        at = np.minimum(first[:, None] + np.arange(LINE_6 + 1), last[:, None])
        made = np.zeros((len(first), LINE_6_WORDS), np.int64)
        made[:, 0 : 2 * LINE_6 : 2] = high[at[:, 1:]]
        made[:, 1 : 2 * LINE_6 : 2] = low[at[:, 1:]]
        packed = halves(classes[at])
        made[:, 2 * LINE_6 : 2 * LINE_6 + packed.shape[1]] = packed
        return made

    return _trie(words, classes, steps, LINE_6, lines)


def _trie(
    words: Words, classes: _Numbers, steps: list[_Step], most: int, lines: Callable[..., _Numbers]
) -> int:
    """Build a trie of intervals; return its entry. most: boundaries that a line has room for; lines: makes lines of the
    intervals from some to some others."""
    waiting: list[tuple[_Numbers, _Numbers, _Numbers, int]] = []

    def entries(first: _Numbers, last: _Numbers, depth: int) -> _Numbers:
        """The entries of parts of the keys, each all that begin with some digits: of intervals from first to last."""
        made = classes[first] << 2 | LEAF
        between = last - first
        some = np.flatnonzero((between > 0) & (between <= most))
        if len(some):
            block = lines(first[some], last[some])
            made[some] = words.add(block) + block.shape[1] * np.arange(len(some)) << 2 | LINE
        tables = np.flatnonzero(between > most)
        for begin in range(0, len(tables), _AT_ONCE):
            mine = tables[begin : begin + _AT_ONCE]
            size = steps[depth].digit_count // 2
            at, block = words.room(size * len(mine))
            made[mine] = at + size * np.arange(len(mine)) << 2 | steps[depth].kind
            waiting.append((block, first[mine], last[mine], depth))
        return made

    root = entries(np.zeros(1, np.int64), np.full(1, len(classes) - 1), 0)
    # Tables below tables are put at its end meanwhile.
    for block, first, last, depth in waiting:
        step = steps[depth]
        rows, within = expanded(last - first)
        inside = first[rows] + 1 + within
        child = rows * step.digit_count + step.digits[inside]
        counts = np.bincount(child, minlength=len(first) * step.digit_count)
        ends = (np.cumsum(counts.reshape(-1, step.digit_count), axis=1) + first[:, None]).reshape(-1)
        begins = ends - counts
        # Where an interval begins with the child itself, the one before has no part of it.
        begins[child[step.whole[inside]]] += 1
        block[:] = halves(entries(begins, ends, depth + 1))
    return int(root[0])
