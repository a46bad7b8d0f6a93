"""Several queues: every one is served, and a flow's packets keep their order."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from conftest import scaled
from frame_check import checked
from labs import lab as lab, needs_root
from nic_world import collect, frame, heard, ip, numbers, open_at, raw_socket, until
from raceway.apps.forwarder.forwarder import Forwarder, Way

pytestmark = [needs_root, pytest.mark.root]


def test_each_queue_sends_and_is_received_by_itself(lab):
    wire = lab(queues=4, ipv6=False)
    with open_at(wire, "a", "@xdp:tx=socket") as one, open_at(wire, "b", "@xdp:tx=socket") as other:
        for sender, receiver in ((one, other), (other, one)):
            for queue in range(4):
                sender.send([frame(100 * queue + number) for number in range(20)], ring=queue)
            seen = {}
            while sum(map(len, seen.values())) < 80:
                batch = receiver.receive(5)
                assert len(batch), "nothing more came"
                seen.setdefault(batch.ring.number, []).extend(numbers(batch.to_bytes()))
            assert seen == {queue: [100 * queue + number for number in range(20)] for queue in range(4)}
            assert [ring.packets for ring in receiver.rx] == [20] * 4


def test_live_frames_of_all_rings_keep_each_rings_order(lab):
    wire = lab(queues=4, ipv6=False)
    with open_at(wire, "a", "@xdp:tx=live") as one, open_at(wire, "b") as other:
        for turn in range(scaled(20, 3)):
            for queue in range(4):
                one.send([frame(1000 * queue + 10 * turn + number) for number in range(10)], ring=queue)
        came = numbers(collect(other, 40 * scaled(20, 3)))
        for queue in range(4):
            assert [number for number in came if number // 1000 == queue] == [
                1000 * queue + number for number in range(10 * scaled(20, 3))
            ]


def test_four_queues_share_a_kernels_flows_and_each_flow_keeps_its_order(lab):
    wire = lab(queues=4, ipv6=False)
    ip(wire, "a", f"neigh replace {wire.address('b')} lladdr {wire.mac('b')} dev veth0")
    flows, rounds = 64, scaled(100, 8)
    with wire.inside("a"):
        senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(flows)]
    try:
        with open_at(wire, "b", slots=4096) as port:

            def send():
                for turn in range(rounds):
                    for flow, sender in enumerate(senders):
                        sender.sendto(struct.pack("!II", flow, turn), (wire.address("b"), 5000))

            thread = threading.Thread(target=send)
            thread.start()
            seen = {flow: [] for flow in range(flows)}
            rings = {flow: set() for flow in range(flows)}
            count = 0
            while count < flows * rounds:
                batch = port.receive(5)
                assert len(batch), f"{count} of {flows * rounds} came; {port.drops()}"
                for one in batch.to_bytes():
                    flow, turn = struct.unpack("!II", checked(one).transport[8:16])
                    seen[flow].append(turn)
                    rings[flow].add(batch.ring.number)
                    count += 1
            thread.join()
            assert all(turns == list(range(rounds)) for turns in seen.values())
            # Which queue a flow goes to is the sending kernel's choice (by processor, or by hash); all are served.
            assert len(set().union(*rings.values())) > 1
            assert port.drops() == {}
    finally:
        for sender in senders:
            sender.close()


def test_a_forwarder_serves_every_queue_in_order(lab):
    wire = lab(hosts=3, queues=4, ipv6=False)
    total = scaled(400, 40)
    with (
        open_at(wire, "a", "@xdp:tx=socket") as source,
        open_at(wire, "m", towards="a") as left,
        open_at(wire, "m", towards="b", region=left.region) as right,
        open_at(wire, "b") as sink,
    ):
        forwarder = Forwarder([Way(left, right)])
        for queue in range(4):
            source.send([frame(1000 * queue + number) for number in range(total)], ring=queue)
        assert until(lambda: forwarder.step(5_000_000) and forwarder.counters()["sent"] == 4 * total)
        right.flush()
        came = {}
        for _ in range(4 * total):
            batch = sink.receive(2)
            for number in numbers(batch.to_bytes()):
                came.setdefault(batch.ring.number, []).append(number)
            if sum(map(len, came.values())) == 4 * total:
                break
        flows = {}
        for found in came.values():
            for number in found:
                flows.setdefault(number // 1000, []).append(number % 1000)
        assert flows == {queue: list(range(total)) for queue in range(4)}
        assert [ring.packets for ring in left.rx] == [total] * 4
        assert [ring.packets for ring in right.tx] == [total] * 4


def test_what_goes_to_one_queues_port_does_not_disturb_another_port_on_the_next(lab):
    """Two ports of two queues of one interface, in one region: each has a program of its own, so the second is
    refused; whoever wants several queues opens the interface."""
    wire = lab(queues=2, ipv6=False)
    with open_at(wire, "b", "-0") as first, open_at(wire, "a") as peer, raw_socket(wire, "b") as host:
        with pytest.raises(OSError, match="XDP program already"):
            open_at(wire, "b", "-1", region=first.region)
        peer.send([frame(1)], ring=0)
        peer.send([frame(2)], ring=1)
        assert numbers(collect(first, 1)) == [1]
        assert numbers(heard(host, 1)) == [2]
