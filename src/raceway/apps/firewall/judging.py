"""What rules make of the packets at hand, without an interface: for tests of rules, and to understand them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from raceway.apps.firewall.program import Judgement, Program
from raceway.compile.function import packet_function
from raceway.compile.packet import Packet
from raceway.compile.state import Counters
from raceway.compile.verdicts import PASS
from raceway.memory.jit import INTERPRETED

MANY = 200_000
"""Packets from which on machine code is worth being made."""
_AT_ONCE = 8192


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
    given = [bytes(data) for data in packets]
    if len(given) >= MANY and not INTERPRETED:
        return _natively(program, given)
    classifier = program.classifier
    return [classifier.match(classifier.key(Packet(data))) for data in given]


def _natively(program: Program, given: list[bytes]) -> list[int]:
    """The same by machine code, which takes seconds to make, and a hundredth of the time for each packet."""
    from raceway.kernel.functions.simulating import simulate

    RULES = program.classifier
    FOUND, AT = Counters(_AT_ONCE), Counters(1)

    @packet_function
    def matching(packet):  # type: ignore[no-untyped-def]
        rule = RULES.match(RULES.key(packet))
        FOUND.add(AT.add(0) - 1, rule)
        return PASS

    made: list[int] = []
    for begin in range(0, len(given), _AT_ONCE):
        some = given[begin : begin + _AT_ONCE]
        FOUND.clear()
        AT.clear()
        simulate(matching, some, "native")
        made += FOUND.values()[: len(some)]
    return made
