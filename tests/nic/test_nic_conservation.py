"""To the packet: what raceway counts is what the kernel counts, at both ends of a cable, whoever is too slow."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from conftest import scaled
from labs import lab as lab, needs_root
from nic_loops import flood, stream, take
from nic_world import collect, ethtool, frame, ip, link_counters, numbers, open_at, raw_socket, until
from raceway.apps.forwarder.forwarder import Forwarder, Way

pytestmark = [needs_root, pytest.mark.root]

SENDERS = ["@xdp:tx=socket", "@xdp:tx=live", ""]


def drops(port):
    return sum(port.drops().values())


def queue_statistics(wire, host):
    """What the veth driver counts of its receive queues, all queues together."""
    found = {}
    for line in ethtool(wire, host, "-S veth0").splitlines():
        name, _, value = line.strip().partition(": ")
        if name.startswith("rx_queue_"):
            name = name.split("_", 3)[3]
            found[name] = found.get(name, 0) + int(value)
    return found


def settled(wire, sender, receiver, sent):
    """Everything has arrived or was dropped, and every counter on the way says the same."""
    sender.flush()
    assert until(lambda: receiver.rxsync() or link_counters(wire, "b")["rx_packets"] == sent)
    receiver.rxsync()
    assert sender.counters()["tx_packets"] == sent
    at_a, at_b = link_counters(wire, "a"), link_counters(wire, "b")
    assert at_a["tx_packets"] == at_b["rx_packets"] == sent
    assert at_a["tx_dropped"] == 0
    assert at_b["rx_dropped"] == drops(receiver)
    of_queues = queue_statistics(wire, "b")
    assert of_queues["xdp_packets"] == sent
    assert of_queues["xdp_redirect"] + of_queues["drops"] == sent
    assert of_queues["drops"] == drops(receiver)


@pytest.mark.parametrize("way", SENDERS)
def test_received_and_dropped_is_what_the_peer_sent(lab, way):
    """A sender that is faster than the receiver, who looks up now and then; the numbers in the frames agree, too."""
    wire = lab(ipv6=False)
    total = scaled(200_000, 3_000)
    with open_at(wire, "a", way) as one, open_at(wire, "b") as other:
        sending, receiving = stream(one, transmit=True, count=total), stream(other, transmit=False)
        codes = []
        flood.prepare()
        take.prepare()
        thread = threading.Thread(target=lambda: codes.append(flood(sending.ctypes.data)))
        thread.start()
        while thread.is_alive():
            assert take(receiving.ctypes.data) >= 0
            time.sleep(0.001)
        assert codes == [0]
        one.flush()
        assert until(
            lambda: take(receiving.ctypes.data) == 0 and link_counters(wire, "b")["rx_packets"] == total
        )
        take(receiving.ctypes.data)
        settled(wire, one, other, total)
        got = {name: int(receiving[name][0]) for name in ("received", "lost", "backwards", "spoilt", "next")}
        assert got["received"] == other.counters()["rx_packets"] == total - drops(other)
        assert (got["backwards"], got["spoilt"]) == (0, 0)
        # What is missing behind the last one that came is no gap in the numbers.
        assert got["lost"] + total - got["next"] == drops(other)


@pytest.mark.parametrize(
    ("way", "mode"), [*((way, "") for way in SENDERS), ("@xdp:tx=socket", "@xdp:mode=generic")]
)
def test_a_receiver_that_starved_goes_on_by_itself_and_loses_nothing_more(lab, way, mode):
    wire = lab(ipv6=False)
    many = scaled(5000, 300)
    slots = scaled(1024, 64)
    with (
        open_at(wire, "a", way, slots=scaled(1024, 256)) as one,
        open_at(wire, "b", mode, slots=slots) as other,
    ):
        for turn in range(3):
            # The last batch is given back.
            assert len(other.receive(0)) == 0
            # Nobody reads: the first ones fill the ring, the others are counted.
            one.send([frame(number) for number in range(many)])
            one.flush()
            lost = (turn + 1) * (many - slots)
            assert until(partial(is_lost, other, lost)), other.drops()
            assert numbers(collect(other, slots, 5)) == list(range(slots))
            # From now on there is a reader, and everything arrives.
            for start in range(0, many, slots // 2):
                part = [frame(start + number) for number in range(slots // 2)]
                one.send(part)
                one.flush()
                assert collect(other, len(part), 5) == part
            assert other.drops() == {"no_buffer": lost}
        sent = one.counters()["tx_packets"]
        assert link_counters(wire, "a")["tx_packets"] == sent == other.counters()["rx_packets"] + lost


def is_lost(port, count):
    return port.drops() == {"no_buffer": count}


def test_jumbo_frames_are_conserved_too(lab):
    """A packet for whose last part there is no buffer goes as a whole, and is counted once."""
    wire = lab(mtu=9000, ipv6=False)
    with open_at(wire, "a") as one, open_at(wire, "b", slots=64) as other:
        lengths = [9014, 60, 5000, 2049, 1514] * scaled(40, 8)
        for number, length in enumerate(lengths):
            one.send([frame(number, length)])
        came = collect(other, len(lengths), 1)
        assert all(
            packet == frame(number, len(packet)) for number, packet in zip(numbers(came), came, strict=True)
        )
        assert other.counters()["rx_packets"] == len(came)
        assert len(came) + drops(other) == len(lengths)
        assert link_counters(wire, "a")["tx_packets"] == len(lengths)
        assert 64 > len(came) > 8
        # All buffers are there again: as many small ones as the ring has slots.
        one.send([frame(number) for number in range(64)])
        assert numbers(collect(other, 64, 2)) == list(range(64))


def test_what_a_peer_that_is_down_does_not_take_the_kernel_counts(lab):
    """Without a carrier the device drops what it is given; that is no reason to wait."""
    wire = lab(ipv6=False)
    ip(wire, "b", "link set veth0 down")
    with open_at(wire, "a", "@xdp:tx=socket") as port:
        many = scaled(5000, 200)
        began = time.monotonic()
        assert port.send([frame(number) for number in range(many)], timeout=10) == many
        assert time.monotonic() - began < 9
        assert port.counters()["tx_packets"] == many
        counted = link_counters(wire, "a")
        assert counted["tx_packets"] + counted["tx_dropped"] == many
        assert counted["tx_dropped"] == many
        ip(wire, "b", "link set veth0 up")
        with open_at(wire, "b") as peer:
            assert until(lambda: port.send([frame(7)], 1) and numbers(collect(peer, 1, 0.05)))


def test_one_queue_and_the_hosts_queues_together_are_all_that_came(lab):
    wire = lab(queues=4, ipv6=False)
    with (
        open_at(wire, "a", "@xdp:tx=socket") as one,
        open_at(wire, "b", "-1") as other,
        raw_socket(wire, "b"),
    ):
        for queue in range(4):
            one.send([frame(number) for number in range(100)], ring=queue)
        assert len(collect(other, 100)) == 100
        assert link_counters(wire, "b")["rx_packets"] == 400
        assert other.counters()["rx_packets"] == 100
        assert queue_statistics(wire, "b")["xdp_redirect"] == 100


def test_counters_do_not_change_when_the_port_is_closed(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=socket") as one, open_at(wire, "b", slots=64) as other:
        one.send([frame(number, 60 if number else 4000) for number in range(200)])
        collect(other, 64, 1)
        before = one.counters(), other.counters()
    assert (one.counters(), other.counters()) == before
    assert before[0]["drop_too_long"] == 1
    assert before[1]["drop_no_buffer"] == 199 - 64


@pytest.mark.parametrize("way", ["@xdp:tx=socket", ""])
def test_a_forwarder_between_two_hosts_accounts_for_every_packet(lab, way):
    """The sender is faster than the one in the middle, and that one faster than the receiver, who dozes."""
    wire = lab(hosts=3, ipv6=False)
    total = scaled(150_000, 2_000)
    with (
        open_at(wire, "a", way) as a,
        open_at(wire, "m", way, towards="a") as left,
        open_at(wire, "m", way, towards="b", region=left.region) as right,
        open_at(wire, "b", slots=128) as b,
    ):
        sending, receiving = stream(a, transmit=True, count=total), stream(b, transmit=False)
        flood.prepare()
        take.prepare()
        forwarder = Forwarder([Way(left, right)])
        stop = threading.Event()
        workers = [
            threading.Thread(target=flood, args=(sending.ctypes.data,)),
            threading.Thread(target=lambda: forwarder.run(lambda _: not stop.is_set())),
        ]
        for worker in workers:
            worker.start()
        while workers[0].is_alive():
            take(receiving.ctypes.data)
            time.sleep(0.0005)
        a.flush()
        assert until(lambda: left.counters()["rx_packets"] + drops(left) == total)
        assert until(lambda: forwarder.counters()["sent"] == left.rx[0].packets)
        stop.set()
        workers[1].join()
        right.flush()
        sent = right.counters()["tx_packets"]
        assert until(
            lambda: take(receiving.ctypes.data) == 0 and link_counters(wire, "b")["rx_packets"] == sent
        )
        counted = forwarder.counters()
        assert counted["taken"] == counted["sent"] == left.counters()["rx_packets"] == sent
        assert link_counters(wire, "a")["tx_packets"] == total
        assert link_counters(wire, "m", "b")["tx_packets"] == sent
        assert b.counters()["rx_packets"] + drops(b) == sent
        got = {name: int(receiving[name][0]) for name in ("received", "backwards", "spoilt")}
        assert got == {"received": b.counters()["rx_packets"], "backwards": 0, "spoilt": 0}
