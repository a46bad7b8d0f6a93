"""An interface through packet sockets, between two hosts of a lab: bytes, order, conservation, sending."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import threading
import time
from typing import Any

import numpy as np
import pytest

from conftest import scaled
from frame_check import ADDRESSES, checked, udp_frame
from labs import lab as lab, needs_root
from packet_pair import (
    DEVICE,
    Pair,
    collect,
    frame,
    jumbo_pair as jumbo_pair,
    number_of,
    numbers,
    pair as pair,
)
from raceway.errors import RacewayError
from raceway.kernel import packet_socket
from raceway.memory.layout import MORE_FRAGMENTS
from raceway.ports.geometry import Geometry
from raceway.ports.packet.port import PacketPort

pytestmark = needs_root


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receive rings of 1 MiB, which are soon full."""
    monkeypatch.setattr(packet_socket, "_MOST_BLOCKS", 8)


# -- bytes -----------------------------------------------------------------------------------------------------


def test_packets_of_every_length_cross_both_ways_unchanged(pair: Pair) -> None:
    lengths = [14, 15, 59, 60, 61, 63, 64, 65, 127, 128, 1513, 1514, *range(70, 1500, scaled(7, 97))]
    dice = random.Random(1)
    frames = [ADDRESSES + b"\x88\xb5" + dice.randbytes(length - 14) for length in lengths]
    with pair.open("near") as near, pair.open("far") as far:
        assert near.mode == "packet"
        assert "AF_PACKET (TPACKET_V3)" in near.notes[0]
        for sender, receiver in ((near, far), (far, near)):
            assert sender.send(frames) == len(frames)
            assert collect(receiver, len(frames)) == frames
            # Nobody hears himself.
            assert collect(sender, 1, 0.05) == []
        assert near.counters()["tx_packets"] == near.counters()["rx_packets"] == len(frames)
        assert near.drops() == far.drops() == {}


TAGS = {
    "802.1Q": struct.pack("!HH", 0x8100, 0x2005),
    "priority only": struct.pack("!HH", 0x8100, 0xE000),
    "802.1ad": struct.pack("!HH", 0x88A8, 0x1FFF),
    "both": struct.pack("!HHHH", 0x88A8, 7, 0x8100, 0x0005),
    "three": struct.pack("!HHHHHH", 0x88A8, 7, 0x8100, 5, 0x8100, 6),
}


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS.keys())
def test_vlan_tags_are_where_they_were_on_the_wire(pair: Pair, tag: bytes) -> None:
    # A packet socket may send 4 bytes over the MTU, and only with 802.1Q's tag first (packet_snd in af_packet.c).
    longest = 1514 if tag[:2] == b"\x81\0" else 1514 - len(tag)
    frames = [
        ADDRESSES + tag + frame(number, length)[12:] for number, length in enumerate((60, 100, longest))
    ]
    with pair.open("near") as near, pair.open("far") as far:
        near.send(frames)
        assert collect(far, 3) == frames
        assert near.drops() == {}


def test_what_the_host_sends_itself_is_not_heard(pair: Pair) -> None:
    for rings in (1, 3):
        with pair.open("near", queues=rings) as near, pair.open("far") as far:
            with pair.inside("near"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
                host.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                host.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE.encode())
                for _ in range(50):
                    host.sendto(b"here", ("255.255.255.255", 9))
            assert len(collect(far, 50)) == 50
            assert near.receive(0.05).to_bytes() == []
            assert near.statistics()["kernel_packets"] == 0


def test_jumbo_frames_are_chains_of_buffers_both_ways(jumbo_pair: Pair) -> None:
    pair = jumbo_pair
    frames = [frame(number, length) for number, length in enumerate((9014, 2048, 2049, 4096, 4097, 60, 8999))]
    with pair.open("near") as near, pair.open("far") as far:
        for sender, receiver in ((near, far), (far, near)):
            sender.send(frames)
            assert collect(receiver, len(frames)) == frames
    geometry = Geometry(buffer_size=64, receive_slots=1024, transmit_slots=1024)
    with pair.open("near", geometry) as near, pair.open("far", Geometry(buffer_size=16384)) as far:
        near.send(frames)
        assert collect(far, len(frames)) == frames
        far.send(frames)
        assert collect(near, len(frames)) == frames


