"""What rules make of the packets at hand, without an interface: for tests of rules, and to understand them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from raceway.apps.firewall.program import Judgement, Program
from raceway.compile.packet import Packet


def judged(
    program: Program, packets: Iterable[tuple[Any, int]], hosts: Collection[Any] = ()
) -> Iterator[Judgement | None]:
    """Say what becomes of packets, one after the other; of those that a host sends only the flow is noted: None.

    packets: bytes, and when each came (ns since 1970); hosts: addresses of the host itself.
    """
    for data, time in packets:
        packet: Any = Packet(bytes(data), time=time)
        header = packet.ipv4 or packet.ipv6
        if hosts and header and header.source in hosts:
            if program.flows is not None:
                program.flows.leaving(packet)
            yield None
        else:
            yield program.judge(packet)


def matched(program: Program, packets: Iterable[Any]) -> list[int]:
    """The number of the first rule that each packet matches, -1 for none: what the classifier says, and no more."""
    classifier = program.classifier
    return [classifier.match(classifier.key(Packet(bytes(data)))) for data in packets]
