"""Frames in memory: received by a program's copy instead of a socket's. What every way of receiving must do is tested
with the others; here is what is this one's own."""

from __future__ import annotations

import random
import threading
import time
from functools import partial

import pytest

from conftest import scaled
from labs import lab as lab, needs_root
from nic_loops import flood, stream, take
from nic_world import (
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

pytestmark = [needs_root, pytest.mark.root]

MEMORY = "@xdp:rx=memory"


def test_the_port_says_how_it_receives(lab):
    wire = lab(queues=2, ipv6=False)
    with open_at(wire, "b", MEMORY) as port:
        assert port.mode == "copy"
        assert "frames in memory, 2 queues" in port.description
        assert attached(wire, "b") == ["driver"]
    assert attached(wire, "b") == []


@pytest.mark.parametrize("mode", ["zero-copy", "generic", "packet"])
def test_modes_in_which_no_program_copies_are_refused(lab, mode):
    wire = lab(ipv6=False)
    with pytest.raises(ValueError, match=f"rx=memory and mode={mode}"):
        open_at(wire, "b", f"@xdp:rx=memory,mode={mode}")
    with pytest.raises(ValueError, match="rx 'fast': expected memory or socket"):
        open_at(wire, "b", "@xdp:rx=fast")


def test_frames_that_are_too_long_for_it_are_told_when_it_is_opened(lab):
    wire = lab(mtu=2023, ipv6=False)
    with pytest.raises(XdpModeError, match="frames of up to 2041 bytes, and they have at most 2040"):
        open_at(wire, "b", MEMORY)
    ip(wire, "b", "link set veth0 mtu 2022")
    with open_at(wire, "b", MEMORY) as port, raw_socket(wire, "a") as sender:
        frames = [frame(number, 2036 - number) for number in range(100)]
        for one in frames:
            sender.send(one)
        assert collect(port, 100) == frames


def test_a_frame_that_has_become_too_long_is_counted_and_the_next_one_comes(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "b", MEMORY) as port, raw_socket(wire, "a") as sender:
        for host in "ab":
            ip(wire, host, "link set veth0 mtu 3000")
        sender.send(frame(1, 3000))
        sender.send(frame(2, 2040))
        assert numbers(collect(port, 1)) == [2]
        assert port.drops() == {"bad_frame": 1}


def test_one_queues_port_leaves_the_others_to_the_host(lab):
    wire = lab(queues=2, ipv6=False)
    with (
        open_at(wire, "b", f"-1{MEMORY}") as port,
        open_at(wire, "a", "/t@xdp:tx=socket") as peer,
        raw_socket(wire, "b") as host,
    ):
        for number in range(10):
            peer.send([frame(number)], ring=number % 2)
        assert numbers(collect(port, 5)) == [1, 3, 5, 7, 9]
        assert numbers(heard(host, 5)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("way", ["@xdp:tx=socket", "@xdp:tx=live", ""])
def test_received_and_dropped_is_what_the_peer_sent(lab, way):
    """A sender that is faster than the receiver, who looks up now and then."""
    wire = lab(ipv6=False)
    total = scaled(200_000, 3_000)
    with open_at(wire, "a", way) as one, open_at(wire, "b", MEMORY) as other:
        sending, receiving = stream(one, transmit=True, count=total), stream(other, transmit=False)
        flood.prepare()
        take.prepare()
        thread = threading.Thread(target=flood, args=(sending.ctypes.data,))
        thread.start()
        while thread.is_alive():
            assert take(receiving.ctypes.data) >= 0
            time.sleep(0.001)
        one.flush()
        assert until(lambda: link_counters(wire, "b")["rx_packets"] == total)
        assert until(lambda: take(receiving.ctypes.data) == 0 and arrived(other) == total), other.counters()
        got = {name: int(receiving[name][0]) for name in ("received", "lost", "backwards", "spoilt", "next")}
        dropped = sum(other.drops().values())
        assert set(other.drops()) <= {"ring_full"}
        assert got["received"] == other.counters()["rx_packets"] == total - dropped
        assert (got["backwards"], got["spoilt"]) == (0, 0)
        assert got["lost"] + total - got["next"] == dropped
        of_driver = [
            line.split() for line in ethtool(wire, "b", "-S veth0").splitlines() if "xdp_drops" in line
        ]
        assert sum(int(words[-1]) for words in of_driver) == total


def arrived(port):
    """Packets that came, and those that found no room."""
    port.rxsync()
    return port.counters()["rx_packets"] + sum(port.drops().values())


def test_a_receiver_that_starved_goes_on_by_itself(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a") as one, open_at(wire, "b", MEMORY, slots=64) as other:
        for turn in range(3):
            one.send([frame(number) for number in range(200)])
            one.flush()
            # 64 in the array, and nobody has synced yet.
            assert until(partial(lost, other, 136 * (turn + 1))), other.drops()
            assert numbers(collect(other, 64, 5)) == list(range(64))
            for start in range(0, 200, 30):
                part = [frame(start + number) for number in range(30)]
                one.send(part)
                assert collect(other, 30, 5) == part
            other.receive(0)


def lost(port, count):
    return port.drops() == {"ring_full": count}


def test_no_wake_up_is_lost_however_packets_and_sleeps_meet(lab):
    """The receiver sleeps without a time-out; a packet comes at every moment of its going to sleep."""
    wire = lab(ipv6=False)
    turns, dice = scaled(3000, 60), random.Random(1)
    with open_at(wire, "b", MEMORY) as port, raw_socket(wire, "a") as sender:

        def send():
            for number in range(turns):
                began = time.perf_counter()
                while time.perf_counter() - began < pauses[number]:
                    pass
                sender.send(frame(number))
                assert seen.acquire(timeout=20), f"packet {number} woke nobody"

        pauses = [dice.random() * 0.0001 for _ in range(turns)]
        seen, came = threading.Semaphore(0), []
        thread = threading.Thread(target=send)
        thread.start()
        while len(came) < turns:
            batch = port.receive(30)
            assert len(batch), f"{len(came)} of {turns} came"
            came += numbers(batch.to_bytes())
            for _ in range(len(batch)):
                seen.release()
        thread.join(30)
        assert came == list(range(turns))
