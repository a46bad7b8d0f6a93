"""The TCP connections that this host has, as the kernel lists them in /proc/net/tcp and tcp6 (proc_net_tcp.rst)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from raceway.compile.addresses import IPv4Address, IPv6Address

Connection = tuple[IPv4Address | IPv6Address, int, IPv4Address | IPv6Address, int]
_LISTS = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
_ESTABLISHED, _CLOSE_WAIT = 1, 8
_MAPPED = 0xFFFF


def established() -> Iterator[Connection]:
    """Local address, local port, remote address and remote port of each connection of the calling thread's network
    namespace that is open."""
    for name in _LISTS:
        # A kernel without IPv6 has no second list.
        with suppress(FileNotFoundError):
            yield from parsed(Path(name).read_text())


def parsed(text: str) -> Iterator[Connection]:
    """The open connections of such a list."""
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) > 3 and int(words[3], 16) in (_ESTABLISHED, _CLOSE_WAIT):
            yield (*_end(words[1]), *_end(words[2]))


def _end(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """An address of words of 32 bits, each as the processor has it, and a port."""
    address, _, port = text.partition(":")
    raw = b"".join(
        int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8)
    )
    number = int.from_bytes(raw, "big")
    if len(raw) == 4:
        return IPv4Address(number), int(port, 16)
    if number >> 32 == _MAPPED:
        # An IPv4 connection of an IPv6 socket (RFC 4291, 2.5.5.2).
        return IPv4Address(number & 0xFFFFFFFF), int(port, 16)
    return IPv6Address(number), int(port, 16)
