"""The records that everything shares: slots, rings, and who may write which line of them.

One ring, as netmap draws it (sys/net/netmap.h); the circle is cut open after the last slot::

        0        head      cur               tail           size-1
        +---------+---------+------------------+---------------+
        | sync's  |  user's: to fill or read   |    sync's     |
        +---------+---------+------------------+---------------+
                  |<-seen-->|<------ new ----->|

    [head, tail)   belongs to the user: slots to fill (transmit) or packets to read (receive).
    [tail, head)   belongs to the other side: packets on their way out, or empty slots for what comes.
    head           the user moves it forward: "up to here I am done". Published by the next sync.
    cur            from head to tail: "up to here I have seen"; a wait ends when tail moves past cur.
    tail           only a sync moves it.

head == tail is a ring of which the user owns nothing, so one slot is always left empty.

A region is one piece of shared memory::

    +----------------+---------------------------+--------------------------------------+
    | header, 4 KiB  | rings: record, slots,     | buffers, all of one size;            |
    |                | metadata, ring after ring | buffer 0 is never handed out         |
    +----------------+---------------------------+--------------------------------------+

Offsets in shared records are bytes from the start of the record that holds them, as in netmap: two processes
map the region at different addresses. Addresses stand only in private records (`Kring`, `PortState`, `Batch`),
which no other process can write, so what a sync believes cannot be spoilt from outside.
"""

from __future__ import annotations

import numpy as np

from raceway.memory.structures import structure

CACHE_LINE = 64
PAGE = 4096

REGION_MAGIC = 0x5241434557415931  # "RACEWAY1"

# Slot flags, netmap's numbers (NS_*).
BUFFER_CHANGED = 0x0001
REPORT = 0x0002
INDIRECT = 0x0010
MORE_FRAGMENTS = 0x0020
ALLOWED_FLAGS = BUFFER_CHANGED | REPORT | MORE_FRAGMENTS

SLOT = np.dtype([("buffer", "<i4"), ("length", "<i4"), ("offset", "<i4"), ("flags", "<i4")])
"""16 bytes: the buffer's index in its region, bytes of packet, where in the buffer they start, NS_* flags."""

METADATA = np.dtype(
    [("timestamp", "<i8"), ("wire_length", "<i4"), ("link_type", "<i4"), ("segment_size", "<i4"),
     ("reserved", "<i4")]
)  # fmt: skip
"""24 bytes beside a slot, filled by adapters that know more than a NIC: nanoseconds since 1970 (0: unknown),
bytes on the wire before a capture cut the packet (0: as many as `length`), LINKTYPE_ value (0: the port's), bytes of
payload a segment of a packet that is larger than a wire's (0: as many as the port that cuts it finds room for)."""

SCAN = np.dtype(
    [(f"{kind}_{field}", "<i4") for kind in ("lowest", "highest", "bad", "union", "sum")
     for field in ("buffer", "length", "offset", "flags")]
)  # fmt: skip
"""Limits and result of a look at many slots (`memory.scanning`), one after another; 80 bytes."""

REGION = np.dtype(
    [
        ("magic", "<i8"),
        ("size", "<i8"),
        ("rings_next", "<i8"),
        ("rings_end", "<i8"),
        ("buffers", "<i8"),
        ("buffer_size", "<i8"),
        ("buffers_next", "<i8"),
        ("buffers_end", "<i8"),
        ("holdings", "<i8"),
        ("cards", "<i8"),
    ]
)
"""A region's header. Offsets from the region's start in bytes; `buffers_next` and `buffers_end` count buffers;
`holdings` counts the HOLDING records that follow at `HOLDINGS`; `cards` is the offset of the newest of the cards that
say whose ports live here (`memory.directory`), 0 if there is none."""

HOLDING = np.dtype([("offset", "<i8"), ("count", "<i4"), ("stride", "<i4")])
"""An array that holds buffer indexes (a ring's slots, an inventory of extra buffers): offset from the region's
start, entries, bytes from one index to the next. Together they name every buffer exactly once, always."""

HOLDINGS = 128
HOLDINGS_LIMIT = (PAGE - HOLDINGS) // HOLDING.itemsize


