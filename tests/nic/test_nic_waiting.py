"""Threads, processes and loops around an interface: who waits is woken, and nobody stands in another's way."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import signal
import threading
import time

import pytest

from conftest import scaled
from labs import lab as lab, needs_root
from nic_loops import flood, stream
from nic_world import collect, frame, numbers, open_at, raw_socket, until

pytestmark = [needs_root, pytest.mark.root]


@pytest.fixture(params=["", "@xdp:rx=memory"])
def ends(request, lab):
    """Two ports, one at each end of a cable, with two queues."""
    wire = lab(queues=2, ipv6=False)
    with open_at(wire, "a", request.param) as one, open_at(wire, "b", request.param) as other:
        yield one, other


def later(seconds, what):
    """Do it in a thread, after a while; the thread."""

    def run():
        time.sleep(seconds)
        what()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_receive_without_anything_ends_with_its_time(ends):
    port, _ = ends
    began = time.monotonic()
    assert len(port.receive(0)) == 0
    assert len(port.receive(0.05)) == 0
    assert time.monotonic() - began >= 0.05
    assert port.wait(0) is False
    assert port.wait(0.01) is False


@pytest.mark.parametrize("ring", [0, 1])
def test_a_sleeping_receiver_is_woken_by_any_queue(ends, ring):
    port, peer = ends
    for turn in range(scaled(20, 4)):
        thread = later(0.002, lambda: peer.send([frame(turn)], ring=ring))  # noqa: B023
        # Without a time-out of its own: only the packet ends this.
        assert numbers(port.receive(30).to_bytes()) == [turn]
        thread.join()


def test_wait_says_that_there_is_something_and_takes_nothing(ends):
    port, peer = ends
    thread = later(0.01, lambda: peer.send([frame(1)]))
    assert port.wait(30) is True
    thread.join()
    assert port.wait(0) is True
    assert numbers(collect(port, 1)) == [1]
    assert len(port.receive(0)) == 0
    assert port.wait(0) is False


def test_one_thread_receives_while_another_sends_on_the_same_port(ends):
    """Both directions at full speed, on one port, and an echo of the peer's in between."""
    port, peer = ends
    count = scaled(20_000, 200)
    sent, came = threading.Event(), []

    def echo():
        """What arrives at the peer goes back."""
        left = count
        while left:
            frames = peer.receive(10).to_bytes()
            assert frames, f"{left} did not come: {peer.drops()}, {port.drops()}"
            peer.send(frames)
            left -= len(frames)

    def receive():
        while len(came) < count:
            batch = port.receive(10)
            assert len(batch), f"{len(came)} came back: {peer.drops()}, {port.drops()}"
            came.extend(numbers(batch.to_bytes()))

    threads = [threading.Thread(target=echo), threading.Thread(target=receive)]
    for thread in threads:
        thread.start()
    for start in range(0, count, 100):
        # No more on the way than the rings hold.
        assert until(lambda: start - len(came) < 300)  # noqa: B023
        port.send([frame(number) for number in range(start, start + 100)])
    sent.set()
    for thread in threads:
        thread.join(60)
    assert came == list(range(count))


def test_two_threads_send_on_two_rings_of_one_port(ends):
    port, peer = ends
    count = scaled(300, 30)
    threads = [
        threading.Thread(
            target=lambda ring=ring: [
                port.send([frame(1000 * ring + number)], ring=ring) for number in range(count)
            ]
        )
        for ring in (0, 1)
    ]
    for thread in threads:
        thread.start()
    came = numbers(collect(peer, 2 * count))
    for thread in threads:
        thread.join()
    for ring in (0, 1):
        assert [number for number in came if number // 1000 == ring] == [
            1000 * ring + n for n in range(count)
        ]


