"""What the loop of diverted packets knows: one record for the loop, one for each name, one for each receive ring."""

from __future__ import annotations

import numpy as np

from raceway.memory.layout import lines
from raceway.memory.structures import structure

CHUNK = 256
"""Slots of a ring that are judged at a time."""
BATCH = 1024
"""Packets after which they are handed on, at the latest."""
MARK, MARK_SIZE = 0x72770D17, 8
"""The mark before a diverted packet: the number of the name in four bytes, then MARK in four, both little-endian."""
ASKED, FOREIGN, FOLLOWS = 255, 254, 253
"""In place of a verdict: Python is still to be asked. In place of a name's number: there was no mark, or a number that
is no name's; and a slot that goes on with the packet of the one before."""
NAMES = 250
"""Names that there can be at most."""

DIVERTED = lines(
    # Addresses: PORT_STATE of source and target, NAMED records and how many, a JUDGED record for each receive ring.
    [("source", "<i8"), ("target", "<i8"), ("names", "<i8"), ("count", "<i8"), ("judged", "<i8"),
     ("slice", "<i8"), ("descriptors", "<i8"), ("descriptor_count", "<i8")],
    # asked: the ring, counted from 1, with packets that Python is to decide about; foreign: packets without a mark;
    # ending: return as soon as there is nothing left; link: the interface's number; live: address of the LIVE record
    # of the target's first ring, 0 if it has none.
    [("asked", "<i8"), ("blocked", "<i8"), ("foreign", "<i8"), ("ending", "<i8"), ("sleeps", "<i8"),
     ("link", "<i8"), ("batches", "<i8"), ("live", "<i8")],
    [("seconds", "<i8"), ("nanoseconds", "<i8"), ("now", "<i8")],
)  # fmt: skip
"""The last line is room for a clock."""

NAMED = lines(
    # kernel: a batch kernel, 0 where Python is asked; batch: the address of its BATCH record.
    # taken = passed + dropped + failed + too_long, always.
    [("kernel", "<i8"), ("batch", "<i8"), ("taken", "<i8"), ("passed", "<i8"), ("dropped", "<i8"),
     ("failed", "<i8"), ("too_long", "<i8")],
)  # fmt: skip

JUDGED = np.dtype(
    [("count", "<i8"), ("index", "<i8"), ("verdicts", "u1", CHUNK), ("numbers", "u1", CHUNK)], align=True
)
"""What has been said of a receive ring's next `count` slots, of which `index` have gone already: a verdict, and the
number of the name, a slot."""

Diverted = structure("Diverted", DIVERTED)
Named = structure("Named", NAMED)
Judged = structure("Judged", JUDGED)
NAMED_SIZE: int = NAMED.itemsize
JUDGED_SIZE: int = JUDGED.itemsize
VERDICTS: int = JUDGED.fields["verdicts"][1]  # type: ignore[index]
NUMBERS: int = JUDGED.fields["numbers"][1]  # type: ignore[index]
SCRATCH_OFFSET: int = DIVERTED.fields["seconds"][1]  # type: ignore[index]
