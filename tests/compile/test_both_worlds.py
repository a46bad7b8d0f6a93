"""Interpreted = native, in verdict, bytes, failures and state, for every packet function and every packet at hand."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from moving_worlds import MOVING

from packet_cases import (
    TIME,
    assert_same_in_both_worlds,
    captured_packets,
    made_packets,
    needs_native,
    run_kernel,
    truncated_packets,
)
from worlds import FUNCTIONS, LIMIT, LIMITS, limits, rewrites

pytestmark = pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")
all_functions = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.name)


@all_functions
def test_made_packets(function):
    assert_same_in_both_worlds(function, made_packets(), *FUNCTIONS[function])


@all_functions
def test_packets_cut_at_every_length(function):
    assert_same_in_both_worlds(function, truncated_packets(), *FUNCTIONS[function])


@all_functions
def test_captured_packets(function):
    packets = captured_packets()
    assert len(packets) > 9_000
    if function in MOVING:
        # Interpreted, each move copies; and where packets are found is the same as for the others.
        packets = packets[::6]
    times = [TIME + (index // 3) * 400_000 for index in range(len(packets))]
    assert_same_in_both_worlds(function, packets, *FUNCTIONS[function], times=times)


@st.composite
def mutated(draw):
    one = bytearray(draw(st.sampled_from(made_packets())))
    for _ in range(draw(st.integers(0, 6))):
        if one:
            one[draw(st.integers(0, min(len(one) - 1, 80)))] = draw(st.integers(0, 255))
    return bytes(one[: draw(st.integers(0, len(one)))]) if draw(st.booleans()) else bytes(one)


@all_functions
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    packets=st.lists(st.one_of(mutated(), st.binary(max_size=120)), min_size=1, max_size=30), data=st.data()
)
def test_mutated_packets(function, packets, data):
    time = st.one_of(st.integers(TIME - 10**9, TIME + 10**9), st.integers(-(1 << 63), (1 << 63) - 1))
    times = data.draw(st.lists(time, min_size=len(packets), max_size=len(packets)))
    assert_same_in_both_worlds(function, packets, *FUNCTIONS[function], times=times)


def test_failures_are_counted_by_name():
    from worlds import bad_verdicts, divides, shifts

    short = run_kernel(divides.native(), [b"", b"\x01\x02\x01", b"\x01\x02\x00"])
    assert short.reasons == {"out_of_bounds": 1, "arithmetic": 1, "bad_verdict": 0, "other_error": 0}
    assert short.verdicts[:2] == [0, 0]
    wrong = run_kernel(bad_verdicts.native(), [bytes([n]) for n in range(10)])
    assert wrong.verdicts == [0, 0, 0, 0, 1, 2, 3, 4, 0, 0]
    assert wrong.reasons["bad_verdict"] == 5
    assert run_kernel(shifts.native(), [bytes(16)]).reasons["other_error"] == 1


def test_smallest_number_divided_by_minus_one_does_not_trap():
    from worlds_extra import smallest_by_minus_one

    outcome = run_kernel(smallest_by_minus_one.native(), [b"\x80" + bytes(15)])
    assert outcome.verdicts == [2]


def test_metadata_time_wins_over_the_batch():
    # What the tests before have left in the buckets is chance.
    LIMIT.clear()
    LIMITS.clear()
    packets = [made_packets()[0]] * 8
    burst = run_kernel(limits.native(), packets, times=[0] * 8)
    spread = run_kernel(limits.native(), packets, times=[TIME + (i + 1) * 10**9 for i in range(8)])
    assert burst.verdicts.count(1) >= 5
    assert spread.verdicts.count(1) == 0


def test_kernel_is_compiled_once():
    assert rewrites.native() is rewrites.native()
