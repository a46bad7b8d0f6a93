"""Diverted packets on live interfaces, in labs: to a Python function and back into the host's stack."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from divert_world import (
    RULES,
    conserved,
    firewall_at,
    not_eleven,
    passes,
    settled,
    to_ten,
)
from firewall_world import inside_mounts, received, receiver, send

import raceway
from labs import lab as lab, mounts as mounts, needs, needs_root, reaches, until
from raceway import PASS
from raceway.kernel.interface import Network, xdp_attached
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]


@pytest.mark.parametrize("mode", ["driver", "generic"])
@pytest.mark.parametrize("function", [not_eleven, to_ten])
def test_what_the_function_passes_arrives_at_the_host_once_and_what_it_drops_does_not(lab, function, mode):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    native = function is not_eleven
    with firewall_at(two, function=function, mode=mode) as firewall, receiver(two, 10) as ten:
        with receiver(two, 11) as eleven, receiver(two, 10, 6) as ten_6:
            send(two, 10, b"1", b"2")
            send(two, 11, b"3")
            send(two, 12, b"4")
            send(two, 10, b"six", family=6)
            assert received(ten_6, 1) == [b"six"]
            assert received(ten, 3) == ([b"1", b"2"] if native else [b"1", b"2", b"3"])
            assert received(eleven, 1) == []
        # The host's other packets go on as if nothing were there.
        assert reaches(two, "a", two.address("b"))
        status = settled(firewall)
        assert [one.packets for one in status.rules] == [4, 1]
        name = status.divert.names["inspector"]
        assert (name.passed, name.dropped, name.failed) == ((3, 1, 0) if native else (4, 0, 0))
        assert (status.divert.diverted, status.divert.reinjected, status.divert.lost) == (4, name.passed, {})
    with two.inside("b"):
        assert not xdp_attached(two.interface("b"))
        with Network() as network:
            assert sorted(network.names()) == sorted(["lo", two.interface("b")])


def test_a_connection_goes_through_a_function_and_a_large_download_is_whole(lab):
    two = lab()
    data = os.urandom(1 << 20)
    with firewall_at(two, "divert inspector tcp", passes) as firewall:
        with two.inside("b"), socket.create_server((two.address("b"), 80)) as server:

            def serve() -> None:
                connection, _ = server.accept()
                with connection:
                    got = b""
                    while len(got) < len(data):
                        got += connection.recv(1 << 16)
                    connection.sendall(got[::-1])

            thread = threading.Thread(target=serve)
            thread.start()
            with two.inside("a"), socket.create_connection((two.address("b"), 80), timeout=20) as client:
                client.sendall(data)
                found = b""
                while piece := client.recv(1 << 16):
                    found += piece
            thread.join()
        assert found == data[::-1]
        assert settled(firewall).divert.names["inspector"].passed > 100


def test_merged_segments_in_generic_mode_are_lost_by_name_and_the_rest_arrives(lab):
    two = lab()
    with firewall_at(two, "divert inspector tcp", mode="generic") as firewall:
        with contextlib.ExitStack() as stack:
            with two.inside("b"):
                server = stack.enter_context(socket.create_server((two.address("b"), 80)))
            with two.inside("a"):
                client = stack.enter_context(socket.create_connection((two.address("b"), 80), timeout=20))
            connection = stack.enter_context(server.accept()[0])
            assert connection.fileno() >= 0
            client.send(bytes(50_000))
            # veth hands over TCP's segments whole, several times as long as the MTU.
            assert until(lambda: firewall.status().divert.lost.get("host_too_long", 0) > 0)
        status = settled(firewall)
        assert set(status.divert.lost) == {"host_too_long"}
        assert status.divert.reinjected > 0


def test_several_queues_and_names_have_their_packets_in_order(lab):
    two = lab(queues=2)
    seen: dict[str, list[bytes]] = {"x": [], "y": []}

    def keep(name):
        def look(packet):
            seen[name].append(bytes(packet)[42:])
            return PASS

        return look

    rules = "divert x udp dst port 10\ndivert y udp dst port 11"
    functions = {"y": keep("y"), "x": keep("x")}
    wanted = [str(number).encode() for number in range(300)]
    with two.inside("b"), raceway.Firewall(two.interface("b"), rules, divert=functions) as firewall:
        with receiver(two, 10) as ten, receiver(two, 11) as eleven:
            for text in wanted:
                send(two, 10, text)
                send(two, 11, text)
            assert sorted(received(ten, 300)) == sorted(received(eleven, 300)) == sorted(wanted)
        names = settled(firewall).divert.names
    assert (names["x"].passed, names["y"].passed) == (300, 300)
    assert sorted(seen["x"]) == sorted(seen["y"]) == sorted(wanted)


def test_a_packet_larger_than_a_buffer_is_one_packet(lab):
    two = lab(mtu=9000)
    lengths = []

    def look(packet):
        lengths.append(len(packet))
        packet.udp.destination_port = 10
        return PASS

    text = os.urandom(8000)
    with firewall_at(two, function=look) as firewall, receiver(two, 10) as ten:
        send(two, 11, text)
        assert received(ten, 1) == [text]
        assert settled(firewall).divert.names["inspector"].passed == 1
    assert lengths == [8000 + 42]


@needs("ethtool")
def test_a_tag_among_the_bytes_stays_there(lab):
    two = lab(vlan=7)
    two.run("a", ["ethtool", "-K", "veth0", "txvlan", "off"], check=True, capture_output=True)
    tags = []

    def look(packet):
        tags.append(packet.vlan.identifier)
        return PASS

    with two.inside("b"), raceway.Firewall("veth0", RULES, divert={"inspector": look}) as firewall:
        with receiver(two, 10) as ten:
            send(two, 10, b"tagged")
            assert received(ten, 1) == [b"tagged"]
        settled(firewall)
    assert tags == [7]


def test_reloads_with_and_without_divert_lose_nothing_and_close_the_rings(lab):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    stop = threading.Event()
    sent: list[int] = []
    found: list[bytes] = []

    def stream() -> None:
        with two.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            while not stop.is_set():
                one.sendto(len(sent).to_bytes(8, "big"), (two.address("b"), 10))
                sent.append(1)
                time.sleep(0.0005)

    def collect(ten: socket.socket) -> None:
        while not stop.is_set():
            found.extend(received(ten, 100))
        found.extend(received(ten))

    with receiver(two, 10) as ten, firewall_at(two, "pass udp") as firewall, two.inside("b"):
        threads = [threading.Thread(target=stream), threading.Thread(target=collect, args=(ten,))]
        for thread in threads:
            thread.start()
        try:
            for rules in (RULES, "pass udp", RULES, f"{RULES}\npass tcp", "pass udp"):
                firewall.reload(rules)
                with Network() as network:
                    assert ("rw" in "".join(network.names())) == rules.startswith("divert")
                time.sleep(0.05)
            with pytest.raises(raceway.RulesError, match="nobody takes packets that are diverted to 'other'"):
                firewall.reload("divert other udp")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        status = settled(firewall)
        # At the moment of a switch one packet may wait for the function while the next goes by itself.
        assert sorted(int.from_bytes(one, "big") for one in found) == list(range(len(sent)))
        assert status.divert.diverted == status.divert.reinjected > 0


def test_a_function_that_is_too_slow_loses_packets_by_name_and_a_failing_one_is_counted(lab):
    two = lab(ipv6=False)
    count = 6000
    wait = threading.Event()

    def slow(packet):
        wait.wait(10)
        if packet.udp.destination_port == 11:
            raise ValueError("eleven")
        return PASS

    with firewall_at(two, function=slow) as firewall, receiver(two, 10) as ten:
        for port in (11, 10):
            send(two, port, *[b"x"] * (count // 2))
        wait.set()
        arrived = len(received(ten))
        status = settled(firewall)
        divert = status.divert
        assert divert.diverted == count
        assert divert.lost["no_buffer" if "no_buffer" in divert.lost else "ring_full"] > 0
        assert set(divert.lost) <= {"ring_full", "no_buffer"}
        assert divert.reinjected == arrived == divert.names["inspector"].passed
        assert divert.names["inspector"].failed > 0
        assert "ValueError: eleven" in divert.names["inspector"].failure


@pytest.mark.alone
def test_nobody_burns_a_processor_while_nothing_comes(lab):
    two = lab(ipv6=False)
    with firewall_at(two):
        time.sleep(0.3)
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.25


def test_an_interface_that_goes_down_and_up_goes_on_and_one_that_is_gone_ends(lab):
    two = lab(ipv6=False)
    name = two.interface("b")
    with firewall_at(two) as firewall, receiver(two, 10) as ten:
        for state in ("down", "up"):
            two.run("b", ["ip", "link", "set", name, state], check=True)
            time.sleep(0.15)

        def answered() -> bool:
            send(two, 10, b"again")
            return received(ten, 1) == [b"again"]

        assert until(answered)
        settled(firewall)
        two.run("b", ["ip", "link", "delete", name], check=True)
        assert until(lambda: not firewall.attachment.attached)
        assert firewall.diverter.failure is None
        assert conserved(firewall.status())


INSPECT = """
from raceway import PASS

