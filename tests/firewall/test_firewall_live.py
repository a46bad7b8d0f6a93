"""Firewalls on live interfaces, in labs."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time

import pytest
from firewall_world import command, conserved, inside_mounts, received, receiver, running, send

import raceway
from labs import lab as lab, mounts as mounts, needs_root, reaches
from raceway.apps.functions import pinning
from raceway.kernel.interface import xdp_attached
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]


RELOADS = 8


def test_rules_drop_pass_and_limit_and_count_each_packet(lab):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    rules = "drop udp dst port 9\nlimit 3/h burst 3 udp dst port 10\npass udp\ndrop udp"
    with receiver(two, 9) as nine, receiver(two, 10) as ten, receiver(two, 11) as eleven:
        with two.inside("b"), raceway.Firewall(two.interface("b"), rules) as firewall:
            for port in (9, 10, 11):
                send(two, port, *(str(number).encode() for number in range(5)))
            assert received(eleven) == [b"0", b"1", b"2", b"3", b"4"]
            assert received(ten) == [b"0", b"1", b"2"]
            assert received(nine) == []
            status = firewall.status()
        assert [(one.packets, one.limited) for one in status.rules] == [(5, 0), (3, 2), (5, 0), (0, 0)]
        assert conserved(status)
        send(two, 9, b"again")
        assert received(nine) == [b"again"]
    with two.inside("b"):
        assert not xdp_attached(two.interface("b"))


def test_a_reload_keeps_what_unchanged_rules_have_counted_and_their_limits(lab):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    limit = "limit 3/h burst 3 udp dst port 10"
    with two.inside("b"), raceway.Firewall(two.interface("b"), f"drop udp dst port 9\n{limit}") as firewall:
        with receiver(two, 10) as ten:
            send(two, 9, b"a", b"b")
            send(two, 10, b"0", b"1")
            assert received(ten) == [b"0", b"1"]
            firewall.reload(f"{limit}\npass udp dst port 9")
            send(two, 10, b"2", b"3")
            assert received(ten) == [b"2"]
        status = firewall.status()
        assert [(one.packets, one.limited) for one in status.rules] == [(3, 1), (0, 0)]
        assert status.gone == 2
        assert conserved(status)


def test_rules_that_are_not_accepted_leave_the_old_ones_in_force(lab, tmp_path, monkeypatch):
    two = lab()
    monkeypatch.setattr(pinning, "BPF_FILES", tmp_path / "none")
    with two.inside("b"), raceway.Firewall(two.interface("b"), "drop udp dst port 9") as firewall:
        with pytest.raises(raceway.RulesError):
            firewall.reload("drop udp dst port")
        # There is no place to pin anything in.
        with pytest.raises(OSError, match="BPF file system"):
            firewall.reload("on death keep\npass udp dst port 9")
        with receiver(two, 9) as nine:
            send(two, 9, b"x")
            assert received(nine) == []
        assert firewall.status().rules[0].packets == 1


def test_no_packet_is_lost_or_misjudged_at_a_reload(lab):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    sets = [f"drop udp dst port 9\npass udp dst port 10\ndrop udp src port {number}" for number in (1, 2)]
    stop = threading.Event()
    sent: list[int] = []
    found: list[bytes] = []

    def stream() -> None:
        with two.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            while not stop.is_set():
                one.sendto(len(sent).to_bytes(8, "big"), (two.address("b"), 10))
                one.sendto(b"never", (two.address("b"), 9))
                sent.append(1)
                time.sleep(0.0002)

    def collect(ten: socket.socket) -> None:
        while not stop.is_set():
            found.extend(received(ten))
        found.extend(received(ten))

    with contextlib.ExitStack() as stack:
        ten, nine = (stack.enter_context(receiver(two, port)) for port in (10, 9))
        stack.enter_context(two.inside("b"))
        firewall = stack.enter_context(raceway.Firewall(two.interface("b"), sets[0]))
        threads = [threading.Thread(target=stream), threading.Thread(target=collect, args=(ten,))]
        for thread in threads:
            thread.start()
        try:
            for number in range(RELOADS):
                firewall.reload(sets[number % 2])
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert [int.from_bytes(one, "big") for one in found] == list(range(len(sent)))
        assert received(nine) == []
        assert conserved(firewall.status())


def test_the_commands_show_reload_and_confirm(lab, tmp_path):
    two = lab()
    first, second = tmp_path / "first.rules", tmp_path / "second.rules"
    first.write_text("drop udp dst port 9\n")
    second.write_text("pass udp dst port 9\n")
    interface = two.interface("b")
    with running(two, first) as process, receiver(two, 9) as nine:
        send(two, 9, b"1")
        assert received(nine) == []
        shown = json.loads(command(two, "status", interface, "--json").stdout.splitlines()[-1])
        assert shown["rules"][0]["packets"] == 1
        command(two, "reload", interface, "-f", str(second))
        send(two, 9, b"2")
        assert received(nine) == [b"2"]
        (tmp_path / "wrong.rules").write_text("drop udp dst port\n")
        refused = command(two, "reload", interface, "-f", str(tmp_path / "wrong.rules"), check=False)
        assert refused.returncode == 2
        assert "wrong.rules:1:6" in refused.stderr
        send(two, 9, b"3")
        assert received(nine) == [b"3"]
        command(two, "reload", interface, "-f", str(first), "--confirm", "60")
        command(two, "confirm", interface)
        send(two, 9, b"4")
        assert received(nine) == []
        assert command(two, "confirm", interface, check=False).returncode == 1
        command(two, "reload", interface, "-f", str(second), "--confirm", "0.01")
        assert "not confirmed" in next(line for line in process.stdout if "confirmed:" in line)
        send(two, 9, b"5")
        assert received(nine) == []
    absent = command(two, "status", interface, check=False)
    assert absent.returncode == 1
    assert "nobody runs a firewall" in absent.stderr


def test_a_killed_firewall_leaves_the_interface_open(lab, tmp_path):
    two = lab()
    (tmp_path / "wall.rules").write_text("drop any\n")
    with running(two, tmp_path / "wall.rules") as process:
        process.kill()
        process.wait(10)
    with two.inside("b"):
        assert not xdp_attached(two.interface("b"))
    assert reaches(two, "a", two.address("b"))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_rules_that_keep_filtering_do_so_after_a_kill_and_not_after_a_clean_end(lab, tmp_path, mounts, end):
    two = lab()
    interface = two.interface("b")
    (tmp_path / "wall.rules").write_text("on death keep\ndrop udp dst port 9\n")

    def inside(*words: str) -> subprocess.Popen[str]:
        return inside_mounts(two, mounts, *words, folder=tmp_path)

    with inside("firewall", "run", interface, "-f", "wall.rules") as process:
        assert "in force" in process.stdout.readline()
        process.send_signal(end)
        process.wait(20)
    killed = end == signal.SIGKILL
    try:
        with receiver(two, 9) as nine:
            send(two, 9, b"x")
            assert received(nine) == ([] if killed else [b"x"])
        with two.inside("b"):
            assert bool(xdp_attached(interface)) == killed
    finally:
        if killed:
            with inside("detach", interface) as process:
                assert "firewall taken off" in process.stdout.read()
    with two.inside("b"):
        assert not xdp_attached(interface)
