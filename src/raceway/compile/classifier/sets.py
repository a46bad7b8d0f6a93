"""What a rule wants of an address, a port or a protocol: sets of whole numbers, as ranges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raceway.compile.addresses import Prefix

LAST_4, LAST_6 = (1 << 32) - 1, (1 << 128) - 1
LAST_PORT, NO_PORT = 65_535, 65_536
"""The ports, and what stands for a packet without any: other protocols, later fragments."""
LAST_PROTOCOL, NO_PROTOCOL = 255, 256
"""The protocols, and what stands for a packet without IP."""
QUESTIONS = 12
"""How many questions that are no ranges a packet can be asked: its answers are the bits of a number."""
LAST_ANSWER = (1 << QUESTIONS) - 1


class Ranges:
    """A set of numbers below 2**62: `bounds`, int64 of shape (n, 2), each range's first and last, in order, apart."""

    __slots__ = ("_bytes", "bounds")

    def __init__(self, pairs: Any = ()) -> None:
        bounds = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        bounds = bounds[bounds[:, 0] <= bounds[:, 1]]
        if len(bounds) > 1:
            bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
            ends = np.maximum.accumulate(bounds[:, 1])
            begins = np.flatnonzero(np.concatenate(([True], bounds[1:, 0] > ends[:-1] + 1)))
            last = np.concatenate((begins[1:], [len(bounds)])) - 1
            bounds = np.stack((bounds[begins, 0], ends[last]), axis=1)
        self.bounds: np.ndarray[Any, np.dtype[np.int64]] = bounds
        self._bytes = bounds.tobytes()

    @classmethod
    def of_one(cls, first: int, last: int) -> Ranges:
        """The numbers from first to last, as `Ranges([(first, last)])` has them, in a third of the time."""
        made = cls.__new__(cls)
        made.bounds = np.array([(first, last)], np.int64)
        made._bytes = made.bounds.tobytes()
        return made

    @classmethod
    def each(cls, bounds: Any) -> list[Ranges]:
        """A set of each row of bounds: int64 of shape (n, 2), first and last of one range, first <= last."""
        bounds = np.ascontiguousarray(bounds, np.int64)
        whole = bounds.tobytes()
        made = []
        for at in range(len(bounds)):
            one = cls.__new__(cls)
            one.bounds = bounds[at : at + 1]
            one._bytes = whole[16 * at : 16 * at + 16]
            made.append(one)
        return made

    def complement(self, last: int) -> Ranges:
        """The numbers from 0 to `last` that are not in the set."""
        first = np.concatenate(([0], self.bounds[:, 1] + 1))
        end = np.concatenate((self.bounds[:, 0] - 1, [last]))
        return Ranges(np.stack((first, end), axis=1))

    def __or__(self, other: Ranges) -> Ranges:
        return Ranges(np.concatenate((self.bounds, other.bounds)))

    def __and__(self, other: Ranges) -> Ranges:
        last = int(max(self.bounds[-1:, 1].max(initial=0), other.bounds[-1:, 1].max(initial=0)))
        return (self.complement(last) | other.complement(last)).complement(last)

    def __contains__(self, number: int) -> bool:
        at = int(np.searchsorted(self.bounds[:, 0], number, side="right")) - 1
        return at >= 0 and number <= int(self.bounds[at, 1])

    def __bool__(self) -> bool:
        return len(self.bounds) > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __repr__(self) -> str:
        return (
            f"Ranges({[(int(a), int(b)) for a, b in self.bounds[:4]]}{'...' if len(self.bounds) > 4 else ''})"
        )


