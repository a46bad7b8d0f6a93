"""`pass established` on live interfaces, and in explanations."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import socket
import subprocess
import sys
import threading

import pytest
from firewall_world import inside_mounts

import raceway
from labs import lab as lab, mounts as mounts, needs_root, reaches
from raceway.apps.firewall.rules.language import parse_rules
from raceway.kernel import connections
from raceway.kernel.bpf.links import links
from raceway.kernel.bpf.system import LinkKind
from raceway.memory.jit import INTERPRETED

live = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]
RULES = """
default drop
flows 4096
pass established
pass arp
pass icmp6 and not (icmp6[0] = 128)
pass tcp dst port 22
"""


def families(two, host: str):
    return [(socket.AF_INET, two.address(host)), (socket.AF_INET6, two.address(host, 6))]


@contextlib.contextmanager
def serving(two, host: str, family: int, address: str, port: int):
    """A TCP server that says hello and echoes."""
    with two.inside(host):
        listener = socket.create_server((address, port), family=family)
    listener.settimeout(60)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                one, _ = listener.accept()
                with one:
                    one.settimeout(60)
                    one.sendall(b"hello")
                    while data := one.recv(100):
                        one.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def connect(two, host: str, address: str, port: int, timeout: float = 0.4) -> bool:
    """Whether a connection comes about, and words go over it in both directions."""
    with two.inside(host):
        try:
            one = socket.create_connection((address, port), timeout)
        except OSError:
            return False
    with one:
        one.settimeout(5)
        if one.recv(100) != b"hello":
            return False
        one.sendall(b"again")
        return one.recv(100) == b"again"


def conserved(status) -> bool:
    decided = sum(one.packets + one.limited for one in status.rules)
    return status.seen == (
        decided + status.default_packets + sum(status.malformed.values()) + status.gone + status.aborted
    )


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@live[0]
@live[1]
def test_what_the_host_begins_or_answers_passes_and_nothing_else(lab, six):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    (family, host), (_, peer) = families(two, "b")[six], families(two, "a")[six]
    with two.inside("b"), raceway.Firewall(two.interface("b"), RULES) as firewall:
        with (
            serving(two, "a", family, peer, 80),
            serving(two, "b", family, host, 22),
            serving(two, "b", family, host, 23),
        ):
            assert connect(two, "b", peer, 80, 5)
            assert connect(two, "a", host, 22, 5)
            assert not connect(two, "a", host, 23)
        status = firewall.status()
        assert status.flows["known"] >= 2
        assert status.flows["unseen"] == 0
        assert status.rules[0].packets > 8
        assert conserved(status)
        # A question and its answer, and answers that nobody has asked for.
        with two.inside("a"), socket.socket(family, socket.SOCK_DGRAM) as outside:
            outside.bind((peer, 53))
            outside.settimeout(5)
            with two.inside("b"), socket.socket(family, socket.SOCK_DGRAM) as inside:
                inside.bind((host, 5000))
                inside.settimeout(0.2)
                outside.sendto(b"unasked", (host, 5000))
                with pytest.raises(TimeoutError):
                    inside.recv(100)
                inside.sendto(b"question", (peer, 53))
                assert outside.recv(100) == b"question"
                outside.sendto(b"answer", (host, 5000))
                inside.settimeout(5)
                assert inside.recv(100) == b"answer"
                # In fragments: the first has ports, the others follow it.
                outside.sendto(bytes(range(250)) * 16, (host, 5000))
                assert inside.recv(5000) == bytes(range(250)) * 16
        # An error about what the host has sent: nobody listens there.
        with two.inside("b"), socket.socket(family, socket.SOCK_DGRAM) as inside:
            inside.settimeout(5)
            inside.connect((peer, 9))
            inside.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                inside.recv(100)
        assert conserved(firewall.status())


@live[0]
@live[1]
def test_connections_that_are_there_go_on_when_the_firewall_begins_and_at_reloads(lab):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    host = two.address("b")
    with serving(two, "b", socket.AF_INET, host, 4000):
        with two.inside("a"):
            one = socket.create_connection((host, 4000), 5)
        one.settimeout(5)
        with one:
            assert one.recv(100) == b"hello"
            with two.inside("b"), raceway.Firewall(two.interface("b"), RULES) as firewall:
                # The other side speaks first: the host has sent nothing since.
                one.sendall(b"one")
                assert one.recv(100) == b"one"
                flows = firewall.program.flows
                firewall.reload(RULES + "drop udp dst port 7")
                assert firewall.program.flows is flows
                one.sendall(b"two")
                assert one.recv(100) == b"two"
                firewall.reload(RULES.replace("flows 4096", "flows 99"))
                assert firewall.program.flows is not flows
                one.sendall(b"three")
                assert one.recv(100) == b"three"
                firewall.reload("pass any")
                assert firewall.status().flows is None
                firewall.reload(RULES)
                one.sendall(b"four")
                assert one.recv(100) == b"four"
                assert conserved(firewall.status())


@live[0]
@live[1]
def test_flows_are_noted_after_the_controllers_death_where_rules_are_kept(lab, tmp_path, mounts):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    interface, peer, host = two.interface("b"), two.address("a"), two.address("b")
    (tmp_path / "wall.rules").write_text("on death keep" + RULES)
    inside = functools.partial(inside_mounts, two, mounts, folder=tmp_path)
    with inside("firewall", "run", interface, "-f", "wall.rules") as process:
        assert "in force" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    try:
        with serving(two, "a", socket.AF_INET, peer, 80), serving(two, "b", socket.AF_INET, host, 23):
            assert connect(two, "b", peer, 80, 5)
            assert not connect(two, "a", host, 23)
    finally:
        with inside("detach", interface) as process:
            assert "firewall taken off" in process.stdout.read()
    with serving(two, "b", socket.AF_INET, host, 23):
        assert connect(two, "a", host, 23, 5)
    with two.inside("b"):
        index = socket.if_nametoindex(interface)
    assert not [one for one in links() if one.kind == LinkKind.TCX and one.index == index]


def test_the_kernels_list_of_connections_is_read():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as one:
            found = [(str(a), b, str(c), d) for a, b, c, d in connections.established()]
            mine = one.getsockname()[1]
            assert ("127.0.0.1", mine, "127.0.0.1", port) in found
            assert ("127.0.0.1", port, "127.0.0.1", mine) in found
    text = (
        "  sl  local_address ...\n"
        "   0: 0000000000000000FFFF00000100007F:0016 0000000000000000FFFF00000200007F:C350 01 0:0 ...\n"
        "   1: B80D0120000000000000000001000000:0016 B80D0120000000000000000002000000:C350 01 0:0 ...\n"
        "   2: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0 ...\n"
    )
    if sys.byteorder == "little":
        assert [(str(a), b, str(c), d) for a, b, c, d in connections.parsed(text)] == [
            ("127.0.0.1", 22, "127.0.0.2", 50000), ("2001:db8::1", 22, "2001:db8::2", 50000),
        ]  # fmt: skip


def test_the_number_of_flows_is_said_once_and_in_range():
    assert parse_rules("flows 5000\npass established").flows == 5000
    for text, reason in (
        ("flows", "expected at the end"), ("flows 0", "from 1 to"), ("flows many", "'many'"),
        ("flows 5\nflows 6", "set before"), ("flows 5 6", "not expected"),
    ):  # fmt: skip
        with pytest.raises(raceway.RulesError, match=reason):
            parse_rules(text)


def test_explanations_follow_what_the_host_sends(tmp_path):
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    pairs = [(IP, "10.0.0.1", "10.0.0.2"), (IPv6, "2001:db8::1", "2001:db8::2")]
    packets = []
    for kind, host, peer in pairs:
        answer = ether / kind(src=peer, dst=host) / UDP(sport=53, dport=9)
        packets += [answer, ether / kind(src=host, dst=peer) / UDP(sport=9, dport=53), answer]
    wrpcap(str(tmp_path / "trace.pcap"), packets)
    (tmp_path / "wall.rules").write_text("default drop\npass established\n")
    words = [sys.executable, "-m", "raceway", "firewall", "explain", "wall.rules", "trace.pcap"]

    def said(*more: str):
        return subprocess.run([*words, *more], cwd=tmp_path, capture_output=True, text=True, check=True)

    found = json.loads(said("--host", "10.0.0.1", "--host", "2001:db8::1", "--json").stdout.splitlines()[-1])
    assert found["verdicts"] == ["DROP", "SENT", "PASS"] * 2
    assert found["matches"] == [-1, -1, 0] * 2
    without = said()
    assert "without --host" in without.stderr
    assert without.stdout.count("DROP") == 6
