"""Growing and shrinking a packet's head: limits at their edges, views, buffers without room, programs of many moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from moving_worlds import MOVED, every_size, grows_until_none, push

import raceway
from labs import needs_root
from packet_cases import made_packets, needs_native
from raceway import DROP, PASS, TX
from raceway.compile.head import HEADROOM
from raceway.memory.layout import METADATA, SLOT, Batch
from raceway.memory.structures import allocate
from test_three_targets import assert_same_on_three_targets, seen_by_xdp

compiled = pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")
ETHERNET = bytes(range(1, 13)) + b"\x12\x34"
HUGE = 1 << 62


def packet_of(size: int) -> raceway.Packet:
    return raceway.Packet((ETHERNET + bytes(range(256)) * 6)[:size])


# -- interpreted: what Python says it is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "size", "answer"),
    [
        (60, 0, True), (60, 1, True), (60, 127, True), (60, 128, True), (60, 129, False), (60, -1, False),
        (60, HUGE, False), (60, -HUGE, False), (60, (1 << 63) - 1, False), (14, 128, True), (0, 13, False),
        (0, 14, True), (13, 0, False), (13, 1, True),
    ],
)  # fmt: skip
def test_growing_at_the_edges(length, size, answer):
    packet = packet_of(length)
    before = bytes(packet)
    assert packet.grow_head(size) is answer
    assert bytes(packet) == (bytes(size) + before if answer else before)
    assert len(packet) == len(bytes(packet))


@pytest.mark.parametrize(
    ("length", "size", "answer"),
    [
        (60, 0, True), (60, 1, True), (60, 46, True), (60, 47, False), (60, 60, False), (60, -1, False),
        (60, HUGE, False), (60, -HUGE, False), (14, 0, True), (14, 1, False), (13, 0, False), (1500, 1486, True),
    ],
)  # fmt: skip
def test_shrinking_at_the_edges(length, size, answer):
    packet = packet_of(length)
    before = bytes(packet)
    assert packet.shrink_head(size) is answer
    assert bytes(packet) == (before[size:] if answer else before)


def test_room_is_counted_from_where_the_packet_began():
    packet = packet_of(60)
    assert packet.shrink_head(40)
    assert packet.grow_head(HEADROOM + 40)
    assert not packet.grow_head(1)
    assert packet.shrink_head(3)
    assert not packet.grow_head(4)
    assert packet.grow_head(3)
    assert bytes(packet) == bytes(HEADROOM + 40) + bytes(packet_of(60))[40:]


def test_views_stay_with_their_bytes():
    packet = raceway.Packet(made_packets()[0])
    ip, ethernet = packet.ipv4, packet.ethernet
    ttl = ip.ttl
    assert packet.grow_head(18)
    assert (ip.offset, ethernet.offset, ip.ttl) == (32, 18, ttl)
    ip.ttl = 9
    assert packet.load8(32 + 8) == 9
    assert not packet.ipv4
    assert packet.ethernet.offset == 0
    assert packet.shrink_head(20)
    assert ip.offset == 12
    assert not ethernet
    with pytest.raises(IndexError):
        _ = ethernet.destination
    # What of a header is still there is still read.
    assert ethernet.ethertype == 0x0800
    assert packet.grow_head(2)
    assert ethernet
    assert ethernet.destination == "00:00:00:00:00:02"
    assert not packet.arp
    assert packet.arp.offset < -(1 << 19)


def test_a_helper_moves_its_callers_packet():
    packet = raceway.Packet(made_packets()[0])
    assert push(packet, 5)
    assert packet.vlan.identifier == 5
    assert packet.tcp


def test_a_packet_that_has_grown_no_longer_lies_in_the_memory_that_it_came_from():
    memory = bytearray(made_packets()[0])
    packet = raceway.Packet(memory)
    assert packet.shrink_head(2)
    packet.store8(0, 0xEE)
    assert memory[2] == 0xEE
    assert packet.grow_head(1)
    packet.store8(1, 0xDD)
    assert memory[2] == 0xEE
    assert bytes(packet)[:2] == b"\x00\xdd"


# -- the same on three targets ----------------------------------------------------------------------------------


def lengths() -> list[bytes]:
    return [bytes(packet_of(size)) for size in (14, 15, 27, 28, 54, 60, 141, 142, 143, 500, 1400)]


@compiled
@needs_root
@pytest.mark.parametrize("function", [every_size, grows_until_none], ids=lambda one: one.name)
def test_every_limit_is_the_same_on_every_target(function):
    packets = [*lengths(), *seen_by_xdp(made_packets())]
    made = assert_same_on_three_targets(function, packets, MOVED)
    assert set(made.verdicts) == {PASS}
    assert not any(made.reasons.values())


PROGRAM = raceway.Counters(40)
SAID = raceway.HashTable(64)


@raceway.packet_function
def runs_a_program(packet):
    """Does what the words of PROGRAM say, two words a step: any sequence of moves, loads, stores, setters, views."""
    ethernet, ip = packet.ethernet, packet.ipv4
    said = 0
    for i in range(0, 40, 2):
        what, number = PROGRAM[i], PROGRAM[i + 1]
        if what == 0:
            break
        if what == 1:
            said = said * 2 + int(packet.grow_head(number))
        elif what == 2:
            said = said * 2 + int(packet.shrink_head(number))
        elif what == 3:
            said += packet.load16(number & 63)
        elif what == 4:
            packet.store32(number & 63, number)
        elif what == 5 and ip:
            ip.ttl = number
        elif what == 6 and ethernet:
            said += ethernet.source & 0xFFFF
        elif what == 7:
            said += packet.network_offset + ip.offset * 3 + ethernet.offset * 5
        elif what == 8:
            said += len(packet)
        said &= 0xFFFFFFFF
    SAID.put(SAID.get(0, 0) + 1, said)
    SAID.add(0)
    return (DROP, PASS, TX)[said % 3]


sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from((0, 13, 14, 127, 128, 129, -1, HUGE, -(1 << 63), (1 << 63) - 1)),
    st.integers(-300, 300),
)
step = st.one_of(
    st.tuples(st.sampled_from((1, 2)), sizes),
    st.tuples(st.integers(3, 8), st.integers(0, 255)),
)


@compiled
@needs_root
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(step, max_size=20), chosen=st.lists(st.integers(0, 1 << 16), min_size=1, max_size=6))
def test_any_sequence_of_moves_is_the_same_on_every_target(steps, chosen):
    PROGRAM.clear()
    for index, (what, number) in enumerate(steps):
        PROGRAM[2 * index], PROGRAM[2 * index + 1] = what, number
    packets = [*seen_by_xdp(made_packets()), *lengths()]
    assert_same_on_three_targets(runs_a_program, [packets[one % len(packets)] for one in chosen], SAID)


@compiled
def test_it_can_be_explained():
    shown = raceway.explain(runs_a_program)
    assert "call 44" in shown.ebpf


# -- in a ring's buffer -----------------------------------------------------------------------------------------


@raceway.packet_function
def grows(packet):
    if packet.grow_head(packet.load8(0)):
        return PASS
    return DROP


@raceway.packet_function
def grows_and_fails(packet):
    packet.grow_head(8)
    return packet.load8(2000)


def in_buffer(function, data, offset, size, *, interpreted, wire=0):
    """Run a batch kernel on one packet in a buffer of `size` bytes: verdict, bytes, offset, length on the wire."""
    buffers = np.full((4, size), 0xA5, np.uint8)
    buffers[2, offset : offset + len(data)] = np.frombuffer(data, np.uint8)
    slots, metadata, verdicts = np.zeros(2, SLOT), np.zeros(2, METADATA), np.zeros(2, np.uint8)
    slots[1] = (2, len(data), offset, 0)
    metadata[1]["wire_length"] = wire
    batch = allocate(Batch)
    fields = {
        "slots": slots.ctypes.data, "buffers": buffers.ctypes.data, "buffer_size": size, "slot_count": 2, "first": 1,
        "count": 1, "verdicts": verdicts.ctypes.data, "metadata": metadata.ctypes.data,
    }  # fmt: skip
    for name, value in fields.items():
        batch[name] = value
    kernel = function.interpreted() if interpreted else function.native()
    assert kernel(batch.ctypes.data) == 1
    assert (np.delete(buffers, 2, axis=0) == 0xA5).all(), "wrote into another's buffer"
    start, length = int(slots[1]["offset"]), int(slots[1]["length"])
    return verdicts[0], buffers[2, start : start + length].tobytes(), start, int(metadata[1]["wire_length"])


worlds = pytest.mark.parametrize("interpreted", [True, False], ids=["interpreted", "native"])


@worlds
@pytest.mark.parametrize(
    ("by", "offset", "behind", "answer", "then"),
    [
        (20, 256, 0, PASS, 236),  # an interface's buffer: room before
        (20, 20, 0, PASS, 0),
        (20, 19, 1, PASS, 0),  # moved up by the byte that was missing
        (20, 19, 0, DROP, 19),
        (20, 0, 20, PASS, 0),  # as from a file
        (20, 0, 19, DROP, 0),
        (128, 0, 128, PASS, 0),
        (129, 256, 256, DROP, 256),
        (1, 0, 0, DROP, 0),  # a full buffer
        (0, 0, 0, PASS, 0),
    ],
)
def test_growing_in_a_buffer(interpreted, by, offset, behind, answer, then):
    data = bytes([by]) + bytes(packet_of(60))[1:]
    verdict, after, start, _ = in_buffer(
        grows, data, offset, offset + len(data) + behind, interpreted=interpreted
    )
    assert verdict == answer
    assert after == (bytes(by) + data if answer == PASS else data)
    assert start == then


@worlds
def test_the_length_on_the_wire_follows(interpreted):
    data = bytes([20]) + bytes(packet_of(60))[1:]
    assert in_buffer(grows, data, 64, 256, interpreted=interpreted, wire=90)[3] == 110
    # 0 says "as long as it is".
    assert in_buffer(grows, data, 64, 256, interpreted=interpreted, wire=0)[3] == 0


@worlds
def test_what_was_grown_before_a_failure_stays(interpreted):
    data = bytes(packet_of(60))
    verdict, after, start, _ = in_buffer(grows_and_fails, data, 64, 256, interpreted=interpreted)
    assert (verdict, after, start) == (0, bytes(8) + data, 56)
