"""Opening with hostile numbers, and every way to be done with a port."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest

import raceway
from conftest import scaled
from labs import lab as lab, needs_root
from nic_world import attached, collect, frame, numbers, open_at, told

pytestmark = [needs_root, pytest.mark.root]


@pytest.fixture
def wire(lab):
    return lab(ipv6=False)


def test_closing_twice_is_closing_once(wire):
    port = open_at(wire, "a")
    port.close()
    port.close()
    assert attached(wire, "a") == []
    calls = [port.sync, port.txsync, port.rxsync, port.flush, port.fileno]
    for call in (*calls, lambda: port.receive(0), lambda: port.send([frame(1)])):
        with pytest.raises(ValueError, match="the port is closed"):
            call()
    assert port.counters() == {"tx_packets": 0, "tx_bytes": 0, "rx_packets": 0, "rx_bytes": 0}
    assert "closed" in repr(port)


@pytest.mark.parametrize("way", ["", "@xdp:tx=live", "@xdp:mode=generic", "@xdp:tx=socket"])
def test_what_was_put_into_the_ring_leaves_when_the_port_is_closed(wire, way):
    """Handed over by head, and never synced."""
    count = scaled(500, 50)
    with open_at(wire, "b") as peer:
        port = open_at(wire, "a", way)
        ring = port.tx[0]
        for number in range(count):
            ring.buffer(ring.head + number)[:60] = frame(number)
            ring.slots["length"][ring.head + number] = 60
        ring.advance(count)
        port.close()
        assert numbers(collect(peer, count)) == list(range(count))


@pytest.mark.parametrize("way", ["@xdp:tx=socket", ""])
def test_a_port_that_nobody_keeps_closes_itself_and_says_so(wire, way):
    threads = threading.active_count()
    port = open_at(wire, "a", way)
    gone = weakref.ref(port)
    assert attached(wire, "a") == ["driver"]
    with pytest.warns(ResourceWarning, match="netmap:veth0.* was not closed"):
        port = None
    assert gone() is None
    assert attached(wire, "a") == []
    assert threading.active_count() == threads
    with open_at(wire, "a"):
        pass


def test_batches_and_packets_outlive_the_port_as_errors_and_not_as_crashes(wire):
    with open_at(wire, "a") as one:
        other = open_at(wire, "b")
        one.send([frame(number) for number in range(10)])
        batch = other.receive(5)
        packet = batch[0]
        kept = memoryview(bytes(packet))
        other.close()
        with pytest.raises(ValueError, match="given back"):
            batch[0]
        with pytest.raises(ValueError):  # noqa: PT011 - released memory speaks for itself
            bytes(packet)
        assert bytes(kept) == frame(0)


def test_an_open_port_leaves_no_descriptor_when_it_is_closed(wire):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for way in ("", "@xdp:tx=live", "@xdp:mode=generic", "/r", "/t", "-0"):
        with open_at(wire, "a", way) as port:
            port.fileno()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads


# -- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slots", "way"),
    [
        *((slots, "@xdp:tx=socket") for slots in (2, 3, 5, 63, 64, 1000, 4096)),
        (2, "@xdp:tx=live"),
        (63, "@xdp:tx=live"),
    ],
)
def test_rings_of_any_size_carry_everything(wire, slots, way):
    """The kernel's rings are powers of two; ours need not be."""
    count, part = scaled(300, 30), max(slots // 2, 1)
    with open_at(wire, "a", way, slots=slots) as one, open_at(wire, "b", slots=slots) as other:
        assert {ring.size for ring in one.rings + other.rings} == {slots}
        for start in range(0, count, part):
            frames = [frame(number) for number in range(start, start + part)]
            assert one.send(frames, timeout=5) == part
            assert numbers(collect(other, part, 5)) == numbers(frames), told(one)
        assert one.drops() == other.drops() == {}


def test_rings_of_different_sizes_each_way(wire):
    with open_at(wire, "a", "@conf:tx_slots=8,rx_slots=256") as port, open_at(wire, "b") as peer:
        assert (port.tx[0].size, port.rx[0].size) == (8, 256)
        assert port.send([frame(number) for number in range(100)]) == 100
        assert numbers(collect(peer, 100)) == list(range(100))
        peer.send([frame(number) for number in range(255)])
        assert numbers(collect(port, 255)) == list(range(255))


@pytest.mark.parametrize(
    "options",
    [{"slots": 1}, {"slots": (1 << 20) + 1}, {"slots": -5}, {"rings": 65}, {"rings": -1}, {"rings": 2}],
)
def test_impossible_numbers_are_refused(wire, options):
    with pytest.raises(ValueError, match="expected"):
        open_at(wire, "a", **options)
    assert attached(wire, "a") == []


def test_a_number_of_rings_that_the_interface_does_not_have_is_refused(lab):
    wire = lab(queues=4, ipv6=False)
    for rings in (1, 2, 5, 64):
        with pytest.raises(ValueError, match=f"{rings} rings: veth0 has 4 queues"):
            open_at(wire, "a", rings=rings)
    assert attached(wire, "a") == []
    with open_at(wire, "a", rings=4) as port:
        assert len(port.rx) == 4
    with open_at(wire, "a", "-3", rings=1) as port:
        assert len(port.rx) == 1


@pytest.mark.parametrize("size", [64, 1024, 1536, 8192, 65536])
def test_buffers_that_the_kernel_does_not_take_are_refused_with_those_that_it_does(wire, size):
    with pytest.raises(ValueError, match=f"buffers of {size} bytes: a network interface takes 2048 or 4096"):
        open_at(wire, "a", buffer_size=size)
    assert attached(wire, "a") == []


def test_larger_buffers_work(wire):
    with open_at(wire, "a", buffer_size=4096) as one, open_at(wire, "b", buffer_size=4096) as other:
        one.send([frame(number, 1514) for number in range(200)])
        assert collect(other, 200) == [frame(number, 1514) for number in range(200)]


def test_a_very_large_ring_is_had_or_refused_in_words(wire):
    """A million slots are 2 GB of buffers a direction, which the kernel takes five seconds to give."""
    slots = scaled(1 << 20, 1 << 17)
    try:
        with open_at(wire, "a", "/t", slots=slots) as port:
            assert port.tx[0].space == slots - 1
    except (raceway.RacewayError, OSError, ValueError, MemoryError) as error:
        assert str(error)  # noqa: PT017
    assert attached(wire, "a") == []


def test_extra_buffers_are_of_the_same_memory(wire):
    """A packet may be sent from a buffer that was in no ring before."""
    with open_at(wire, "a", "@xdp:tx=socket", extra_buffers=10) as port, open_at(wire, "b") as peer:
        assert len(port.extra_buffers) == 10
        ring = port.tx[0]
        for number, buffer in enumerate(port.extra_buffers):
            port.region.buffer(int(buffer))[:60] = frame(number)
            slot = ring.slots[ring.head + number]
            slot["buffer"], slot["length"], slot["flags"] = buffer, 60, 1
        ring.advance(10)
        ring.sync()
        assert numbers(collect(peer, 10)) == list(range(10))


def test_a_region_of_other_buffers_is_refused(wire, pipe_name):
    with (
        raceway.open(pipe_name + "{1", buffer_size=512) as pipe,
        pytest.raises(ValueError, match="buffers of 512 bytes"),
    ):
        open_at(wire, "a", region=pipe.region)
    assert attached(wire, "a") == []


def test_opening_and_closing_in_a_loop(wire):
    for turn in range(scaled(12, 4)):
        with open_at(wire, "a", ["", "@xdp:tx=socket", "/r"][turn % 3]):
            pass
    assert attached(wire, "a") == []
