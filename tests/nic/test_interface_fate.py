"""An interface that goes down, is renamed, moved or deleted under an open port: an error within a second, and the other
ports go on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time

import pytest

import raceway
from labs import lab as lab, needs_root
from nic_world import collect, frame, open_at, raw_socket
from raceway.apps.forwarder.forwarder import Forwarder, Way
from raceway.errors import InterfaceError

pytestmark = needs_root
EVENTS = {
    "down": ["ip", "link", "set", "veth0", "down"],
    "renamed to elsewhere": [
        "sh", "-c", "ip link set veth0 down; ip link set veth0 name elsewhere; ip link set elsewhere up",
    ],
    "gone": ["ip", "link", "delete", "veth0"],
}  # fmt: skip


def happens(place, event: str) -> float:
    """Let it happen at `b`; when it had."""
    place.run("b", EVENTS[event], check=True)
    return time.monotonic()


@pytest.mark.parametrize("event", EVENTS)
def test_a_receiver_that_waits_is_told_within_a_second_and_other_ports_go_on(lab, event, pipe_name):
    place = lab(ipv6=False)
    with (
        open_at(place, "b") as port,
        raceway.open(pipe_name + "{1") as one,
        raceway.open(pipe_name + "}1") as other,
    ):
        told: list[object] = []

        def wait() -> None:
            try:
                port.receive(20)
            except InterfaceError as error:
                told.append((str(error), time.monotonic()))

        thread = threading.Thread(target=wait)
        thread.start()
        when = happens(place, event)
        thread.join(20)
        assert len(told) == 1
        text, moment = told[0]
        assert any(word in text for word in (event.split()[0], "is down"))
        assert "veth0" in text
        # A second is the promise; it is an event on a socket that wakes the receiver, and not a clock.
        assert moment - when < 5  # Under load the thread that is woken may come late.
        for call in (lambda: port.receive(0), lambda: port.send([frame(1)]), port.sync):
            with pytest.raises(InterfaceError, match=event.split()[0]):
                call()
        assert one.send([b"still there"]) == 1
        assert other.receive(5).to_bytes() == [b"still there"]


def test_a_port_that_went_down_works_again_when_it_is_up(lab):
    place = lab(ipv6=False)
    with open_at(place, "b") as port, raw_socket(place, "a") as raw:
        happens(place, "down")
        with pytest.raises(InterfaceError, match="is down"):
            port.receive(5)
        place.run("b", ["ip", "link", "set", "veth0", "up"], check=True)
        deadline = time.monotonic() + 10
        got: list[bytes] = []
        while not got and time.monotonic() < deadline:
            try:
                raw.send(frame(7))
            except OSError:
                time.sleep(0.01)
                continue
            got = collect(port, 1, 0.2)
        assert got[0] == frame(7)
        assert port.send([frame(8)]) == 1


def test_an_interface_that_moves_away_is_gone(lab):
    place = lab(ipv6=False)
    with open_at(place, "b") as port, subprocess.Popen(["unshare", "-n", "sleep", "30"]) as other:
        try:
            deadline = time.monotonic() + 10
            while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                assert time.monotonic() < deadline
            place.run("b", ["ip", "link", "set", "veth0", "netns", str(other.pid)], check=True)
            with pytest.raises(InterfaceError, match="veth0 is gone"):
                port.receive(5)
        finally:
            other.kill()


def test_a_loop_says_so_and_an_async_for_too(lab):
    place = lab(ipv6=False)
    with open_at(place, "b") as port, raceway.open("null:", region=port.region) as null:
        forwarder = Forwarder([Way(port, null)])
        assert forwarder.step()
        happens(place, "down")
        with pytest.raises(InterfaceError):
            forwarder.run()

        async def take() -> None:
            async for _ in port:
                pass

        with pytest.raises(InterfaceError):
            asyncio.run(asyncio.wait_for(take(), 5))


def test_deleted_under_load_both_ways(lab):
    place = lab(ipv6=False)
    with (
        open_at(place, "b") as port,
        open_at(place, "a", "/t") as sender,
        raceway.open("null:", region=port.region) as null,
        raceway.open("null:", region=sender.region) as source,
    ):
        both = [Forwarder([Way(null, port), Way(port, null)]), Forwarder([Way(source, sender)])]
        errors: list[BaseException] = []

        def run(forwarder: Forwarder) -> None:
            try:
                forwarder.run()
            except InterfaceError as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(forwarder,)) for forwarder in both]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        # With one end of the pair the other is gone too.
        happens(place, "gone")
        for thread in threads:
            thread.join(20)
        assert len(errors) == 2
        assert all("gone" in str(error) for error in errors)


def test_a_port_that_is_closed_after_its_interface_is_gone_leaves_nothing(lab):
    place = lab(ipv6=False)
    port = open_at(place, "b", "@xdp:tx=socket")
    happens(place, "gone")
    port.close()
    port.close()
