"""Many keys looked up at once, for machine code: the same as `walk.match` of each, several times as fast.

One packet after the other, a processor waits: for memory, as each step needs what the step before has found, and after
every branch that it has foreseen wrongly. Here a step is done for all packets of a chunk before the next one begins,
so that their loads overlap; and where packets part ways, each way's packets are put on a list, which takes no branch::

    keys     --+--> 4: root ---> lists: line, table ---> table ---> ...     source and destination of each packet
               +--> others, one by one
    numbers  -----> rest of each packet
    groups   -----> for each group: where each packet's cell is ---> cell, what of the rest fits

The places of a chunk are words::

    KEYS     CHUNK * KEY_WORDS   keys of `walk.key`, one behind the other
    ANSWERS  CHUNK               answers before, and rules after
    ...      CHUNK each          what has been found of each packet, and lists
"""

from __future__ import annotations

from typing import Any

from raceway.compile.classifier import walk
from raceway.compile.classifier.tries import BYTES, LEAF, LINE, TABLE, WIDE
from raceway.compile.classifier.walk import (
    BASE,
    FAMILY,
    FIT,
    FITS,
    GROUP,
    GROUP_COUNT,
    GROUP_WORDS,
    JOINT,
    KEY_WORDS,
    OWNER,
    PORT_OF_SOURCE,
    ROW,
    RULE,
    SOURCE,
    SOURCE_HIGH,
    SOURCE_LOW,
    SOURCE_PORT,
    STEP,
    half,
    line_4,
    wide,
)

CHUNK = 128
"""Packets that are looked up together. Their keys and all that is found of them stay in the first-level cache."""
KEYS = 0
ANSWERS = CHUNK * KEY_WORDS
# Of the source, and CHUNK words behind of the destination.
_FOUND_AT = ANSWERS + CHUNK
_REST, _BEST, _FOURS, _LINES, _TABLES = (ANSWERS + CHUNK * number for number in range(3, 8))
# The lists are not looked at any more when these are made.
_OWNERS, _CELLS = _FOURS, _LINES
PLACES = ANSWERS + CHUNK * 8
"""Words that a chunk takes."""
_RULE = (1 << 21) - 1
_NO_RULE = 1 << 30
_PAYLOAD = (1 << ROW) - 1


def half_of(table: Any, at: int, index: int) -> int:
    """The number of 32 bits at an index behind a word."""
    return half(table, at, index)


def byte_of(table: Any, at: int, index: int) -> int:
    """The number of 8 bits at an index behind a word."""
    number: int = (table[at + (index >> 3)] >> ((index & 7) << 3)) & 0xFF
    return number


def pair_of(table: Any, at: int, index: int) -> int:
    """The number of 16 bits at an index behind a word."""
    number: int = (table[at + (index >> 2)] >> ((index & 3) << 4)) & 0xFFFF
    return number


def line_of(table: Any, at: int, key: int) -> int:
    """What a line of seven boundaries says of a key of 32 bits."""
    return line_4(table, at, key)


def soon(table: Any, at: int) -> None:
    """Say that a word will be wanted: machine code asks memory for it."""


def match_all(table: Any, words: Any, count: int) -> None:
    """Look up the keys of up to CHUNK packets, with their answers; put each one's rule, or -1, where its answers were.

    table: words of a classifier whose combinations are in one table (`Classifier.joint`); words: places of a chunk.
    """
    fours = 0
    for index in range(count):
        words[_REST + index] = 0
        words[_BEST + index] = _NO_RULE
        words[_FOURS + fours] = index
        fours += words[KEYS + index * KEY_WORDS + FAMILY] == 4
    for which in range(2):
        if fours < count:
            _others(table, words, count, which)
        _narrow_all(table, words, fours, which)
    for which in range(len(walk.NUMBERS)):
        _number_all(table, words, count, which)
    header = GROUP
    for group in range(table[GROUP_COUNT]):
        _group(table, words, count, group, header)
        header += GROUP_WORDS
    for index in range(count):
        best = words[_BEST + index]
        words[ANSWERS + index] = best | -(best >> 30)


def _others(table: Any, words: Any, count: int, which: int) -> None:
    """What is found for the source (0) or destination (1) of packets other than IPv4."""
    side, found, high = SOURCE + which * 3, _FOUND_AT + which * CHUNK, KEYS + SOURCE_HIGH + which * 2
    for index in range(count):
        at = index * KEY_WORDS
        family = words[KEYS + at + FAMILY]
        if family == 6:
            words[found + index] = wide(table, table[side + 1], words[high + at], words[high + at + 1])
        elif family != 4:
            words[found + index] = table[side + 2]


