"""What rules log: samples (`compile.state.samples`) on their way out of the ring, to whoever writes them to a file.

What was not read is counted as lost, whatever the reason: overwritten, never finished, or left to who was in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from raceway.compile.state.samples import (
    BYTES,
    DATA,
    FIRST,
    GIVEN,
    NOTE,
    SAMPLES,
    STRIDE,
    TIME,
    TURN,
    Samples,
)

_PATIENCE = 0.1
"""Seconds that a sample may be in the making, which takes microseconds, or will never be made."""


class Sample(NamedTuple):
    """The beginning of a packet. rule: number of the rule that wanted it; time: ns since 1970; length: of the whole."""

    rule: int
    time: int
    length: int
    data: bytes


def ring(first_rule: int) -> Samples:
    """The ring for rules of which the first that logs has this number."""
    made = Samples()
    made[NOTE] = first_rule
    return made


class Reader:
    """Takes samples out of a ring, in order. lost: how many there were that nobody can read any more.

    now: a clock in seconds.
    """

    def __init__(self, samples: Samples, now: Callable[[], float] = time.monotonic) -> None:
        self._given = samples.words
        self._entries = samples.words[FIRST:].reshape(SAMPLES, STRIDE)
        self._next = 0
        self._now = now
        self._waiting: tuple[int, float] = (-1, 0.0)
        self.lost = 0

    @property
    def given(self) -> int:
        """How many packets were to be sampled."""
        return int(self._given[GIVEN])

    @property
    def waiting(self) -> int:
        """How many were neither taken nor lost yet."""
        return self.given - self._next

    def take(self, most: int = 1024, *, final: bool = False) -> list[Sample]:
        """The next samples that are there whole, up to so many. final: nobody fills any more."""
        given = self.given
        if given - self._next > SAMPLES:
            self.lost += given - SAMPLES - self._next
            self._next = given - SAMPLES
        tickets = np.arange(self._next, min(given, self._next + most))
        if not len(tickets):
            return []
        places = tickets % SAMPLES
        rows = self._entries[places]
        # Whoever fills one anew has begun with this word.
        turns = self._entries[places, TURN]
        whole = (turns == tickets + 1) & (rows[:, TURN] == tickets + 1)
        unfinished = (turns <= tickets).nonzero()[0]
        end = len(tickets)
        if len(unfinished) and not final:
            end = int(unfinished[0]) + self._give_up(int(tickets[unfinished[0]]))
        self._next += end
        found = rows[:end][whole[:end]]
        self.lost += end - len(found)
        return _samples(found)

    def _give_up(self, ticket: int) -> bool:
        """Whether this ticket's sample has been in the making for so long that nobody makes it."""
        if self._waiting[0] != ticket:
            self._waiting = ticket, self._now()
        return self._now() - self._waiting[1] > _PATIENCE


def _samples(rows: np.ndarray[Any, np.dtype[np.int64]]) -> list[Sample]:
    octets = rows[:, DATA:].astype(">i8").tobytes()
    size = (STRIDE - DATA) * 8
    made = []
    for index, (when, rule, length) in enumerate(rows[:, TIME:DATA].tolist()):
        kept = min(length, BYTES)
        start = index * size
        whole, rest = kept & ~7, kept & 7
        data = octets[start : start + whole]
        if rest and whole:
            # The packet's last eight bytes, of which the end is new.
            data += octets[start + whole + 8 - rest : start + whole + 8]
        made.append(Sample(rule, when, length, data))
    return made
