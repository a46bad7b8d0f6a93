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
    # Bytes of the longest packet that may be sent; 0: whatever the kernel takes. The address of a JOINING record; 0:
    # every packet goes by itself.
    [("limit", "<i8"), ("join", "<i8")],
)  # fmt: skip
DROPS = ("down", "invalid", "too_long", "no_memory", "refused")

IOVEC = np.dtype([("base", "<i8"), ("length", "<i8")])
"""readv(2)'s struct iovec."""

FLOWS = 1024
"""Buckets for flows, by hash: in each the packets of one flow may wait."""
_PACKET: list[tuple[str, str]] = [
    # Where in the packet things begin; where the IP packet ends; payload bytes; the IP protocol; IPv6 or not.
    ("packet", "<i8"), ("network", "<i8"), ("transport", "<i8"), ("payload", "<i8"), ("end", "<i8"), ("length", "<i8"),
    ("protocol", "<i8"), ("six", "<i8"),
]  # fmt: skip
SEEN = lines(_PACKET, [("bucket", "<i8")])
FLOW = lines(
    _PACKET,
    # Packets that wait to become one, their first and last slot, payload bytes of all; whether the first one's checksum
    # was found right, no further packet may follow, and IPv4's identification stays as it is.
    [("count", "<i8"), ("first", "<i8"), ("last", "<i8"), ("total", "<i8"), ("verified", "<i8"), ("closed", "<i8"),
     ("fixed", "<i8"), ("ending", "<i8")],
)  # fmt: skip
"""A packet of which something is known, and the first one of a flow whose packets wait."""

JOINING = lines(
    # Addresses: FLOW records by hash, the buckets in the order in which they were begun, the slot after each of a flow.
    [("flows", "<i8"), ("order", "<i8"), ("next", "<i8"), ("begun", "<i8"), ("seen", "<i8"),
     # Packets that became part of a joined one and how many those were, since the beginning; writes of the last sync.
     ("packets", "<i8"), ("joined", "<i8"), ("calls", "<i8")],
    # Whether the kernel has refused joined TCP, and UDP (before Linux 6.2); where small payloads are put together.
    [("no_tcp", "<i8"), ("no_udp", "<i8"), ("gathered", "<i8")],
)  # fmt: skip

Tap = structure("Tap", TAP)
Seen = structure("Seen", SEEN)
Flow = structure("Flow", FLOW)
Joining = structure("Joining", JOINING)
Iovec = structure("Iovec", IOVEC)
IOVEC_SIZE: int = IOVEC.itemsize
FLOW_SIZE: int = FLOW.itemsize
