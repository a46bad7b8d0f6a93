"""Where raceway and its peers are measured on interfaces: labs, sources, sinks and counters that are the same for both.

    send      a ===== b                  whoever is measured sends at a; XDP drops and counts at b
    receive   a ===== b                  the source sends at a; whoever is measured receives at b
    forward   a ===== m ===== b          the source at a, whoever is measured in m, XDP drops and counts at b
    inject    a ===== b                  frames for b's own address; b's IP counts

What counts is what arrived. The sink is an XDP program of two instructions on the far interface: it takes a frame for
less than anything else does, and it lets the near driver take live frames, as any XDP program there does.
The source (source.py) makes live frames of one constant packet on CPU 0, which is several times what a receiver
takes; so CPU 1 is the receiver's.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.peers.measurement import Detail, Measurement, PeerUnavailable
from bench.peers.process import Console, pinned
from raceway.apps.lab import Lab
from raceway.errors import RacewayError
from raceway.kernel.bpf.assembler import R0, Assembler
from raceway.kernel.bpf.links import attach_xdp
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import ProgramKind, XdpAction
from raceway.kernel.interface import Network

SECONDS = 2.0
"""How long a rate is measured, unless asked otherwise."""
SOURCE_CPU, WORK_CPU = 0, 1
"""The source's processor, and the one of what receives, forwards or echoes."""
PORT = 9
"""The UDP port that frames of the stage are for: discard (RFC 863)."""
_WARM_UP = 0.5
_START = 30.0
_PATIENCE = 20.0
_END = 15.0
_LOOK = 0.005
_IN_RINGS = 16384


class Stage:
    """A lab for one measurement. Use as a context manager; leaving removes everything.

    hosts: 2 (a, b) or 3 (a, m, b). Raises PeerUnavailable without the privilege for namespaces.
    """

    def __init__(self, hosts: int = 2) -> None:
        with _explained("no lab"):
            # Without IPv6 nobody sends on his own, and every packet that is counted was sent by what is measured.
            self.lab = Lab("line", hosts, ipv6=False)
        self._kept = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._kept.close()
        finally:
            self.lab.close()

    # -- sinks and what makes a host ready -----------------------------------------------------------------

    def drop(self, host: str) -> None:
        """Let XDP in the driver drop everything that arrives at the host."""
        code = Assembler().mov(R0, XdpAction.DROP).exit().assemble()
        with _explained("no sink"), self.lab.inside(host):
            program = self._kept.enter_context(Program(ProgramKind.XDP, code, name="bench_sink"))
            self._kept.enter_context(attach_xdp(program, self.lab.index(host), "driver"))

    def deaf_socket(self, host: str) -> socket.socket:
        """A UDP socket on PORT that is never read, so that the host's stack ends every packet the same cheap way: in a
        full receive buffer, and not with an ICMP error."""
        with self.lab.inside(host):
            deaf = self._kept.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            deaf.bind(("0.0.0.0", PORT))
        return deaf

    def command(self, host: str, *words: str) -> str:
        """Run a short command at a host and return what it says; PeerUnavailable if it fails or is not there."""
        try:
            done = self.lab.run(host, words, capture_output=True, text=True, timeout=_END)
        except OSError as error:
            raise PeerUnavailable(f"{words[0]} cannot be started: {error}") from error
        if done.returncode != 0:
            raise PeerUnavailable(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
        return str(done.stdout)

    # -- programs ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def console(
        self,
        host: str,
        command: Sequence[str],
        *,
        name: str = "",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Console]:
        """An interactive program at a host, killed on leaving. name: what messages call it, if not as the command."""
        with self.lab.inside(host):
            started = Console(command, cwd=cwd, environment=environment)
        started.name = name or started.name
        with started:
            yield started

    @contextlib.contextmanager
    def source(self, destination: str, length: int = 60) -> Iterator[Source]:
        """Frames of `length` bytes from host a to the MAC and IPv4 address of host `destination`, without end."""
        command = [
            *pinned(SOURCE_CPU), sys.executable, str(Path(__file__).with_name("source.py")),
            self.lab.interface("a"), self.lab.mac(destination), self.lab.address(destination), str(length),
        ]  # fmt: skip
        with self.console("a", command, name="the source") as console:
            console.wait_for(r"sending\r?\n", _START)
            yield Source(console)

    # -- counters ------------------------------------------------------------------------------------------

    def arrivals(self, host: str) -> Callable[[], int]:
        """A function that says how many packets the interface of the host has received."""
        with self.lab.inside(host):
            network = self._kept.enter_context(Network())
        name = self.lab.interface(host)
        return lambda: network.link_counters(name)["rx_packets"]

    def deliveries(self, host: str, fate: str = "xdp_redirect") -> Callable[[], int]:
        """A function that says how many packets XDP has given to AF_XDP sockets on the host's veth, or let end in the
        other `fate` of that name in the driver's statistics."""
        name = self.lab.interface(host)
        with self.lab.inside(host):
            network = self._kept.enter_context(Network())

        def count() -> int:
            with self.lab.inside(host):
                return delivered(network.statistics(name), fate)

        return count

    def ip_arrivals(self, host: str) -> Callable[[], int]:
        """A function that says how many packets the host's IPv4 has received: InReceives of RFC 4293."""

        def count() -> int:
            with self.lab.inside(host):
                return parse_snmp(Path("/proc/thread-self/net/snmp").read_text())["Ip", "InReceives"]

        return count


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Where the kernel refuses, there is no figure."""
    try:
        yield
    except (OSError, RacewayError) as error:
        raise PeerUnavailable(f"{what}: {error}") from error


class Source:
    """A running source."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def stop(self) -> int:
        """End it; how many frames it has made."""
        interrupt(self._console)
        return int(self._console.wait_for(r"made (\d+) frames\r?\n", _END)[1])