def look(packet):
    packet.udp.destination_port = 10
    return PASS
"""


def test_the_commands_take_names_show_them_and_end_at_ctrl_c(lab, tmp_path):
    two = lab()
    interface = two.interface("b")
    (tmp_path / "inspect_udp.py").write_text(INSPECT)
    (tmp_path / "wall.rules").write_text(f"{RULES}\n")
    (tmp_path / "other.rules").write_text("drop udp dst port 9\ndivert another udp\n")
    raceway_firewall = [sys.executable, "-m", "raceway", "firewall"]
    run = [*raceway_firewall, "run", interface, "-f", "wall.rules", "--json"]
    nobody = two.run("b", run, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert nobody.returncode == 2
    assert (
        "wall.rules:1:8: nobody takes packets that are diverted to 'inspector'; there are none"
        in nobody.stderr
    )
    said = [*run, "--divert", "inspector=inspect_udp.py:look"]
    with (
        two.popen(
            "b", said, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        receiver(two, 10) as ten,
    ):
        assert "in force" in process.stdout.readline()
        send(two, 11, b"hello")
        assert received(ten, 1) == [b"hello"]
        told = [*raceway_firewall, "status", interface, "--json"]
        shown = two.run("b", told, capture_output=True, text=True, timeout=60, check=True).stdout
        assert "diverted 1: 1 reinjected, 0 lost, 0 under way\n  inspector: 1 passed" in shown
        divert = json.loads(shown.splitlines()[-1])["divert"]
        assert divert["names"]["inspector"]["passed"] == 1
        reload = [*raceway_firewall, "reload", interface, "-f", "other.rules"]
        refused = two.run("b", reload, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2
        assert "other.rules:2:8: nobody takes packets that are diverted to 'another'" in refused.stderr
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert json.loads(out.splitlines()[-1])["divert"]["reinjected"] == 1
    with two.inside("b"):
        assert not xdp_attached(interface)


def test_rules_that_keep_filtering_after_a_kill_drop_what_they_divert(lab, tmp_path, mounts):
    two = lab()
    interface = two.interface("b")
    (tmp_path / "inspect_udp.py").write_text(INSPECT)
    (tmp_path / "wall.rules").write_text(f"on death keep\n{RULES}\n")
    inside = functools.partial(inside_mounts, two, mounts, folder=tmp_path)
    words = ("firewall", "run", interface, "-f", "wall.rules", "--divert", "inspector=inspect_udp.py:look")
    with receiver(two, 10) as ten, receiver(two, 13) as other:
        with inside(*words) as process:
            assert "in force" in process.stdout.readline()
            send(two, 10, b"before")
            assert received(ten, 1) == [b"before"]
            process.kill()
            process.wait(20)
        try:
            send(two, 10, b"nobody looks at this")
            send(two, 13, b"not diverted")
            assert received(other, 1) == [b"not diverted"]
            assert received(ten, 1) == []
        finally:
            with inside("detach", interface) as process:
                assert "taken off" in process.stdout.read()
        send(two, 10, b"open")
        assert received(ten, 1) == [b"open"]


def test_who_cannot_have_the_rings_says_why_and_leaves_nothing(lab):
    two = lab(ipv6=False)
    interface = two.interface("b")
    with two.inside("b"), raceway.open(f"netmap:{interface}^"):
        with pytest.raises(raceway.PortBusyError, match="host rings are open already"):
            firewall_at(two)
        assert not xdp_attached(interface)
        with firewall_at(two, "pass udp") as firewall:
            with pytest.raises(raceway.PortBusyError):
                firewall.reload(RULES)
            assert not firewall.program.diverts


def test_frames_of_any_length_come_through(lab):
    two = lab(ipv6=False)
    lengths: list[int] = []

    def look(packet):
        lengths.append(len(packet))
        return PASS

    with two.inside("a"):
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind((two.interface("a"), 0))
    head = bytes.fromhex(two.mac("b").replace(":", "")) + bytes.fromhex("020000000001")
    with sender, firewall_at(two, "malformed match\ndivert inspector any", look) as firewall:
        for length in (14, 15, 21, 60, 1513, 1514):
            sender.send((head + b"\x88\xb5" + bytes(1500))[:length])
        status = settled(firewall) if until(lambda: len(lengths) >= 6) else None
        assert status is not None, lengths
    assert set(lengths) >= {14, 15, 21, 60, 1513, 1514}