def _narrow_all(table: Any, words: Any, count: int, which: int) -> None:
    """The same for IPv4. count: packets on the list _FOURS."""
    entry, found, key_at = table[SOURCE + which * 3], _FOUND_AT + which * CHUNK, KEYS + SOURCE_LOW + which * 2
    kind, at = entry & 3, entry >> 2
    if kind == LEAF:
        for place in range(count):
            words[found + words[_FOURS + place]] = at
        return
    if kind == LINE:
        for place in range(count):
            index = words[_FOURS + place]
            words[found + index] = line_of(table, at, words[key_at + index * KEY_WORDS])
        return
    bits = 8
    if kind == WIDE:
        bits = 16
    shift = 32 - bits
    # All are on the first list; whoever goes on is on the next, which is never ahead of the one that is read.
    tables, here = _FOURS, count
    lines = onward = 0
    for place in range(here):
        index = words[tables + place]
        made = half_of(table, at, words[key_at + index * KEY_WORDS] >> shift)
        words[found + index] = made >> 2
        words[_LINES + lines] = index
        lines += (made & 3) == LINE
        words[_TABLES + onward] = index
        onward += (made & 3) == TABLE
    while onward > 0:
        shift -= 8
        here, onward = onward, 0
        for place in range(here):
            index = words[_TABLES + place]
            made = half_of(table, words[found + index], (words[key_at + index * KEY_WORDS] >> shift) & 0xFF)
            words[found + index] = made >> 2
            words[_LINES + lines] = index
            lines += (made & 3) == LINE
            words[_TABLES + onward] = index
            onward += (made & 3) == TABLE
    for place in range(lines):
        index = words[_LINES + place]
        words[found + index] = line_of(table, words[found + index], words[key_at + index * KEY_WORDS])


def _number_all(table: Any, words: Any, count: int, which: int) -> None:
    """Add what the classes of source ports, destination ports, protocols or answers count."""
    side = SOURCE_PORT + which * 3
    entry, none, step = table[side], table[side + 1], table[side + STEP]
    kind, place = entry & 3, entry >> 2
    at, apart, mask = KEYS + PORT_OF_SOURCE + which, KEY_WORDS, 0xFFFF
    if which == 2:
        mask = 0xFF
    elif which == 3:
        at, apart, mask = ANSWERS, 1, 0xFFF
    if kind == BYTES:
        for index in range(count):
            key = words[at + index * apart]
            found = byte_of(table, place, key & mask)
            # A number of -1 is none; what all packets without one have is chosen by its sign.
            words[_REST + index] += (found ^ ((found ^ none) & (key >> 63))) * step
    elif kind != LEAF:
        for index in range(count):
            key = words[at + index * apart]
            found = pair_of(table, place, key & mask)
            words[_REST + index] += (found ^ ((found ^ none) & (key >> 63))) * step
    elif place != none:
        for index in range(count):
            key = words[at + index * apart]
            words[_REST + index] += (place ^ ((place ^ none) & (key >> 63))) * step
    elif place != 0:
        for index in range(count):
            words[_REST + index] += place * step


def _group(table: Any, words: Any, count: int, group: int, header: int) -> None:
    """What one group says of each packet."""
    joint = table[JOINT]
    fits, width = table[header + FITS] << 1, table[header + FITS + 1] << 1
    firsts = table[header + FITS + 2] << 1
    for index in range(count):
        mine = table[words[_FOUND_AT + index] + group]
        place = (mine & BASE) + table[words[_FOUND_AT + CHUNK + index] + group]
        words[_OWNERS + index] = mine
        words[_CELLS + index] = place
        soon(table, place)
    for index in range(count):
        cell = table[words[_CELLS + index]]
        rest = half_of(table, joint, words[_REST + index] + group)
        # All ones if the cell is this source's, and if it holds a row.
        ours = ((cell ^ words[_OWNERS + index]) >> OWNER) - 1 >> 63
        row = -((cell >> ROW) & 1)
        # Of the two things that a cell can mean only one is looked up, and both are worked out.
        first = firsts + (cell & _PAYLOAD) + rest
        fit = fits + (cell & FIT) * width + (rest >> 5)
        looked = half_of(table, 0, fit ^ ((fit ^ first) & row))
        alone = (cell >> RULE) & _RULE
        rule = alone ^ ((alone ^ (looked - 1)) & row)
        holds = ours & (row & -looked >> 63 | ~row & -((looked >> (rest & 31)) & 1))
        words[_BEST + index] = min(words[_BEST + index], rule & _RULE | ~holds & _NO_RULE)
