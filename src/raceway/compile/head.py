"""Growing and shrinking a packet's head. Written once: interpreted, native and eBPF functions all run what stands here.

A packet lies somewhere in a buffer, and its first byte can move. `start` counts by how many bytes it has moved since
the packet came: below zero it has grown. A header view keeps its place in these terms (`offset` + `start`), so it stays
with its header's bytes whatever the head does::

         start = -4                      start = 0               the packet as it came
            |                               |
    +-------+-------------------------------+---------------------------------+
    | room  | new bytes                     | bytes that it came with         |
    +-------+-------------------------------+---------------------------------+
    |<------------ HEADROOM --------------->|

Moving itself is the packet's `_move`, which each target has of its own: XDP's bpf_xdp_adjust_head, or arithmetic in the
buffer. Everything else is here, so that limits and bytes are the same everywhere.
"""

from __future__ import annotations

from typing import Protocol

HEADROOM = 128
"""Bytes that a packet can grow beyond what it came with. Drivers leave 256 bytes before a packet for XDP, some 192 (the
kernel's XDP_PACKET_HEADROOM), of which the kernel needs 40 for itself: so these are there on every interface."""

SHORTEST = 14
"""Bytes that stay at least: an Ethernet header (ETH_HLEN), below which XDP refuses too."""

METHODS = ("grow_head", "shrink_head")


class MovablePacket(Protocol):
    """What these functions need of a packet."""

    @property
    def _start(self) -> int: ...
    def _move(self, by: int, /) -> bool: ...
    def __len__(self) -> int: ...
    def store8(self, offset: int, value: int, /) -> None: ...
    def store16(self, offset: int, value: int, /) -> None: ...
    def store32(self, offset: int, value: int, /) -> None: ...
    def store64(self, offset: int, value: int, /) -> None: ...


def grow(packet: MovablePacket, size: int) -> bool:
    """Put `size` zero bytes before the first one; False, with nothing changed, where that cannot be."""
    if size < 0 or size > HEADROOM + packet._start or len(packet) + size < SHORTEST:
        return False
    if not packet._move(-size):
        return False
    # What lay there before is whatever the memory was last used for: the kernel leaves it, and we do not show it.
    at = 0
    while at + 8 <= size:
        packet.store64(at, 0)
        at += 8
    if at + 4 <= size:
        packet.store32(at, 0)
        at += 4
    if at + 2 <= size:
        packet.store16(at, 0)
        at += 2
    if at < size:
        packet.store8(at, 0)
    return True


def shrink(packet: MovablePacket, size: int) -> bool:
    """Take the first `size` bytes off; False, with nothing changed, where that cannot be."""
    if size < 0 or size > len(packet) - SHORTEST:
        return False
    return packet._move(size)


FUNCTIONS = {"grow_head": grow, "shrink_head": shrink}
OFTEN = (grow, shrink)
"""In line, so that the compiler sees where the packet is."""
