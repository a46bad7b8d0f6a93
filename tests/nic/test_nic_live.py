"""Live XDP frames: when they are used, and that nobody can tell from what arrives."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time

import pytest

import raceway
from conftest import scaled
from labs import lab as lab, needs_root
from nic_loops import flood, stream, take
from nic_world import (
    SO_RCVBUFFORCE,
    attached,
    collect,
    ethtool,
    frame,
    heard,
    ip,
    link_counters,
    numbers,
    open_at,
    raw_socket,
    until,
)
from raceway.kernel.xsk import XdpModeError
from raceway.memory.jit import INTERPRETED

pytestmark = [needs_root, pytest.mark.root]

WIDE = 1 << 15
"""Slots of a receiver that need not hurry."""


class Stream:
    """Numbered frames from one port to another, and what became of them."""

    def __init__(self, sender, receiver):
        self.sender = sender
        if receiver.rx:
            # The last batch is given back.
            receiver.receive(0)
        self.sending, self.receiving = stream(sender, transmit=True), stream(receiver, transmit=False)
        flood.prepare()
        take.prepare()

    def send(self, count, most=1 << 30):
        self.sending["count"], self.sending["most"] = count, most
        assert flood(self.sending.ctypes.data) == 0

    def arrived(self, seconds=10):
        """Whether all that was sent has come, in order and once."""
        whole = until(
            lambda: take(self.receiving.ctypes.data) >= 0 and self.count == int(self.sending["next"][0]),
            seconds,
        )
        return whole and not self.faults()

    @property
    def count(self):
        return int(self.receiving["received"][0])

    def faults(self):
        return {
            name: int(self.receiving[name][0])
            for name in ("lost", "backwards", "spoilt")
            if self.receiving[name][0]
        }

    def __repr__(self):
        return f"{self.sending['next'][0]} sent, {self.count} came, {self.faults()}"


def threads():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("raceway live"))


# -- when -------------------------------------------------------------------------------------------------------


def test_a_stream_goes_live_and_back_and_nothing_is_lost_doubled_or_overtaken(lab):
    """Bursts and pauses of every kind, so that a run begins, goes on, ends and begins again while it ends."""
    wire = lab(ipv6=False)
    dice = random.Random(1)
    ways = set()
    with open_at(wire, "a") as one, open_at(wire, "b", slots=WIDE) as other:
        flow = Stream(one, other)
        for turn in range(scaled(40, 4)):
            flow.send(
                dice.choice((1, 2, 63, 64, 65, 300, 5000, 20000) if not INTERPRETED else (1, 2, 65, 300))
            )
            ways.add(one.transmits_by)
            # Over in the middle of a window, of a look of the watcher, or after the end of the run.
            time.sleep(dice.choice((0, 0, 0.0005, 0.004, 0.018, 0.06)))
            if turn % 4 == 3:
                assert flow.arrived(), flow
            else:
                take(flow.receiving.ctypes.data)
        assert flow.arrived(), flow
        assert other.drops() == one.drops() == {}
        sent = int(flow.sending["next"][0])
        assert link_counters(wire, "a")["tx_packets"] == link_counters(wire, "b")["rx_packets"] == sent
        if not INTERPRETED:
            assert one._live.sent > 1000, "it never went live"
            assert one.sockets[0].record[0]["kicks"] > 0, "it never went by the socket"
            assert ways == {"live", "socket"}
            assert until(lambda: one.transmits_by == "socket")


def test_trickles_never_go_live(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a") as one, open_at(wire, "b") as other:
        flow = Stream(one, other)
        for _ in range(scaled(200, 20)):
            flow.send(1)
            time.sleep(0.0005)
        assert flow.arrived(), flow
        assert one._live.sent == 0
        assert one.transmits_by == "socket"


def test_a_single_packet_on_an_idle_port_leaves_at_once(lab):
    """It is with the peer when `send` comes back: no run is awaited, nothing lies about."""
    wire = lab(ipv6=False)
    with open_at(wire, "a") as one, open_at(wire, "b") as other:
        for number in range(20):
            one.send([frame(number)])
            assert link_counters(wire, "a")["tx_packets"] == number + 1
        assert numbers(collect(other, 20)) == list(range(20))


def test_a_single_packet_right_after_a_stream_comes_too(lab):
    """While the run ends it is neither the run's nor the socket's, but soon one of them takes it."""
    wire = lab(ipv6=False)
    with open_at(wire, "a") as one, open_at(wire, "b", slots=WIDE) as other:
        flow = Stream(one, other)
        for turn in range(scaled(30, 3)):
            flow.send(scaled(8000, 100))
            time.sleep(0.001 * (turn % 30))
            flow.send(1)
            assert flow.arrived(2), flow


def test_insisting_sends_everything_so(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=live") as one, open_at(wire, "b", slots=WIDE) as other:
        flow = Stream(one, other)
        for turn in range(scaled(20, 4)):
            flow.send(1 + 700 * (turn % 3))
            assert one.transmits_by == "live"
            assert flow.arrived(), flow
            time.sleep(0.005 * (turn % 6))
        assert one._live.sent == flow.count
        assert one.sockets[0].record[0]["kicks"] == 0
        assert one.counters()["tx_packets"] == flow.count


def test_socket_means_socket(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=socket") as one, open_at(wire, "b", "/r", slots=WIDE) as other:
        assert threads() == []
        flow = Stream(one, other)
        flow.send(scaled(20_000, 200))
        assert flow.arrived(), flow
        assert one.transmits_by == "socket"


def test_jumbo_frames_are_not_for_live_frames_and_that_is_said(lab):
    wire = lab(mtu=9000, ipv6=False)
    with open_at(wire, "a") as port:
        assert "live frames: frames of up to 9018 bytes, and a live frame has at most 2040" in port.notes
        assert port.transmits_by == "socket"
    with pytest.raises(XdpModeError, match="live frames cannot be had: frames of up to 9018"):
        open_at(wire, "a", "@xdp:tx=live")
    assert attached(wire, "a") == []
    assert threads() == []


# -- a peer that does not take them ------------------------------------------------------------------------------


def test_a_peer_that_takes_no_frames_is_an_error_for_who_insists(lab):
    """A veth whose other end has neither XDP nor GRO would drop them in silence."""
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=live") as port:
        with pytest.raises(XdpModeError, match="ndo_xdp_xmit"):
            send_on(port)
        assert port._live.sent == 0
    assert threads() == []


def test_a_peer_that_takes_no_frames_gets_everything_by_the_socket(lab):
    wire = lab(ipv6=False)
    many = scaled(30_000, 300)
    with open_at(wire, "a") as port, raw_socket(wire, "b") as kernel:
        kernel.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 512 << 20)
        flow = Stream(port, port)
        flow.send(many)
        came = numbers(heard(kernel, many))
        assert len(came) == many
        assert port.transmits_by == "socket"
        assert port._live.sent == 0


def test_a_peer_that_changes_its_mind_in_mid_stream(lab):
    """GRO at the other end comes and goes while we send on and never look up. What a run sends when nobody wants it any
    more is lost; soon it is noticed, every such frame is counted, and the socket goes on."""
    wire = lab(ipv6=False)
    many, turns = scaled(3000, 40), scaled(24, 4)
    with open_at(wire, "a") as port, raw_socket(wire, "b") as kernel:
        kernel.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 512 << 20)
        flow = Stream(port, port)
        ways = []
        for turn in range(turns):
            if turn % 3 == 0:
                ethtool(wire, "b", f"-K veth0 gro {'off' if turn % 2 else 'on'}")
                # Without news of any kind a refused run is asked for again after a second.
                port._live.reconsider()
            flow.send(many)
            ways.append(port.transmits_by)
        assert until(lambda: port.transmits_by == "socket")
        lost = port.drops().get("lost", 0)
        assert link_counters(wire, "a")["tx_packets"] == many * turns - lost
        came = [int.from_bytes(one[14:22], "little") for one in heard(kernel, many * turns - lost)]
        assert len(came) == many * turns - lost
        # One ring, one queue: what came is in order, and nothing came twice.
        assert came == sorted(set(came))
        if not INTERPRETED:
            assert set(ways) == {"live", "socket"}
            assert lost < many * turns // 2


def send_on(port, seconds=10):
    """Send a packet now and then, until something is wrong."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        port.send([frame(1)], timeout=1)
        time.sleep(0.005)


