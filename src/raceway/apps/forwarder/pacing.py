"""When the next packet may go. Data plane; time is an argument."""

from __future__ import annotations

from raceway.apps.forwarder.records import (
    AT_ONCE,
    BITS_A_SECOND,
    PACKETS_A_SECOND,
    RECORDED,
    Direction,
)
from raceway.memory.jit import inner

SECOND = 1_000_000_000
WIRE_OVERHEAD = 24
"""Bytes that a frame takes on the wire besides its own: preamble 8, frame check sequence 4, inter-frame gap 12
(IEEE 802.3, 4A.4.2 and 3.1.1)."""


@inner
def due_time(direction: Direction, timestamp: int, now: int) -> int:
    """The monotonic time, in ns, at which the direction's next packet is due. The first one is due at once."""
    if direction.pace == AT_ONCE:
        return 0
    if direction.start == 0:
        direction.start = now
        direction.first_timestamp = timestamp
        direction.paced = 0
    rate = direction.rate
    if direction.pace == RECORDED:
        gap = timestamp - direction.first_timestamp
        if gap < 0 or timestamp == 0:
            # Captures from several sources run backwards now and then: such a packet goes with the one before it.
            return direction.due
        # Microseconds and the rest apart, so that a capture of years does not overflow.
        return direction.start + gap // rate * 1_000_000 + gap % rate * 1_000_000 // rate
    # Whole seconds, microseconds and nanoseconds apart: at 10^12 bits a second a part of a second is so many bits
    # that 10^9 times as many do not fit 63 bits.
    done = direction.paced
    rest = done % rate * 1_000_000
    return direction.start + done // rate * SECOND + rest // rate * 1000 + rest % rate * 1000 // rate


@inner
def went(direction: Direction, length: int, due: int) -> None:
    """Note that the packet that was due has gone."""
    direction.due = due
    if direction.pace == PACKETS_A_SECOND:
        direction.paced += 1
    elif direction.pace == BITS_A_SECOND:
        direction.paced += (length + WIRE_OVERHEAD) * 8
