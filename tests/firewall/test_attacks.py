"""Tools that attackers use, against the firewall: what they learn; and curl and ssh through the same interface work.

    a (scans, floods; curl and ssh as well)  =====  b (rules on its interface; a web server and sshd)

Every attack ends by itself after a second or two.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sys
import time
from subprocess import DEVNULL

import pytest
from firewall_world import conserved, receiver
from servers import SSHD, fetches, logs_in, ssh_server, web_server

import raceway
from labs import lab as lab, needs, needs_root, reaches
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]
RULES = """default drop
malformed drop
pass arp
pass icmp6
limit 100/s per src icmp
pass tcp dst port 80
pass tcp dst port 22
drop tcp
drop udp
"""
SECONDS = 1.0
PORTS = "T:21,22,23,80,81,443,8080,U:53,123"


@contextlib.contextmanager
def walled(two, rules: str = RULES):
    """The firewall at b; what it has counted adds up in the end, when nobody sends any more."""
    with two.inside("b"):
        wall = raceway.Firewall(two.interface("b"), rules)
    try:
        yield wall
        deadline = time.monotonic() + 5
        while not conserved(wall.status()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert conserved(wall.status())
        assert wall.status().aborted == 0
    finally:
        wall.close()


def counted(wall) -> dict[str, int]:
    return {one.text: one.packets for one in wall.status().rules}


def nmap(two, family: int, *words: str) -> dict[int, str]:
    """What nmap says of each port: open, closed, filtered, open|filtered."""
    command = [
        "nmap",
        *words,
        "-n",
        "-Pn",
        "--max-retries",
        "1",
        "--max-rtt-timeout",
        "200ms",
        "--host-timeout",
        "30s",
    ]
    done = two.run(
        "a", [*command, *(["-6"] if family == 6 else []), two.address("b", family)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\d+)/(?:tcp|udp)\s+(\S+)", done.stdout, re.M)
    assert found, done.stdout
    return {int(port): state for port, state in found}


@needs("nmap")
@pytest.mark.parametrize("family", [4, 6])
def test_scans_find_what_is_let_in_and_nothing_else(lab, family):
    two = lab()
    assert reaches(two, "a", two.address("b", family), patience=5)
    with web_server(two), walled(two) as wall:
        # Port 22 is let in, but nobody listens there: the host answers with RST.
        found = nmap(two, family, "-sS", "-sU", "-p", PORTS)
        assert found.pop(80) == "open"
        assert found.pop(22) == "closed"
        assert {found.pop(port) for port in (53, 123)} == {"open|filtered"}
        assert set(found.values()) == {"filtered"}
        for scan in ("-sF", "-sN", "-sX") if family == 4 else ():
            found = nmap(two, family, scan, "-p", "23,443")
            assert set(found.values()) == {"open|filtered"}, scan
        assert fetches(two, two.address("b", family))
        assert counted(wall)["drop tcp"] > 4
        assert counted(wall)["drop udp"] > 1


@needs("nmap")
def test_a_scan_in_fragments_finds_nothing_and_is_counted_as_what_it_is(lab):
    two = lab()
    assert reaches(two, "a", two.address("b"), patience=5)
    with web_server(two), walled(two) as wall:
        # Eight bytes of TCP a fragment; and 16, so that the second holds the flags.
        for words in (["-f"], ["-f", "-f"]):
            found = nmap(two, 4, "-sS", *words, "-p", "23,80")
            assert set(found.values()) == {"filtered"}
        wrong = wall.status().malformed
        assert any("RFC 1858" in why for why in wrong), wrong
        assert any("RFC 3128" in why for why in wrong), wrong


HPING = {
    "SYN flood": ["-S", "-p", "81"],
    "SYN flood, sources made up": ["-S", "-p", "443", "--rand-source"],
    "UDP flood": ["--udp", "-p", "9", "-d", "64"],
    "flood of fragments": ["--udp", "-p", "9", "-d", "400", "-f", "-m", "64"],
    "ping flood": ["--icmp"],
}


@contextlib.contextmanager
def attack(two, *command: str):
    """A program at a that sends until the `with` ends; never longer than two minutes, its compilation among them."""
    with two.popen("a", ["timeout", "-s", "INT", "120", *command], stdout=DEVNULL, stderr=DEVNULL) as process:
        try:
            time.sleep(0.3)
            assert process.poll() is None
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(15)


def serves(two, client: list[str], family: int = 4, seconds: float = SECONDS) -> int:
    """Pages that curl gets in that time; all that it asks for, and ssh gets in."""
    address = two.address("b", family)
    pages, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline or pages < 3:
        assert fetches(two, address)
        pages += 1
    assert not client or logs_in(two, client, address)
    return pages


@pytest.fixture
def guarded(lab, tmp_path):
    """A lab whose b serves the web and SSH behind the firewall: the lab, the firewall, the SSH client's command."""
    two = lab()
    for family in (4, 6):
        assert reaches(two, "a", two.address("b", family), patience=5)
    with contextlib.ExitStack() as stack:
        stack.enter_context(web_server(two))
        there = SSHD and shutil.which("ssh") and shutil.which("ssh-keygen")
        client = stack.enter_context(ssh_server(two, tmp_path)) if there else []
        yield two, stack.enter_context(walled(two)), client


@pytest.mark.alone
@needs("hping3", "curl")
def test_the_web_and_ssh_go_on_while_hping_floods(guarded):
    two, wall, client = guarded
    for name, words in HPING.items():
        before = wall.status()
        with attack(two, "hping3", "--flood", "-q", "-n", *words, two.address("b")):
            serves(two, client if name == "SYN flood" else [], seconds=0.5)
        after = wall.status()
        refused = (
            after.seen
            - before.seen
            - sum(
                one.packets - old.packets
                for one, old in zip(after.rules, before.rules, strict=True)
                if one.action == "pass"
            )
        )
        # A flood was there, and did not get through: hping3 makes some 100,000 packets a second.
        assert refused > 1000, name
    assert wall.status().rules[2].limited > 0


@pytest.mark.alone
@needs("curl")
@pytest.mark.parametrize(("family", "slots"), [(4, 64), (6, 2048)])
def test_the_web_and_ssh_go_on_while_pkt_gen_floods_at_full_speed(guarded, family, slots):
    two, wall, client = guarded
    port = f"netmap:{two.interface('a')}/T@conf:slots={slots}"
    where = two.address("b", family)
    words = [
        "-d",
        f"[{where}]:9" if family == 6 else f"{where}:9",
        "-D",
        two.mac("b"),
        f"-{family}",
        "-T",
        "0",
    ]
    with receiver(two, 9, family) as nine:
        with attack(two, sys.executable, "-m", "raceway", "pkt-gen", "-f", "tx", "-i", port, *words):
            deadline = time.monotonic() + 90
            while not counted(wall)["drop udp"] and time.monotonic() < deadline:
                time.sleep(0.05)
            serves(two, client, family)
        with pytest.raises(TimeoutError):
            nine.recv(100)
    assert counted(wall)["drop udp"] > 20_000
