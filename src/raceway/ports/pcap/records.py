"""The private records that a capture file's control plane and data plane share.

One `Reader` or `Writer` stands at `kring.adapter`. Addresses in it point into arrays that the Python object
keeps; no other process sees them.

A reader's window, of which Python fills the right side and `receive_sync` eats the left::

        0           begin                 end        capacity
        +-------------+---------------------+-----------+--64--+
        |  delivered  |  bytes of records   |   room    | spare|
        +-------------+---------------------+-----------+------+
        file offset of byte 0: `base`                    lines are copied whole, so a read may go past the end
"""

from __future__ import annotations

import numpy as np

from raceway.memory.structures import structure

SPARE = 64
"""Bytes behind a window that whole-line copies may touch."""

READER = np.dtype(
    [
        # The window, and where in the file it is.
        ("window", "<i8"), ("begin", "<i8"), ("end", "<i8"), ("base", "<i8"),
        ("final", "<i8"), ("needed", "<i8"), ("format", "<i8"), ("swapped", "<i8"),
        # pcap: nanoseconds in one unit of the fraction; versions before 2.4 may have the two lengths swapped.
        ("fraction", "<i8"), ("lengths_swapped", "<i8"), ("link_type", "<i8"),
        # pcapng: this section's interfaces.
        ("interfaces", "<i8"), ("interface_count", "<i8"), ("_4", "<i8"), ("_5", "<i8"), ("_6", "<i8"),
        # Why it stopped.
        ("error", "<i8"), ("error_offset", "<i8"), ("error_value", "<i8"), ("error_expected", "<i8"),
        # What became of the records.
        ("records", "<i8"), ("too_long_for_ring", "<i8"), ("timestamps_unknown", "<i8"), ("_8", "<i8"),
    ]
)  # fmt: skip
"""`needed`: bytes from `begin` without which the data plane cannot go on. `records`: packets that the file
held so far, those dropped included. `timestamps_unknown`: packets whose time signed nanoseconds since 1970
cannot hold; their metadata say 0."""

INTERFACE = np.dtype(
    [
        ("link_type", "<i8"), ("snaplen", "<i8"), ("clock", "<i8"), ("factor", "<i8"),
        ("limit", "<i8"), ("mask", "<i8"), ("offset", "<i8"), ("_7", "<i8"),
    ]
)  # fmt: skip
"""`clock`: how a timestamp becomes nanoseconds. CLOCK_MULTIPLY: times `factor`, if at most `limit`.
CLOCK_DIVIDE: divided by `factor`. CLOCK_BINARY: in 2^-`factor` seconds, of which `mask` has the fraction's
bits. `offset` nanoseconds are added in the end."""

CLOCK_MULTIPLY, CLOCK_DIVIDE, CLOCK_BINARY, CLOCK_UNKNOWN = 0, 1, 2, 3

WRITER = np.dtype(
    [
        ("window", "<i8"), ("used", "<i8"), ("capacity", "<i8"), ("format", "<i8"),
        ("divisor", "<i8"), ("snaplen", "<i8"), ("link_type", "<i8"), ("now", "<i8"),
        # pcapng: 65,536 32-bit numbers, one for each link type: its interface's number plus one, or 0.
        ("interfaces", "<i8"), ("wanted_link_type", "<i8"), ("skipping", "<i8"), ("_3", "<i8"),
        ("_4", "<i8"), ("_5", "<i8"), ("_6", "<i8"), ("_7", "<i8"),
        # What became of the packets.
        ("packets", "<i8"), ("bytes", "<i8"), ("other_link_type", "<i8"), ("bad_link_type", "<i8"),
        ("too_long_for_ring", "<i8"), ("cut", "<i8"), ("timestamps_clamped", "<i8"), ("_8", "<i8"),
    ]
)  # fmt: skip
"""`divisor`: nanoseconds in one unit of the file's clock. `now`: nanoseconds since 1970 for packets that come
without a time. `wanted_link_type`: plus one, the link type for which the file needs an interface before the
next packet. `skipping`: the next slots are the rest of a dropped chain."""

Reader = structure("Reader", READER)
Interface = structure("Interface", INTERFACE)
Writer = structure("Writer", WRITER)