def lines(*groups: list[tuple[str, str]]) -> np.dtype[np.void]:
    """A record in which each list of fields starts a cache line of its own."""
    names, formats, offsets = [], [], []
    start = 0
    for line in groups:
        offset = start
        for name, code in line:
            names.append(name)
            formats.append(code)
            offsets.append(offset)
            offset += np.dtype(code).itemsize
        start += -(-(offset - start) // CACHE_LINE) * CACHE_LINE
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": start})


RING = lines(
    # What never changes.
    [("magic", "<i8"), ("slot_count", "<i8"), ("slots", "<i8"), ("metadata", "<i8"), ("buffers", "<i8"),
     ("buffer_size", "<i8"), ("number", "<i4"), ("transmit", "<i4"), ("pid", "<i8")],
    # The user's line.
    [("head", "<i8"), ("cur", "<i8"), ("tail", "<i8"), ("timestamp", "<i8"), ("link_type", "<i8")],
    # The owner's syncs count here; anyone may read it.
    [("packets", "<i8"), ("bytes", "<i8"), ("syncs", "<i8"), ("errors", "<i8"), ("doorbells", "<i8")],
    # Up to where this end has handed slots over: stored with release, loaded by the other end.
    [("published", "<i8")],
    # How many slots the owner sleeps for (0: it is awake): the other end rings its bell when they are there.
    # And whether its owner can order its sleeping with the other's publishing by membarrier(2).
    [("waiting", "<i8"), ("barrier", "<i8")],
)  # fmt: skip

KRING = lines(
    # Names as in netmap: the side of a ring that its user cannot reach, and that a sync believes. `alarm`: the address
    # of a word that says how many slots the user sleeps for, where it is the kernel that wakes him; 0 elsewhere.
    [("ring", "<i8"), ("slots", "<i8"), ("metadata", "<i8"), ("buffers", "<i8"), ("buffer_size", "<i8"),
     ("slot_count", "<i8"), ("transmit", "<i8"), ("alarm", "<i8")],
    [("head", "<i8"), ("tail", "<i8"), ("peer", "<i8"), ("bell", "<i8"), ("region", "<i8"), ("adapter", "<i8"),
     ("metadata_used", "<i8"), ("ended", "<i8")],
    # The last error (a code of `memory.ring`), the slot it was found in and the value; whether Python's help is
    # needed; the address of the adapter's sync, `int64 sync(int64 kring)`; how many buffers the mapping has room for;
    # whether something that was handed over is not with the kernel yet, so that a sync has to follow soon.
    [("error", "<i8"), ("error_slot", "<i8"), ("error_value", "<i8"), ("attention", "<i8"), ("dropped", "<i8"),
     ("sync", "<i8"), ("buffer_limit", "<i8"), ("pending", "<i8")],
    # What a slot's fields may be, and what the last look at many slots has found: `memory.scanning`.
    [(name, "<i4") for name in SCAN.names or ()],
)  # fmt: skip

PORT_STATE = lines(
    [("transmit", "<i8"), ("transmit_count", "<i8"), ("receive", "<i8"), ("receive_count", "<i8")],
)  # fmt: skip
"""Addresses of the port's arrays of KRING records, and how many of each there are."""

BATCH = lines(
    [("slots", "<i8"), ("metadata", "<i8"), ("buffers", "<i8"), ("buffer_size", "<i8"), ("slot_count", "<i8"),
     ("first", "<i8"), ("count", "<i8"), ("verdicts", "<i8")],
    [("now", "<i8"), ("port", "<i8"), ("ring", "<i8"), ("state", "<i8")],
    [("out_of_bounds", "<i8"), ("arithmetic", "<i8"), ("bad_verdict", "<i8"), ("other_error", "<i8")],
)  # fmt: skip
"""What one call of a packet function's batch kernel works on: `count` slots from index `first` (modulo
`slot_count`), whose verdicts it writes as bytes to `verdicts[0 .. count)`; `now` in nanoseconds since 1970 is the
batch's time; the last line counts, by name, why packets were ABORTED."""

Slot = structure("Slot", SLOT)
Metadata = structure("Metadata", METADATA)
RegionHeader = structure("RegionHeader", REGION)
Ring = structure("Ring", RING)
Kring = structure("Kring", KRING)
PortState = structure("PortState", PORT_STATE)
Batch = structure("Batch", BATCH)

# Compiled code knows a class only as a function, so the sizes stand here by themselves.
SLOT_SIZE: int = Slot.size
METADATA_SIZE: int = Metadata.size
KRING_SIZE: int = Kring.size
