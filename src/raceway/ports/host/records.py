"""What a host ring knows: all that a TAP device's ring knows, and behind that the stream of `ports.live`."""

from __future__ import annotations

import numpy as np

from raceway.memory.layout import CACHE_LINE, lines
from raceway.memory.structures import structure
from raceway.ports.tap.records import TAP

STREAM = lines(
    [("live", "<i8"), ("window", "<i8"), ("window_packets", "<i8"), ("busy_windows", "<i8"), ("empty", "<i8"),
     ("scratch", "<i8"), ("scratch_2", "<i8")],
)  # fmt: skip


def _behind(first: np.dtype[np.void], second: np.dtype[np.void]) -> np.dtype[np.void]:
    """One record that is the first, and from the next cache line on the second."""
    start = -(-first.itemsize // CACHE_LINE) * CACHE_LINE
    parts = [(name, *first.fields[name][:2], 0) for name in first.names or () if first.fields]
    parts += [(name, *second.fields[name][:2], start) for name in second.names or () if second.fields]
    return np.dtype(
        {
            "names": [name for name, _, _, _ in parts],
            "formats": [kind for _, kind, _, _ in parts],
            "offsets": [int(offset) + added for _, _, offset, added in parts],
            "itemsize": start + second.itemsize,
        }
    )


HOST = _behind(TAP, STREAM)
Host = structure("Host", HOST)
SCRATCH: int = Host.fields["scratch"][1]
