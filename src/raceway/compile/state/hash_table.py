"""A hash table of fixed capacity: keys are numbers, addresses, five-tuples or tuples of them, values are numbers.

Open addressing with linear probing, at most two thirds full, deletion by moving back (Knuth, volume 3, 6.4, algorithm
R), so nothing wears out. An entry is a run of words, all entries follow the header::

    | tag | value | value 2 | key ...  |      tag 0: empty

The functions below work on words in both worlds. A key's words are stored before its tag, so a reader never sees half a
key; moving entries makes the header's `SEQUENCE` odd, and readers look again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from raceway.compile.addresses import signed64
from raceway.compile.state.words import State, key_of_words, key_words, publish, whole_number, words_of_tag

COUNT, FULL, SEQUENCE, KINDS, SEED, CAPACITY, ALLOWED, REFUSED = range(8)
HEADER = 8
VALUE, VALUE_2, KEY = 1, 2, 3

_MULTIPLIER = signed64(0x9E3779B97F4A7C15)
_LARGEST = 1 << 28


def hash_words(memory: Any, start: int, words: int, seed: int) -> int:
    """Hash some words: a multiplication and a fold each (multiplicative hashing, Knuth, volume 3, 6.4)."""
    value = seed
    for index in range(words):
        value = signed64((value ^ memory[start + index]) * _MULTIPLIER)
        value = value ^ ((value >> 32) & 0xFFFFFFFF)
    value = signed64(value * _MULTIPLIER)
    return (value >> 32) & 0xFFFFFFFF


def find(table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int) -> int:
    """Return the index of the key's entry, or minus the index of the empty one where it would go."""
    slot = hash_words(key, 0, words, table[SEED] ^ tag) & mask
    for _ in range(mask + 1):
        at = HEADER + slot * entry
        found = table[at]
        if found == 0:
            return -at
        if found == tag:
            same = 0
            while same < words and table[at + KEY + same] == key[same]:
                same += 1
            if same == words:
                return at
        slot = (slot + 1) & mask
    return 0


def insert(
    table: memoryview[int], at: int, key: Any, words: int, tag: int, kind: int, value: int, value_2: int
) -> bool:
    """Fill the empty entry at an index; False, and counted, if the table is full."""
    if table[COUNT] >= table[CAPACITY]:
        table[FULL] = table[FULL] + 1
        return False
    table[at + VALUE] = value
    table[at + VALUE_2] = value_2
    for index in range(words):
        table[at + KEY + index] = key[index]
    table[COUNT] = table[COUNT] + 1
    table[KINDS] = table[KINDS] | kind
    publish(table, at, tag)
    return True


def remove(table: memoryview[int], mask: int, entry: int, at: int) -> None:
    """Empty the entry at an index and move back what was displaced by it."""
    publish(table, SEQUENCE, table[SEQUENCE] + 1)
    hole = (at - HEADER) // entry
    probe = hole
    for _ in range(mask + 1):
        probe = (probe + 1) & mask
        source = HEADER + probe * entry
        tag = table[source]
        if tag == 0:
            break
        home = hash_words(table, source + KEY, words_of_tag(tag), table[SEED] ^ tag) & mask
        if ((probe - home) & mask) >= ((probe - hole) & mask):
            target = HEADER + hole * entry
            publish(table, target, 0)
            for index in range(1, entry):
                publish(table, target + index, table[source + index])
            publish(table, target, tag)
            hole = probe
    publish(table, HEADER + hole * entry, 0)
    table[COUNT] = table[COUNT] - 1
    publish(table, SEQUENCE, table[SEQUENCE] + 1)


def get(table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int, default: int) -> int:
    """Return the key's value, or the default."""
    at = find(table, mask, entry, key, words, tag)
    if at <= 0:
        return default
    return table[at + VALUE]


def contains(table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int) -> bool:
    """Tell whether the key is there."""
    return find(table, mask, entry, key, words, tag) > 0


def put(
    table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int, kind: int, value: int
) -> bool:
    """Set the key's value; False if the table is full."""
    at = find(table, mask, entry, key, words, tag)
    if at > 0:
        table[at + VALUE] = value
        return True
    return insert(table, -at, key, words, tag, kind, value, 0)


def add(
    table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int, kind: int, delta: int
) -> int:
    """Add to the key's value, 0 where there is none; return the sum, or 0 if the table is full."""
    at = find(table, mask, entry, key, words, tag)
    if at > 0:
        value = signed64(table[at + VALUE] + delta)
        table[at + VALUE] = value
        return value
    if insert(table, -at, key, words, tag, kind, delta, 0):
        return delta
    return 0


