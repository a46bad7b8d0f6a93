"""Pipes between threads and processes: finding each other, waiting, ending, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import raceway
from conftest import scaled

PEER = Path(__file__).parent / "peer.py"


class Peer:
    """A second process that does what it is told, a line at a time (see peer.py)."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, str(PEER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdin
        assert self.process.stdout

    def say(self, words: str) -> None:
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        return self.process.stdout.readline().strip()

    def ask(self, words: str) -> str:
        self.say(words)
        return self.hear()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    peer.end()


def test_either_end_may_be_opened_first(pipe_name):
    for first, second in (("{1", "}1"), ("}1", "{1")):
        with raceway.open(pipe_name + first) as a, raceway.open(pipe_name + second) as b:
            a.send([b"there"])
            b.send([b"back"])
            assert (b.receive(1).to_bytes(), a.receive(1).to_bytes()) == ([b"there"], [b"back"])


def test_packets_sent_before_the_other_end_is_opened_are_waiting_for_it(pipe_name):
    with raceway.open(pipe_name + "{1") as a:
        a.send([b"early"])
        assert not a.connected
        with raceway.open(pipe_name + "}1") as b:
            assert a.connected
            assert b.receive(1).to_bytes() == [b"early"]


def test_a_second_opener_of_one_end_gets_ebusy(pipe_name, peer):
    assert peer.ask(f"open {pipe_name}{{1") == "opened"
    with pytest.raises(OSError, match="open already") as caught:
        raceway.open(pipe_name + "{1")
    assert caught.value.errno == errno.EBUSY
    assert isinstance(caught.value, raceway.PortBusyError)
    with raceway.open(pipe_name + "}1") as b:
        with pytest.raises(raceway.PortBusyError):
            raceway.open(pipe_name + "}1")
        with pytest.raises(raceway.PortBusyError):
            raceway.open(pipe_name + "{1")
        assert peer.ask("send from another process") == "sent"
        assert b.receive(5).to_bytes() == [b"from another process"]


def test_pipes_of_other_numbers_and_names_are_other_pipes(pipe_name):
    with (
        raceway.open(pipe_name + "{1") as one,
        raceway.open(pipe_name + "{2") as two,
        raceway.open(pipe_name + "}2") as other,
    ):
        two.send([b"two"])
        assert other.receive(1).to_bytes() == [b"two"]
        assert not one.connected


def test_the_second_opener_may_not_ask_for_another_geometry(pipe_name):
    with (
        raceway.open(pipe_name + "{1", slots=32),
        pytest.raises(
            ValueError, match="transmit slots 64 asked for, but the end opened first has chosen 32"
        ),
    ):
        raceway.open(pipe_name + "}1", slots=64)


def test_rings_may_differ_in_number_and_size_by_direction(pipe_name):
    with (
        raceway.open(pipe_name + "{1@conf:tx-rings=2,rx-rings=1,tx-slots=8,rx-slots=32") as a,
        raceway.open(pipe_name + "}1") as b,
    ):
        assert [ring.size for ring in a.tx] == [8, 8] == [ring.size for ring in b.rx]
        assert [ring.size for ring in a.rx] == [32] == [ring.size for ring in b.tx]


def test_closing_one_end_is_the_end_of_the_stream_once_everything_was_read(pipe_name):
    a, b = raceway.open(pipe_name + "{1"), raceway.open(pipe_name + "}1")
    a.send([b"last"])
    a.close()
    assert [batch.to_bytes() for batch in b] == [[b"last"]]
    with pytest.raises(raceway.EndOfStream):
        b.receive()
    with pytest.raises(raceway.EndOfStream, match="the other end is gone"):
        b.send([b"x"])
    b.close()


def test_what_the_gone_end_had_not_taken_is_counted(pipe_name):
    a, b = raceway.open(pipe_name + "{1"), raceway.open(pipe_name + "}1")
    a.send([b"x", b"y" * 5000, b"z"])
    assert len(b.receive(1, limit=1)) == 1
    b.rxsync()
    b.close()
    a.sync()
    assert a.drops() == {"peer_gone": 3}
    a.close()


def test_select_sees_packets_and_only_packets(pipe_name):
    with raceway.open(pipe_name + "{1") as a, raceway.open(pipe_name + "}1") as b:
        assert select.select([b], [], [], 0) == ([], [], [])
        a.send([b"one", b"two"])
        assert select.select([b], [], [], 1)[0] == [b]
        batch = b.receive(1, limit=1)
        # One is still unread, so the descriptor stays readable: level-triggered, as people expect.
        assert select.select([b], [], [], 0)[0] == [b]
        batch = b.receive(1)
        assert batch.to_bytes() == [b"two"]
        assert select.select([b], [], [], 0)[0] == []


def test_select_wakes_for_the_end_of_the_stream(pipe_name):
    a, b = raceway.open(pipe_name + "{1"), raceway.open(pipe_name + "}1")
    b.fileno()
    timer = threading.Timer(0.05, a.close)
    timer.start()
    assert select.select([b], [], [], 10)[0] == [b]
    timer.join()
    with pytest.raises(raceway.EndOfStream):
        b.receive()
    b.close()


def test_epoll_and_a_first_end_that_waited_before_it_had_a_peer(pipe_name):
    with raceway.open(pipe_name + "{1") as a, select.epoll() as poller:
        poller.register(a, select.EPOLLIN)
        assert poller.poll(0) == []
        b = raceway.open(pipe_name + "}1")
        b.send([b"hello"])
        assert poller.poll(5)
        assert a.receive(0).to_bytes() == [b"hello"]
        b.close()
        assert poller.poll(5)
        with pytest.raises(raceway.EndOfStream):
            a.receive(1)


