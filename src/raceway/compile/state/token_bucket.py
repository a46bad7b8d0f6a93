"""Token buckets: so many a second on average, so many at once, for all packets together or for each key.

Tokens are counted in units of 10**-9, so that `rate` tokens a second are exactly `rate` units a nanosecond, in
integers. Time is the packet's own (`packet.time`) and never read: a capture that is replayed is limited as it was live.
"""

from __future__ import annotations

from typing import Any

from raceway.compile.addresses import signed64
from raceway.compile.state.hash_table import (
    ALLOWED,
    HEADER,
    KEY,
    REFUSED,
    VALUE,
    VALUE_2,
    Table,
    find,
    insert,
    remove,
)
from raceway.compile.state.words import whole_number

SECOND = 1_000_000_000
_RECLAIM = 8


def refilled(tokens: int, elapsed: int, rate: int, burst: int) -> int:
    """Return the tokens after some nanoseconds; no product here leaves 63 bits."""
    full = burst * SECOND
    if elapsed <= 0:
        return tokens
    if elapsed > full // rate:
        return full
    return min(full, tokens + elapsed * rate)


def reclaim(table: memoryview[int], mask: int, entry: int, at: int, now: int, rate: int, burst: int) -> bool:
    """Make room in a full table: drop a bucket near this index that has filled up again, for it equals a new one."""
    slot = (at - HEADER) // entry
    for _ in range(_RECLAIM):
        slot = (slot + 1) & mask
        other = HEADER + slot * entry
        if table[other] != 0:
            elapsed = signed64(now - table[other + VALUE_2])
            if refilled(table[other + VALUE], elapsed, rate, burst) == burst * SECOND:
                remove(table, mask, entry, other)
                return True
    return False


def allow(
    table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int, kind: int,
    now: int, rate: int, burst: int, cost: int,
) -> bool:  # fmt: skip
    """Take `cost` tokens out of the key's bucket, if they are there."""
    at = find(table, mask, entry, key, words, tag)
    if at <= 0:
        if table[0] >= table[5] and reclaim(table, mask, entry, -at, now, rate, burst):
            at = find(table, mask, entry, key, words, tag)
        if not insert(table, -at, key, words, tag, kind, burst * SECOND, now):
            table[REFUSED] = table[REFUSED] + 1
            return False
        at = -at
    elapsed = signed64(now - table[at + VALUE_2])
    tokens = refilled(table[at + VALUE], elapsed, rate, burst)
    if elapsed > 0:
        table[at + VALUE_2] = now
    allowed = 0 <= cost <= burst and cost * SECOND <= tokens
    if allowed:
        tokens -= cost * SECOND
        table[ALLOWED] = table[ALLOWED] + 1
    else:
        table[REFUSED] = table[REFUSED] + 1
    table[at + VALUE] = tokens
    return allowed


class TokenBucket(Table):
    """`rate` tokens a second, at most `burst` saved up; `capacity` buckets, one a key.

    `allow(packet)` takes a token from the one bucket, `allow(packet, key)` from the key's, `allow(packet, key, cost)`
    takes several (0 as key for the one bucket). A bucket starts full. A new key in a full table gets the place of
    a bucket that has filled up again; if there is none at hand it is refused, and counted in `full` too.
    """

    def __init__(
        self, rate: int, burst: int, capacity: int = 1, *, key_words: int = 5, seed: int | None = None
    ) -> None:
        self.rate = whole_number(rate, "rate (tokens a second)", 1, 1_000_000_000_000)
        self.burst = whole_number(burst, "burst (tokens)", 1, 4_000_000_000)
        super().__init__(capacity, key_words, seed)

    def allow(self, packet: Any, key: Any = 0, cost: int = 1) -> bool:
        """Take tokens at the packet's time; False if there are too few."""
        words, count, tag, kind = self._key(key)
        return allow(
            self.memory, self.mask, self.entry, words, count, tag, kind,
            packet.time, self.rate, self.burst, signed64(int(cost)),
        )  # fmt: skip

    @property
    def allowed(self) -> int:
        """How many times there were tokens."""
        return self.memory[ALLOWED]

    @property
    def refused(self) -> int:
        """How many times there were not."""
        return self.memory[REFUSED]

    def items(self) -> list[tuple[Any, float]]:
        """Return keys and the tokens that each bucket had when it was last asked."""
        return [(key, tokens / SECOND) for key, tokens, _ in self._entries()]

    def __repr__(self) -> str:
        return (
            f"<TokenBucket {self.rate}/s, burst {self.burst}: {self.allowed} allowed, {self.refused} refused>"
        )


__all__ = ["KEY", "TokenBucket"]
