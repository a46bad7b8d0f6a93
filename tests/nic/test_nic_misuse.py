"""A ring of an interface that is used wrongly: an error or a counted drop, and not one buffer lost."""

from __future__ import annotations

import random

import pytest

from conftest import scaled
from labs import lab as lab, needs_root
from nic_loops import flood, stream, take
from nic_world import collect, frame, open_at, until
from raceway.errors import RingError
from raceway.memory.layout import INDIRECT, MORE_FRAGMENTS

pytestmark = [needs_root, pytest.mark.root]

WAYS = ["@xdp:tx=socket", "@xdp:tx=live", ""]


@pytest.fixture(params=WAYS)
def ends(request, lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a", request.param, slots=64) as one, open_at(wire, "b", slots=256) as other:
        yield one, other


def put(ring, lengths, flags=0):
    """Fill slots from head on with numbered frames of these lengths, and hand them over."""
    for number, length in enumerate(lengths):
        index = (ring.head + number) % ring.size
        ring.buffer(index)[: min(length, 2048)] = frame(number, min(length, 2048))
        ring.slots[index]["length"], ring.slots[index]["offset"], ring.slots[index]["flags"] = (
            length,
            0,
            flags,
        )
    ring.advance(len(lengths))


def whole(one, other, count=100_000):
    """As on the first day: all slots are the user's again, each with a buffer of its own, and all arrives."""
    one.flush()
    ring = one.tx[0]
    assert until(lambda: one.txsync() or ring.space == ring.size - 1), f"{ring.space} slots of {ring.size}"
    buffers = [int(ring.slots["buffer"][(ring.head + step) % ring.size]) for step in range(ring.space)]
    assert len(set(buffers)) == len(buffers)
    assert min(buffers) >= 1
    other.receive(0)
    sending = stream(one, transmit=True, count=0)
    receiving = stream(other, transmit=False)
    flood.prepare()
    take.prepare()
    before = sum(other.drops().values())
    count = scaled(count, 500)
    for _ in range(0, count, 100):
        sending["count"] = 100
        assert flood(sending.ctypes.data) == 0
        assert until(
            lambda: take(receiving.ctypes.data) >= 0 and receiving["received"][0] == sending["next"][0]
        ), f"{sending['next'][0]} sent, {receiving['received'][0]} came"
    assert (int(receiving["spoilt"][0]), int(receiving["lost"][0]), int(receiving["backwards"][0])) == (
        0,
        0,
        0,
    )
    assert sum(other.drops().values()) == before


def test_wrong_indexes_are_errors_and_the_ring_is_as_before(ends):
    one, other = ends
    ring = one.tx[0]
    for head, cur, tail in (
        (-1, 0, None),
        (64, 64, None),
        (1 << 40, 0, None),
        (5, 2, None),
        (0, 70, None),
        (0, 0, 5),
    ):
        start = ring.head
        ring.head, ring.cur = start + head if abs(head) < 64 else head, start + cur
        if tail is not None:
            ring._record["tail"] = tail
        with pytest.raises(RingError, match="tx ring 0"):
            one.txsync()
        assert (ring.head, ring.cur) == (start, start)
    ring = other.rx[0]
    for head in (-1, 300, ring.tail + 1):
        ring.head = ring.cur = head
        with pytest.raises(RingError, match="rx ring 0"):
            other.rxsync()
    assert int(one.tx[0]._record["errors"]) == 6
    whole(one, other, 3000)


def test_buffers_that_are_none_are_errors_and_replaced(ends):
    one, other = ends
    ring = one.tx[0]
    for wrong in (0, -1, 1 << 20, 1 << 30, None):
        buffer = one.region.allocated_buffers + 1 if wrong is None else wrong
        put(ring, [60, 60, 60])
        ring.slots[(ring.head - 2) % ring.size]["buffer"] = buffer
        with pytest.raises(RingError, match=f"names buffer {buffer}"):
            one.txsync()
    rx = other.rx[0]
    one.send([frame(number) for number in range(10)])
    assert until(lambda: other.rxsync() or rx.space == 10)
    rx.slots[rx.head]["buffer"] = 1 << 28
    rx.advance(1)
    with pytest.raises(RingError, match="rx ring 0: slot"):
        other.rxsync()
    other.receive(1)
    assert other.drops() == {}
    whole(one, other, 3000)


def test_lengths_and_offsets_outside_of_a_buffer_are_errors(ends):
    one, other = ends
    ring = one.tx[0]
    for length, offset in (
        (2049, 0),
        (-1, 0),
        (60, 2000),
        (60, -1),
        (1 << 30, 0),
        (2048, 1),
        (-(1 << 31), 0),
    ):
        put(ring, [60])
        ring.slots[(ring.head - 1) % ring.size]["length"] = length
        ring.slots[(ring.head - 1) % ring.size]["offset"] = offset
        with pytest.raises(RingError, match="length"):
            one.txsync()
    for flags in (INDIRECT, 0x4000, -1):
        put(ring, [60], flags)
        with pytest.raises(RingError, match="flags"):
            one.txsync()
    whole(one, other, 3000)


def test_packets_that_no_device_sends_are_counted_and_their_buffers_come_back(ends):
    """Far more of them than there are buffers."""
    one, other = ends
    ring = one.tx[0]
    rounds = scaled(60, 8)
    for _ in range(rounds):
        assert until(lambda: one.txsync() or ring.space >= 8)
        put(ring, [0, 1, 13, 1519, 2048, 14, 60, 1518])
        one.txsync()
    one.flush()
    assert until(lambda: one.drops() == {"empty": 3 * rounds, "too_long": 2 * rounds}), one.drops()
    came = collect(other, 3 * rounds, kind=b"")
    assert sorted({len(packet) for packet in came}) == [14, 60, 1518]
    assert len(came) == 3 * rounds
    assert one.drops() == {"empty": 3 * rounds, "too_long": 2 * rounds}
    assert one.sockets[0].statistics()["tx_invalid_descs"] == 0
    whole(one, other)


def test_chains_that_no_device_sends_are_counted_once_each(ends):
    one, other = ends
    ring = one.tx[0]
    rounds = scaled(60, 8)
    for _ in range(rounds):
        assert until(lambda: one.txsync() or ring.space >= 26)
        # A part of no bytes; one of more than 17 parts; one that is longer than the MTU.
        for lengths in ([60, 0, 60], [60] * 20, [1500, 1500]):
            put(ring, lengths, MORE_FRAGMENTS)
            ring.slots[(ring.head - 1) % ring.size]["flags"] = 0
        put(ring, [60])
        one.txsync()
    one.flush()
    came = collect(other, rounds)
    assert [len(packet) for packet in came if len(packet) == 60] == [60] * rounds
    dropped = one.drops()
    # By live frames a packet of many parts is one of many bytes, and one part may be empty.
    assert sum(dropped.values()) + len(came) + other.rx[0].packets - len(came) == 4 * rounds
    assert dropped["too_long"] >= rounds
    whole(one, other)


def test_a_chain_without_an_end_waits_for_it(ends):
    one, other = ends
    ring = one.tx[0]
    put(ring, [60, 100], MORE_FRAGMENTS)
    one.txsync()
    assert len(other.receive(0.02)) == 0
    put(ring, [14])
    one.send([frame(9)])
    came = collect(other, 2)
    assert [len(packet) for packet in came] == [174, 60]
    assert one.drops() == {}
    whole(one, other, 3000)


def test_a_chain_that_fills_the_ring_and_has_no_end_is_dropped_and_not_waited_for(ends):
    one, other = ends
    ring = one.tx[0]
    put(ring, [100] * (ring.size - 1), MORE_FRAGMENTS)
    one.txsync()
    assert until(lambda: one.txsync() or ring.space == ring.size - 1)
    assert sum(one.drops().values()) == 1
    whole(one, other, 3000)


def test_the_same_buffer_in_many_slots_is_the_senders_own_fault_and_harms_no_one(ends):
    """A buffer in two slots is in two slots afterwards: what is sent from it may be either, and nothing breaks."""
    one, other = ends
    ring = one.tx[0]
    kept = ring.slots["buffer"].copy()
    put(ring, [60] * 10)
    ring.slots["buffer"][: ring.size] = kept[0]
    one.txsync()
    one.flush()
    came = collect(other, 10)
    assert [len(packet) for packet in came] == [60] * 10
    assert until(lambda: one.txsync() or ring.space == ring.size - 1)
    # Put right by who did it.
    for step in range(ring.size):
        ring.slots["buffer"][(ring.head + step) % ring.size] = kept[step]
    whole(one, other, 3000)


def test_random_abuse(lab):
    """Whatever is done to the records that a user can reach: an error or a drop, and it works again afterwards."""
    wire = lab(ipv6=False)
    dice = random.Random(7)
    with open_at(wire, "a", "@xdp:tx=socket", slots=32) as one, open_at(wire, "b", slots=256) as other:
        errors = 0
        for _ in range(scaled(3000, 100)):
            ring = dice.choice((one.tx[0], one.rx[0]))
            field = dice.choice(("head", "cur", "tail", "length", "offset", "flags", "buffer", "nothing"))
            value = dice.choice(
                (-1, 0, 1, 31, 32, 33, 64, 2047, 2048, 2049, 1 << 20, -(1 << 31), dice.randint(-99, 4096))
            )
            if field in ("head", "cur"):
                setattr(ring, field, value)
            elif field == "tail":
                ring._record["tail"] = value
            elif field != "nothing":
                ring.slots[dice.randrange(ring.size)][field] = value
            if ring.transmit and ring.space and dice.random() < 0.7:
                ring.advance(dice.randint(0, ring.space))
            try:
                (one.txsync if ring.transmit else one.rxsync)()
            except RingError:
                errors += 1
            other.receive(0)
        assert errors > scaled(100, 5)
        # Whoever has spoilt a slot that was not his to fill mends it himself: here by a new port.
    with open_at(wire, "a", "@xdp:tx=socket", slots=64) as one, open_at(wire, "b", slots=256) as other:
        whole(one, other, 3000)
