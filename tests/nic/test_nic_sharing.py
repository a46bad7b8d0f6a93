"""Several ports over one region: packets go from one interface to another without being copied."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

import raceway
from conftest import scaled
from labs import lab as lab, needs_root
from nic_world import collect, forwarded, frame, numbers, open_at, until
from raceway.apps.forwarder.forwarder import Forwarder, Way
from raceway.memory.layout import MORE_FRAGMENTS

pytestmark = [needs_root, pytest.mark.root]


@pytest.fixture
def line(lab):
    """Hosts a, m and b: ports of a and b, and in m two ports in one region."""
    wire = lab(hosts=3, ipv6=False)
    with (
        open_at(wire, "a", "@xdp:tx=socket") as a,
        open_at(wire, "m", "@xdp:tx=socket", towards="a") as left,
        open_at(wire, "m", "@xdp:tx=socket", towards="b", region=left.region) as right,
        open_at(wire, "b", "@xdp:tx=socket") as b,
    ):
        yield a, left, right, b


def buffers_in_hand(port):
    """Buffers in the slots that are the user's now."""
    return [
        int(ring.slots["buffer"][(ring.head + step) % ring.size])
        for ring in port.rings
        for step in range(ring.space)
    ]


def test_a_forwarded_packet_lies_in_the_same_memory_all_the_way(line):
    """Swapped by hand, and read at its address in between."""
    a, left, right, b = line
    assert right.region is left.region
    for number in range(100):
        a.send([frame(number, 60 + number)])
        assert left.wait(5)
        rx, tx = left.rx[0], right.tx[0]
        right.txsync()
        incoming, outgoing = rx.slots[rx.head], tx.slots[tx.head]
        buffer = int(incoming["buffer"])
        address = left.region.buffer(buffer)
        assert bytes(address[int(incoming["offset"]) :][: 60 + number]) == frame(number, 60 + number)
        incoming["buffer"], outgoing["buffer"] = outgoing["buffer"], incoming["buffer"]
        outgoing["length"], outgoing["offset"], outgoing["flags"] = incoming["length"], incoming["offset"], 0
        rx.advance(1)
        tx.advance(1)
        left.rxsync()
        right.txsync()
        assert collect(b, 1) == [frame(number, 60 + number)]
        # The kernel gave the very buffer back that was filled on the other interface.
        right.txsync()
        assert until(partial(buffer_is_back, right, buffer)), "the buffer was lost"
    assert a.drops() == left.drops() == right.drops() == b.drops() == {}


def buffer_is_back(port, buffer):
    port.txsync()
    return buffer in buffers_in_hand(port)


def test_the_forwarder_copies_nothing_and_no_buffer_is_lost_or_there_twice(line):
    a, left, right, b = line
    total = scaled(20_000, 300)
    forwarder = Forwarder([Way(left, right), Way(right, left)])
    sent = came = back = 0
    while min(came, back) < total:
        if sent < total:
            part = [frame(number) for number in range(sent, min(sent + 200, total))]
            a.send(part)
            b.send(part)
            sent += len(part)
        forwarder.step(1_000_000)
        while batch := b.receive(0):
            assert numbers(batch.to_bytes()) == list(range(came, came + len(batch)))
            came += len(batch)
        while batch := a.receive(0):
            assert numbers(batch.to_bytes()) == list(range(back, back + len(batch)))
            back += len(batch)
    assert forwarder.counters(0)["sent"] == forwarder.counters(1)["sent"] == total
    assert left.counters() == right.counters() == {
        "tx_packets": total, "tx_bytes": 60 * total, "rx_packets": total, "rx_bytes": 60 * total,
    }  # fmt: skip
    # All of it went through buffers of both ports' rings, so by now they are thoroughly mixed; still each is somewhere
    # once: in the user's slots, or with the kernel.
    for port in (left, right):
        port.sync()
    assert until(
        lambda: (
            right.txsync() or left.txsync() or all(ring.space == ring.size - 1 for ring in left.tx + right.tx)
        )
    )
    held = buffers_in_hand(left) + buffers_in_hand(right)
    held += [
        buffer
        for port in (left, right)
        for socket in port.sockets
        for buffer in with_the_kernel(port, socket)
    ]
    assert len(held) == len(set(held))
    # Every ring holds one buffer fewer than it has slots, but for those that lie in the slot that stays empty.
    assert len(held) >= 4 * 1023


