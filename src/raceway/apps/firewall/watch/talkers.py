"""Who sends the most: samples of the packets on an interface, taken only while somebody watches.

A packet function of its own stands before the firewall's for so long (`Attachment.precede`), and where nobody watches
there is none: not an instruction more for any packet. It takes one packet in N, at random, and notes its source in a
ring that the newest samples overwrite the oldest in::

    | tickets given | N - 1 | - - | sample 0: ticket + 1, what, high, low | sample 1 | ... |

    what: 4, 6 or 0 (a MAC address) | protocol << 8 | destination port << 16 | length << 32

At each look the samples since the last one are added up. N follows the traffic: 1 where packets are few, and then each
is counted; larger where the ring would be overrun. A source's share of the samples is its share of the traffic, give or
take what chance does: of n samples and a share p, the square root of p (1 - p) / n.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from raceway.compile.addresses import IPv4Address, IPv6Address, MACAddress
from raceway.compile.function import packet_function
from raceway.compile.state import Counters, Random
from raceway.compile.verdicts import PASS

SAMPLES = 1 << 14
"""How many the ring holds."""
FIRST_GUESS = 64
MOST = 1 << 20
"""N at first, and at most."""
_FEW, _DOWN = 4, 3
_ENTRY, _FIRST = 4, 4
_GIVEN, _MASK = 0, 1
_WHAT, _HIGH, _LOW = 1, 2, 3
_NAMES = {
    1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 51: "ah", 58: "icmp6", 132: "sctp",
}  # fmt: skip


@dataclass(frozen=True)
class Talker:
    """A source. source: its address; share: of all packets, 0 to 1; length: bytes of its packets on average;
    mostly: protocol and destination port of most of them."""

    source: str
    share: float
    length: float
    mostly: str


@dataclass(frozen=True)
class Talk:
    """What was said since the last look.

    samples: how many were looked at; one_in: how many packets each stood for (the last N); sources: how many different
    ones are among them; length: bytes of a packet on average; talkers: the largest shares first, without those that
    chance alone can have put there (fewer than four samples where not every packet is one).
    """

    samples: int
    one_in: int
    sources: int
    length: float
    talkers: tuple[Talker, ...]


class Talkers:
    """The ring of samples, and the packet function that fills it."""

    def __init__(self) -> None:
        self.ring = Counters(_FIRST + SAMPLES * _ENTRY)
        self.one_in = FIRST_GUESS
        self._looked: int | None = None
        self.function = _sampling(self.ring, Random())

    @property
    def one_in(self) -> int:
        """N: a power of two."""
        return self.ring[_MASK] + 1

    @one_in.setter
    def one_in(self, value: int) -> None:
        self.ring[_MASK] = value - 1

    def look(self, most: int = 50) -> Talk:
        """What has been sampled since the last look, with at most so many talkers; and choose N for the next one."""
        given, before, one_in = self.ring[_GIVEN], self._looked, self.one_in
        self._looked = given
        if before is None:
            return _talk(np.empty((0, _ENTRY), dtype=np.int64), one_in, most)
        entries = self.ring.words[_FIRST:].reshape(SAMPLES, _ENTRY)
        tickets = entries[:, 0].copy()
        copied = entries.copy()
        # What somebody is writing just now has another ticket before than after.
        whole = (
            (entries[:, 0] == tickets)
            & (copied[:, 0] == tickets)
            & (tickets > max(before, given - SAMPLES))
            & (tickets <= given)
        )
        taken = given - before
        self._adapt(taken)
        samples = copied[whole]
        if taken > SAMPLES:
            # The ring was overrun, and has the newest of them.
            one_in = round(one_in * taken / max(len(samples), 1))
        return _talk(samples, one_in, most)

    def _adapt(self, taken: int) -> None:
        """Choose N by how many samples were taken in the time since the look before."""
        while taken > SAMPLES // 2 and self.one_in < MOST:
            self.one_in *= 2
            taken //= 2
        for _ in range(_DOWN):
            if taken < SAMPLES // 8 and self.one_in > 1:
                self.one_in //= 2
                taken *= 2


def _sampling(ring: Counters, dice: Random) -> Any:
    @packet_function
    def talkers(packet):  # type: ignore[no-untyped-def]
        mask = ring[_MASK]
        if mask and dice.getrandbits(31) & mask:
            return PASS
        kind, high, low = 0, 0, packet.ethernet.source & 0xFFFFFFFFFFFF
        if packet.ipv4:
            kind, low = 4, packet.ipv4.source & 0xFFFFFFFF
        elif packet.ipv6:
            kind, high, low = 6, packet.ipv6.source.high, packet.ipv6.source.low
        flow = packet.five_tuple
        what = kind | flow.protocol << 8 | flow.destination_port << 16 | len(packet) << 32
        ticket = ring.add(_GIVEN) - 1
        at = _FIRST + (ticket & (SAMPLES - 1)) * _ENTRY
        ring[at] = 0
        ring[at + _WHAT] = what
        ring[at + _HIGH] = high
        ring[at + _LOW] = low
        ring.add(at, ticket + 1)
        return PASS

    return talkers


def _talk(samples: np.ndarray[Any, Any], one_in: int, most: int) -> Talk:
    count = len(samples)
    if not count:
        return Talk(0, one_in, 0, 0.0, ())
    what = samples[:, _WHAT]
    lengths = (what >> 32) & 0xFFFFFFFF
    keys = np.stack((what & 0xFF, samples[:, _HIGH], samples[:, _LOW]), axis=1)
    sources, of, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    of = of.reshape(-1)
    octets = np.bincount(of, weights=lengths)
    found = []
    for number in np.argsort(-counts, kind="stable")[:most].tolist():
        if one_in > 1 and counts[number] < _FEW:
            break
        flows = Counter(((what[of == number] >> 8) & 0xFFFFFF).tolist())
        found.append(
            Talker(
                _address(*sources[number].tolist()),
                float(counts[number]) / count,
                float(octets[number]) / float(counts[number]),
                _flow(flows.most_common(1)[0][0]),
            )
        )
    return Talk(count, one_in, len(sources), float(lengths.mean()), tuple(found))


def _address(kind: int, high: int, low: int) -> str:
    if kind == 4:
        return str(IPv4Address(low))
    if kind == 6:
        mask = (1 << 64) - 1
        return str(IPv6Address((high & mask) << 64 | low & mask))
    return str(MACAddress(low))


def _flow(number: int) -> str:
    protocol, port = number & 0xFF, number >> 8
    if not protocol:
        return "not IP"
    name = _NAMES.get(protocol, f"protocol {protocol}")
    return f"{name} port {port}" if port else name