def test_packets_bring_the_time_when_they_came(pair: Pair) -> None:
    with pair.open("near") as near, pair.open("far") as far:
        far.carry_metadata()
        before = time.time_ns()
        near.send([frame(1), frame(2)])
        batch = far.receive(5)
        after = time.time_ns()
        assert before <= batch.timestamps[0] <= after
        assert (np.diff(batch.timestamps) >= 0).all()


# -- order and conservation ------------------------------------------------------------------------------------


def test_four_rings_share_flows_and_each_flow_keeps_its_order(pair: Pair) -> None:
    flows, rounds = 64, scaled(200, 10)
    with pair.open("near") as near, pair.open("far", queues=4) as far:
        seen: dict[int, list[tuple[int, int]]] = {flow: [] for flow in range(flows)}

        def send() -> None:
            for turn in range(rounds):
                near.send(
                    [udp_frame(struct.pack("!II", flow, turn), 4, 1000 + flow) for flow in range(flows)]
                )

        thread = threading.Thread(target=send)
        thread.start()
        count = 0
        deadline = time.monotonic() + 30
        while count < flows * rounds and time.monotonic() < deadline:
            batch = far.receive(0.1)
            for packet in batch.to_bytes():
                flow, turn = struct.unpack("!II", checked(packet).transport[8:16])
                seen[flow].append((batch.ring.number, turn))
                count += 1
        thread.join()
        assert far.drops() == {}
        for flow, arrivals in seen.items():
            assert [turn for _, turn in arrivals] == list(range(rounds)), f"flow {flow}"
            assert len({ring for ring, _ in arrivals}) == 1, f"flow {flow} was in several rings"
        assert {arrivals[0][0] for arrivals in seen.values()} == {0, 1, 2, 3}


def test_every_packet_is_delivered_or_counted_as_dropped_to_the_packet(pair: Pair, few_blocks: None) -> None:
    before = pair.counters("far")["rx_packets"]
    total = scaled(20_000, 1500)
    with pair.open("near") as near, pair.open("far") as far:
        got = []
        for start in range(0, total, 500):
            near.send([frame(number, 1514) for number in range(start, start + 500)])
            if start % 3000 == 0:
                got += far.receive(0).to_bytes()
        near.flush()
        assert near.statistics()["sent"] == total
        while batch := far.receive(0.2).to_bytes():
            got += batch
        counted = far.statistics()
        assert len(got) == counted["taken"] == counted["kernel_packets"]
        assert far.drops() == {"socket": counted["kernel_drops"]}
        assert len(got) + far.drops()["socket"] == total
        assert pair.counters("far")["rx_packets"] - before == total
        assert far.counters()["rx_packets"] == len(got)
        assert far.counters()["rx_bytes"] == 1514 * len(got)
        order = numbers(got)
        assert order == sorted(set(order))
    # What is known stays known.
    assert far.statistics() == counted


def test_a_ring_that_nobody_reads_recovers_by_itself(pair: Pair, few_blocks: None) -> None:
    with pair.open("near") as near, pair.open("far", Geometry(receive_slots=16)) as far:
        sent = 0
        for _ in range(3):
            dropped = far.statistics()["kernel_drops"]
            while far.statistics()["kernel_drops"] == dropped:
                sent += near.send([frame(number, 1514) for number in range(sent, sent + 200)])
                assert sent < 30_000
            held = far.statistics()["kernel_packets"] - far.statistics()["taken"]
            assert len(collect(far, held)) == held
            near.send([frame(1_000_000)])
            assert numbers(collect(far, 1)) == [1_000_000]
            sent += 1
        assert far.counters()["rx_packets"] + far.drops()["socket"] == sent


def test_a_small_ring_delivers_in_pieces_what_a_block_holds(pair: Pair) -> None:
    with pair.open("near") as near, pair.open("far", Geometry(receive_slots=2)) as far:
        near.send([frame(number) for number in range(100)])
        assert numbers(collect(far, 100)) == list(range(100))


