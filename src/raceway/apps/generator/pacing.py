"""The rate limiter's arithmetic. Data plane; time is an argument.

Packet number k of a stream of `rate` a second is due k / rate after the stream began, so a million packets take a
second, and the first does not go at once. The count begins anew each full second, which divides evenly: nothing
is rounded away however long the stream runs. A sender that was held up catches up, but with no more than
`backlog` packets: a stop of minutes does not end in a flood of minutes.
"""

from __future__ import annotations

from raceway.apps.generator.records import Pace
from raceway.memory.jit import inner

SECOND = 1_000_000_000


@inner
def allowance(pace: int, now: int, wanted: int) -> int:
    """How many packets may go at time `now` (ns); 0 if that is fewer than a quantum, and than `wanted` (-1: no end).

    `pace`: the address of a PACE record whose `epoch` is when the stream began.
    """
    record = Pace(pace)
    elapsed = now - record.epoch
    if elapsed >= SECOND:
        whole = elapsed // SECOND
        if whole > 1000:
            # After so long only the backlog counts, and the product must stay below 2**63.
            record.epoch = now - 1000 * SECOND
            whole = 1000
            elapsed = 1000 * SECOND
        record.epoch += whole * SECOND
        record.paced -= whole * record.rate
        elapsed -= whole * SECOND
    due = elapsed * record.rate // SECOND - record.paced
    if due > record.backlog:
        record.forgone += due - record.backlog
        record.paced += due - record.backlog
        due = record.backlog
    fewest = wanted if 0 < wanted < record.quantum else record.quantum
    return due if due >= fewest else 0


@inner
def wait_for(pace: int, wanted: int) -> int:
    """The time (ns, CLOCK_MONOTONIC) at which `wanted` packets, at most a quantum of them, are due."""
    record = Pace(pace)
    count = record.paced + (wanted if 0 < wanted < record.quantum else record.quantum)
    due: int = record.epoch - -count * SECOND // record.rate
    return due