def test_compiled_loops_flood_two_rings_at_the_same_time(ends):
    port, peer = ends
    count = scaled(30_000, 200)
    records = [stream(port, transmit=True, ring=ring, count=count) for ring in (0, 1)]
    flood.prepare()
    threads = [threading.Thread(target=flood, args=(record.ctypes.data,)) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    port.flush()
    assert port.counters()["tx_packets"] == 2 * count
    assert until(lambda: came_through(port) == 2 * count)
    assert until(lambda: len(peer.receive(0)) == 0)
    dropped = port.link_counters()["tx_dropped"]
    assert sum(ring.packets for ring in peer.rx) + sum(peer.drops().values()) + dropped == 2 * count


def came_through(port):
    """Packets of which the kernel says that they are out, or that the other end's queue had no room."""
    counted = port.link_counters()
    return counted["tx_packets"] + counted["tx_dropped"]


# -- descriptors ------------------------------------------------------------------------------------------------


def test_select_poll_and_epoll_see_packets(ends):
    port, peer = ends
    descriptor = port.fileno()
    for number, ready in enumerate((by_select, by_poll, by_epoll, by_selectors)):
        port.sync()
        assert not ready(descriptor, 0)
        thread = later(0.01, lambda: peer.send([frame(number)], ring=number % 2))  # noqa: B023
        assert ready(descriptor, 30)
        thread.join()
        assert numbers(collect(port, 1)) == [number]
        port.sync()
        assert len(port.receive(0)) == 0


def by_select(descriptor, seconds):
    return bool(select.select([descriptor], [], [], seconds)[0])


def by_poll(descriptor, seconds):
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def by_epoll(descriptor, seconds):
    with select.epoll() as epoll:
        epoll.register(descriptor, select.EPOLLIN)
        return bool(epoll.poll(seconds))


def by_selectors(descriptor, seconds):
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def test_async_for_takes_packets_as_they_come_and_other_tasks_go_on(ends):
    port, peer = ends
    count = scaled(300, 30)

    async def receive():
        found = []
        async for batch in port:
            found += numbers(batch.to_bytes())
            if len(found) == count:
                return found
        return found

    async def send():
        for number in range(count):
            peer.send([frame(number)])
            await asyncio.sleep(0.0001)
        return "sent"

    async def both():
        return await asyncio.wait_for(asyncio.gather(receive(), send()), 60)

    assert asyncio.run(both()) == [list(range(count)), "sent"]


def test_a_cancelled_receiver_leaves_the_port_usable(ends):
    port, peer = ends

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(port.receive_async(), 0.02)
        peer.send([frame(1)])
        return numbers((await asyncio.wait_for(port.receive_async(), 10)).to_bytes())

    assert asyncio.run(give_up()) == [1]


@pytest.mark.alone
def test_a_signal_is_answered_while_a_receiver_sleeps(ends):
    port, _ = ends
    answered = []
    old = signal.signal(signal.SIGALRM, lambda *_: answered.append(time.monotonic()))
    try:
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert len(port.receive(0.2)) == 0
        assert len(answered) == 1
        assert answered[0] - began < 0.2
    finally:
        signal.signal(signal.SIGALRM, old)


# -- processes --------------------------------------------------------------------------------------------------


def test_a_child_of_a_fork_that_leaves_the_port_alone_does_no_harm(lab):
    """It has copies of the descriptors, and ends."""
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=socket") as port, open_at(wire, "b", "@xdp:tx=socket") as peer:
        port.send([frame(0)])
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        for number in range(1, 50):
            port.send([frame(number)])
            peer.send([frame(number)])
        assert numbers(collect(peer, 50)) == list(range(50))
        assert numbers(collect(port, 49)) == list(range(1, 50))


def test_a_port_closes_for_the_parent_although_a_child_still_lives(lab):
    """exec closes what the child has; until then the queue is shared, and the error says that it is taken."""
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=socket"):
        child = wire.popen("a", ["sleep", "60"])
    try:
        with open_at(wire, "a") as port, raw_socket(wire, "b") as outside:
            outside.send(frame(1))
            assert numbers(collect(port, 1)) == [1]
    finally:
        child.kill()
        child.wait()
