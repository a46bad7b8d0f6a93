"""The five-tuple: what tells one conversation from another, as a value that compares and keys tables."""

from __future__ import annotations

from typing import Any, NamedTuple

from raceway.compile import locate
from raceway.compile.addresses import IPv4Address, IPv6Address

VERSION_6 = 1 << 40


class FiveTuple(NamedTuple):
    """Protocol, addresses and ports of a packet. All zeros, and false, for a packet without IP."""

    protocol: int
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    source_port: int
    destination_port: int

    def __bool__(self) -> bool:
        return any(self.words)

    @property
    def reverse(self) -> FiveTuple:
        """The five-tuple of the other direction."""
        return FiveTuple(
            self.protocol, self.destination, self.source, self.destination_port, self.source_port
        )

    @property
    def words(self) -> tuple[int, int, int, int, int]:
        """The five signed 64-bit words that compiled code holds instead."""
        numbers = self.protocol << 32 | self.source_port << 16 | self.destination_port
        source, destination = self.source, self.destination
        if isinstance(source, IPv6Address) and isinstance(destination, IPv6Address):
            return (numbers | VERSION_6, source.high, source.low, destination.high, destination.low)
        return (numbers, 0, int(source), 0, int(destination))

    def __repr__(self) -> str:
        left, right = (
            f"[{one}]" if one.family == "ipv6" else str(one) for one in (self.source, self.destination)
        )
        return f"<five-tuple {self.protocol} {left}:{self.source_port} > {right}:{self.destination_port}>"


def from_words(words: Any) -> FiveTuple:
    """Return the five-tuple that those five words are."""
    numbers, *halves = (int(word) for word in words)
    kind: Any = IPv4Address
    if numbers & VERSION_6:
        kind = IPv6Address
        mask = (1 << 64) - 1
        source, destination = ((high & mask) << 64 | low & mask for high, low in (halves[:2], halves[2:]))
    else:
        source, destination = halves[1], halves[3]
    return FiveTuple(
        numbers >> 32 & 0xFF, kind(source), kind(destination), numbers >> 16 & 0xFFFF, numbers & 0xFFFF
    )


def of_packet(packet: Any) -> FiveTuple:
    """Read the five-tuple of an interpreted packet."""
    words = [0] * 5
    locate.five_tuple(packet, words)
    return from_words(words)
