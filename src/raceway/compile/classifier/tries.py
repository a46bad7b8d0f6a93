"""From an address or a port to its class: a trie of 8-bit steps, whose leaves are classes or lines of a few boundaries.

An entry is a number of 30 bits and a kind: a class (LEAF), or where in the words there is more::

    LINE   up to 7 boundaries of 32 bits, or 4 of 128, in order; and the class before, between and behind them
    TABLE  256 entries, by the key's next 8 bits
    WIDE   65,536 entries, by its first 16

A line stands for as much of the keys as has few boundaries, so a trie of ten prefixes is a single line.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np

_Numbers = np.ndarray[Any, np.dtype[np.int64]]
LEAF, LINE, TABLE, WIDE = range(4)
LINE_4, LINE_6 = 7, 4
"""Boundaries in a line."""
LINE_6_WORDS = 12
SIGN = -(1 << 63)


class Words:
    """Words in the making: blocks behind each other."""

    def __init__(self, used: int) -> None:
        self.count = used
        self.blocks: list[_Numbers] = []

    def add(self, block: Any) -> int:
        """Put words at the end; return where they begin."""
        block = np.ascontiguousarray(block, np.int64).reshape(-1)
        at = self.count
        self.blocks.append(block)
        self.count += len(block)
        return at

    def add_halves(self, numbers: Any) -> int:
        """The same of numbers of 32 bits, two in a word."""
        return self.add(halves(np.asarray(numbers, np.int64)))


def halves(numbers: _Numbers) -> _Numbers:
    """Pack numbers of 32 bits along the last axis, the first in the lower half of a word."""
    if numbers.shape[-1] % 2:
        numbers = np.concatenate((numbers, np.zeros((*numbers.shape[:-1], 1), np.int64)), axis=-1)
    return numbers[..., ::2] | numbers[..., 1::2] << 32


def narrow_trie(words: Words, starts: _Numbers, classes: _Numbers, bits: int) -> int:
    """Build the trie of keys of 8, 16 or 32 bits; return its entry.

    starts: int64, where intervals begin, the first at 0; classes: of each. What begins at 2**bits or behind is left
    out.
    """
    changes = np.concatenate(([True], classes[1:] != classes[:-1])) & (starts < 1 << bits)
    starts, classes = starts[changes], classes[changes]
    entries = np.zeros(1, np.int64)
    chunks, size = np.zeros(1, np.int64), 1 << bits
    # Where each chunk's entry goes: into the block made last, at these places.
    block, places = entries, np.zeros(1, np.int64)
    while len(chunks):
        first = np.searchsorted(starts, chunks, side="right") - 1
        last = np.searchsorted(starts, chunks + size - 1, side="right") - 1
        made = classes[first] << 2 | LEAF
        lines = np.flatnonzero((last > first) & (last - first <= LINE_4))
        if len(lines):
            at = words.add(_lines(starts, classes, first[lines], last[lines]))
            made[lines] = at + 8 * np.arange(len(lines)) << 2 | LINE
        tables = np.flatnonzero(last - first > LINE_4)
        wide = size == 1 << 32
        fan_out = 1 << 16 if wide else 1 << 8
        at = words.count
        made[tables] = at + fan_out // 2 * np.arange(len(tables)) << 2 | (WIDE if wide else TABLE)
        _store(block, places, made, block is entries)
        block = np.zeros(len(tables) * fan_out // 2, np.int64)
        words.add(block)
        words.blocks[-1] = block
        size //= fan_out
        chunks = (chunks[tables][:, None] + size * np.arange(fan_out)).reshape(-1)
        places = np.arange(len(chunks))
    return int(entries[0])


def _store(block: _Numbers, places: _Numbers, made: _Numbers, whole: bool) -> None:
    if whole:
        block[places] = made
    else:
        np.bitwise_or.at(block, places >> 1, made << ((places & 1) << 5))


def _lines(starts: _Numbers, classes: _Numbers, first: _Numbers, last: _Numbers) -> _Numbers:
    """Lines: int64 (lines, 8). A line that has fewer than seven boundaries ends with some that change nothing."""
    steps = np.minimum(first[:, None] + np.arange(LINE_4 + 1), last[:, None])
    made = np.zeros((len(first), 8), np.int64)
    boundaries = np.zeros((len(first), 8), np.int64)
    boundaries[:, :LINE_4] = starts[steps[:, 1:]]
    made[:, :4] = halves(boundaries)
    made[:, 4:] = halves(classes[steps])
    return made


def wide_trie(words: Words, starts: list[int], classes: list[int]) -> int:
    """Build the trie of keys of 128 bits; return its entry. starts: where intervals begin, the first at 0
    (what begins at 2**128 is left out); classes: of each."""
    inside = bisect_right(starts, (1 << 128) - 1)
    kept = [0, *(at for at in range(1, inside) if classes[at] != classes[at - 1])]
    starts, classes = [starts[at] for at in kept], [classes[at] for at in kept]

    def entry(prefix: int, depth: int, first: int, last: int) -> int:
        """The entry of the keys that begin with `depth` bits of a prefix: of the intervals from first to last."""
        if first == last:
            return classes[first] << 2 | LEAF
        if last - first <= LINE_6:
            return words.add(line(first, last)) << 2 | LINE
        bits = 8 if depth else 16
        step = 128 - depth - bits
        made = []
        at = first
        for index in range(1 << bits):
            start = prefix | index << step
            # Most children hold no boundary.
            while at < last and starts[at + 1] <= start:
                at += 1
            end = at
            if end < last and starts[end + 1] < start + (1 << step):
                end = bisect_right(starts, start + (1 << step) - 1, end, last + 1) - 1
            made.append(entry(start, depth + bits, at, end))
        return words.add_halves(made) << 2 | (TABLE if depth else WIDE)

    def line(first: int, last: int) -> list[int]:
        steps = [min(first + step, last) for step in range(LINE_6 + 1)]
        made = []
        for at in steps[1:]:
            made += [_signed(starts[at] >> 64) ^ SIGN, _signed(starts[at]) ^ SIGN]
        packed = halves(np.array([*(classes[at] for at in steps), 0], np.int64))
        return [*made, *packed.tolist(), *[0] * (LINE_6_WORDS - 2 * LINE_6 - len(packed))]

    return entry(0, 0, 0, len(starts) - 1)


def _signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number
