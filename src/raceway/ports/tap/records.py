"""What a ring of a TAP port knows besides its Kring, and the room in which it prepares system calls."""

from __future__ import annotations

import numpy as np

from raceway.memory.layout import lines
from raceway.memory.structures import structure

IOVECS = 1024
"""As many pieces as one readv or writev takes (UIO_MAXIOV)."""
FRAGMENTS = IOVECS - 2
"""Of them for the slots of a packet: one is the header's, one for what is longer than expected."""
OVERFLOW = 1 << 16
"""Bytes of room behind the buffers that a packet should fit in."""
HEADERS = 256
"""Bytes at a packet's beginning that are looked at to cut it: Ethernet, two VLAN tags, IPv6 with extensions, TCP."""
VNET_HEADER = 10
VNET_ROOM = 16
"""Before those bytes, the room in which struct virtio_net_hdr ends; so they lie at a multiple of 16."""
LARGEST = 65_535 + 14 + 8
"""An IP packet of the largest length there is, an Ethernet header and two VLAN tags."""

TAP = lines(
    # The queue; whether packets have a header before them; the device's MTU; what a read must have room for; the
    # addresses of the iovecs, the bytes for headers, and what is read beyond the buffers.
    [("descriptor", "<i8"), ("vnet", "<i8"), ("mtu", "<i8"), ("largest", "<i8"), ("iovecs", "<i8"),
     ("headers", "<i8"), ("overflow", "<i8"), ("skipping", "<i8")],
    # An errno for Python to raise; drops by name; packets that crossed whole and were cut by the kernel, or were to be.
    [("error", "<i8"), ("down", "<i8"), ("invalid", "<i8"), ("too_long", "<i8"), ("no_memory", "<i8"),
     ("refused", "<i8"), ("segmented", "<i8"), ("completed", "<i8")],
    # Bytes of the longest packet that may be sent; 0: whatever the kernel takes.
    [("limit", "<i8")],
)  # fmt: skip
DROPS = ("down", "invalid", "too_long", "no_memory", "refused")

IOVEC = np.dtype([("base", "<i8"), ("length", "<i8")])
"""readv(2)'s struct iovec."""

Tap = structure("Tap", TAP)
Iovec = structure("Iovec", IOVEC)
IOVEC_SIZE: int = IOVEC.itemsize
