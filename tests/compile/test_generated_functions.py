"""Packet functions that hypothesis generates: interpreted = native = kernel, for each of them over many packets.

Some 650 packets a function, because compiling one for all targets takes three seconds: ten thousand pairs of function
and packet a run, and a million with RACEWAY_SOAK_ROUNDS=500.
"""

from __future__ import annotations

import os
from functools import cache

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

import function_generator
from labs import needs_root
from packet_cases import TIME, made_packets, needs_native, truncated_packets
from test_three_targets import assert_same_on_three_targets, seen_by_xdp

pytestmark = [pytest.mark.skipif(bool(needs_native), reason=needs_native or "-"), needs_root]
PACKETS = 650
FUNCTIONS = 16 * max(int(os.environ.get("RACEWAY_SOAK_ROUNDS", "0")) // 5, 1)


@cache
def packets() -> tuple[bytes, ...]:
    whole, cut = seen_by_xdp(made_packets()), seen_by_xdp(truncated_packets())
    step = len(cut) // (PACKETS - len(whole))
    return (*whole, *cut[::step])


@settings(
    # The same ones every time, but for a soak: so that a run takes as long as the last.
    max_examples=FUNCTIONS, derandomize=FUNCTIONS == 16, deadline=None, database=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
@given(chance=st.randoms(use_true_random=False), start=st.integers(0, PACKETS))
def test_generated_functions(chance, start):
    text = function_generator.source(chance)
    function, states = function_generator.make(text)
    assert len(packets()) * FUNCTIONS >= 10_000
    given_packets = [*packets()[start:], *packets()[:start]]
    times = [TIME + index * 300_000 for index in range(len(given_packets))]
    try:
        assert_same_on_three_targets(function, given_packets, *states, times=times)
    except AssertionError:
        print(text)
        raise
