"""What the host sends, for rules that ask whether a packet is of an established flow: a packet function on its way out.

    host's stack --> tcx egress: notes the flow --> interface
    host's stack <-- XDP: is it of a flow?      <-- interface

What does not go through the interface's egress hook (AF_XDP, packet sockets with PACKET_QDISC_BYPASS, live XDP frames)
is not seen, and begins no flow.
"""

from __future__ import annotations

import types
from typing import Any

from raceway.compile.flows.flow_table import FlowTable
from raceway.compile.function import PacketFunction, packet_function
from raceway.compile.verdicts import Verdict
from raceway.kernel.bpf.links import Link, attach_tcx
from raceway.kernel.connections import established
from raceway.kernel.functions.loading import LoadedFunction

PASS = Verdict.PASS
FLOWS: Any = None


def outgoing(packet: Any) -> Verdict:
    """Notes the packet's flow. Its globals are those that `noting` gives it."""
    FLOWS.leaving(packet)
    return PASS


def noting(flows: FlowTable) -> PacketFunction:
    """The packet function that sees what the host sends, and notes its flows."""
    scope = {**outgoing.__globals__, "FLOWS": flows}
    copied = types.FunctionType(outgoing.__code__, scope, "outgoing")
    copied.__module__ = __name__
    made = packet_function(copied)
    made.hook = "tcx"
    return made


class Egress:
    """The function on an interface's way out. The connections that the host has already are known from the beginning.

    index: the interface's number; now: nanoseconds since 1970. Raises PermissionNeededError, VerifierError, OSError.
    """

    def __init__(self, index: int, function: PacketFunction, flows: FlowTable, now: int) -> None:
        if flows.alone:
            flows.adopt(established(), now)
        self.loaded = LoadedFunction(function)
        try:
            self.link: Link = attach_tcx(self.loaded.program, index, "egress", first=True)
        except BaseException:
            self.loaded.close()
            raise

    @property
    def aborted(self) -> int:
        """Packets that the host has sent and that could not be looked at; they were sent all the same."""
        return self.loaded.counters["ABORTED"]

    def close(self) -> None:
        """Take it off."""
        self.link.close()
        self.loaded.close()
