"""The record that the filter's control plane and its compiled loop share. Importing it needs no compiler."""

from __future__ import annotations

import numpy as np

from raceway.memory.structures import structure

PASS = np.dtype(
    [
        (name, "<i8")
        for name in (
            # Where things are: records of the reader and the writer (0: nothing is written), rows of the packets at
            # hand, and how many rows there are.
            "reader", "writer", "slots", "metadata", "verdicts", "limit",
            # What judges by itself: machine code and its batch record, for packets of this link type only; or 0.
            "kernel", "batch", "kind",
            # The packets at hand: how many, whether and of which one link type, and how far they have come.
            "count", "mixed", "link_type", "stage", "next", "outcome",
            # What became of all so far.
            "packets", "bytes", "accepted", "rounds",
        )
    ]
)  # fmt: skip
"""A slot's buffer is the packet's offset in the reader's window. `verdicts`: 32-bit numbers, 0 for packets that are not
written. `next`: the first row that is not written yet. `outcome`: what `list_packets` said of the file."""
Pass = structure("Pass", PASS)

LIST, JUDGE, WRITE = 0, 1, 2
"""`stage`: what comes next for the packets at hand."""

AT_END, WAIT_FOR_FILE, FULL_ROWS, WAIT_FOR_JUDGE, WAIT_FOR_WRITER = range(5)
"""What the loop wants when it returns: nothing more (the end, or what is malformed); the reader served; to be called
again; the packets at hand judged by Python; the writer served."""
