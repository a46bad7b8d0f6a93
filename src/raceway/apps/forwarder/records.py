"""What the forwarding loop knows: one record a direction, one for all of them."""

from __future__ import annotations

import numpy as np

from raceway.memory.layout import lines
from raceway.memory.structures import structure

CHUNK = 256
"""Slots that are judged by a packet function at a time, and moved between two looks at the clock."""

AT_ONCE, RECORDED, PACKETS_A_SECOND, BITS_A_SECOND = 0, 1, 2, 3
"""When a packet may go: as soon as there is room, by the gaps of its capture, at a rate."""

DIRECTION = lines(
    # Addresses: PORT_STATE of source and target, a batch kernel (0: none), its BATCH record, a JUDGED record for each
    # of the source's receive rings.
    [("source", "<i8"), ("target", "<i8"), ("kernel", "<i8"), ("batch", "<i8"), ("judged", "<i8"),
     ("limit", "<i8"), ("ended", "<i8"), ("limit_sent", "<i8")],
    # Conservation: taken = sent + returned + dropped + aborted + too_long + no_way_back. Bytes are counted as they came
    # and as they went: `moves` says that the function may change how long a packet is.
    [("taken", "<i8"), ("taken_bytes", "<i8"), ("sent", "<i8"), ("sent_bytes", "<i8"), ("returned", "<i8"),
     ("dropped", "<i8"), ("aborted", "<i8"), ("too_long", "<i8")],
    [("no_way_back", "<i8"), ("batches", "<i8"), ("moves", "<i8"), ("blocked", "<i8")],
    # Pacing: the kind, its number (recorded gaps are divided by rate / 10^6), when and with what it began.
    [("pace", "<i8"), ("rate", "<i8"), ("start", "<i8"), ("first_timestamp", "<i8"), ("paced", "<i8"),
     ("due", "<i8")],
)  # fmt: skip

JUDGED = np.dtype(
    [("count", "<i8"), ("index", "<i8"), ("verdicts", "u1", CHUNK), ("lengths", "<i4", CHUNK)], align=True
)
"""What a packet function has said of a receive ring's next `count` slots, of which `index` have gone already: it is
asked once of each packet. `lengths`: bytes that each had before, if the function may change that."""

FORWARD = lines(
    [("directions", "<i8"), ("count", "<i8"), ("descriptors", "<i8"), ("descriptor_count", "<i8"),
     ("slice", "<i8"), ("moved", "<i8"), ("sleeps", "<i8")],
    [("seconds", "<i8"), ("nanoseconds", "<i8"), ("now", "<i8")],
)  # fmt: skip
"""`slice`: nanoseconds after which the loop returns to Python. The second line is room for a clock."""

Direction = structure("Direction", DIRECTION)
Forward = structure("Forward", FORWARD)
Judged = structure("Judged", JUDGED)
DIRECTION_SIZE: int = DIRECTION.itemsize
JUDGED_SIZE: int = JUDGED.itemsize
VERDICTS: int = JUDGED.fields["verdicts"][1]  # type: ignore[index]
LENGTHS: int = JUDGED.fields["lengths"][1]  # type: ignore[index]
SCRATCH_OFFSET: int = FORWARD.fields["seconds"][1]  # type: ignore[index]
