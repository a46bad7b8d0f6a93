"""The table under the hash table and the token bucket: chained entries that never move, for many writers at once.

    | header, 16 words | buckets, a power of two | nodes, exactly `capacity` of them |

    bucket  | version | lock | first node |          a node's number: 1 and up, 0 for none
    node    | next | tag | value | key ... | time |         tag 0: the node is free; a token bucket has the time

Who changes a chain holds its bucket's lock, by compare-and-exchange, for some nanoseconds. Who does not get it within
`ATTEMPTS` gives up and counts that (`BUSY`): an XDP program that has interrupted the holder on the holder's own
processor would wait for ever. Who looks up takes no lock. A node that is taken out keeps its `next` until it is used
again, and taking out raises the bucket's version *before* that can happen: so who has looked while the version stayed
the same has followed this chain alone, and who has not looks again.

A free node is one that was never used (behind `FRESH`) or one of a list, from `FREE` on, each with the next in its
`value`. Every time that a node is put into the list it comes with another stamp, so that no compare-and-exchange takes
an old head for the new one; putting in is one exchange and always succeeds. The upper half of a node's `next` counts
how often the node was filled and freed: whoever copies a node can tell by it that the copy is of one key.

The functions work on words in both worlds, and are written once.
"""

from __future__ import annotations

from typing import Any

from raceway.compile.addresses import signed64
from raceway.compile.state.words import compare_exchange, count, exchange, observe, publish

# The header: what is only read, then what changes, on a cache line of its own.
SEED, CAPACITY, KINDS, BUSY = 0, 1, 2, 7
COUNT, FULL, ALLOWED, REFUSED, HAND, FRESH, FREE, STAMP = range(8, 16)
HEADER = 16
NEXT, TAG, VALUE, KEY = range(4)

INDEX = (1 << 30) - 1
LOCK = 1 << 30
VERSION = 31
"""How many bits lie below a bucket's version, a free node's stamp, and a node's count of uses: 32 bits each."""

ATTEMPTS = 1024
LOOKS = 64
"""How often a look-up that was disturbed by deletions in its own bucket starts again."""

_PENDING = -1
_VERSIONS = (1 << 32) - 1
_MULTIPLIER = signed64(0x9E3779B97F4A7C15)


def hash_words(memory: Any, start: int, words: int, seed: int) -> int:
    """Hash some words: a multiplication and a fold each (multiplicative hashing, Knuth, volume 3, 6.4)."""
    value = seed
    for index in range(words):
        value = signed64((value ^ memory[start + index]) * _MULTIPLIER)
        value = value ^ ((value >> 32) & 0xFFFFFFFF)
    value = signed64(value * _MULTIPLIER)
    return (value >> 32) & 0xFFFFFFFF


def bucket_of(table: memoryview[int], mask: int, key: Any, start: int, words: int, tag: int) -> int:
    """Return the index of the bucket of the key whose words begin at `start`."""
    return HEADER + (hash_words(key, start, words, table[SEED] ^ tag) & mask)


def raised(word: int) -> int:
    """Return a bucket's, or a node's, word with the next version, no lock and no node."""
    return (((word >> VERSION) + 1) & _VERSIONS) << VERSION


def lock(table: memoryview[int], bucket: int) -> int:
    """Lock a bucket and return its word as it was, to be stored with `publish` to unlock; -1, and counted, if others
    hold it."""
    for _ in range(ATTEMPTS):
        word = observe(table, bucket)
        if word & LOCK == 0 and compare_exchange(table, bucket, word, word | LOCK):
            return word
    count(table, BUSY, 1)
    return -1


def find(table: memoryview[int], mask: int, entry: int, word: int, key: Any, words: int, tag: int) -> int:
    """Return where the key's node is, in the chain of a bucket with this word; 0 if it is not there.

    Without the lock the chain may change under this walk, and even lead into others: hence the bound.
    """
    node = word & INDEX
    for _ in range(mask + 1):
        if node == 0:
            return 0
        at = HEADER + mask + 1 + (node - 1) * entry
        if table[at + TAG] == tag:
            same = 0
            while same < words and table[at + KEY + same] == key[same]:
                same += 1
            if same == words:
                return at
        node = table[at + NEXT] & INDEX
    return 0


def take(table: memoryview[int], mask: int, entry: int) -> int:
    """Return a free node, which is the caller's now; 0 if there is none, -1 if others were always quicker."""
    for _ in range(ATTEMPTS):
        head = observe(table, FREE)
        node = head & INDEX
        if node == 0:
            fresh = observe(table, FRESH)
            if fresh >= table[CAPACITY]:
                return 0
            if compare_exchange(table, FRESH, fresh, fresh + 1):
                return fresh + 1
        else:
            rest = observe(table, HEADER + mask + 1 + (node - 1) * entry + VALUE)
            if rest != _PENDING and compare_exchange(table, FREE, head, rest):
                return node
    return -1


def give(table: memoryview[int], at: int, node: int) -> None:
    """Give a node back that no chain holds any more."""
    publish(table, at + NEXT, raised(table[at + NEXT]) | (table[at + NEXT] & INDEX))
    publish(table, at + TAG, 0)
    # Until the list's rest is known, whoever takes from the list waits for it.
    publish(table, at + VALUE, _PENDING)
    count(table, COUNT, -1)
    stamp = count(table, STAMP, 1) & _VERSIONS
    publish(table, at + VALUE, exchange(table, FREE, stamp << VERSION | node))


def insert(
    table: memoryview[int], mask: int, entry: int, bucket: int, word: int,
    key: Any, words: int, tag: int, kind: int, value: int, last: int,
) -> int:  # fmt: skip
    """Put a key into a locked bucket, which is unlocked; return what `take` has found. last: the node's last word,
    which is the key's where the table has no room for another."""
    node = take(table, mask, entry)
    if node <= 0:
        publish(table, bucket, word)
        return node
    at = HEADER + mask + 1 + (node - 1) * entry
    table[at + VALUE] = value
    table[at + entry - 1] = last
    for index in range(words):
        table[at + KEY + index] = key[index]
    publish(table, at + NEXT, raised(table[at + NEXT]) | (word & INDEX))
    publish(table, at + TAG, tag)
    if kind != 0 and table[KINDS + kind] == 0:
        table[KINDS + kind] = 1
    count(table, COUNT, 1)
    publish(table, bucket, word - (word & INDEX) + node)
    return node


def refused(table: memoryview[int], found: int) -> None:
    """Count why there was no node for a new key."""
    count(table, FULL if found == 0 else BUSY, 1)


def unlink(table: memoryview[int], mask: int, entry: int, bucket: int, word: int, at: int) -> bool:
    """Take the node at an index out of a locked bucket, which is unlocked; False if it is not in there."""
    before = 0
    node = word & INDEX
    for _ in range(mask + 1):
        if node == 0:
            break
        here = HEADER + mask + 1 + (node - 1) * entry
        following = table[here + NEXT] & INDEX
        if here == at:
            if before == 0:
                publish(table, bucket, raised(word) | following)
            else:
                publish(table, before + NEXT, table[before + NEXT] - node + following)
                publish(table, bucket, raised(word) | (word & INDEX))
            give(table, at, node)
            return True
        before = here
        node = following
    publish(table, bucket, word)
    return False
