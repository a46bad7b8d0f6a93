"""The histogram of round-trip times."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, strategies as st

from arithmetic import bucket, record
from raceway.apps.generator.histogram import BUCKETS, LARGEST, bounds, filled, percentile
from raceway.apps.generator.records import Echo
from raceway.memory.structures import allocate


@given(st.one_of(st.integers(0, 5000), st.integers(0, LARGEST)))
def test_time_lies_in_its_bucket_and_the_bucket_is_narrow(value: int) -> None:
    number = bucket(value)
    first, end = bounds(number)
    assert 0 <= number < BUCKETS
    assert first <= value < end
    assert end - first <= max(1, value / 32)


def test_buckets_follow_each_other_without_gaps() -> None:
    edges = [bounds(number) for number in range(BUCKETS)]
    assert edges[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(edges))
    assert edges[-1][1] == LARGEST + 1


def test_percentiles_are_those_of_the_sorted_times() -> None:
    state = allocate(Echo)
    counts = np.zeros(BUCKETS, dtype=np.int64)
    state["histogram"] = counts.ctypes.data
    times = [int(value) for value in np.random.default_rng(1).lognormal(9, 1, 2000)]
    for value in times:
        record(state.ctypes.data, value)
    times.sort()
    for percent in (1, 50, 90, 99, 99.9, 100):
        exact = times[int(np.ceil(len(times) * percent / 100)) - 1]
        assert abs(percentile(counts, percent) - exact) <= exact / 32 + 1
    assert (state["least"][0], state["most"][0]) == (times[0], times[-1])
    assert state["total"][0] == sum(times)
    assert sum(count for _, _, count in filled(counts)) == len(times)


def test_times_out_of_range_are_counted_at_the_ends() -> None:
    state = allocate(Echo)
    counts = np.zeros(BUCKETS, dtype=np.int64)
    state["histogram"] = counts.ctypes.data
    for value in (-5, 1 << 60):
        record(state.ctypes.data, value)
    assert counts[0] == 1
    assert counts[BUCKETS - 1] == 1
    assert np.isnan(percentile(np.zeros(BUCKETS, dtype=np.int64), 50))
