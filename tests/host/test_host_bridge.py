"""`raceway bridge -i netmap:eth0 -i netmap:eth0^`: raceway between the NIC and its own host, and the host goes on.

The bridge is a process of its own, as for a user; so is the server or the client outside.
"""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from host_world import RACEWAY, bridge, device, ip, link_counters, nature, programs, protocol_counters, until

from conftest import scaled
from labs import lab as lab, needs, needs_root, reaches
from raceway.apps.lab import Lab
from raceway.memory.jit import INTERPRETED

pytestmark = [pytest.mark.root, needs_root, needs("ip", "ping")]


class Session:
    """A TCP connection over which a line is sent every few milliseconds and comes back, as people type over SSH."""

    def __init__(self, lab, host: str, other: str, version: int = 4) -> None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with lab.inside(other):
            listener = socket.create_server((lab.address(other, version), 0), family=family)
        with listener:
            with lab.inside(host):
                self.near = socket.create_connection(listener.getsockname()[:2], 20)
            self.far, _ = listener.accept()
        for each in (self.near, self.far):
            each.settimeout(20)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lines = 0
        self.slowest = 0.0
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._echo), threading.Thread(target=self._type)]
        for thread in self._threads:
            thread.start()

    def _echo(self) -> None:
        try:
            while data := self.far.recv(4096):
                self.far.sendall(data)
        except OSError as error:
            self.error = self.error or error

    def _type(self) -> None:
        try:
            with self.near.makefile("rb") as answers:
                while not self._stop.is_set():
                    line = b"line %d\n" % self.lines
                    began = time.monotonic()
                    self.near.sendall(line)
                    assert answers.readline() == line
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    self.lines += 1
                    time.sleep(0.002)
        except (OSError, AssertionError) as error:
            self.error = error

    def goes_on(self, lines: int = 50, seconds: float = 30) -> bool:
        """Whether so many more lines come back."""
        wanted = self.lines + lines
        return until(lambda: self.lines >= wanted or self.error is not None, seconds) and self.error is None

    def end(self) -> None:
        self._stop.set()
        self._threads[1].join(30)
        for each in (self.near, self.far):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(30)
        self.near.close()
        self.far.close()


@contextmanager
def session(*arguments, **options) -> Iterator[Session]:
    running = Session(*arguments, **options)
    try:
        yield running
    finally:
        running.end()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
@pytest.mark.parametrize("version", [4, 6])
def test_a_session_goes_on_when_the_bridge_comes_while_it_is_there_and_when_it_ends(lab, version, ending):
    two = lab()
    before = nature(two)
    with session(two, "a", "b", version) as typing:
        assert typing.goes_on()
        with bridge(two) as running:
            assert typing.goes_on(200)
            assert programs(two) == {"ingress": 0, "egress": 1, "xdp": 1}
            # It really goes this way.
            assert link_counters(two, device(two))["tx_packets"] >= 150
            running.send_signal(ending)
            running.wait(30)
        assert typing.goes_on(200), typing.error
        assert until(lambda: nature(two) == before)
        with bridge(two):
            assert typing.goes_on()
        # A packet that was on its way is sent once more after a fifth of a second; no line took much longer.
        assert typing.slowest < 5


@pytest.mark.parametrize("version", [4, 6])
def test_arp_neighbour_discovery_and_ping_cross_both_ways(lab, version):
    two = lab()
    with bridge(two):
        for _ in range(3):
            for host in ("a", "b"):
                ip(two, host, "neighbour flush all")
            assert reaches(two, "a", two.address("b", version))
            for host in ("a", "b"):
                ip(two, host, "neighbour flush all")
            assert reaches(two, "b", two.address("a", version))
        assert reaches(two, "a", two.address("b", version), 1400)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"mtu": 9000}, (8000, 1400, 8952)),
        ({"vlan": 5}, (56, 1400)),
        ({"queues": 2, "offloads": True}, (56,)),
    ],
    ids=["mtu 9000", "vlan", "queues"],
)
def test_jumbo_frames_vlans_and_several_queues(lab, options, sizes):
    two = lab(**options)
    with bridge(two), session(two, "a", "b") as typing, session(two, "b", "a", 6) as other:
        assert typing.goes_on()
        assert other.goes_on()
        for size in sizes:
            assert reaches(two, "a", two.address("b"), size)
            assert reaches(two, "b", two.address("a", 6), size)


SERVER = """
import functools, http.server, os, sys
os.chdir(sys.argv[2])
handler = http.server.SimpleHTTPRequestHandler
server = http.server.ThreadingHTTPServer
server.address_family = 10 if ":" in sys.argv[1] else 2
handler.log_message = lambda *_: None
server((sys.argv[1], 80), handler).serve_forever()
"""


