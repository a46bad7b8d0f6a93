"""One port, two threads: one sends while the other receives. Nothing is lost, doubled or woken too late."""

from __future__ import annotations

import threading

import raceway
from conftest import scaled


def test_one_thread_sends_while_another_receives_on_one_port(pipe_name):
    packets = [number.to_bytes(4, "big") * (1 + number % 40) for number in range(scaled(20_000, 2_000))]
    with (
        raceway.open(pipe_name + "{1", slots=64) as a,
        raceway.open(pipe_name + "}1") as b,
    ):
        got: list[bytes] = []
        echoed: list[int] = []

        def echo() -> None:
            while len(echoed) < len(packets):
                batch = b.receive(20)
                echoed.extend(range(b.send(batch.to_bytes())))

        threads = [threading.Thread(target=echo), threading.Thread(target=a.send, args=(packets,))]
        for thread in threads:
            thread.start()
        while len(got) < len(packets):
            batch = a.receive(20)
            assert len(batch), f"nothing came for 20 s; {len(got)} of {len(packets)} so far"
            got += batch.to_bytes()
        for thread in threads:
            thread.join()
        assert got == packets
        assert a.counters() == b.counters()


def test_a_sender_asleep_for_room_and_a_receiver_asleep_for_packets_are_both_woken(pipe_name):
    """Both sleep on one bell: what wakes one must not silence it for the other."""
    with (
        raceway.open(pipe_name + "{1", slots=4) as a,
        raceway.open(pipe_name + "}1") as b,
    ):
        for round_ in range(scaled(300, 60)):
            got: list[bytes] = []
            sender = threading.Thread(target=a.send, args=([b"s%d" % round_] * 6,))
            receiver = threading.Thread(target=lambda got=got: got.extend(a.receive(20).to_bytes()))
            sender.start()
            receiver.start()
            if round_ % 2:
                assert b.send([b"to the receiver"]) == 1
            taken = 0
            while taken < 6:
                batch = b.receive(20)
                assert len(batch)
                taken += len(batch)
                # A batch is given back when the next one is taken.
                b.receive(0) if taken == 6 else None
            if not round_ % 2:
                assert b.send([b"to the receiver"]) == 1
            sender.join(20)
            receiver.join(20)
            assert not sender.is_alive()
            assert not receiver.is_alive()
            assert got == [b"to the receiver"]
