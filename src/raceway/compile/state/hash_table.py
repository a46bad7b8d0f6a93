"""A hash table of fixed capacity: keys are numbers, addresses, five-tuples or tuples of them, values are numbers.

How it lies in memory, and how processors agree about it, is `chains`. The functions below are what a packet function
calls, on words, in both worlds.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from raceway.compile.addresses import signed64
from raceway.compile.state import chains
from raceway.compile.state.calls import ADD, CONTAINS, DELETE, GET, PUT, table_call
from raceway.compile.state.chains import (
    BUSY,
    LOOKS,
    VALUE,
    VERSION,
    bucket_of,
    find,
    insert,
    lock,
    refused,
    unlink,
)
from raceway.compile.state.words import (
    State,
    count,
    key_of_words,
    key_words,
    observe,
    publish,
    whole_number,
    words_of_tag,
)

_LARGEST = 1 << 28
_KIND_BITS = (1, 2, 4)


def get(table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int, default: int) -> int:
    """Return the key's value, or the default."""
    bucket = bucket_of(table, mask, key, 0, words, tag)
    for _ in range(LOOKS):
        word = observe(table, bucket)
        at = find(table, mask, entry, word, key, words, tag)
        value = default
        if at > 0:
            value = table[at + VALUE]
        if observe(table, bucket) >> VERSION == word >> VERSION:
            return value
    count(table, BUSY, 1)
    return default


def contains(table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int) -> bool:
    """Tell whether the key is there."""
    bucket = bucket_of(table, mask, key, 0, words, tag)
    for _ in range(LOOKS):
        word = observe(table, bucket)
        at = find(table, mask, entry, word, key, words, tag)
        if observe(table, bucket) >> VERSION == word >> VERSION:
            return at > 0
    count(table, BUSY, 1)
    return False


def put(
    table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int, kind: int, value: int
) -> bool:
    """Set the key's value; False if the table is full, or busy."""
    bucket = bucket_of(table, mask, key, 0, words, tag)
    word = lock(table, bucket)
    if word < 0:
        return False
    at = find(table, mask, entry, word, key, words, tag)
    if at > 0:
        table[at + VALUE] = value
        publish(table, bucket, word)
        return True
    found = insert(table, mask, entry, bucket, word, key, words, tag, kind, value, 0)
    if found <= 0:
        refused(table, found)
    return found > 0


def add(
    table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int, kind: int, delta: int
) -> int:
    """Add to the key's value, 0 where there is none; return the sum, or 0 if the table is full, or busy."""
    bucket = bucket_of(table, mask, key, 0, words, tag)
    word = lock(table, bucket)
    if word < 0:
        return 0
    at = find(table, mask, entry, word, key, words, tag)
    if at > 0:
        value = signed64(table[at + VALUE] + delta)
        table[at + VALUE] = value
        publish(table, bucket, word)
        return value
    found = insert(table, mask, entry, bucket, word, key, words, tag, kind, delta, 0)
    if found <= 0:
        refused(table, found)
        return 0
    return delta


def delete(table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int) -> bool:
    """Remove the key; False if it was not there, or the table is busy."""
    bucket = bucket_of(table, mask, key, 0, words, tag)
    word = lock(table, bucket)
    if word < 0:
        return False
    at = find(table, mask, entry, word, key, words, tag)
    if at == 0:
        publish(table, bucket, word)
        return False
    return unlink(table, mask, entry, bucket, word, at)