@needs("curl")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_large_file_over_http_arrives_as_it_is_while_the_bridge_comes_and_goes(
    lab, tmp_path, version, direction
):
    """down: towards the host of the rings. The bridge is stopped in one transfer, and killed in the next."""
    two = lab(offloads=True)
    data = bytes(range(256)) * 4096 * scaled(100, 4)
    (tmp_path / "file").write_bytes(data)
    client, server = ("a", "b") if direction == "down" else ("b", "a")
    address = two.address(server, version)
    url = f"http://{'[' + address + ']' if version == 6 else address}/file"
    daemon = two.popen(server, [sys.executable, "-c", SERVER, address, str(tmp_path)])
    probe = ["curl", "-s", "-I", "-m", "2", "-o", "/dev/null", url]
    assert until(lambda: two.run(client, probe).returncode == 0)
    for ending in (None, signal.SIGINT, signal.SIGKILL):
        with bridge(two) as running:
            timer = threading.Timer(0.15, running.send_signal, (ending,))
            if ending is not None:
                timer.start()
            got = two.run(client, ["curl", "-s", "-m", "120", url], capture_output=True)
            timer.cancel()
            assert got.returncode == 0
            assert hashlib.sha256(got.stdout).digest() == hashlib.sha256(data).digest()
    daemon.kill()
    daemon.wait()


def connections_that_speak(two: Lab, host: str) -> str:
    """The TCP connections of a host that may still send of themselves, or owe an answer (RFC 9293, 3.3.2)."""
    command = ["ss", "-Htn", "state", "connected", "exclude", "time-wait"]
    done = two.run(host, command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@needs("iperf3")
@pytest.mark.skipif(INTERPRETED, reason="a load for compiled loops")
@pytest.mark.parametrize("way", ["tap", "live", ""])
def test_under_load_every_packet_is_counted_on_both_sides(lab, way):
    """What the bridge says went to the host is what IP there has received; what it says came from the host, and went to
    the NIC, is what the other end of the cable has received. To the packet."""
    two = lab(ipv6=False)
    for host, other in (("a", "b"), ("b", "a")):
        # Permanent, so that all packets are IP's.
        ip(
            two,
            host,
            f"neighbour replace {two.address(other)} lladdr {two.mac(other)} dev veth0 nud permanent",
        )
    server = two.popen("b", ["iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    second = f"netmap:veth0^{f'@host:tx={way}' if way else ''}"
    before = protocol_counters(two)["IpInReceives"], link_counters(two, "veth0", "b")["rx_packets"]
    with bridge(two, "netmap:veth0", second, more=("--json",)) as running:
        assert until(lambda: reaches(two, "a", two.address("b")))
        for more in ([], ["-R"], ["-u", "-b", "100M", "-R"]):
            command = ["iperf3", "-c", two.address("b"), "-t", "1", *more]
            assert until(
                lambda command=command: two.run("a", command, capture_output=True).returncode == 0, 60
            )
        # A client that has ended may still owe an ACK of the server's FIN, which would go by the bridge.
        assert until(lambda: not any(connections_that_speak(two, host) for host in ("a", "b")))
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=30)
    server.kill()
    server.wait()
    inward, outward = json.loads(said.splitlines()[-1])["ways"]
    assert inward["sent"] == inward["packets"] > 10000
    assert inward["sent"] == protocol_counters(two)["IpInReceives"] - before[0]
    assert outward["sent"] == outward["packets"] > 10000
    lost = link_counters(two, "veth0", "a")["tx_dropped"]
    assert outward["sent"] - lost == link_counters(two, "veth0", "b")["rx_packets"] - before[1]


def test_nic_and_host_rings_in_one_port_can_be_joined_by_hand(lab):
    """What `bridge` does, over the one port `eth0*` in this process."""
    import raceway

    two = lab()
    stop = threading.Event()
    with two.inside("a"):
        port = raceway.open("netmap:veth0*")
    failure: list[BaseException] = []

    def join() -> None:
        try:
            while not stop.is_set():
                for packet in port.receive(0.02):
                    port.send([bytes(packet)], ring=1 - packet.ring)
        except BaseException as error:
            failure.append(error)

    with port:
        thread = threading.Thread(target=join)
        thread.start()
        try:
            assert reaches(two, "a", two.address("b"))
            assert reaches(two, "b", two.address("a", 6))
        finally:
            stop.set()
            thread.join(30)
    assert not failure


@pytest.mark.parametrize("turned", [False, True])
def test_a_nic_read_by_af_packet_is_not_joined_with_its_host(lab, turned):
    """It would see again what arrives at the host, and so on without end."""
    two = lab(ipv6=False)
    ports = ["netmap:veth0@xdp:mode=packet", "netmap:veth0^"]
    if turned:
        ports.reverse()
    command = [*RACEWAY, "bridge", "-i", ports[0], "-i", ports[1]]
    done = two.run("a", command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "AF_XDP" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_bridge_says_names_the_way(lab):
    two = lab(ipv6=False)
    child = two.popen(
        "a",
        [*RACEWAY, "bridge", "-i", "netmap:veth0", "-i", "netmap:veth0^"],
        stdout=-1,
        stderr=-2,
        text=True,
    )
    said = "".join(child.stdout.readline() for _ in range(3))
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert f"host rings through {device(two)}, 1 ring pair" in said
    assert "by swapping buffers in one region" in said