def interrupt(console: Console) -> None:
    """As Ctrl-C would."""
    if console.process.poll() is None:
        console.process.send_signal(signal.SIGINT)


def parse_snmp(text: str) -> dict[tuple[str, str], int]:
    """/proc/net/snmp: (group, name) to value, as ("Ip", "InReceives"). Raises PeerUnavailable."""
    found: dict[tuple[str, str], int] = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        group, *keys = names.split()
        _, *numbers = values.split()
        found |= {(group.rstrip(":"), key): int(number) for key, number in zip(keys, numbers, strict=False)}
    if ("Ip", "InReceives") not in found:
        raise PeerUnavailable(f"/proc/net/snmp is not of the form expected: {text[:200]!r}")
    return found


def check_running(console: Console) -> None:
    """PeerUnavailable, with the program's last words, if it has ended."""
    if console.process.poll() is None:
        return
    with contextlib.suppress(PeerUnavailable):
        console.wait_for(r"(?!)", 1.0)  # never there: takes what it still had to say
    raise PeerUnavailable(f"{console.name} has ended: {' '.join(console.output[-300:].split())}")


def rate(
    count: Callable[[], int], seconds: float, *, of: Console | None = None, patience: float = _PATIENCE
) -> float:
    """How much a count grows a second, once it grows: over `seconds`, after half a second to warm up.

    PeerUnavailable if it does not grow at all within `patience` seconds, or the program it comes `of` has ended.
    """
    first, deadline = count(), time.monotonic() + patience
    while count() == first:
        if of is not None:
            check_running(of)
        if time.monotonic() > deadline:
            raise PeerUnavailable(f"nothing had arrived after {patience:g} s")
        time.sleep(_LOOK)
    time.sleep(_WARM_UP)
    before, began = count(), time.monotonic()
    time.sleep(seconds)
    after, ended = count(), time.monotonic()
    if after == before:
        raise PeerUnavailable(f"nothing arrived in {seconds:g} s, after a start")
    return (after - before) / (ended - began)


def settled(count: Callable[[], int], patience: float = 2.0) -> int:
    """A count when it has stopped growing, or after `patience` seconds."""
    deadline = time.monotonic() + patience
    before, now = -1, count()
    while now != before and time.monotonic() < deadline:
        time.sleep(0.05)
        before, now = now, count()
    return now


def in_millions(name: str, value: float, detail: Detail, command: str) -> Measurement:
    """A rate in packets a second, as the table shows it."""
    return Measurement(name, value * 1e-6, "Mpps", detail, command)


def outcome(sent: int, arrived: int, **more: Any) -> Detail:
    """What became of what was sent, for a figure's detail."""
    return {"packets sent": sent, "packets arrived": arrived, **more}


def delivered(statistics: Mapping[str, int], fate: str = "xdp_redirect") -> int:
    """Packets that a veth's XDP program has redirected (or of another `fate`), of all queues: from what `ethtool -S`
    shows. Packets for which a socket had no room are not among them. Raises PeerUnavailable."""
    found = [value for name, value in statistics.items() if name.endswith(f"_{fate}")]
    if not found:
        raise PeerUnavailable(f"the statistics of veth lack {fate}: {sorted(statistics)}")
    return sum(found)


def received_all(who: str, counted: int, delivered: int) -> None:
    """PeerUnavailable if a receiver counts other packets than its socket was given, but for what still lay in its ring
    when it was stopped."""
    if not 0 <= delivered - counted <= _IN_RINGS:
        raise PeerUnavailable(f"{who} counts {counted} packets, and the kernel has delivered {delivered}")