def test_a_run_that_is_not_wanted_any_more_ends_and_what_it_lost_is_counted(lab):
    """The other end closes its port, and its host is not interested in XDP."""
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=live") as port:
        with open_at(wire, "b") as other:
            port.send([frame(number) for number in range(100)])
            assert len(collect(other, 100)) == 100
        with pytest.raises(XdpModeError, match="ndo_xdp_xmit"):
            send_on(port)
        assert until(lambda: not port._live.running)
        assert link_counters(wire, "a")["tx_packets"] == 100
        assert until(lambda: port.drops().get("lost", 0) == port._live.sent - 100)


def test_a_peer_that_goes_down_and_comes_back(lab):
    """What was sent meanwhile is lost as with every cable; afterwards everything is as before."""
    wire = lab(ipv6=False)
    with open_at(wire, "a") as one, open_at(wire, "b", slots=WIDE) as other:
        flow = Stream(one, other)
        flow.send(scaled(20_000, 100))
        assert flow.arrived(), flow
        ip(wire, "b", "link set veth0 down")
        flow.send(scaled(20_000, 100))
        one.flush()
        ip(wire, "b", "link set veth0 up")
        assert until(lambda: "LOWER_UP" in ip(wire, "a", "link show veth0"))
        assert until(lambda: one.transmits_by == "socket")
        # What the one end's kernel and port have counted is all; the other has not got it.
        first, second = link_counters(wire, "a"), link_counters(wire, "b")
        both = flow.count + scaled(20_000, 100)
        assert first["tx_packets"] + first["tx_dropped"] + one.drops().get("lost", 0) == both
        assert take(flow.receiving.ctypes.data) >= 0
        assert flow.count == second["rx_packets"] == first["tx_packets"]
        again = Stream(one, other)
        for _ in range(4):
            again.send(scaled(5_000, 50))
            time.sleep(0.03)
        assert again.arrived(), again


