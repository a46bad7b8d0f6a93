"""Filter expressions as packet functions, for whoever wants to attach one without writing a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raceway.compile.function import packet_function
from raceway.compile.verdicts import DROP, PASS

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction
    from raceway.compile.pcap_filter.expression import Expression


def dropping(expression: Expression) -> PacketFunction:
    """A packet function that drops what the expression accepts, and lets the rest pass."""

    @packet_function
    def drop(packet: Any) -> int:
        if expression(packet):
            return DROP
        return PASS

    return drop


def passing(expression: Expression) -> PacketFunction:
    """A packet function that lets pass what the expression accepts, and drops the rest."""

    @packet_function
    def only(packet: Any) -> int:
        if expression(packet):
            return PASS
        return DROP

    return only
