"""kill -9 in the middle of a batch, and sleeps of which none is slept too long: 200 and 150,000 times.

script/soak makes a thousand and a million of them.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import loops
import raceway
from conftest import scaled

ZYGOTE = Path(__file__).parent / "zygote.py"


@pytest.fixture
def zygote():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, str(ZYGOTE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline().strip() == "warm"
    yield process
    process.stdin.close()
    process.stdout.close()
    process.kill()
    process.wait()


def regions(*processes: int) -> list[str]:
    """Every region that one of these processes has mapped or holds a descriptor of: where nobody does, it is gone."""
    found = []
    for process in processes:
        folder = Path(f"/proc/{process}")
        found += [line for line in (folder / "maps").read_text().splitlines() if "raceway-region" in line]
        links = [os.readlink(link) for link in (folder / "fd").iterdir() if link.is_symlink()]
        found += [link for link in links if "raceway-region" in link]
    return found


def test_kill_9_in_mid_batch_loses_only_what_was_not_published_and_leaves_nothing(pipe_name, zygote):
    """Each round: a child floods one end, we read the other, the child is killed at a moment chosen by chance. What
    had been published by then arrives whole and in order, then the stream ends, and the name opens again."""
    chance = random.Random(1)
    rounds, received, most = scaled(200, 25, soak=1000), 0, 0
    # Closed ports of other tests, too, keep their memory until the collector has seen them.
    gc.collect()
    before = regions(os.getpid(), zygote.pid)
    for number in range(rounds):
        # Either end is the survivor, and the survivor is first or second, in turn.
        mine, theirs = ("{1", "}1") if number % 2 else ("}1", "{1")
        name = f"{pipe_name}{mine}"
        first = raceway.open(name) if number % 4 < 2 else None
        zygote.stdin.write(f"{pipe_name}{theirs}\n")
        zygote.stdin.flush()
        pid = int(zygote.stdout.readline())
        port = first or raceway.open(name)
        state, kept = loops.state_for(port)
        moment = time.monotonic() + chance.random() * 0.004
        while time.monotonic() < moment:
            assert loops.check(state.ctypes.data) == 0
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not port.rx[0].ended or port.rx[0].space:
            assert time.monotonic() < deadline, "no end of the stream"
            assert loops.check(state.ctypes.data) == 0
            port.service()
        assert loops.check(state.ctypes.data) == 0
        assert state["wrong"][0] == 0
        with pytest.raises(raceway.EndOfStream):
            port.receive(0)
        received += int(state["sequence"][0])
        most = max(most, int(state["sequence"][0]))
        del kept
        port.close()
        assert zygote.stdout.readline().strip() == "dead"
    assert received > rounds
    assert most > 100
    port = first = state = None
    gc.collect()
    assert regions(os.getpid(), zygote.pid) == before


def ping_pong(a: raceway.Port, b: raceway.Port, turns: int) -> None:
    """Two threads that sleep for every packet, with pauses of 0 to some microseconds, so that sleeping and ringing
    the bell meet in every possible order. A lost wake-up is a sleep that only its time-out ends."""
    states = [
        loops.state_for(a, count=turns, begin=1, random=1),
        loops.state_for(b, count=turns, begin=0, random=2),
    ]
    codes: dict[int, int] = {}

    def answer() -> None:
        codes[1] = loops.play(states[1][0].ctypes.data)
        # It has waited as often as the other, and sent once less.
        b.send([b"last"])

    # Compiled before both begin.
    loops.play.prepare()
    thread = threading.Thread(target=answer)
    thread.start()
    codes[0] = loops.play(states[0][0].ctypes.data)
    thread.join(60)
    assert not thread.is_alive()
    assert codes == {0: 0, 1: 0}
    records = [state[0][0] for state in states]
    assert [int(record["late"]) for record in records] == [0, 0]
    assert a.tx[0].packets >= turns
    assert b.rx[0].packets >= turns
    # They did sleep: otherwise this has shown nothing.
    assert sum(int(record["sleeps"]) for record in records) > turns // 10


@pytest.mark.alone
def test_ping_pong_with_random_pauses_loses_no_wake_up(pipe_name):
    with raceway.open(pipe_name + "{1", slots=4) as a, raceway.open(pipe_name + "}1") as b:
        ping_pong(a, b, scaled(150_000, 2_000, soak=1_000_000))


@pytest.mark.alone
def test_ping_pong_loses_no_wake_up_where_membarrier_may_not_be_used(pipe_name):
    """Then who publishes passes a fence of its own before it looks whether the other end sleeps."""
    with raceway.open(pipe_name + "{1", slots=4) as a, raceway.open(pipe_name + "}1") as b:
        for ring in a.rings + b.rings:
            ring._record["barrier"] = 0
        ping_pong(a, b, scaled(50_000, 1_000, soak=100_000))