def test_the_mtu_may_change_under_a_stream(lab):
    """Up: frames that no live frame has room for go by the socket, with all the others. Down: they are too long."""
    wire = lab(ipv6=False)
    with open_at(wire, "a") as one, open_at(wire, "b", slots=WIDE) as other:
        flow = Stream(one, other)
        flow.send(scaled(20_000, 100))
        assert flow.arrived(), flow
        for host in "ab":
            ip(wire, host, "link set veth0 mtu 9000")
        one.service()
        frames = [frame(number, length) for number, length in enumerate((1519, 2040, 2041, 9014))]
        one.send(frames)
        assert collect(other, 4) == frames
        again = Stream(one, other)
        again.send(scaled(20_000, 100))
        assert again.arrived(), again
        one.send(frames)
        assert collect(other, 4) == frames
        assert one.drops() == {}
        ip(wire, "a", "link set veth0 mtu 1500")
        one.service()
        one.send([*frames, frame(9)])
        assert numbers(collect(other, 1)) == [9]
        assert one.drops() == {"too_long": 4}


def test_the_longest_frames_do_not_spoil_those_that_wait_behind_them(lab):
    """The array is a circle, and full: behind the frame that is put in last lies the one that goes out next."""
    wire = lab(mtu=2022, ipv6=False)
    count = scaled(6000, 300)
    with open_at(wire, "a", "@xdp:tx=live", slots=WIDE) as one, open_at(wire, "b", "/r", slots=WIDE) as other:
        frames = [frame(number, 2040 - number % 60) for number in range(count)]
        came = []
        sender = threading.Thread(target=one.send, args=(frames, 60))
        sender.start()
        came = collect(other, count)
        sender.join()
        assert numbers(came) == numbers(frames)
        assert came == frames
        assert one.drops() == other.drops() == {}


class Starved:
    """A program whose live run gets no memory the first times; what it is asked for besides is the program's own."""

    def __init__(self, program, times):
        self._program, self.left = program, times

    def test_run(self, *arguments, **options):
        if options.get("repeat", 1) > 1 and self.left:
            self.left -= 1
            raise OSError(errno.ENOMEM, "no page at this moment")
        return self._program.test_run(*arguments, **options)

    def __getattr__(self, name):
        return getattr(self._program, name)


def test_a_run_that_finds_no_memory_for_a_moment_is_begun_again_and_nothing_is_lost(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=live") as one, open_at(wire, "b") as other:
        one._live._program = starved = Starved(one._live._program, 3)
        frames = [frame(number) for number in range(50)]
        assert one.send(frames, timeout=5) == 50
        assert collect(other, 50) == frames
        assert starved.left == 0
        assert one.drops() == {}


# -- the end of it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["", "@xdp:tx=live"])
def test_closing_in_the_middle_of_a_run_sends_what_was_accepted_and_ends_its_threads(lab, way):
    wire = lab(ipv6=False)
    with open_at(wire, "b", "/r", slots=WIDE) as other:
        for turn in range(scaled(5, 2)):
            with open_at(wire, "a", way) as one:
                assert len(threads()) == 2
                flow = Stream(one, other)
                flow.receiving["next"] = 0
                flow.send(scaled(10_000, 100) + turn)
            assert threads() == []
            assert flow.arrived(), flow
            assert one.counters()["tx_packets"] == flow.count


@pytest.mark.alone
def test_a_run_ends_with_its_last_user_and_the_processor_is_idle_again(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a") as one, open_at(wire, "b", slots=WIDE) as other:
        flow = Stream(one, other)
        flow.send(scaled(20_000, 100))
        assert flow.arrived(), flow
        assert until(lambda: one.transmits_by == "socket")
        before = time.process_time()
        time.sleep(0.3)
        # Two threads that look every 5 ms would be seen here; a run that goes on much more.
        assert time.process_time() - before < 0.1


def test_two_ports_of_one_process_run_at_the_same_time(lab):
    wire = lab(hosts=3, ipv6=False)
    with (
        open_at(wire, "m", towards="a") as left,
        open_at(wire, "m", towards="b") as right,
        open_at(wire, "a", slots=WIDE) as a,
        open_at(wire, "b", slots=WIDE) as b,
    ):
        flows = [Stream(left, a), Stream(right, b)]
        for turn in range(scaled(8, 2)):
            workers = [threading.Thread(target=flow.send, args=(scaled(9000, 100),)) for flow in flows]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            time.sleep(0.01 * (turn % 4))
            assert all(flow.arrived() for flow in flows), flows


@pytest.mark.alone
def test_the_interpreter_is_not_held_by_a_run(lab):
    """Python goes on while a run goes on, and Ctrl-C's handler with it."""
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=live") as one, open_at(wire, "b"):
        one.send([frame(1)])
        assert one.transmits_by == "live"
        began = time.monotonic()
        assert sum(range(1000)) == 499500
        assert raceway.__name__ == "raceway"
        assert time.monotonic() - began < 1
