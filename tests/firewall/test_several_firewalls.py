"""Firewalls on two interfaces of one host, each with its own rules and counters; and two that want the same one."""

from __future__ import annotations

import json
import signal
import socket

import pytest
from firewall_world import FAMILIES, command, conserved, running

import raceway
from labs import lab as lab, needs_root, reaches
from raceway.errors import PortBusyError
from raceway.kernel.interface import xdp_attached
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]


@pytest.mark.parametrize("family", [4, 6])
def test_two_interfaces_of_a_host_have_rules_and_counters_apart(lab, family):
    router = lab("router", 2)
    names = [router.interface("router", towards=host) for host in "ab"]
    hosts = {host: router.address("router", family, towards=host) for host in "ab"}
    for host in "ab":
        assert reaches(router, host, hosts[host], patience=5)
    rules = [
        "drop udp dst port 9\npass udp",
        "pass udp dst port 9\ndrop udp dst port 10\ndrop udp dst port 11",
    ]
    with (
        router.inside("router"),
        raceway.Firewall(names[0], rules[0]) as first,
        raceway.Firewall(names[1], rules[1]) as second,
    ):
        for host, packets in (("a", 5), ("b", 7)):
            with router.inside(host), socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as one:
                for port in (9, 10, 11):
                    for _ in range(packets):
                        one.sendto(b"x", (hosts[host], port))
        found = [wall.status() for wall in (first, second)]
        assert [one.packets for one in found[0].rules] == [5, 10]
        assert [one.packets for one in found[1].rules] == [7, 7, 7]
        assert all(map(conserved, found))
        first.reload("pass any")
        assert [one.packets for one in second.status().rules] == [7, 7, 7]
        second.close()
        assert xdp_attached(names[0])
        assert not xdp_attached(names[1])


def test_one_command_each_answers_for_its_own_interface(lab, tmp_path):
    two = lab()
    walls = {}
    for host in "ab":
        walls[host] = tmp_path / f"{host}.rules"
        walls[host].write_text(f"drop udp dst port {ord(host)}\n")
    # Both ends of one cable: their namespaces differ, and the sockets that answer with them.
    with running(two, walls["b"]), running(two, walls["a"], host="a"):
        for host in "ab":
            shown = command(two, "status", two.interface(host), "--json", host=host).stdout.splitlines()[-1]
            assert json.loads(shown)["rules"][0]["text"] == f"drop udp dst port {ord(host)}"


def test_a_second_controller_on_an_interface_is_refused_and_told_whose_it_is(lab, tmp_path):
    two = lab()
    wall = tmp_path / "wall.rules"
    wall.write_text("drop udp dst port 9\n")
    interface = two.interface("b")
    with running(two, wall) as process:
        refused = command(two, "run", interface, "-f", str(wall), check=False)
        assert refused.returncode == 1
        for wanted in (
            "a firewall is on it already",
            str(process.pid),
            f"raceway firewall reload {interface}",
        ):
            assert wanted in refused.stderr
        with two.inside("b"), pytest.raises(PortBusyError, match="a firewall is on it already"):
            raceway.Firewall(interface, "pass any")
        assert json.loads(command(two, "status", interface, "--json").stdout.splitlines()[-1])["rules"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        with two.inside("b"), raceway.Firewall(interface, "pass any"):
            assert xdp_attached(interface)