def with_the_kernel(port, socket):
    """Buffers that a socket's fill ring has and the kernel has not taken yet."""
    record = socket.record[0]
    memory = socket._maps["fill"]
    base = memory.ctypes.data
    entries = memory[int(record["fill_entries"]) - base :].view(np.uint64)
    at = int(record["fill_at"])
    consumed = int(memory[int(record["fill_consumer"]) - base :][:4].view(np.uint32)[0])
    return [
        int(entries[index & int(record["fill_mask"])]) >> int(record["shift"])
        for index in range(consumed, at)
    ]


def test_the_forwarder_says_that_it_swaps(line):
    _, left, right, _ = line
    assert left.rx[0]._kring["region"] == right.tx[0]._kring["region"]


def test_three_interfaces_and_four_queues_in_one_region(lab):
    wire = lab("star", hosts=3, queues=4, ipv6=False)
    with ExitStack() as ports:
        first = ports.enter_context(open_at(wire, "hub", towards="a"))
        second, third = (
            ports.enter_context(open_at(wire, "hub", towards=name, region=first.region)) for name in "bc"
        )
        a, b, c = (ports.enter_context(open_at(wire, name)) for name in "abc")
        ring = Forwarder([Way(first, second), Way(second, third), Way(third, first)])
        for number, (source, sink) in enumerate([(a, b), (b, c), (c, a)]):
            source.send([frame(100 * number + index) for index in range(50)], ring=number)
            assert numbers(forwarded(ring, sink, 50)) == [100 * number + index for index in range(50)]


def test_the_port_that_registered_the_memory_may_close_first(lab, pipe_name):
    """A third one then leans on the second. The region is the pipe's, which lives on."""
    wire = lab(hosts=3, ipv6=False)
    with raceway.open(pipe_name + "{1") as pipe:
        first = open_at(wire, "m", towards="a", region=pipe.region)
        with open_at(wire, "m", towards="b", region=pipe.region) as second, open_at(wire, "b") as peer:
            second.send([frame(1)])
            assert numbers(collect(peer, 1)) == [1]
            first.close()
            peer.send([frame(2)])
            assert numbers(collect(second, 1)) == [2]
            second.send([frame(3)])
            assert numbers(collect(peer, 1)) == [3]
            with open_at(wire, "m", towards="a", region=pipe.region) as third, open_at(wire, "a") as other:
                other.send([frame(4)])
                assert numbers(collect(third, 1)) == [4]


def test_chains_are_forwarded_without_a_copy(lab):
    wire = lab(hosts=3, mtu=9000, ipv6=False)
    with (
        open_at(wire, "a") as a,
        open_at(wire, "m", towards="a") as left,
        open_at(wire, "m", towards="b", region=left.region) as right,
        open_at(wire, "b") as b,
    ):
        frames = [
            frame(number, length) for number, length in enumerate((60, 9014, 2049, 5000, 9014, 1514))
        ] * scaled(20, 1)
        a.send(frames)
        forwarder = Forwarder([Way(left, right)])
        assert forwarded(forwarder, b, len(frames)) == frames
        assert b.rx[0].slots["flags"].max() & MORE_FRAGMENTS
        assert forwarder.drops() == left.drops() == right.drops() == {}


def test_a_pipe_and_an_interface_share_a_region(lab, pipe_name):
    """What came by wire goes into a pipe, and the other way, by swapping too."""
    wire = lab(ipv6=False)
    with (
        open_at(wire, "a") as nic,
        raceway.open(pipe_name + "{1", region=nic.region) as near,
        raceway.open(pipe_name + "}1") as far,
        open_at(wire, "b") as peer,
    ):
        assert near.region is nic.region
        forwarder = Forwarder([Way(nic, near), Way(near, nic)])
        peer.send([frame(number) for number in range(200)])
        far.send([frame(number) for number in range(200, 400)])
        down, up = [], []

        def step():
            forwarder.step(1_000_000)
            down.extend(far.receive(0).to_bytes())
            up.extend(peer.receive(0).to_bytes())
            return len(down) + len(up) == 400

        assert until(step)
        assert numbers(down) == list(range(200))
        assert numbers(up) == list(range(200, 400))
