"""Token buckets: so many a second on average, so many at once, for all packets together or for each key.

Tokens are counted in units of 10**-9, so that `rate` tokens a second are exactly `rate` units a nanosecond, in
integers. Time is the packet's own (`packet.time`) and never read: a capture that is replayed is limited as it was live.
"""

from __future__ import annotations

from typing import Any

from raceway.compile.addresses import signed64
from raceway.compile.state.calls import ALLOW, table_call
from raceway.compile.state.chains import (
    ALLOWED,
    CAPACITY,
    HAND,
    HEADER,
    KEY,
    LOCK,
    REFUSED,
    TAG,
    VALUE,
    bucket_of,
    find,
    insert,
    lock,
    refused,
    unlink,
)
from raceway.compile.state.hash_table import Table
from raceway.compile.state.words import (
    compare_exchange,
    count,
    observe,
    publish,
    whole_number,
    words_of_tag,
)

SECOND = 1_000_000_000
_RECLAIM = 16


def refilled(tokens: int, elapsed: int, rate: int, burst: int) -> int:
    """Return the tokens after some nanoseconds; no product here leaves 63 bits."""
    full = burst * SECOND
    if elapsed <= 0:
        return tokens
    if elapsed > full // rate:
        return full
    return min(full, tokens + elapsed * rate)


def spare(table: memoryview[int], entry: int, at: int, now: int, rate: int, burst: int) -> bool:
    """Tell whether the bucket at an index has filled up again, for then it equals a new one."""
    elapsed = signed64(now - table[at + entry - 1])
    return refilled(table[at + VALUE], elapsed, rate, burst) == burst * SECOND


def reclaim(table: memoryview[int], mask: int, entry: int, now: int, rate: int, burst: int) -> bool:
    """Make room in a full table: drop a bucket that has filled up again, of the few that the hand comes to.

    Whoever calls this holds no lock, and a bucket whose lock is held is passed over.
    """
    hand = count(table, HAND, _RECLAIM)
    for step in range(_RECLAIM):
        node = (hand + step) & mask
        if node < table[CAPACITY]:
            at = HEADER + mask + 1 + node * entry
            tag = observe(table, at + TAG)
            if tag != 0 and spare(table, entry, at, now, rate, burst):
                bucket = bucket_of(table, mask, table, at + KEY, words_of_tag(tag), tag)
                word = observe(table, bucket)
                if word & LOCK == 0 and compare_exchange(table, bucket, word, word | LOCK):
                    if not spare(table, entry, at, now, rate, burst):
                        publish(table, bucket, word)
                    elif unlink(table, mask, entry, bucket, word, at):
                        return True
    return False


def allow(
    table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int, kind: int,
    now: int, rate: int, burst: int, cost: int,
) -> bool:  # fmt: skip
    """Take `cost` tokens out of the key's bucket, if they are there."""
    bucket = bucket_of(table, mask, key, 0, words, tag)
    for attempt in range(2):
        word = lock(table, bucket)
        if word < 0:
            break
        at = find(table, mask, entry, word, key, words, tag)
        tokens = burst * SECOND
        then = now
        if at > 0:
            then = table[at + entry - 1]
            tokens = refilled(table[at + VALUE], signed64(now - then), rate, burst)
            if signed64(now - then) > 0:
                then = now
        allowed = 0 <= cost <= burst and cost * SECOND <= tokens
        if allowed:
            tokens -= cost * SECOND
        found = 1
        if at > 0:
            table[at + VALUE] = tokens
            table[at + entry - 1] = then
            publish(table, bucket, word)
        else:
            found = insert(table, mask, entry, bucket, word, key, words, tag, kind, tokens, then)
        if found > 0:
            count(table, ALLOWED if allowed else REFUSED, 1)
            return allowed
        if attempt == 1 or found < 0 or not reclaim(table, mask, entry, now, rate, burst):
            refused(table, found)
            break
    count(table, REFUSED, 1)
    return False


class TokenBucket(Table):
    """`rate` tokens a second, at most `burst` saved up; `capacity` buckets, one a key.

    `allow(packet)` takes a token from the one bucket, `allow(packet, key)` from the key's, `allow(packet, key, cost)`
    takes several (0 as key for the one bucket). A bucket starts full. A new key in a full table gets the place of
    a bucket that has filled up again; if there is none at hand it is refused, and counted in `full` too. Any number of
    processors, the kernel and Python may ask at once; one that does not get at a bucket for some microseconds is
    refused, and counted in `busy` too.
    """

    def __init__(
        self, rate: int, burst: int, capacity: int = 1, *, key_words: int = 5, seed: int | None = None
    ) -> None:
        self.rate = whole_number(rate, "rate (tokens a second)", 1, 1_000_000_000_000)
        self.burst = whole_number(burst, "burst (tokens)", 1, 4_000_000_000)
        super().__init__(capacity, key_words, seed, 1)

    def allow(self, packet: Any, key: Any = 0, cost: int = 1) -> bool:
        """Take tokens at the packet's time; False if there are too few."""
        words, size, tag, kind = self._key(key)
        cost = signed64(int(cost))
        with self.writing:
            if self.alone:
                return allow(
                    self.memory, self.mask, self.entry, words, size, tag, kind,
                    packet.time, self.rate, self.burst, cost,
                )  # fmt: skip
        return table_call(self, ALLOW, words, tag, kind, cost, packet.time, self.rate, self.burst) != 0

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


__all__ = ["TokenBucket"]
