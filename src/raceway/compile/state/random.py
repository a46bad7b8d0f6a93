"""Random numbers in a packet function: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
2014, figure 10).

Its state is one word, to which each number adds the same odd constant. That is one atomic addition: any number of
processors draw at once, without a lock, and each addition's sum is drawn by one of them. With a seed the numbers come
in the same order on every target. They are good for sampling and spreading, and are no secret: who sees one whole can
tell the next.
"""

from __future__ import annotations

import secrets
from typing import Any

from raceway.compile.addresses import signed64
from raceway.compile.state.calls import count_call
from raceway.compile.state.words import State, count, whole_number

STATE = 0
MOST_BITS, LARGEST_STOP = 63, 1 << 31
_GAMMA = signed64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = signed64(0xBF58476D1CE4E5B9), signed64(0x94D049BB133111EB)


def mixed(state: int) -> int:
    """Return the number that a state stands for: 64 bits, with a sign."""
    value = signed64((state ^ ((state >> 30) & 0x3FFFFFFFF)) * _FIRST)
    value = signed64((value ^ ((value >> 27) & 0x1FFFFFFFFF)) * _SECOND)
    return value ^ ((value >> 31) & 0x1FFFFFFFF)


def bits_of(value: int, bits: int) -> int:
    """Return the upper `bits` (1 to 63) of a number of 64."""
    return (value >> (64 - bits)) & ((1 << bits) - 1)


def below(value: int, stop: int) -> int:
    """Return the upper 32 bits of a number, scaled to 0 to stop - 1 (by multiplying and shifting)."""
    return (((value >> 32) & 0xFFFFFFFF) * stop) >> 32


def getrandbits(memory: memoryview[int], bits: int) -> int:
    """Draw a number of so many bits."""
    return bits_of(mixed(count(memory, STATE, _GAMMA)), bits)


def randrange(memory: memoryview[int], stop: int) -> int:
    """Draw a number below another."""
    return below(mixed(count(memory, STATE, _GAMMA)), stop)


class Random(State):
    """Random whole numbers, the same ones on every target for the same seed; methods are named as Python's
    `random.Random` has them.

    seed: any whole number, of which 64 bits count; None for a random one. Any number of processors, the kernel and
    Python may draw at once: each gets numbers of its own.
    """

    CONTENT = State.CONTENT | {"_seed"}

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(1)
        self.seed(seed)

    def seed(self, seed: int | None = None) -> None:
        """Start again, from a seed, or from a random one."""
        if seed is None:
            seed = secrets.randbits(64)
        self._seed = signed64(whole_number(seed, "seed", -(1 << 63), (1 << 64) - 1))
        self.memory[STATE] = self._seed

    def clear(self) -> None:
        """Start again from the seed that was given last."""
        self.memory[STATE] = self._seed

    def _draw(self) -> int:
        with self.writing:
            if self.alone:
                return mixed(count(self.memory, STATE, _GAMMA))
        return mixed(count_call(self, STATE, _GAMMA))

    def getrandbits(self, k: int) -> int:
        """Return a number of k bits, 0 to 2**k - 1. ValueError unless k is 1 to 63."""
        if not 1 <= k <= MOST_BITS:
            raise ValueError(f"getrandbits takes 1 to {MOST_BITS} bits, got {k}")
        return bits_of(self._draw(), int(k))

    def randrange(self, stop: int) -> int:
        """Return a number from 0 to stop - 1. ValueError unless stop is 1 to 2**31.

        No number is more probable than it should be by more than stop / 2**32 of that: one in a million and less for
        a stop up to 4,000.
        """
        if not 1 <= stop <= LARGEST_STOP:
            raise ValueError(f"randrange takes a stop from 1 to 2**31, got {stop:,}")
        return below(self._draw(), int(stop))

    def items(self) -> list[tuple[Any, int]]:
        """Return the state's one word: equal states give equal numbers."""
        return [("state", self.memory[STATE])]

    def __repr__(self) -> str:
        return f"<Random at {self.memory[STATE] & (1 << 64) - 1:#018x}>"


__all__ = ["Random"]
