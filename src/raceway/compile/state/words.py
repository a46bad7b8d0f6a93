"""The ground of all state objects: an array of signed 64-bit words, and keys as words.

A key is what a packet function has at hand: a number, an address, a five-tuple, or a tuple of those. In a table it is
its words and a `tag` that says what they are, in base 4: 1 for one word (a number, an IPv4 or MAC address), 2 for an
IPv6 address (two words), 3 for a five-tuple (five). So an IPv6 address never equals a pair of numbers.

Words that several processors write at once are touched by the five functions below only: plain Python here, atomic
instructions where what calls them is compiled (`compile.primitives`).
"""

from __future__ import annotations

import itertools
import mmap
import threading
from typing import Any, ClassVar

import numpy as np

from raceway.compile.addresses import Address, IPv4Address, IPv6Address, MACAddress, Prefix, prefix, signed64
from raceway.compile.five_tuple import FiveTuple, from_words
from raceway.memory.mapping import map_private

PAGE = mmap.PAGESIZE
_serial = itertools.count(1)

ONE_WORD, IPV6_WORDS, FIVE_TUPLE_WORDS = 1, 2, 3
WORDS_OF_DIGIT = (0, 1, 2, 5)

# Which kinds of one-word keys a table has held: for showing them.
KIND_NUMBER, KIND_IPV4, KIND_MAC = 1, 2, 4


class State:
    """Base of the state objects: `words`, an int64 array on pages of its own, holds everything.

    kernel_map: what holds the words once a program in the kernel uses them (`kernel.functions.sharing`). alone: whether
    Python's interpreter is the only one that can write them; `writing` is held while it does, in plain Python.
    CONTENT: names of attributes that are not about what compiled code of the object looks like.
    """

    CONTENT: ClassVar[frozenset[str]] = frozenset(
        ("words", "memory", "serial", "kernel_map", "address", "alone", "writing")
    )

    def __init__(self, count: int) -> None:
        size = -(-count * 8 // PAGE) * PAGE
        self.words: np.ndarray[Any, np.dtype[np.int64]] = map_private(size).view(np.int64)[:count]
        self.kernel_map: Any = None
        # Indexing a memoryview costs a third of indexing an array, and gives Python ints.
        self.memory: memoryview[int] = memoryview(self.words)  # type: ignore[arg-type,unused-ignore]
        # Where the words are, for compiled code; they stay there while this object lives.
        self.address = int(self.words.ctypes.data)
        self.serial = next(_serial)
        self.alone = True
        self.writing = threading.RLock()

    def joined(self) -> None:
        """Note that compiled code may write from now on: what Python writes must be atomic (`state.calls`)."""
        with self.writing:
            self.alone = False

    def shape(self) -> tuple[Any, ...] | None:
        """All that compiled code of this object depends on: its kind, and every attribute that is not CONTENT. None if
        there is an attribute that cannot be compared with another process's, or a kind that is not this package's."""
        kind = type(self)
        attributes = sorted((name, value) for name, value in vars(self).items() if name not in self.CONTENT)
        if not kind.__module__.startswith("raceway.compile.") or not all(
            _plain(one) for _, one in attributes
        ):
            return None
        return kind.__qualname__, len(self.words), *attributes


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_plain(one) for one in value)
    return value is None or type(value) in (int, bool, str)


def publish(memory: memoryview[int], index: int, value: int) -> None:
    """Store a word after everything that was stored before: a reader that sees it sees that."""
    memory[index] = value


def observe(memory: memoryview[int], index: int) -> int:
    """Load a word after everything that was loaded before, and before everything that is loaded later."""
    return memory[index]


def count(memory: memoryview[int], index: int, amount: int) -> int:
    """Add to a word that others may be adding to; return the sum."""
    value = signed64(memory[index] + amount)
    memory[index] = value
    return value


def exchange(memory: memoryview[int], index: int, value: int) -> int:
    """Store a word; return what was there."""
    old = memory[index]
    memory[index] = value
    return old


def compare_exchange(memory: memoryview[int], index: int, expected: int, value: int) -> bool:
    """Store a word if what is there is as expected; tell whether it was."""
    if memory[index] != expected:
        return False
    memory[index] = value
    return True


def whole_number(value: Any, what: str, least: int, most: int) -> int:
    """Check a constructor's argument."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{what} must be a whole number, got {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{what} must be from {least:,} to {most:,}, got {value:,}")
    return int(value)


def key_words(key: Any) -> tuple[list[int], int, int]:
    """Return a key's words, its tag, and its kind for showing."""
    if isinstance(key, str):
        key = prefix(key)
    if isinstance(key, Prefix):
        if not key.is_address:
            raise TypeError(f"{key} is a prefix; a key is one address")
        key = key.address
    if isinstance(key, IPv6Address):
        return [key.high, key.low], IPV6_WORDS, 0
    if isinstance(key, FiveTuple):
        return list(key.words), FIVE_TUPLE_WORDS, 0
    if isinstance(key, int | np.integer):
        kind = (
            KIND_IPV4
            if isinstance(key, IPv4Address)
            else KIND_MAC
            if isinstance(key, MACAddress)
            else KIND_NUMBER
        )
        return [signed64(int(key))], ONE_WORD, kind
    if isinstance(key, tuple) and key:
        words: list[int] = []
        tag = 0
        for part in key:
            if isinstance(part, tuple) and not isinstance(part, FiveTuple):
                raise TypeError(f"a key is a tuple of numbers, addresses and five-tuples, got {key!r}")
            more, digit, kind = key_words(part)
            words += more
            tag = tag * 4 + digit
        return words, tag, kind if len(key) == 1 else 0
    raise TypeError(f"a key is a number, an address, a five-tuple or a tuple of those, got {key!r}")


def words_of_tag(tag: int) -> int:
    """Return how many words a key with this tag has."""
    words = 0
    while tag > 0:
        digit = tag & 3
        words += digit
        if digit == 3:
            words += 2
        tag >>= 2
    return words


def key_of_words(words: Any, tag: int, kinds: int) -> Any:
    """Return the key that those words are."""
    parts: list[Any] = []
    digits = []
    while tag:
        digits.append(tag & 3)
        tag >>= 2
    at = 0
    for digit in reversed(digits):
        size = WORDS_OF_DIGIT[digit]
        part = [int(word) for word in words[at : at + size]]
        at += size
        if digit == FIVE_TUPLE_WORDS:
            parts.append(from_words(part))
        elif digit == IPV6_WORDS:
            mask = (1 << 64) - 1
            parts.append(IPv6Address((part[0] & mask) << 64 | part[1] & mask))
        else:
            parts.append(part[0])
    if len(parts) > 1:
        return tuple(parts)
    one: dict[int, type[Address]] = {KIND_IPV4: IPv4Address, KIND_MAC: MACAddress}
    return one[kinds](parts[0]) if kinds in one and digits == [ONE_WORD] else parts[0]