class Table(State):
    """The Python side that the hash table and the token bucket share."""

    def __init__(self, capacity: int, key_size: int, seed: int | None, more: int = 0) -> None:
        self.capacity = whole_number(capacity, "capacity", 1, _LARGEST)
        self.key_words = whole_number(key_size, "key_words", 1, 32)
        # At most four keys for five buckets, so that looking for what is not there seldom meets another key.
        self.mask = (1 << max((self.capacity + self.capacity // 4).bit_length(), 3)) - 1
        # A node with a five-tuple is one cache line.
        self.entry = chains.KEY + self.key_words + more
        self._first = chains.HEADER + self.mask + 1
        super().__init__(self._first + self.capacity * self.entry)
        self.memory[chains.CAPACITY] = self.capacity
        self.memory[chains.SEED] = signed64(secrets.randbits(63) if seed is None else seed)

    def _key(self, key: Any) -> tuple[list[int], int, int, int]:
        words, tag, kind = key_words(key)
        if len(words) > self.key_words:
            raise TypeError(
                f"key {key!r} takes {len(words)} words, the table was made for {self.key_words} (key_words=)"
            )
        return words, len(words), tag, kind

    @property
    def full(self) -> int:
        """How many new keys were refused because the table was full."""
        return self.memory[chains.FULL]

    @property
    def busy(self) -> int:
        """How many times somebody gave up because others were at the same entries for too long."""
        return self.memory[chains.BUSY]

    def __len__(self) -> int:
        return self.memory[chains.COUNT]

    def __bool__(self) -> bool:
        return True

    def _nodes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The nodes that were ever used, a row each."""
        used = min(self.memory[chains.FRESH], self.capacity)
        return self.words[self._first : self._first + used * self.entry].reshape(-1, self.entry)

    def _entries(self) -> Iterator[tuple[Any, int, int]]:
        nodes = self._nodes()
        waiting = np.arange(len(nodes))
        copies = []
        # A node that was filled or freed while it was copied is copied again; under ceaseless change it is left out.
        for _ in range(100):
            before = nodes[waiting, chains.NEXT] >> VERSION
            rows = nodes[waiting]
            same = nodes[waiting, chains.NEXT] >> VERSION == before
            copies.append(rows[same & (rows[:, chains.TAG] != 0)])
            waiting = waiting[~same]
            if len(waiting) == 0:
                break
        kinds = sum(kind for kind in _KIND_BITS if self.memory[chains.KINDS + kind])
        seen = set()
        for row in np.concatenate(copies).tolist():
            tag = row[chains.TAG]
            words = row[chains.KEY : chains.KEY + words_of_tag(tag)]
            # A key that moved from one node to another meanwhile could be in both copies.
            if (tag, *words) not in seen:
                seen.add((tag, *words))
                yield key_of_words(words, tag, kinds), row[VALUE], row[-1]

    def clear(self) -> None:
        """Forget every key, and what was counted. Only while nobody writes."""
        nodes = self._nodes()
        buckets = self.words[chains.HEADER : self._first]
        for words in (nodes[:, chains.NEXT], buckets):
            words[:] = ((words >> VERSION) + 1 & 0xFFFFFFFF) << VERSION
        nodes[:, chains.TAG] = 0
        self.words[chains.KINDS : chains.COUNT] = 0
        self.words[chains.COUNT : chains.STAMP] = 0


class HashTable(Table):
    """A table of at most `capacity` keys with a signed 64-bit number each.

    key_words: 64-bit words of the longest key: a number, an IPv4 or MAC address takes 1, an IPv6 address 2, a
    five-tuple 5, a tuple the sum of its parts. seed: for a reproducible order; random by default, so that nobody
    outside can make keys collide. In Python it reads and writes like a dict; a full table refuses new keys and counts
    `full`. Any number of processors, the kernel and Python may read and write it at once; one that does not get at an
    entry for some microseconds gives up as if the table were full, and counts `busy`.
    """

    def __init__(self, capacity: int, *, key_words: int = 5, seed: int | None = None) -> None:
        super().__init__(capacity, key_words, seed)

    def get(self, key: Any, default: int = 0) -> int:
        """Return the key's value, or `default`."""
        words, size, tag, _ = self._key(key)
        if self.alone:
            return get(self.memory, self.mask, self.entry, words, size, tag, default)
        return table_call(self, GET, words, tag, 0, signed64(int(default)))

    def put(self, key: Any, value: int) -> bool:
        """Set the key's value; False if the key is new and the table full (counted in `full`), or others are at it
        (`busy`)."""
        words, size, tag, kind = self._key(key)
        value = signed64(int(value))
        with self.writing:
            if self.alone:
                return put(self.memory, self.mask, self.entry, words, size, tag, kind, value)
        return table_call(self, PUT, words, tag, kind, value) != 0

    def add(self, key: Any, delta: int = 1) -> int:
        """Add to the key's value (0 if it is new) and return the sum; 0 if the key is new and the table full (counted
        in `full`), or others are at it (`busy`)."""
        words, size, tag, kind = self._key(key)
        delta = signed64(int(delta))
        with self.writing:
            if self.alone:
                return add(self.memory, self.mask, self.entry, words, size, tag, kind, delta)
        return table_call(self, ADD, words, tag, kind, delta)

    def delete(self, key: Any) -> bool:
        """Remove a key; False if it was not there, or others are at it (counted in `busy`)."""
        words, size, tag, _ = self._key(key)
        with self.writing:
            if self.alone:
                return delete(self.memory, self.mask, self.entry, words, size, tag)
        return table_call(self, DELETE, words, tag) != 0

    def __contains__(self, key: Any) -> bool:
        words, size, tag, _ = self._key(key)
        if self.alone:
            return contains(self.memory, self.mask, self.entry, words, size, tag)
        return table_call(self, CONTAINS, words, tag) != 0

    def __getitem__(self, key: Any) -> int:
        if key not in self:
            raise KeyError(key)
        return self.get(key)

    def __setitem__(self, key: Any, value: int) -> None:
        if not self.put(key, value):
            raise OverflowError(f"the table did not take {key!r}: it is full ({self.capacity} keys), or busy")

    def __delitem__(self, key: Any) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def items(self) -> list[tuple[Any, int]]:
        """Return keys and values, each whole, all of about the same time."""
        return [(key, value) for key, value, _ in self._entries()]

    def keys(self) -> list[Any]:
        """Return the keys."""
        return [key for key, _ in self.items()]

    def values(self) -> list[int]:
        """Return the values."""
        return [value for _, value in self.items()]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __repr__(self) -> str:
        return f"<HashTable: {len(self)} of {self.capacity} keys, {self.full} refused>"


__all__ = ["HashTable", "np"]
