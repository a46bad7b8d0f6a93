"""Interpreted = native = kernel: verdict, bytes, failures and state, for every packet function and packet at hand."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import raceway
from labs import needs_root
from packet_cases import TIME, captured_packets, contents, made_packets, needs_native, truncated_packets
from test_both_worlds import mutated
from worlds import FUNCTIONS

pytestmark = [pytest.mark.skipif(bool(needs_native), reason=needs_native or "-"), needs_root]
all_functions = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.name)
SHORTEST, LONGEST = 14, 3_000


def seen_by_xdp(packets) -> list[bytes]:
    """Those that XDP can see: it has no packet that is shorter than an Ethernet header."""
    return [one for one in packets if SHORTEST <= len(one) <= LONGEST]


@cache
def sampled_captures() -> list[bytes]:
    """Every seventh of the captured packets: running all of them in the kernel takes minutes for all functions."""
    return seen_by_xdp(captured_packets())[::7]


def assert_same_on_three_targets(function, packets, *states, times=0):
    """Run a packet function on all targets, and compare all that can be seen."""
    outcomes = []
    for target in ("interpreted", "native", "kernel"):
        for state in states:
            state.clear()
        made = raceway.simulate(function, packets, target, times=times, port=7, ring=2)
        outcomes.append((made, [contents(state) for state in states]))
    (interpreted, *_), others = outcomes[0], outcomes[1:]
    for name, (other, _) in zip(("native", "kernel"), others, strict=True):
        for index, (mine, found) in enumerate(zip(interpreted.verdicts, other.verdicts, strict=True)):
            assert mine == found, (
                f"packet {index} ({raceway.Packet(packets[index])!r}): {name} {found!r}, interpreted {mine!r}"
            )
        assert interpreted.packets == other.packets, name
        assert interpreted.reasons == other.reasons, name
    assert outcomes[0][1] == outcomes[1][1] == outcomes[2][1]
    return interpreted


@all_functions
def test_made_packets_cut_at_every_length(function):
    packets = seen_by_xdp([*made_packets(), *truncated_packets()])
    times = [TIME + (index // 3) * 400_000 for index in range(len(packets))]
    assert_same_on_three_targets(function, packets, *FUNCTIONS[function], times=times)


@all_functions
def test_captured_packets(function):
    packets = sampled_captures()
    assert len(packets) > 500
    times = [TIME + (index // 3) * 400_000 for index in range(len(packets))]
    assert_same_on_three_targets(function, packets, *FUNCTIONS[function], times=times)


@all_functions
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    packets=st.lists(
        st.one_of(mutated(), st.binary(min_size=SHORTEST, max_size=120)).filter(
            lambda one: len(one) >= SHORTEST
        ),
        min_size=1,
        max_size=30,
    ),
    data=st.data(),
)
def test_mutated_packets(function, packets, data):
    time = st.one_of(st.integers(TIME - 10**9, TIME + 10**9), st.integers(-(1 << 63), (1 << 63) - 1))
    times = data.draw(st.lists(time, min_size=len(packets), max_size=len(packets)))
    assert_same_on_three_targets(function, packets, *FUNCTIONS[function], times=times)


def test_a_packet_that_xdp_never_sees_is_refused():
    with pytest.raises(ValueError, match="never sees fewer than 14"):
        raceway.simulate(next(iter(FUNCTIONS)), [bytes(13)], "kernel")


def test_state_is_one_wherever_the_function_runs():
    from worlds import KINDS, SIZES, counts_kinds

    KINDS.clear()
    SIZES.clear()
    packet = made_packets()[0]
    for count, target in enumerate(("kernel", "native", "interpreted", "kernel"), 1):
        raceway.simulate(counts_kinds, [packet], target)
        assert KINDS["tcp"] == count
    KINDS["tcp"] = 41
    raceway.simulate(counts_kinds, [packet], "kernel")
    assert KINDS["tcp"] == 42