def test_a_packet_of_more_slots_than_the_ring_is_dropped_by_name(jumbo_pair: Pair) -> None:
    pair = jumbo_pair
    with pair.open("near") as near, pair.open("far", Geometry(receive_slots=4)) as far:
        near.send([frame(1), frame(2, 9000), frame(3), frame(4, 6144), frame(5)])
        assert numbers(collect(far, 4)) == [1, 3, 4, 5]
        assert far.drops() == {"too_long_for_ring": 1}


# -- sending ---------------------------------------------------------------------------------------------------


def test_what_no_device_would_send_is_dropped_by_name_and_the_rest_goes(pair: Pair) -> None:
    with pair.open("near") as near, pair.open("far") as far:
        near.send([frame(1), frame(2, 1515), b"", frame(3, 13), frame(4, 1514), frame(5, 8000), frame(6)])
        assert numbers(collect(far, 3)) == [1, 4, 6]
        assert near.drops() == {"too_long": 2, "malformed": 2}
        assert near.counters()["tx_packets"] == 7 == near.statistics()["sent"] + sum(near.drops().values())


def test_a_chain_is_sent_when_its_last_slot_is_there(pair: Pair) -> None:
    with pair.open("near") as near, pair.open("far") as far:
        ring = near.tx[0]
        whole = frame(7, 300)
        for index, part in enumerate((whole[:100], whole[100:200], whole[200:])):
            at = ring.head
            ring.buffer(at)[5:105] = part
            ring.slots[at] = (ring.slots[at]["buffer"], 100, 5, MORE_FRAGMENTS if index < 2 else 0)
            ring.advance(1)
            near.txsync()
            assert (near.statistics()["sent"], near.tx[0]._kring["pending"]) == (int(index == 2), 0)
        assert collect(far, 1) == [whole]


def test_a_chain_that_never_ends_is_dropped_to_its_end(pair: Pair) -> None:
    with pair.open("near", Geometry(transmit_slots=8)) as near, pair.open("far") as far:
        ring = near.tx[0]
        for count, last in ((7, False), (7, False), (3, True)):
            assert ring.space >= count
            for index in range(count):
                at = (ring.head + index) % ring.size
                ring.slots["length"][at] = 60
                ring.slots["flags"][at] = 0 if last and index == count - 1 else MORE_FRAGMENTS
            ring.advance(count)
            near.txsync()
        near.send([frame(9)])
        assert numbers(collect(far, 1)) == [9]
        assert near.drops() == {"too_long": 1}


def test_a_chain_of_more_pieces_than_the_kernel_takes_is_dropped() -> None:
    pair = Pair(mtu=65000)
    geometry = Geometry(buffer_size=64, transmit_slots=2048)
    with pair.lab, pair.open("near", geometry) as near, pair.open("far") as far:
        near.send([frame(1, 64 * 1000), frame(2, 64 * 1025), frame(3, 64 * 1015)])
        assert numbers(collect(far, 2)) == [1, 3]
        assert near.drops() == {"too_long": 1}


def test_packets_wait_while_there_is_no_carrier(pair: Pair) -> None:
    with pair.open("near", Geometry(transmit_slots=64)) as near:
        pair.ip("far", "link set veth0 down")
        assert near.send([frame(number) for number in range(63)], timeout=0.05) == 63
        assert near.tx[0]._kring["pending"] == 1
        assert near.tx[0].space == 0
        assert near.send([frame(99)], timeout=0.05) == 0
        pair.ip("far", "link set veth0 up")
        with pair.open("far") as far:
            pair.settle("near")
            near.flush()
            assert near.tx[0]._kring["pending"] == 0
            assert numbers(collect(far, 63)) == list(range(63))
        pair.ip("far", "link set veth0 down")
        near.send([frame(number) for number in range(5)])
    assert near.drops() == {"unsent": 5}
    assert near.counters()["tx_packets"] == near.statistics()["sent"] + 5


