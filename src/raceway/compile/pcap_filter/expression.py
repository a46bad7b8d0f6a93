"""`raceway.expression("tcp port 80")`: a filter that users hold, on every target.

Making one compiles the expression with libpcap and checks the program; machine code is made when it is first needed.
"""

from __future__ import annotations

from typing import Any

from raceway.compile.headers import MAXIMUM_PACKET
from raceway.compile.kernel import InterpretedKernel, Kernel
from raceway.compile.packet import Packet
from raceway.compile.pcap_filter import interpreter
from raceway.compile.pcap_filter.libpcap import (
    ETHERNET,
    NETMASK_UNKNOWN,
    SNAPLEN,
    Reference,
    compile_expression,
)
from raceway.compile.pcap_filter.program import Program
from raceway.compile.verdicts import Verdict
from raceway.memory.jit import INTERPRETED


class Expression:
    """A compiled pcap filter expression.

    text: what tcpdump takes, for example `tcp port 80 and net 192.0.2.0/24`; empty accepts every packet.
    link_type: LINKTYPE_ value of the packets that it is asked about (default: Ethernet).
    snaplen: bytes accepted of a packet, the number that a filter returns. netmask: the network's, as an integer, for
    `ip broadcast`. optimise: let libpcap's optimiser work on the program.
    Raises ExpressionError (a ValueError) in libpcap's words for what it refuses.

    Calling it with a `Packet` or bytes returns how many bytes are accepted, 0 for no: in a packet function,
    `if WEB(packet):`, on every target. A Packet's bytes from 65,535 on are out of reach there, as for the packet
    function itself.
    """

    def __init__(
        self,
        text: str,
        link_type: int = ETHERNET,
        *,
        snaplen: int = SNAPLEN,
        netmask: int = NETMASK_UNKNOWN,
        optimise: bool = True,
    ) -> None:
        if not 1 <= snaplen <= 0x7FFFFFFF:
            raise ValueError(f"snaplen {snaplen}: expected 1 to 2,147,483,647")
        self.text = text
        self.link_type = link_type
        self.program: Program = compile_expression(
            text, link_type, snaplen=snaplen, netmask=netmask, optimise=optimise
        )
        self._native: Kernel | None = None
        self._interpreted: InterpretedKernel | None = None
        self._in_functions: Any = None

    @property
    def name(self) -> str:
        """The expression's text: what reports call it."""
        return self.text

    def __call__(
        self, packet: Packet | bytes | bytearray | memoryview, wire_length: int | None = None
    ) -> int:
        """Bytes accepted of a packet, 0 for no. wire_length: bytes on the wire, if a capture has cut the packet."""
        if isinstance(packet, Packet):
            data: Any = packet.data[:MAXIMUM_PACKET]
        else:
            data = packet if isinstance(packet, bytes) else memoryview(packet).cast("B")
        length = len(packet) if wire_length is None else wire_length
        return interpreter.run(self.program, data, length)

    def run(self, packet: Packet) -> tuple[Verdict, str]:
        """Judge one packet as loops do: PASS or DROP, and no reason."""
        return (Verdict.PASS if interpreter.run(self.program, packet.data, len(packet)) else Verdict.DROP), ""

    def native(self) -> Kernel:
        """Return the batch kernel, compiled at the first call; with NUMBA_DISABLE_JIT=1 it is the interpreted one."""
        if INTERPRETED:
            return self.interpreted()
        if self._native is None:
            from raceway.compile.pcap_filter.kernels import compile_kernel

            self._native = compile_kernel(self)
        return self._native

    def interpreted(self) -> InterpretedKernel:
        """Return a batch kernel that runs the program in plain Python."""
        if self._interpreted is None:
            from raceway.compile.pcap_filter.batches import InterpretedFilterKernel

            self._interpreted = InterpretedFilterKernel(self)
        return self._interpreted

    def reference(self) -> Reference:
        """Return libpcap's own interpreter for this program."""
        return Reference(self.program)

    def __repr__(self) -> str:
        return f"<expression {self.text!r}, link type {self.link_type}, {len(self.program)} instructions>"


def expression(
    text: str,
    link_type: int = ETHERNET,
    *,
    snaplen: int = SNAPLEN,
    netmask: int = NETMASK_UNKNOWN,
    optimise: bool = True,
) -> Expression:
    """Compile a pcap filter expression; see `Expression`.

    WEB = raceway.expression("tcp port 80")
    """
    return Expression(text, link_type, snaplen=snaplen, netmask=netmask, optimise=optimise)
