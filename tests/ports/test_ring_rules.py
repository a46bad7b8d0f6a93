"""A ring used wrongly: the error names the ring and the value, nothing else is harmed, and the ring recovers."""

from __future__ import annotations

import numpy as np
import pytest

import raceway
from raceway.memory.layout import INDIRECT, MORE_FRAGMENTS


def whole(port: raceway.Port, lost: int = 0) -> bool:
    """Does every buffer of the port's region stand in exactly one place, but for `lost` that stand in none?"""
    held = np.concatenate(port.region.inventory()).tolist()
    everything = set(range(1, port.region.allocated_buffers + 1))
    return len(held) == len(set(held)) and set(held) <= everything and len(everything) - len(held) == lost


@pytest.fixture
def ends(pipe_name):
    with (
        raceway.open(pipe_name + "{1", slots=16, extra_buffers=4) as a,
        raceway.open(pipe_name + "}1") as b,
    ):
        yield a, b


def works(a, b) -> bool:
    a.send([b"still", b"works"], timeout=1)
    return b.receive(timeout=1).to_bytes() == [b"still", b"works"]


def test_a_new_pipe_owns_all_but_one_slot_to_send_and_none_to_receive(ends):
    a, b = ends
    assert (a.tx[0].head, a.tx[0].cur, a.tx[0].tail, a.tx[0].space) == (0, 0, 15, 15)
    assert (b.rx[0].head, b.rx[0].cur, b.rx[0].tail, b.rx[0].space) == (0, 0, 0, 0)


@pytest.mark.parametrize("head", [16, 15 + 1, -1, 1 << 40, -(1 << 62)])
def test_a_head_outside_the_ring_is_an_error_that_names_ring_and_value(ends, head):
    a, b = ends
    a.tx[0].head = head
    with pytest.raises(raceway.RingError, match=rf"tx ring 0: head {head} is not within") as caught:
        a.sync()
    assert caught.value.value == head
    assert a.name in str(caught.value)
    assert (a.tx[0].head, a.tx[0].tail) == (0, 15)
    assert works(a, b)


def test_a_head_behind_the_last_one_or_past_the_tail_is_an_error(ends):
    a, b = ends
    a.send([b"x"] * 5)
    a.tx[0].head = a.tx[0].cur = 3
    with pytest.raises(raceway.RingError, match="head 3"):
        a.sync()
    assert a.tx[0].head == 5
    b.rx[0].head = b.rx[0].cur = 6
    with pytest.raises(raceway.RingError, match="rx ring 0: head 6"):
        b.sync()
    assert b.receive(timeout=1).to_bytes() == [b"x"] * 5
    assert works(a, b)


@pytest.mark.parametrize("cur", [16, -1, 2])
def test_a_cur_outside_head_to_tail_is_an_error(ends, cur):
    a, b = ends
    ring = a.tx[0]
    ring.slots["length"][:3] = 1
    ring.head, ring.cur = 3, cur
    with pytest.raises(raceway.RingError, match=rf"cur {cur} is not within"):
        a.sync()
    assert (ring.head, ring.cur) == (0, 0)
    assert works(a, b)


def test_cur_ahead_of_head_keeps_the_slots_between_them(ends):
    a, b = ends
    a.send([b"one", b"two"])
    b.rxsync()
    ring = b.rx[0]
    ring.cur = 2
    b.rxsync()
    assert (ring.head, ring.cur, ring.tail) == (0, 2, 2)
    assert bytes(ring.packet(0)) == b"one"


def test_an_overwritten_tail_is_an_error_and_is_put_back(ends):
    a, b = ends
    a.tx[0]._record["tail"] = 9
    with pytest.raises(raceway.RingError, match="tail was overwritten with 9"):
        a.sync()
    assert a.tx[0].tail == 15
    assert works(a, b)


@pytest.mark.parametrize("buffer", [0, -1, 99_999, 2**31 - 1, -(2**31)])
def test_a_bad_buffer_index_is_an_error_and_no_buffer_is_lost(ends, buffer):
    a, b = ends
    a.tx[0].slots["buffer"][2] = buffer
    a.tx[0].slots["length"][:3] = 10
    a.tx[0].advance(3)
    with pytest.raises(raceway.RingError, match=rf"slot 2 names buffer {buffer};") as caught:
        a.sync()
    assert caught.value.slot == 2
    # The other end is there: the overwritten index might be in its hand, so the slot has got a fresh buffer.
    assert whole(a, lost=1)
    assert a.tx[0].packets == 0
    assert works(a, b)


def test_a_bad_buffer_index_in_a_receive_ring_is_found_when_the_slot_is_given_back(ends):
    a, b = ends
    a.send([b"x"] * 3)
    b.rxsync()
    b.rx[0].slots["buffer"][1] = 77_777
    b.rx[0].advance(3)
    with pytest.raises(raceway.RingError, match="rx ring 0: slot 1 names buffer 77777"):
        b.sync()
    assert whole(b, lost=1)
    b.rx[0].advance(3)
    b.sync()
    assert works(a, b)


