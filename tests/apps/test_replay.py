"""When replay sends: the pacing's arithmetic, with times given. And what it shows on a terminal meanwhile."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import raceway
from raceway.apps.forwarder.forwarder import Pace
from raceway.apps.forwarder.pacing import due_time, went
from raceway.apps.forwarder.records import BITS_A_SECOND, PACKETS_A_SECOND, RECORDED, Direction
from raceway.apps.replay import Replay
from raceway.memory.jit import entry
from raceway.memory.structures import allocate, structure

SECOND = 1_000_000_000
CALL = np.dtype([(name, "<i8") for name in ("direction", "timestamp", "length", "now")])
Call = structure("PacingCall", CALL)


@entry
def pace_packet(address: int) -> int:
    """Let one packet go when it is due, which is returned."""
    call = Call(address)
    direction = Direction(call.direction)
    due = due_time(direction, call.timestamp, call.now)
    went(direction, call.length, due)
    return due


class Pacer:
    """A direction that begins at `now` (ns): `due` says when the next packet may go."""

    def __init__(self, pace: Pace, now: int) -> None:
        self.direction, self.call = allocate(Direction), allocate(Call)
        self.direction["pace"], self.direction["rate"] = pace.numbers()
        self.call["direction"], self.call["now"] = self.direction.ctypes.data, now

    def due(self, length: int = 60, timestamp: int = 0) -> int:
        self.call["timestamp"], self.call["length"] = timestamp, length
        return pace_packet(self.call.ctypes.data)


def test_paces_are_numbers_of_their_kind():
    assert Pace(speed=0.5).numbers() == (RECORDED, 500_000)
    assert Pace(packets=14_880_952).numbers() == (PACKETS_A_SECOND, 14_880_952)
    assert Pace(bits=1e10).numbers() == (BITS_A_SECOND, 10_000_000_000)


def test_recorded_gaps_are_kept():
    """No packet is due before its time, and none is asked to be later."""
    pacer = Pacer(Pace(speed=2), now=5_000)
    stamps = [1_000_000_000_000, 1_000_000_500_000, 1_000_002_000_000, 999_999_000_000, 1_000_003_000_000]
    due = [pacer.due(timestamp=stamp) for stamp in stamps]
    assert due == [5_000, 255_000, 1_005_000, 1_005_000, 1_505_000]


def test_packets_a_second_are_rounded_down_one_by_one_and_not_added_up():
    pacer = Pacer(Pace(packets=3), now=1)
    due = [pacer.due(length) for length in (60, 0, 9000, 60, 60, 60, 60)]
    assert due == [1, 333_333_334, 666_666_667, 1_000_000_001, 1_333_333_334, 1_666_666_667, 2_000_000_001]


def test_bits_a_second_are_those_of_the_wire():
    """A frame takes 24 bytes more on the wire than it has (IEEE 802.3): 60 bytes are (60 + 24) * 8 = 672 bits, so at
    a million bits a second the next packet is due 672 us after it. 1,514 bytes are 12,304 bits, none are 192."""
    pacer = Pacer(Pace(bits=1e6), now=10_000)
    assert pacer.due(60) == 10_000
    assert pacer.due(1514) == 10_000 + 672_000
    assert pacer.due(0) == 10_000 + 672_000 + 12_304_000
    assert pacer.due(60) == 10_000 + 672_000 + 12_304_000 + 192_000


def test_shortest_frames_fill_ten_gigabits_with_14_880_952_a_second():
    """67.2 ns each: what is behind the point is cut off each time, and comes back with the fifth."""
    pacer = Pacer(Pace(bits=1e10), now=SECOND)
    assert [pacer.due() - SECOND for _ in range(6)] == [0, 67, 134, 201, 268, 336]
    # 14,880,952 are 9,999,999,744 bits, which take 0.9999999744 seconds; one more is 10,000,000,416 and 1.0000000416.
    pacer.direction["paced"] = 14_880_952 * 672
    assert [pacer.due() - SECOND for _ in range(2)] == [999_999_974, 1_000_000_041]


@pytest.mark.parametrize("bits", [1, 7, 10**9, 9_223_372_037, 10**10, 10**11, 4 * 10**11, 10**12 - 1, 10**12])
def test_no_rate_overflows_however_many_bits_have_gone(bits):
    pacer = Pacer(Pace(bits=bits), now=5)
    assert pacer.due() == 5
    for gone in (0, bits - 1, bits, bits * 1000 + bits // 3, bits * 1_000_000 - 1):
        pacer.direction["paced"] = gone
        assert pacer.due() == 5 + gone * SECOND // bits


def test_on_a_terminal_a_bar_shows_how_much_of_the_file_has_gone(pipe_name, tmp_path):
    """The bar stands where the pipe is full, as long as nobody reads at its other end."""
    file = tmp_path / "hundred.pcap"
    with raceway.open(f"pcap:{file}", write=True) as port:
        port.send([bytes(60)] * 100)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "120"}
    with raceway.open(pipe_name + "}1", slots=8) as reader:
        terminal, stands_for_it = pty.openpty()
        replay = subprocess.Popen(
            [sys.executable, "-c", "from raceway.faces.cli import main; main()", "replay", str(file),
             pipe_name + "{1", "--top"],
            stdin=stands_for_it, stdout=stands_for_it, stderr=stands_for_it, env=environment,
        )  # fmt: skip
        os.close(stands_for_it)
        screen = Screen(terminal)
        try:
            # A ring of 8 slots takes 7 packets.
            found = screen.wait_for(r"replaying \S+ +(\d+)% 7 packets +[\d,]+ pps")
            assert 0 < int(found[1]) < 50
            got = []
            while len(got) < 100:
                got += reader.receive(20).to_bytes()
            assert got == [bytes(60)] * 100
            assert replay.wait(20) == 0
        finally:
            replay.kill()
            replay.wait()
            screen.end()
    assert re.search(r"replaying \S+ +100% 100 packets", screen.text())
    assert "100 packets, 6,000 bytes" in screen.text().splitlines()[-4]


class Screen:
    """What a program writes to a pseudo-terminal, read by a thread so that the program never waits for us."""

    def __init__(self, terminal: int) -> None:
        self._terminal, self._written, self._more = terminal, b"", threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                written = os.read(self._terminal, 1 << 16)
            except OSError:  # EIO: nobody has the other side open any more
                written = b""
            with self._more:
                self._written += written
                self._ended = not written
                self._more.notify_all()
            if not written:
                return

    def text(self) -> str:
        """All that was written so far, without the control sequences (ECMA-48, 5.4)."""
        return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", self._written.decode(errors="ignore"))

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first place where a pattern stands; waits until it does, at most a minute."""
        with self._more:
            self._more.wait_for(lambda: re.search(pattern, self.text()), 60)
            found = re.search(pattern, self.text())
        assert found, f"{pattern} does not come: {self.text()}"
        return found

    def end(self) -> None:
        """The program has ended."""
        self._thread.join(20)
        os.close(self._terminal)


def test_a_rate_goes_on_from_one_loop_to_the_next(tmp_path):
    """A file of one packet, looped, is a stream at the rate that was asked for, not a burst."""
    file = tmp_path / "one.pcap"
    with raceway.open(f"pcap:{file}", write=True) as port:
        port.send([bytes(60)])
    with raceway.open(f"pcap:{file}") as source, raceway.open("null:") as target:
        replay = Replay(source, target, Pace(packets=100), loops=20)
        began = time.monotonic()
        replay.run()
        # The last one is due 190 ms after the first: never earlier, however slow the machine is.
        assert time.monotonic() - began >= 0.19
        assert (replay.packets, replay.done_loops) == (20, 20)
