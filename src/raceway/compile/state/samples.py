"""`Samples`: the beginnings of packets, from wherever a function runs to whoever reads them.

    | tickets given | the user's word | - ... | sample 0: turn, busy, time, number, length, bytes ... | sample 1 ... |

A ticket is taken by an atomic addition, so processors do not meet. Who finds somebody else in his place, a whole turn
of the ring late, leaves it to him. A sample's turn is 0 while it is filled and the ticket + 1 afterwards: who reads too
late finds a later turn there.
"""

from __future__ import annotations

from typing import Any

from raceway.compile.state.counters import Counters
from raceway.compile.state.words import count, publish

SAMPLES, STRIDE = 1 << 12, 32
"""How many there are, and the words of each."""
BYTES = 192
"""Of each packet, from its beginning on; of one that is shorter than 8 bytes, none."""
GIVEN, NOTE, FIRST = 0, 1, 8
TURN, BUSY, TIME, NUMBER, LENGTH, DATA = range(6)


def sample(table: Any, packet: Any, number: int, time: int) -> None:
    """Put a packet into the ring. number, time: what to note of it."""
    ticket = count(table, GIVEN, 1) - 1
    at = FIRST + (ticket & (SAMPLES - 1)) * STRIDE
    if count(table, at + BUSY, 1) == 1:
        publish(table, at + TURN, 0)
        table[at + TIME] = time
        table[at + NUMBER] = number
        size = len(packet)
        table[at + LENGTH] = size
        size = min(size, BYTES)
        words = size >> 3
        for index in range(BYTES >> 3):
            if index < words:
                table[at + DATA + index] = packet.load64(index << 3)
        if size >= 8:
            table[at + DATA + words] = packet.load64(size - 8)
        publish(table, at + TURN, ticket + 1)
    count(table, at + BUSY, -1)


class Samples(Counters):
    """A ring of samples: in packet functions `SAMPLES.sample(packet, number)`; `SAMPLES[NOTE]` is its user's word."""

    def __init__(self) -> None:
        super().__init__(FIRST + SAMPLES * STRIDE)

    def sample(self, packet: Any, number: int) -> bool:
        """Put a packet into the ring; always true."""
        sample(self.memory, packet, number, packet.time)
        return True
