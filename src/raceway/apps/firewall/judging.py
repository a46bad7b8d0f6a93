"""What rules make of the packets at hand, without an interface: for tests of rules, and to understand them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from raceway.apps.firewall.program import Judgement, Program
from raceway.compile.packet import Packet


def judged(program: Program, packets: Iterable[tuple[Any, int]]) -> Iterator[Judgement]:
    """Say what becomes of packets, one after the other. packets: bytes, and when each came (ns since 1970)."""
    for data, time in packets:
        yield program.judge(Packet(bytes(data), time=time))


def matched(program: Program, packets: Iterable[Any]) -> list[int]:
    """The number of the first rule that each packet matches, -1 for none: what the classifier says, and no more."""
    classifier = program.classifier
    return [classifier.match(classifier.key(Packet(bytes(data)))) for data in packets]
