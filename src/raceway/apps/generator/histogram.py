"""A histogram of times with buckets that grow as the times do, so that it is as sharp at a microsecond as at a
second: 32 buckets for every power of two, which is a resolution of 3 % (the idea of HdrHistogram).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raceway.apps.generator.records import Echo
from raceway.memory.access import load_i64, store_64
from raceway.memory.jit import inner

SHARPNESS = 32
LARGEST = (1 << 42) - 1
"""Nanoseconds; longer times count as this."""
BUCKETS = 38 * SHARPNESS

Array = np.ndarray[Any, np.dtype[Any]]


@inner
def bucket(value: int) -> int:
    """The number of the bucket that a time, 0 to LARGEST, falls into."""
    shift = 0
    while value >> shift >= 2 * SHARPNESS:
        shift += 1
    return shift * SHARPNESS + (value >> shift)


@inner
def record(echo: int, value: int) -> None:
    """Count a round-trip time, in nanoseconds, in the ECHO record at this address."""
    state = Echo(echo)
    if value < 0:
        value = 0
    if value > LARGEST:
        value = LARGEST
    state.echoes += 1
    state.total += value
    if state.echoes == 1 or value < state.least:
        state.least = value
    if value > state.most:
        state.most = value
    place = state.histogram + 8 * bucket(value)
    store_64(place, load_i64(place) + 1)


def bounds(number: int) -> tuple[int, int]:
    """The times, from and up to but not including, that fall into bucket `number`."""
    shift = max(0, number // SHARPNESS - 1)
    first = (number - shift * SHARPNESS) << shift
    return first, first + (1 << shift)


def percentile(counts: Array, percent: float) -> float:
    """The time, in nanoseconds, that `percent` of those counted do not exceed: the middle of its bucket.

    counts: int64, shape (BUCKETS,). Not a number if nothing was counted.
    """
    total = int(counts.sum())
    if not total:
        return float("nan")
    number = int(np.searchsorted(np.cumsum(counts), max(1, np.ceil(total * percent / 100))))
    first, end = bounds(number)
    return (first + end - 1) / 2


def filled(counts: Array) -> list[tuple[int, int, int]]:
    """(from, up to, count) of every bucket that is not empty; nanoseconds."""
    return [(*bounds(number), int(counts[number])) for number in np.flatnonzero(counts).tolist()]
