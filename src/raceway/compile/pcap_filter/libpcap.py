"""The libpcap that comes with cypcap: from an expression to a classic BPF program, and libpcap's own interpreter.

The only module that knows that library; it is loaded when the first expression is compiled. What it knows of networks
besides the expression it gets from this machine's files as tcpdump does: names of hosts, networks, ports and protocols
are looked up when an expression is compiled (getaddrinfo, /etc/networks, /etc/services, /etc/ethers).
"""

from __future__ import annotations

import ctypes
import re
import threading
from functools import cache
from typing import Any

from raceway.compile.errors import ExpressionError
from raceway.compile.pcap_filter import newer
from raceway.compile.pcap_filter.program import Instruction, Program

ETHERNET = 1
SNAPLEN = 262_144
"""Bytes that a filter accepts of a packet where no file says otherwise: libpcap's MAXIMUM_SNAPLEN."""
NETMASK_UNKNOWN = 0xFFFFFFFF

# LINKTYPE_ values of files whose DLT_ value on Linux is another (pcap-common.c; link types from 112 on are the same,
# and so are those up to 10).
_DLT_OF = {50: 50, 51: 51, 100: 11, 101: 12, 102: 15, 103: 16, 106: 19, 246: 18}

_lock = threading.Lock()


def compile_expression(
    text: str,
    link_type: int = ETHERNET,
    *,
    snaplen: int = SNAPLEN,
    netmask: int = NETMASK_UNKNOWN,
    optimise: bool = True,
) -> Program:
    """Compile an expression; an empty one accepts everything.

    link_type: LINKTYPE_ value of the packets. snaplen: bytes accepted of a packet. netmask: as four bytes, for
    `ip broadcast`. Raises ExpressionError with libpcap's reason.
    """
    if "\0" in text:
        raise ExpressionError("a NUL character in a filter expression")
    said, compiled_for = newer.before(text, link_type)
    cypcap = _cypcap()
    # libpcap's parser has state of its own for each expression, but the look-ups of names do not promise that.
    with _lock:
        try:
            with cypcap.open_dead(_DLT_OF.get(compiled_for, compiled_for), snaplen) as dead:
                compiled = dead.compile(said, optimise, netmask)
        except cypcap.Error as error:
            reason = str(error.args[-1])
            if re.search(r"\bvxlan\b", text):
                reason = reason.replace("geneve", "vxlan")
            raise ExpressionError(reason) from None
    instructions = [Instruction(*one) for one in compiled]
    return Program(newer.after(instructions, text, said, link_type, compiled_for))


class Reference:
    """libpcap's own interpreter for a program: the peer that every target is compared with."""

    def __init__(self, program: Program) -> None:
        words = [_Instruction(one.code, one.jt, one.jf, one.k) for one in program]
        self._instructions = (_Instruction * len(words))(*words)
        self._filter = _bpf_filter()

    def run(self, data: bytes, wire_length: int) -> int:
        """How many bytes of a packet are accepted, 0 for none."""
        accepted: int = self._filter(self._instructions, data, wire_length & 0xFFFFFFFF, len(data))
        return accepted

    def run_at(self, address: int, length: int, wire_length: int) -> int:
        """The same for `length` bytes at an address."""
        accepted: int = self._filter(self._instructions, address, wire_length & 0xFFFFFFFF, length)
        return accepted


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32),
    )  # fmt: skip


@cache
def _cypcap() -> Any:
    import cypcap

    return cypcap


@cache
def _bpf_filter() -> Any:
    # The binding's own call tells only whether, and not how many bytes. Its module is linked with libpcap.
    from cypcap import _cypcap as module

    function = ctypes.CDLL(module.__file__).bpf_filter
    function.restype = ctypes.c_uint32
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32]
    return function


def version() -> str:
    """What libpcap says of itself."""
    text = _cypcap().lib_version()
    return text.decode() if isinstance(text, bytes) else str(text)