def test_async_for_gives_way_to_other_tasks_and_ends_with_the_stream(pipe_name):
    async def main() -> tuple[list[bytes], int]:
        got: list[bytes] = []
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        async def send() -> None:
            for number in range(5):
                a.send([b"%d" % number])
                await asyncio.sleep(0.01)
            a.close()

        with raceway.open(pipe_name + "}1") as b:
            ticking, sending = asyncio.create_task(tick()), asyncio.create_task(send())
            async for batch in b:
                got += batch.to_bytes()
            await sending
            ticking.cancel()
        return got, ticks

    a = raceway.open(pipe_name + "{1")
    got, ticks = asyncio.run(main())
    assert got == [b"0", b"1", b"2", b"3", b"4"]
    assert ticks > 5


def test_a_sender_waits_for_room_and_a_timeout_says_how_many_went(pipe_name):
    with raceway.open(pipe_name + "{1", slots=8) as a, raceway.open(pipe_name + "}1") as b:
        assert a.send([b"x"] * 20, timeout=0.01) == 7
        got: list[bytes] = []

        def drain() -> None:
            while len(got) < 27:
                got.extend(b.receive(5).to_bytes())

        reader = threading.Thread(target=drain)
        reader.start()
        assert a.send([b"y"] * 20, timeout=10) == 20
        reader.join()
        assert got == [b"x"] * 7 + [b"y"] * 20


def test_two_processes_exchange_packets_both_ways(pipe_name, peer):
    with raceway.open(pipe_name + "{1") as a:
        assert peer.ask(f"open {pipe_name}}}1") == "opened"
        peer.say("echo 300")
        sent = [os.urandom(1 + number % 1500) for number in range(300)]
        got: list[bytes] = []
        sender = threading.Thread(target=a.send, args=(sent,))
        sender.start()
        while len(got) < 300:
            got += a.receive(10).to_bytes()
        sender.join()
        assert got == sent
        assert peer.hear() == "echoed 300"


def test_kill_9_is_the_end_of_the_stream_and_the_name_opens_again_at_once(pipe_name, peer):
    assert peer.ask(f"open {pipe_name}{{1") == "opened"
    b = raceway.open(pipe_name + "}1")
    assert peer.ask("send before death") == "sent"
    b.fileno()
    os.kill(peer.process.pid, signal.SIGKILL)
    peer.process.wait()
    assert b.receive(5).to_bytes() == [b"before death"]
    assert select.select([b], [], [], 5)[0] == [b]
    with pytest.raises(raceway.EndOfStream):
        b.receive(5)
    with raceway.open(pipe_name + "{1") as again:
        assert not again.connected
        b.close()
        with raceway.open(pipe_name + "}1") as b2:
            again.send([b"new life"])
            assert b2.receive(1).to_bytes() == [b"new life"]


def test_a_stopped_first_end_gives_a_clear_error_instead_of_hanging(pipe_name, peer, monkeypatch):
    from raceway.ports.pipe import rendezvous

    monkeypatch.setattr(rendezvous, "PATIENCE", 0.2)
    assert peer.ask(f"open {pipe_name}{{1") == "opened"
    os.kill(peer.process.pid, signal.SIGSTOP)
    # Sent is not stopped: on a busy machine the thread that answers may run on for a while. This waits for all threads.
    os.waitid(os.P_PID, peer.process.pid, os.WSTOPPED)
    try:
        with pytest.raises(raceway.RacewayError, match="did not answer"):
            raceway.open(pipe_name + "}1")
    finally:
        os.kill(peer.process.pid, signal.SIGCONT)
    # Our try has used up the other end's one caller; it sees that we left, and a new pair can be made.
    assert peer.ask("close") == "closed"


def test_many_open_and_close_at_once_and_every_pair_finds_itself(pipe_name):
    """Both ends opened and closed again and again, as fast as they can be, with nothing but the pipe to keep step.

    Rounds cannot cross: an end goes on only when it has the packet of the other end's same round, and one that has
    met its peer is met by no second one, so whoever is a round ahead is the first end of the next pipe and waits.
    """
    rounds = scaled(200, 50)
    failures: list[BaseException] = []

    def live(end: str) -> None:
        try:
            for number in range(rounds):
                with raceway.open(pipe_name + end) as port:
                    port.send([b"round %d" % number])
                    assert port.wait_for_peer(20) is True
                    assert port.receive(20).to_bytes() == [b"round %d" % number]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=live, args=(end,)) for end in ("{1", "}1")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_no_root_is_needed(pipe_name):
    if os.geteuid() != 0:
        pytest.skip("already runs as an ordinary user, as all the other tests show")
    # The warm-up as root only loads modules, which an ordinary user may not be able to read on this machine.
    code = f"""
import os, raceway
def go(name):
    with raceway.open(name + "{{1") as a, raceway.open(name + "}}1") as b:
        a.send([b"x"])
        return b.receive(5).to_bytes()
go("{pipe_name}w")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert not any(int(line.split()[1], 16) for line in open("/proc/self/status") if line.startswith("CapEff"))
print(go("{pipe_name}"))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip() == "[b'x']", done.stderr


def test_another_user_has_a_name_space_of_its_own(pipe_name):
    from raceway.ports.pipe.rendezvous import _address

    assert f"/{os.geteuid()}/".encode() in _address("x/1", "{")


def test_a_closed_ports_memory_goes_with_the_last_reference_to_it(pipe_name):
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("raceway-region")

    gc.collect()
    gc.disable()
    try:
        before = mapped()
        for name in (pipe_name + "{1", "null:"):
            with raceway.open(name) as port:
                port.sync()
        del port
        assert mapped() == before
    finally:
        gc.enable()
