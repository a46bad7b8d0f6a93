"""The ring of `log`: the beginnings of packets, from wherever the function runs to whoever writes them to a file.

The function copies a packet's first bytes into an array of counters like any other state::

    | tickets given | number of the first log rule | - ... | sample 0: turn, busy, time, rule, length, bytes ... | ... |

A ticket is taken by an atomic addition, so processors do not meet. Who finds somebody else in his place, a whole turn
of the ring late, leaves it to him. A sample's turn is 0 while it is filled and the ticket + 1 afterwards: who reads too
late finds a later turn there. What was not read is counted as lost, whichever of these was the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from raceway.compile.state import Counters

SAMPLES, STRIDE = 1 << 12, 32
"""How many there are, and the words of each."""
BYTES = 192
"""Of each packet, from its beginning on; of one that is shorter than 8 bytes, none."""
GIVEN, FIRST_RULE = 0, 1
_FIRST = 8
_TURN, _BUSY, _TIME, _RULE, _LENGTH, _DATA = range(6)
_PATIENCE = 0.1
"""Seconds that a sample may be in the making, which takes microseconds, or will never be made."""

SOURCE = f"""def sample(packet, rule):
    ticket = SAMPLES.add({GIVEN}) - 1
    at = {_FIRST} + (ticket & {SAMPLES - 1}) * {STRIDE}
    if SAMPLES.add(at + {_BUSY}) != 1:
        SAMPLES.add(at + {_BUSY}, -1)
        return 0
    SAMPLES.add(at, -SAMPLES[at])
    SAMPLES[at + {_TIME}] = packet.time
    SAMPLES[at + {_RULE}] = rule
    SAMPLES[at + {_LENGTH}] = len(packet)
    length = min(len(packet), {BYTES})
    words = length >> 3
    for index in range(words):
        SAMPLES[at + {_DATA} + index] = packet.load64(index << 3)
    if length >= 8:
        SAMPLES[at + {_DATA} + words] = packet.load64(length - 8)
    SAMPLES.add(at, ticket + 1)
    SAMPLES.add(at + {_BUSY}, -1)
    return 0
"""
"""The function's source, for a scope in which SAMPLES is what `ring` makes."""


class Sample(NamedTuple):
    """The beginning of a packet. rule: number of the rule that wanted it; time: ns since 1970; length: of the whole."""

    rule: int
    time: int
    length: int
    data: bytes


def ring(first_rule: int) -> Counters:
    """The state that `sample` works on, for rules of which the first that logs has this number."""
    made = Counters(_FIRST + SAMPLES * STRIDE)
    made[FIRST_RULE] = first_rule
    return made


class Reader:
    """Takes samples out of a ring, in order. lost: how many there were that nobody can read any more.

    now: a clock in seconds.
    """

    def __init__(self, samples: Counters, now: Callable[[], float] = time.monotonic) -> None:
        self._given = samples.words
        self._entries = samples.words[_FIRST:].reshape(SAMPLES, STRIDE)
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
        turns = self._entries[places, _TURN]
        whole = (turns == tickets + 1) & (rows[:, _TURN] == tickets + 1)
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
    octets = rows[:, _DATA:].astype(">i8").tobytes()
    size = (STRIDE - _DATA) * 8
    made = []
    for index, (when, rule, length) in enumerate(rows[:, _TIME:_DATA].tolist()):
        kept = min(length, BYTES)
        start = index * size
        whole, rest = kept & ~7, kept & 7
        data = octets[start : start + whole]
        if rest and whole:
            # The packet's last eight bytes, of which the end is new.
            data += octets[start + whole + 8 - rest : start + whole + 8]
        made.append(Sample(rule, when, length, data))
    return made