@pytest.mark.parametrize(
    ("length", "offset"), [(2049, 0), (-1, 0), (2048, 1), (1, 2048), (0, -1), (2**31 - 1, 1)]
)
def test_a_length_that_does_not_fit_its_buffer_is_an_error(ends, length, offset):
    a, b = ends
    a.tx[0].slots[0]["length"], a.tx[0].slots[0]["offset"] = length, offset
    a.tx[0].advance(1)
    with pytest.raises(raceway.RingError, match=rf"slot 0 has length {length} at offset {offset}"):
        a.sync()
    a.tx[0].slots[0]["length"], a.tx[0].slots[0]["offset"] = 0, 0
    assert works(a, b)


@pytest.mark.parametrize("flags", [INDIRECT, 0x8000, 0x40 | MORE_FRAGMENTS])
def test_indirect_and_unknown_flags_are_refused(ends, flags):
    a, b = ends
    a.tx[0].slots[0]["flags"] = flags
    a.tx[0].advance(1)
    with pytest.raises(raceway.RingError, match=f"slot 0 has flags {flags:#x}; indirect"):
        a.sync()
    assert works(a, b)


def test_alone_with_a_region_the_very_buffer_that_was_overwritten_comes_back(pipe_name):
    with raceway.open(pipe_name + "{1", slots=16) as a:
        before = a.tx[0].slots["buffer"].tolist()
        a.tx[0].slots["buffer"][3] = 4_000_000
        a.tx[0].advance(5)
        with pytest.raises(raceway.RingError, match="names buffer 4000000"):
            a.sync()
        assert a.tx[0].slots["buffer"].tolist() == before


def test_an_error_in_one_ring_leaves_the_other_rings_working(pipe_name):
    with (
        raceway.open(pipe_name + "{1", slots=8, rings=3) as a,
        raceway.open(pipe_name + "}1") as b,
    ):
        assert len(a.tx) == len(b.rx) == 3
        for ring in a.tx:
            ring.slots["length"][0] = 7
            ring.advance(1)
        a.tx[1].head = 100
        with pytest.raises(raceway.RingError, match="tx ring 1"):
            a.sync()
        b.sync()
        assert [ring.space for ring in b.rx] == [1, 0, 1]


@pytest.mark.parametrize("slots", [2, 3, 7, 64, 1000])
def test_rings_of_any_size_from_two_carry_everything_in_order(pipe_name, slots):
    with raceway.open(pipe_name + "{1", slots=slots) as a, raceway.open(pipe_name + "}1") as b:
        sent, got = 0, []
        while sent < 3 * slots + 5:
            sent += a.send([b"%d" % number for number in range(sent, sent + slots)], timeout=0)
            got += b.receive(timeout=0).to_bytes()
        got += b.receive(timeout=0).to_bytes()
        assert got == [b"%d" % number for number in range(sent)]


@pytest.mark.parametrize("size", [64, 128, 2048, 65_536])
def test_buffers_of_every_size_carry_packets_that_fill_them(pipe_name, size):
    with raceway.open(pipe_name + "{1", slots=8, buffer_size=size) as a, raceway.open(pipe_name + "}1") as b:
        frames = [bytes([number]) * (size - number) for number in range(3)]
        a.send(frames)
        assert b.receive(timeout=1).to_bytes() == frames


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 1}, "ring of 1 slots: expected 2 to"),
        ({"slots": 1 << 21}, "ring of 2097152 slots"),
        ({"buffer_size": 63}, "buffer size 63"),
        ({"buffer_size": 65_537}, "buffer size 65537"),
        ({"buffer_size": 100}, "a multiple of 64"),
        ({"rings": 65}, "65 rings: expected 0 to 64"),
        ({"extra_buffers": -1}, "-1 extra buffers"),
    ],
)
def test_impossible_numbers_are_refused_with_the_range_that_is_possible(pipe_name, options, message):
    with pytest.raises(ValueError, match=message):
        raceway.open(pipe_name + "{1", **options)


def test_a_packet_longer_than_a_buffer_takes_several_slots_and_comes_out_whole(ends):
    a, b = ends
    long = bytes(range(256)) * 20
    a.send([b"before", long, b"after"])
    batch = b.receive(timeout=1)
    assert batch.to_bytes() == [b"before", long, b"after"]
    assert batch.lengths.tolist() == [6, 5120, 5]
    assert batch.head(4).tolist() == [list(b"befo"), [0, 1, 2, 3], list(b"afte")]
    assert (b.rx[0].packets, b.rx[0].bytes) == (3, 5131)
    assert a.tx[0].packets == 3


def test_a_packet_longer_than_the_ring_is_refused_before_anything_is_sent(ends):
    a, b = ends
    with pytest.raises(ValueError, match=r"packet 1 has 30721 bytes; a whole ring of .* holds 30720"):
        a.send([b"x", bytes(15 * 2048 + 1)])
    assert len(b.receive(timeout=0)) == 0