def delete(table: memoryview[int], mask: int, entry: int, key: Any, words: int, tag: int) -> bool:
    """Remove the key; False if it was not there."""
    at = find(table, mask, entry, key, words, tag)
    if at <= 0:
        return False
    remove(table, mask, entry, at)
    return True


class Table(State):
    """The Python side that the hash table and the token bucket share."""

    def __init__(self, capacity: int, key_size: int, seed: int | None) -> None:
        self.capacity = whole_number(capacity, "capacity", 1, _LARGEST)
        self.key_words = whole_number(key_size, "key_words", 1, 32)
        slots = 1 << (self.capacity + self.capacity // 2).bit_length()
        self.mask = slots - 1
        self.entry = KEY + self.key_words
        super().__init__(HEADER + slots * self.entry)
        self.memory[CAPACITY] = self.capacity
        self.memory[SEED] = signed64(secrets.randbits(63) if seed is None else seed)

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
        return self.memory[FULL]

    def __len__(self) -> int:
        return self.memory[COUNT]

    def __bool__(self) -> bool:
        return True

    def _steady(self, look: Any) -> Any:
        """Call until no entry was moved meanwhile (or, under ceaseless deletion, a hundred times)."""
        for _ in range(100):
            before = self.memory[SEQUENCE]
            result = look()
            if before % 2 == 0 and before == self.memory[SEQUENCE]:
                break
        return result

    def _entries(self) -> Iterator[tuple[Any, int, int]]:
        copy = self._steady(lambda: self.words[HEADER:].copy())
        kinds = self.memory[KINDS]
        rows = copy.reshape(-1, self.entry)
        for row in rows[rows[:, 0] != 0].tolist():
            yield key_of_words(row[KEY:], row[0], kinds), row[VALUE], row[VALUE_2]

    def clear(self) -> None:
        """Forget every key, and what was counted. Only while no loop writes."""
        self.memory[SEQUENCE] += 1
        self.words[HEADER:] = 0
        for index in (COUNT, FULL, KINDS, ALLOWED, REFUSED):
            self.memory[index] = 0
        self.memory[SEQUENCE] += 1


class HashTable(Table):
    """A table of at most `capacity` keys with a signed 64-bit number each.

    key_words: 64-bit words of the longest key: a number, an IPv4 or MAC address takes 1, an IPv6 address 2, a
    five-tuple 5, a tuple the sum of its parts. seed: for a reproducible order; random by default, so that nobody
    outside can make keys collide. In Python it reads and writes like a dict; a full table refuses new keys and counts
    `full`.
    """

    def __init__(self, capacity: int, *, key_words: int = 5, seed: int | None = None) -> None:
        super().__init__(capacity, key_words, seed)

    def get(self, key: Any, default: int = 0) -> int:
        """Return the key's value, or `default`."""
        words, count, tag, _ = self._key(key)
        value: int = self._steady(lambda: get(self.memory, self.mask, self.entry, words, count, tag, default))
        return value

    def put(self, key: Any, value: int) -> bool:
        """Set the key's value; False, and counted in `full`, if the key is new and the table full."""
        words, count, tag, kind = self._key(key)
        return put(self.memory, self.mask, self.entry, words, count, tag, kind, signed64(int(value)))

    def add(self, key: Any, delta: int = 1) -> int:
        """Add to the key's value (0 if it is new) and return the sum; 0 if the key is new and the table full."""
        words, count, tag, kind = self._key(key)
        return add(self.memory, self.mask, self.entry, words, count, tag, kind, signed64(int(delta)))

    def delete(self, key: Any) -> bool:
        """Remove a key; False if it was not there."""
        words, count, tag, _ = self._key(key)
        return delete(self.memory, self.mask, self.entry, words, count, tag)

    def __contains__(self, key: Any) -> bool:
        words, count, tag, _ = self._key(key)
        return bool(self._steady(lambda: contains(self.memory, self.mask, self.entry, words, count, tag)))

    def __getitem__(self, key: Any) -> int:
        if key not in self:
            raise KeyError(key)
        return self.get(key)

    def __setitem__(self, key: Any, value: int) -> None:
        if not self.put(key, value):
            raise OverflowError(f"the table is full: {self.capacity} keys")

    def __delitem__(self, key: Any) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def items(self) -> list[tuple[Any, int]]:
        """Return keys and values, of one moment."""
        return [(key, value) for key, value, _ in self._entries()]

    def keys(self) -> list[Any]:
        """Return the keys, of one moment."""
        return [key for key, _ in self.items()]

    def values(self) -> list[int]:
        """Return the values, of one moment."""
        return [value for _, value in self.items()]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __repr__(self) -> str:
        return f"<HashTable: {len(self)} of {self.capacity} keys, {self.full} refused>"


__all__ = ["HashTable", "np"]
