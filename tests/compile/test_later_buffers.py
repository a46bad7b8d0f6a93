"""Packets in several buffers, in the kernel: their length is the whole one, and no byte is read that is not there."""

from __future__ import annotations

import pytest

import raceway
from labs import needs_root
from packet_cases import needs_native
from raceway import ABORTED, DROP, PASS

pytestmark = [pytest.mark.skipif(bool(needs_native), reason=needs_native or "-"), needs_root]

LENGTHS = raceway.Counters("last", "large")
LARGE = raceway.expression("greater 3000")


@raceway.packet_function
def measures(packet):
    LENGTHS["last"] = len(packet)
    if packet.ethertype == 0x88B5:
        return DROP if packet.load8(len(packet) - 1) == 7 else PASS
    if packet.ipv4 and packet.ipv4.ttl == 9:
        packet.ipv4.ttl = 8
        return DROP
    return PASS


def frame(length: int, kind: str = "88b5") -> bytes:
    head = bytes.fromhex("020000000002020000000001" + kind)
    return head + bytes(length - 15) + b"\x07"


@pytest.mark.parametrize("length", [60, 1514, 3000, 3300, 3600, 4096, 9014, 65000])
def test_the_length_is_the_whole_packets(length):
    made = raceway.simulate(measures, [frame(length, "1234")], "kernel")
    assert (made.verdicts, LENGTHS["last"]) == ([PASS], length)
    assert made.packets == [frame(length, "1234")]


def test_a_byte_of_a_later_buffer_is_out_of_bounds_and_counted():
    raceway.simulate(measures, [frame(60)], "kernel")
    before = measures.simulated.counters["later_buffer"]
    made = raceway.simulate(measures, [frame(1514), frame(9014), frame(60)], "kernel")
    assert made.verdicts == [DROP, ABORTED, DROP]
    assert made.reasons["out_of_bounds"] == 1
    assert measures.simulated.counters["later_buffer"] == before + 1
    # One that is too short for what is asked of it is in one buffer.
    made = raceway.simulate(measures, [bytes(14)], "kernel")
    assert measures.simulated.counters["later_buffer"] == before + 1


def test_headers_of_a_packet_in_several_buffers_are_found_and_set():
    head = "020000000002020000000001 0800 4500 2328 0000 4000 0911 0000 0a000001 0a000002 0007 0009 2314 0000"
    packet = bytes.fromhex(head) + bytes(9000 - 28)
    native = raceway.simulate(measures, [packet], "native")
    kernel = raceway.simulate(measures, [packet], "kernel")
    assert (kernel.verdicts, kernel.packets) == (native.verdicts, native.packets)
    assert kernel.verdicts == [DROP]
    assert kernel.packets[0] != packet