def test_one_thread_sends_while_another_receives(pair: Pair) -> None:
    count = scaled(20_000, 500)
    with pair.open("near") as near, pair.open("far", Geometry(transmit_slots=256)) as far:

        def echo() -> None:
            back = 0
            while back < count:
                batch = far.receive(5).to_bytes()
                assert batch
                far.send(batch)
                back += len(batch)

        def send() -> None:
            for start in range(0, count, 100):
                near.send([frame(number) for number in range(start, start + 100)])

        threads = [threading.Thread(target=work) for work in (echo, send)]
        for thread in threads:
            thread.start()
        got = collect(near, count, 30)
        for thread in threads:
            thread.join()
        assert numbers(got) == list(range(count))


# -- some of the rings -----------------------------------------------------------------------------------------


def test_one_direction_makes_sockets_for_that_one_only(pair: Pair) -> None:
    with pair.open("far", queues=2, receive=False) as far:
        assert (len(far.tx), len(far.rx), pair.sockets("far")) == (2, 0, 2)
        with pytest.raises(RacewayError, match="only sends"):
            far.receive(0)
    with pair.open("far", Geometry(transmit_rings=0, receive_rings=3)) as far:
        assert (len(far.tx), len(far.rx), pair.sockets("far")) == (0, 3, 3)
        with pytest.raises(RacewayError, match="only receives"):
            far.send([frame(1)])
    for transmit, kept in ((True, (2, 0, 2)), (False, (0, 2, 2))):
        with pair.open("far", queues=2) as far:
            far._keep_direction(transmit=transmit)
            assert (len(far.tx), len(far.rx), pair.sockets("far")) == kept


def test_without_a_number_there_are_as_many_rings_as_queues_and_processors(lab: Any) -> None:
    for queues in (1, 2, 5):
        many = lab(queues=queues)
        with many.inside("a"), PacketPort("netmap:veth0", DEVICE, Geometry()) as port:
            wanted = min(queues, os.cpu_count() or 1)
            assert (len(port.tx), len(port.rx)) == (wanted, wanted)


def test_one_ring_of_four_gets_its_share_and_the_others_count_nothing(pair: Pair) -> None:
    frames = [udp_frame(struct.pack("!I", flow), 4, 1000 + flow) for flow in range(200)]
    shares = []
    with pair.open("near") as near:
        for ring in range(4):
            with pair.open("far", queues=4) as far:
                far._keep(ring)
                for _ in range(scaled(20, 2)):
                    near.send(frames)
                near.flush()
                got = []
                while batch := far.receive(0.1).to_bytes():
                    got += batch
                assert far.drops() == {}
                assert [receiver.statistics() for receiver in far._muted] == [(0, 0)] * 3
                shares.append({checked(packet).transport[8:12] for packet in got})
                assert len(got) == scaled(20, 2) * len(shares[-1])
                far.send([frame(1)])
                assert number_of(collect(near, 1)[0]) == 1
    assert sum(len(share) for share in shares) == len(set.union(*shares)) == 200


def test_promiscuous_only_when_asked_for_and_only_as_long_as_open(pair: Pair) -> None:
    def promiscuity() -> int:
        words = pair.ip("far", "-d link show veth0").split()
        return int(words[words.index("promiscuity") + 1])

    with pair.open("far"):
        assert promiscuity() == 0
    with pair.open("far", queues=2, promiscuous=True):
        assert promiscuity() == 1
    assert promiscuity() == 0


# -- waiting ---------------------------------------------------------------------------------------------------


def test_a_lone_packet_wakes_who_waits(pair: Pair) -> None:
    with pair.open("near") as near, pair.open("far", queues=2) as far:
        poller = select.poll()
        poller.register(far.fileno(), select.POLLIN)
        for number in range(20):
            assert poller.poll(0) == []
            near.send([frame(number)])
            assert poller.poll(5000)
            far.rxsync()
            (ring,) = (ring for ring in far.rx if ring.space)
            assert number_of(bytes(ring.packet(ring.head))) == number
            ring.advance(1)
            far.rxsync()


@pytest.mark.alone
def test_waiting_costs_next_to_nothing(pair: Pair) -> None:
    with pair.open("far", queues=4) as far:
        far.receive(0)
        began = time.process_time()
        far.receive(1)
        assert time.process_time() - began < 0.1
