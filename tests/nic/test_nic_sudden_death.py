"""SIGKILL at any moment leaves the interface as it was found, and the next one opens it as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import scaled
from labs import lab as lab, needs_root
from nic_world import (
    attached,
    collect,
    ethtool,
    features,
    frame,
    heard,
    link_counters,
    numbers,
    open_at,
    raw_socket,
    until,
)

pytestmark = [needs_root, pytest.mark.root]

ROUNDS = int(os.environ.get("RACEWAY_SOAK_ROUNDS", "0")) or scaled(80, 8)
WAYS = [
    "",
    "",
    "@xdp:tx=live",
    "@xdp:tx=socket",
    "@xdp:mode=generic",
    "@xdp:rx=memory",
    "/r",
    "/t",
    "-0",
    "@xdp:mode=packet",
]


@pytest.fixture
def wire(lab):
    return lab(queues=2, ipv6=False)


@pytest.fixture
def zygote(wire):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    program = Path(__file__).parent / "nic_zygote.py"
    with wire.popen(
        "b",
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout.readline().strip() == "warm"
        yield process
        # Its child goes with it.
        process.kill()


def test_the_interface_is_as_it_was_after_every_kill(wire, zygote):
    dice = random.Random(os.getpid() if "RACEWAY_SOAK_ROUNDS" in os.environ else 1)
    # Live frames are for ends that take XDP frames.
    ethtool(wire, "a", "-K veth0 gro on")
    before = features(wire, "a"), features(wire, "b")
    busy = 0
    with raw_socket(wire, "a") as outside:
        for turn in range(ROUNDS):
            way = dice.choice(WAYS)
            sent = link_counters(wire, "b")["tx_packets"]
            zygote.stdin.write(way + "\n")
            zygote.stdin.flush()
            pid = int(zygote.stdout.readline())
            if dice.random() < 0.6 and way != "/r":
                # In the middle of its work; else perhaps while it opens.
                assert until(lambda: link_counters(wire, "b")["tx_packets"] > sent), way  # noqa: B023
                busy += 1
            # Often at once, sometimes a tenth of a second later.
            moment = time.monotonic() + dice.random() ** 3 * 0.1
            while time.monotonic() < moment:
                outside.send(frame(turn))
            os.kill(pid, signal.SIGKILL)
            assert zygote.stdout.readline().strip() == "dead"
            assert attached(wire, "b") == []
            assert (features(wire, "a"), features(wire, "b")) == before
            if turn % 5 == 4 and (turn < 100 or turn % 50 == 49):
                reopened(wire, outside, dice.choice(["", "@xdp:mode=generic", "-1", "@xdp:tx=socket"]))
    assert busy > ROUNDS // 4
    assert zygote.poll() is None


def reopened(wire, outside, way):
    """Everything works as on the first day, for raceway and for the host."""
    drain(outside)
    with open_at(wire, "b", way) as port:
        queue = 1 if way == "-1" else 0
        with open_at(wire, "a", "/t") as peer:
            peer.send([frame(number) for number in range(100)], ring=queue)
            assert numbers(collect(port, 100)) == list(range(100))
        port.send([frame(number) for number in range(50)])
        assert numbers(heard(outside, 50)) == list(range(50))
        assert port.drops() == {}
    with raw_socket(wire, "b") as host:
        outside.send(frame(7))
        assert numbers(heard(host, 1)) == [7]


def drain(raw):
    raw.setblocking(False)
    try:
        while raw.recv(70000):
            pass
    except BlockingIOError:
        raw.settimeout(5)


def test_a_port_goes_on_when_the_other_ends_process_is_killed(wire, zygote):
    with open_at(wire, "a", "@xdp:tx=socket", slots=1 << 14) as port:
        for way in ("@xdp:tx=socket", "@xdp:tx=live"):
            zygote.stdin.write(way + "\n")
            zygote.stdin.flush()
            pid = int(zygote.stdout.readline())
            assert until(lambda: len(port.receive(0.1)) > 0)
            os.kill(pid, signal.SIGKILL)
            assert zygote.stdout.readline().strip() == "dead"
            assert until(lambda: len(port.receive(0)) == 0)
            with raw_socket(wire, "b") as host:
                port.send([frame(1)])
                assert numbers(heard(host, 1)) == [1]
                host.send(frame(2))
                assert numbers(collect(port, 1)) == [2]