def merged(pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges of numbers of any size: in order, and apart."""
    made: list[tuple[int, int]] = []
    for first, last in sorted(pairs):
        if made and first <= made[-1][1] + 1:
            made[-1] = made[-1][0], max(made[-1][1], last)
        elif first <= last:
            made.append((first, last))
    return tuple(made)


def _without(pairs: tuple[tuple[int, int], ...], last: int) -> tuple[tuple[int, int], ...]:
    made, at = [], 0
    for first, end in pairs:
        if at < first:
            made.append((at, first - 1))
        at = end + 1
    if at <= last:
        made.append((at, last))
    return tuple(made)


@dataclass(frozen=True)
class Addresses:
    """A set of addresses: IPv4 as `Ranges`, IPv6 as pairs of numbers (first, last), and whether packets without any
    (other than IP) are in it."""

    ipv4: Ranges
    ipv6: tuple[tuple[int, int], ...] = ()
    none: bool = False

    @classmethod
    def of_prefixes(cls, prefixes: Iterable[Prefix]) -> Addresses:
        """The addresses of some prefixes. Raises ValueError for a MAC address."""
        four: list[tuple[int, int]] = []
        six: list[tuple[int, int]] = []
        for one in prefixes:
            if one.family == "mac":
                raise ValueError(f"{one} is a MAC address; an IPv4 or IPv6 prefix was expected")
            pairs, last = (four, LAST_4) if one.family == "ipv4" else (six, LAST_6)
            pairs.append((one.value, one.value | last >> one.length))
        return cls(Ranges(four), merged(six))

    def __or__(self, other: Addresses) -> Addresses:
        return Addresses(self.ipv4 | other.ipv4, merged(self.ipv6 + other.ipv6), self.none or other.none)

    def __and__(self, other: Addresses) -> Addresses:
        for one, rest in ((self, other), (other, self)):
            if one is ANY_IPV4:
                return Addresses(rest.ipv4)
            if one is ANY_IPV6:
                return Addresses(Ranges(), rest.ipv6)
        return ~(~self | ~other)

    def __invert__(self) -> Addresses:
        return Addresses(self.ipv4.complement(LAST_4), _without(self.ipv6, LAST_6), not self.none)

    def __bool__(self) -> bool:
        return bool(self.ipv4) or bool(self.ipv6) or self.none

    @cached_property
    def _hash(self) -> int:
        return hash((self.ipv4, self.ipv6, self.none))

    def __hash__(self) -> int:
        return self._hash


ANY_IPV4 = Addresses(Ranges([(0, LAST_4)]))
ANY_IPV6 = Addresses(Ranges(), ((0, LAST_6),))
ANY_ADDRESS = Addresses(Ranges([(0, LAST_4)]), ((0, LAST_6),), none=True)
ANY_PORT = Ranges([(0, NO_PORT)])
ANY_PROTOCOL = Ranges([(0, NO_PROTOCOL)])
ANY_ANSWER = Ranges([(0, LAST_ANSWER)])


@dataclass(frozen=True)
class Box:
    """What a rule matches: packets that are in all six sets. A rule may have several boxes.

    Ports of `NO_PORT` are those of a packet that has none, protocol `NO_PROTOCOL` that of a packet other than IP.
    answers: numbers whose bits are the answers to whatever else is asked of a packet.
    """

    source: Addresses = ANY_ADDRESS
    destination: Addresses = ANY_ADDRESS
    source_ports: Ranges = ANY_PORT
    destination_ports: Ranges = ANY_PORT
    protocols: Ranges = ANY_PROTOCOL
    answers: Ranges = ANY_ANSWER

    def __and__(self, other: Box) -> Box:
        return Box(
            _both(self.source, other.source, ANY_ADDRESS),
            _both(self.destination, other.destination, ANY_ADDRESS),
            _both(self.source_ports, other.source_ports, ANY_PORT),
            _both(self.destination_ports, other.destination_ports, ANY_PORT),
            _both(self.protocols, other.protocols, ANY_PROTOCOL),
            _both(self.answers, other.answers, ANY_ANSWER),
        )

    @property
    def sides(self) -> tuple[Any, ...]:
        """The six sets."""
        return (
            self.source, self.destination, self.source_ports, self.destination_ports, self.protocols, self.answers,
        )  # fmt: skip

    def __bool__(self) -> bool:
        # Most sides are open, and need no look of their own.
        return (
            (self.source is ANY_ADDRESS or bool(self.source))
            and (self.destination is ANY_ADDRESS or bool(self.destination))
            and (self.source_ports is ANY_PORT or bool(self.source_ports))
            and (self.destination_ports is ANY_PORT or bool(self.destination_ports))
            and (self.protocols is ANY_PROTOCOL or bool(self.protocols))
            and (self.answers is ANY_ANSWER or bool(self.answers))
        )


def _both(left: Any, right: Any, any_: Any) -> Any:
    """What is in both sets, of which most are open."""
    if right is any_:
        return left
    return right if left is any_ else left & right