def test_extra_buffers_are_swapped_with_slots_and_nothing_is_lost(ends):
    a, b = ends
    assert len(a.extra_buffers) == 4
    a.region.buffer(int(a.extra_buffers[0]))[:5] = b"extra"
    slot = a.tx[0].slots[0]
    a.extra_buffers[0], slot["buffer"] = int(slot["buffer"]), int(a.extra_buffers[0])
    slot["length"], slot["flags"] = 5, raceway_buffer_changed()
    a.tx[0].advance(1)
    a.sync()
    assert b.receive(timeout=1).to_bytes() == [b"extra"]
    assert whole(a)


def raceway_buffer_changed() -> int:
    from raceway.memory.layout import BUFFER_CHANGED

    return BUFFER_CHANGED


def test_null_swallows_everything_and_supplies_for_ever():
    with raceway.open("null:", slots=8) as port:
        assert port.send([b"x" * 100] * 1000) == 1000
        assert port.counters()["tx_packets"] == 1000
        seen = 0
        for batch in port:
            seen += len(batch)
            assert set(batch.lengths.tolist()) == {60}
            if seen > 100:
                break
        assert batch[0].ipv4.protocol == 17


def test_one_ring_pair_or_one_direction_can_be_chosen_by_the_name(pipe_name):
    with raceway.open(pipe_name + "{1@conf:rings=3,slots=32") as a:
        assert len(a.tx) == 3
        with raceway.open(pipe_name + "}1-2/R") as b:
            assert [ring.number for ring in b.rx] == [2]
            assert b.tx == ()
            a.send([b"to two"], ring=2)
            assert b.receive(timeout=1).to_bytes() == [b"to two"]
            with pytest.raises(raceway.RacewayError, match="only receives"):
                b.send([b"x"])
    with pytest.raises(ValueError, match="there is no ring 9"):
        raceway.open(pipe_name + "{1-9")


def test_names_whose_kind_is_not_built_yet_say_so():
    for name in ("vale0:a", "vale0:a^"):
        with pytest.raises(raceway.NotBuiltYetError, match="the name is right"):
            raceway.open(name)


def test_unknown_options_and_values_are_named():
    with pytest.raises(ValueError, match="xdp"):
        raceway.open("null:@xdp:mode=driver")
    with pytest.raises(ValueError, match="slots"):
        raceway.open("null:@conf:slots=many")


def test_what_is_no_packet_is_refused_and_nothing_is_sent(ends):
    a, b = ends
    for wrong in (5, "text", None, 1.5, [1, 2]):
        with pytest.raises(TypeError, match="packet 1 is"):
            a.send([b"x", wrong])
    assert len(b.receive(timeout=0)) == 0


def test_a_batch_that_was_given_back_refuses_to_be_read(ends):
    a, b = ends
    a.send([b"first", b"second"])
    old = b.receive(timeout=1, limit=1)
    packet = old[0]
    assert bytes(packet) == b"first"
    b.receive(timeout=1)
    with pytest.raises(ValueError, match="given back"):
        len(old.lengths)
    with pytest.raises(ValueError, match="released"):
        bytes(packet)


def test_a_closed_port_says_so(pipe_name):
    port = raceway.open(pipe_name + "{1")
    port.close()
    port.close()
    for use in (port.sync, port.fileno, lambda: port.send([b"x"]), port.receive):
        with pytest.raises(ValueError, match="the port is closed"):
            use()


def test_two_ports_of_one_memory_identifier_share_a_region(pipe_name):
    with (
        raceway.open(pipe_name + "x{1@7") as null,
        raceway.open(pipe_name + "{1@7") as pipe,
        raceway.open(pipe_name + "y{1@8") as other,
    ):
        assert null.region is pipe.region
        assert other.region is not null.region
        assert whole(null)


@pytest.mark.parametrize(
    ("field", "value"), [("buffer", 0), ("buffer", 1 << 30), ("length", 2049), ("offset", -5)]
)
def test_a_slot_that_a_broken_peer_spoils_after_its_check_is_found_when_it_arrives(ends, field, value):
    a, b = ends
    a.send([b"one", b"two", b"three"])
    a.tx[0].slots[field][1] = value
    with pytest.raises(raceway.RingError, match="among the 3 slots from 0 on that the other end published"):
        b.sync()
    assert (b.rx[0].packets, b.rx[0].space) == (0, 0)


def test_what_the_regions_header_says_is_not_believed_beyond_the_mapping(ends):
    a, _ = ends
    a.region.header["buffers_next"] = 1 << 40
    a.tx[0].slots["buffer"][0] = a.region.end_of_buffers
    a.tx[0].slots["length"][0] = 1
    a.tx[0].advance(1)
    with pytest.raises(raceway.RingError, match="names buffer"):
        a.sync()
