"""`raceway firewall top` and `status`: rates, drops by name, who sends the most, on screens of all sizes."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest
from firewall_world import inside_mounts, running

import raceway
from labs import lab as lab, mounts as mounts, needs_root, reaches
from raceway.apps.firewall import control
from raceway.apps.firewall.control import Control, ask
from raceway.apps.firewall.watch.screen import render, short
from raceway.apps.firewall.watch.talkers import FIRST_GUESS, SAMPLES, Talkers
from raceway.apps.firewall.watch.top import SORTS, view_of
from raceway.memory.jit import INTERPRETED

in_the_kernel = pytest.mark.skipif(
    INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
)


def packet(source: str, port: int = 53, size: int = 60) -> raceway.Packet:
    addresses = b"".join(socket.inet_aton(text) for text in (source, "192.0.2.2"))
    header = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0, 64, 17, 0) + addresses
    data = bytes(12) + b"\x08\x00" + header + struct.pack("!HHHH", 1000, port, size - 34, 0)
    return raceway.Packet(data.ljust(size, b"\0"))


def sampled(talkers: Talkers, *packets: raceway.Packet) -> None:
    for one in packets:
        assert talkers.function(one) == raceway.PASS


# Samples.


def test_where_packets_are_few_each_is_counted():
    talkers = Talkers()
    assert talkers.look().samples == 0
    talkers.one_in = 1
    sampled(talkers, *[packet("10.0.0.1")] * 6, packet("10.0.0.2", 80, 200), packet("10.0.0.2", 443, 100))
    talk = talkers.look()
    assert (talk.samples, talk.one_in, talk.sources) == (8, 1, 2)
    assert [(one.source, one.share, one.length, one.mostly) for one in talk.talkers] == [
        ("10.0.0.1", 0.75, 60.0, "udp port 53"),
        ("10.0.0.2", 0.25, 150.0, "udp port 80"),
    ]
    assert talk.length == 82.5
    assert talkers.look().samples == 0


def test_sources_are_ipv4_ipv6_and_mac_addresses():
    talkers = Talkers()
    talkers.look()
    talkers.one_in = 1
    six = bytes(12) + b"\x86\xdd\x60" + bytes(3) + struct.pack("!HBB", 8, 17, 64)
    six += socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + struct.pack("!HHHH", 1, 2, 8, 0)
    arp = bytes(6) + bytes.fromhex("020000000007") + b"\x08\x06" + bytes(46)
    sampled(talkers, packet("255.0.0.1"), raceway.Packet(six), raceway.Packet(arp))
    found = {one.source: one.mostly for one in talkers.look().talkers}
    assert found == {"255.0.0.1": "udp port 53", "2001:db8::7": "udp port 2", "02:00:00:00:00:07": "not IP"}


def test_a_ring_that_is_overrun_has_the_newest_and_says_how_many_each_stands_for():
    talkers = Talkers()
    talkers.look()
    talkers.one_in = 1
    sampled(talkers, *[packet("10.0.0.1")] * 5)
    # As if so many more had come, of which the ring has none any more.
    talkers.ring.add(0, 4 * SAMPLES)
    sampled(talkers, *[packet("10.0.0.2")] * 10)
    talk = talkers.look()
    assert [one.source for one in talk.talkers] == ["10.0.0.2"]
    assert talk.one_in == round((4 * SAMPLES + 15) / 10)
    assert talkers.one_in == 16


def test_one_in_many_follows_the_traffic_and_a_few_samples_are_nobody():
    talkers = Talkers()
    assert talkers.one_in == FIRST_GUESS
    talkers.look()
    assert talkers.one_in == FIRST_GUESS, "the first look knows nothing of the traffic"
    talkers.look()
    assert talkers.one_in == FIRST_GUESS // 8
    one = packet("10.0.0.9")
    for _ in range(2000):
        sampled(talkers, one)
    talk = talkers.look()
    # 250 are expected, and the standard deviation is 15.
    assert 130 < talk.samples < 370
    assert [one.source for one in talk.talkers] == ["10.0.0.9"]
    talkers.one_in = 2
    while talkers.ring[0] == (given := talkers.ring[0]) and given < 1 << 40:
        sampled(talkers, packet("10.0.0.5"))
        if talkers.ring[0] > given:
            break
    talk = talkers.look()
    assert (talk.samples, talk.sources, talk.talkers) == (1, 1, ())


# From two looks to a screen.


def answer(uptime: float, packets: dict[int, tuple[int, int]], reloads: int = 0, **more) -> dict:
    rules = ["drop udp dst port 9", "limit 5/s icmp", "pass tcp", "drop udp dst port 9"]
    status = {
        "interface": "veth0", "mode": "driver", "uptime": uptime, "rules_for": uptime, "reloads": reloads,
        "rules": [
            {"number": number, "action": rules[number].split()[0], "text": rules[number], "packets": counted,
             "limited": limited}
            for number, (counted, limited) in packets.items()
        ],
        "default": "pass", "default_packets": 0, "malformed_policy": "drop", "malformed": {}, "aborted": 0,
        "seen": sum(map(sum, packets.values())),
    }  # fmt: skip
    talk = {"samples": 10, "one_in": 4, "sources": 3, "length": 100.0, "talkers": [
        {"source": "10.0.0.1", "share": 0.5, "length": 200.0, "mostly": "udp port 9"}]}  # fmt: skip
    return {"status": status | more, "rules": 4, "talk": talk}


def test_rates_are_what_was_counted_between_two_looks():
    before = answer(10.0, {0: (1000, 0), 1: (10, 0)})
    after = answer(
        12.0,
        {0: (3000, 0), 1: (20, 100), 2: (40, 0), 3: (2, 0)},
        malformed={"cut off": 6},
        aborted=8,
        seen=3176,
    )
    view = view_of(before, after)
    assert [(row.name, row.per_second) for row in view.rules] == [
        ("drop udp dst port 9", 1000.0), ("limit 5/s icmp", 5.0), ("pass tcp", 20.0), ("drop udp dst port 9", 1.0),
        ("default pass", 0.0),
    ]  # fmt: skip
    assert [(row.name, row.packets, row.per_second) for row in view.drops] == [
        ("drop udp dst port 9", 3000, 1000.0), ("over the rate: limit 5/s icmp", 100, 50.0), ("aborted", 8, 4.0),
        ("malformed: cut off", 6, 3.0), ("drop udp dst port 9", 2, 1.0),
    ]  # fmt: skip
    assert (view.seen, view.passed, view.dropped) == (1083.0, 25.0, 1058.0)
    assert view.seen == view.passed + view.dropped
    assert (view.talkers[0].per_second, view.talkers[0].bytes_per_second) == (541.5, 108300.0)
    assert [row.name for row in view.sorted_rules("order")][-1] == "default pass"
    assert [row.packets for row in view.sorted_rules("packets")] == [3000, 40, 20, 2, 0]


def test_after_a_reload_rules_are_known_by_their_text():
    before = answer(10.0, {2: (1000, 0)})
    after = answer(11.0, {2: (1500, 0)}, reloads=1)
    after["status"]["rules"][0]["number"] = 0
    assert view_of(before, after).rules[0].per_second == 500.0


def shown(view, width: int, height: int, sort: str = "rate", **options) -> list[str]:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(render(view, width, height, sort, **options))
    return console.file.getvalue().splitlines()


def test_a_screen_of_any_size_is_filled_and_not_overrun():
    before = answer(10.0, {0: (0, 0)})
    view = view_of(before, answer(11.0, {0: (10**9, 0), 1: (4, 4), 2: (10, 0), 3: (1, 0)}))
    for height in (3, 4, 5, 8, 10, 12, 24, 50):
        for width in (20, 40, 80, 200):
            for sort in SORTS:
                lines = shown(view, width, height, sort)
                assert len(lines) <= height
                assert max(map(len, lines)) <= width
    lines = shown(view, 80, 24)
    assert len(lines) == 24
    assert any("1.00G/s" in line and "drop udp dst port 9" in line for line in lines)
    assert any("10.0.0.1" in line and "udp port 9" in line for line in lines)
    assert any("and 2 more" in line for line in lines), "two sources are there besides"
    # One line of rules, and what is not shown is counted.
    assert any("more" in line for line in shown(view, 80, 10))


def test_letters_that_would_move_the_cursor_are_not_printed():
    before, after = answer(1.0, {0: (0, 0)}), answer(2.0, {0: (5, 0)})
    after["status"]["rules"][0]["text"] = "drop udp \x1b[2J\x07 dst port 9"
    text = "\n".join(shown(view_of(before, after), 80, 24))
    assert not {"\x1b", "\x07"} & set(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.2"), (7, "7"), (9.96, "10.0"), (999.4, "999"), (999.6, "1.00k"), (1234, "1.23k"),
     (45_600_000, "45.6M"), (999_600, "1.00M"), (5e12, "5.00T")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert short(value) == text


# On a live interface.


def send(two, port: int, count: int = 1) -> None:
    with two.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _ in range(count):
            one.sendto(b"x", (two.address("b"), port))


@in_the_kernel
@needs_root
def test_samples_are_taken_only_while_somebody_watches(lab, monkeypatch):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    monkeypatch.setattr(control, "_WATCHED", 0.2)
    with two.inside("b"), raceway.Firewall(two.interface("b"), "drop udp dst port 9") as firewall:
        chain = firewall.attachment._chain
        assert len(chain.members) == 1
        with Control(firewall) as answers:
            assert firewall.talkers().samples == 0
            firewall._talkers[0].one_in = 1
            assert len(chain.members) == 2
            send(two, 9, 20)
            found = answers._watch(5)
            assert found["talk"]["talkers"][0]["source"] == two.address("a")
            assert found["talk"]["talkers"][0]["mostly"] == "udp port 9"
            assert found["status"]["rules"][0]["packets"] == 20
            # A reload goes on between the two.
            firewall.reload("drop udp dst port 9\ndrop udp dst port 10")
            send(two, 9, 5)
            assert firewall.status().rules[0].packets == 25
            assert firewall.talkers().samples >= 5
            answers._watched_until = time.monotonic()
            deadline = time.monotonic() + 10
            while len(chain.members) > 1:
                answers.step(0.05)
                assert time.monotonic() < deadline
        send(two, 9, 3)
        status = firewall.status()
        assert status.rules[0].packets == 28
        assert firewall.attachment.attached


@in_the_kernel
@needs_root
def test_status_says_since_when_and_how_often(lab):
    two = lab()
    began = time.time()
    with two.inside("b"), raceway.Firewall(two.interface("b"), "drop udp dst port 9") as firewall:
        first = firewall.status()
        assert began <= first.started == first.rules_since <= time.time()
        assert (first.reloads, first.mode, first.malformed_policy) == (0, "driver", "drop")
        time.sleep(0.05)
        firewall.reload("malformed pass\ndrop udp dst port 10")
        second = firewall.status()
        assert second.started == first.started
        assert second.rules_since > first.rules_since
        assert second.uptime >= second.rules_for + 0.05
        assert (second.reloads, second.malformed_policy) == (1, "pass")


class Terminal:
    """`raceway firewall top` at host b, in a terminal of its own."""

    def __init__(self, two, *words: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.slave = slave

        def mine() -> None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = two.popen(
            "b",
            [sys.executable, "-m", "raceway", "firewall", "top", two.interface("b"), "-n", "0.2", *words],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=mine,
            env=os.environ | {"TERM": "xterm", "LANG": "C.UTF-8"},
        )  # fmt: skip
        self.text = ""

    def until(self, sign: str, patience: float = 30) -> str:
        """What was written up to when it has this sign in it."""
        deadline = time.monotonic() + patience
        while sign not in self.text:
            ready = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))[0]
            assert ready, f"no {sign!r} in {self.text!r}"
            self.text += os.read(self.master, 1 << 16).decode(errors="replace")
        return self.text

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)

    def ended(self) -> int:
        """The exit status, and what was written at last."""
        self.process.wait(20)
        while select.select([self.master], [], [], 0.1)[0]:
            self.text += os.read(self.master, 1 << 16).decode(errors="replace")
        # Keys are shown and come by the line again.
        assert (
            termios.tcgetattr(self.slave)[3] & (termios.ECHO | termios.ICANON)
            == termios.ECHO | termios.ICANON
        )
        assert "\x1b[?1049l" in self.text, "the screen before is back"
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def terminal(two, *words: str):
    one = Terminal(two, *words)
    try:
        yield one
    finally:
        one.close()


@in_the_kernel
@needs_root
def test_the_screen_shows_hears_keys_and_ends_with_ctrl_c_and_with_the_firewall(lab, tmp_path):
    two = lab()
    (tmp_path / "wall.rules").write_text("drop udp dst port 9\n")
    with running(two, tmp_path / "wall.rules") as process:
        send(two, 9, 7)
        with terminal(two) as one, terminal(two) as other:
            one.until("who sends")
            assert re.search(r"7  drop udp dst port 9", one.plain())
            one.press("s")
            one.until("by packets")
            one.press("q")
            assert one.ended() == 0
            other.until("who sends")
            other.press("\x03")
            assert other.ended() == 0
        with terminal(two, "--sort", "order") as one:
            one.until("by order")
            process.kill()
            assert one.ended() == 0
            assert "the firewall on veth0 has ended" in one.plain()


def command(two, *words: str, check: bool = True):
    done = two.run(
        "b", [sys.executable, "-m", "raceway", "firewall", *words], capture_output=True, text=True, timeout=60
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@in_the_kernel
@needs_root
def test_once_and_json_are_for_programs(lab, tmp_path):
    two = lab()
    interface = two.interface("b")
    absent = command(two, "top", interface, "--once", check=False)
    assert absent.returncode == 1
    assert "nobody runs a firewall" in absent.stderr
    (tmp_path / "wall.rules").write_text("drop udp dst port 9\npass udp dst port 10\n")
    with running(two, tmp_path / "wall.rules"):
        flood = two.popen(
            "a",
            [sys.executable, "-c",
             "import socket, time\none = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
             f"while True:\n    one.sendto(b'x', ('{two.address('b')}', 9))\n    time.sleep(0.001)"],
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 20
            while not json.loads(command(two, "status", interface, "--json").stdout.splitlines()[-1])["seen"]:
                assert time.monotonic() < deadline
            *screen, last = command(two, "top", interface, "--json", "-n", "0.5").stdout.splitlines()
        finally:
            flood.kill()
            flood.wait(10)
        found = json.loads(last)
        assert found["rule_count"] == 2
        assert found["drops"][0]["name"] == "drop udp dst port 9"
        assert found["drops"][0]["per_second"] > 100
        assert found["talkers"][0]["source"] == two.address("a")
        assert found["talkers"][0]["share"] > 0.9
        assert any("drop udp dst port 9" in line for line in screen)
        plain = command(two, "top", interface, "-n", "0.1").stdout
        assert "dropped, by name" in plain
        assert "\x1b" not in plain, "no terminal, so one screen"


@in_the_kernel
@needs_root
def test_rules_that_outlive_their_controller_do_so_while_they_are_watched(lab, tmp_path, mounts):
    two = lab()
    interface = two.interface("b")
    (tmp_path / "wall.rules").write_text("on death keep\npass established\ndrop udp dst port 9\n")
    inside = functools.partial(inside_mounts, two, mounts, folder=tmp_path)
    with inside("firewall", "run", interface, "-f", "wall.rules") as process:
        assert "in force" in process.stdout.readline()
        with two.inside("b"):
            assert ask(interface, do="watch")["rules"] == 2
        kept = subprocess.run(
            ["nsenter", f"--mount=/proc/{mounts}/ns/mnt", "ls", "/sys/fs/bpf/raceway"],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout.split()  # fmt: skip
        # The link, the ways on of the two functions, and the way out.
        assert sorted(name.split("-", 3)[3] if name.count("-") > 2 else "" for name in kept) == [
            "", "egress", "next-0", "next-1",
        ]  # fmt: skip
        process.kill()
        process.wait(20)
    try:
        with two.inside("b"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nine:
            nine.bind((two.address("b"), 9))
            nine.settimeout(0.3)
            send(two, 9, 2)
            with pytest.raises(TimeoutError):
                nine.recv(10)
    finally:
        with inside("detach", interface) as process:
            assert "firewall" in process.stdout.read()
