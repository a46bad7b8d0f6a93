"""Packet functions that hypothesis generates: interpreted = native = kernel, for each of them over many packets.

Some 650 packets a function, because compiling one for all targets takes three seconds: ten thousand pairs of function
and packet a run. `soak_functions`, which script/soak runs, goes on for as long as one likes.
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


# Of what hypothesis has found: LLVM leaves a function in the program that nobody calls any more.
NOBODY_CALLS = """
def helper0(packet, a, b):
    for i1 in range(3):
        a = (min((min(packet.load16_little(1), a) % abs(a)), (a << (0 & 15)))) & 0xFFFFFFFF
        a = (
            ((len(packet) | len(packet)) >> ((40 << (i1 & 15)) & 31))
            // int(
                (
                    (packet.load32(i1 & 127) if ((b >> (2 & 31)) == len(packet) >= len(packet)) else b)
                    == (len(packet) * i1)
                )
            )
        ) & 0xFFFFFFFF
    if bool(packet.ipv4) and packet.ipv4.source == "192.168.7.9":
        return ((len(packet) % packet.payload_offset) // (packet.load8(b & 127) << (0 & 15))) & 0xFFFFFFFF
    return (abs(a)) & 0xFFFFFFFF


@raceway.packet_function
def generated(packet):
    v0 = (
        (
            (len(packet) << (-2 & 15))
            * int((helper0(packet, (16) & 0xFFFF, (3) & 0xFFFF) <= packet.icmp.type >= packet.icmp.code))
        )
        | ((packet.icmp.code | packet.load32(13)) // int((packet.ipv6.next_header == packet.vlan.ethertype)))
    ) & 0xFFFFFFFF
    v1 = (
        abs(v0)
        if (not (bool(packet.icmp) or (bool(packet.ipv4) and packet.ipv4.more_fragments)))
        else (len(packet) << (packet.network_offset & 15))
    ) & 0xFFFFFFFF
    v0 = (v1 << (1 & 15)) & 0xFFFFFFFF
    v1 = (
        v0
        % helper0(
            packet,
            (helper0(packet, (65535) & 0xFFFF, (v1) & 0xFFFF)) & 0xFFFF,
            (packet.arp.operation // packet.ethertype) & 0xFFFF,
        )
    ) & 0xFFFFFFFF
    return (
        (packet.tcp.flags * len(packet)) if bool(packet.icmpv6) else (packet.ring >> (packet.load8(1) & 31))
    ) % 5
"""


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


def test_code_that_no_way_leads_to_does_not_get_to_the_verifier():
    function, states = function_generator.make(function_generator.HEAD + NOBODY_CALLS)
    assert_same_on_three_targets(function, packets()[:40], *states)
