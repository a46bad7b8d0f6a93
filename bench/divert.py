"""Packets to a Python function and back into the host's stack: raceway's divert, and nfqueue by PyPI's NetfilterQueue.

    source at a  =====  b     raceway:  divert x udp dst port 9, and a function that passes everything
                              nfqueue:  iptables -j NFQUEUE in the raw table, and a function that accepts everything

The packets are datagrams of 18 bytes, of 16 flows in turn, with checksums and not to be fragmented, as Linux' sockets
send them. They are for b, where a UDP socket that nobody reads ends each (in a full receive buffer), and what counts is
how many datagrams b's UDP has had in its hands: raceway puts packets of a flow back together, and UDP parts them again.
b's interface works as it does by itself: on the processor of who sends, and its GRO joins no UDP.

`stack` is the same without any firewall: what b's stack takes, packet by packet, if nobody looks at them.
"""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import raceway
from bench.kernel_filters import source
from bench.peers.measurement import Detail, Measurement, PeerUnavailable
from bench.peers.process import pinned
from bench.stage import SECONDS, WORK_CPU, Stage, in_millions, interrupt, parse_snmp, rate, settled
from raceway import PASS

_RULES = "divert inspector udp dst port 9"
_QUEUE, _LENGTH = 7, 16384
_START, _END = 30.0, 15.0
_FLOWS = 16
"""From so many ports the packets come, in turn."""


@raceway.packet_function
def native(packet):  # type: ignore[no-untyped-def]
    """Passes everything, as machine code."""
    return PASS


def plain(packet: Any) -> int:
    """Passes everything, as plain Python."""
    return PASS


@contextmanager
def _stage() -> Iterator[tuple[Stage, Callable[[], int], socket.socket]]:
    """b, how many packets its UDP has had, and its deaf socket, in which the first ones lie uncounted until it is
    read."""
    with Stage() as stage:
        # So that the source's live frames get there, whoever is measured.
        stage.command("b", "ethtool", "-K", stage.lab.interface("b"), "gro", "on")
        deaf = stage.deaf_socket("b")

        def count() -> int:
            with stage.lab.inside("b"):
                found = parse_snmp(Path("/proc/thread-self/net/snmp").read_text())
            return found["Udp", "InDatagrams"] + found["Udp", "InErrors"]

        yield stage, count, deaf


def diverted(function: Any = native, seconds: float = SECONDS) -> list[Measurement]:
    """Packets a second that the function passes and b's UDP gets."""
    with _stage() as (stage, count, deaf):
        with (
            stage.lab.inside("b"),
            raceway.Firewall(stage.lab.interface("b"), _RULES, divert={"inspector": function}) as wall,
        ):
            with source(stage, mac=stage.lab.mac("b"), flows=_FLOWS) as one:
                value = rate(count, seconds)
                made = one.stop()
            settled(count)
            _read(deaf)
            arrived = settled(count)
            divert = wall.status().divert
        assert divert is not None
        detail: Detail = {
            "offered": made, "packets arrived": arrived, "reinjected": divert.reinjected, "joined": divert.joined,
            "drops": str(divert.lost),
        }  # fmt: skip
        if divert.reinjected != arrived:
            raise AssertionError(
                f"raceway counts {divert.reinjected} reinjected packets, the host has {arrived}"
            )
        return [in_millions("raceway divert", value, detail, "raceway firewall run IFACE -f RULES --divert")]


def _read(deaf: socket.socket) -> None:
    """Take what lies in a socket's buffer."""
    deaf.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            deaf.recv(1 << 16)


def nfqueue(seconds: float = SECONDS) -> list[Measurement]:
    """The same by NetfilterQueue, on whichever processor it is faster. Raises PeerUnavailable."""
    if importlib.util.find_spec("netfilterqueue") is None:
        raise PeerUnavailable("NetfilterQueue (PyPI, with libnetfilter-queue-dev) is not here")
    found = [_nfqueue(seconds, cpu) for cpu in (WORK_CPU, None)]
    return max(found, key=lambda figures: figures[0].value)


def _nfqueue(seconds: float, cpu: int | None) -> list[Measurement]:
    with _stage() as (stage, count, _):
        rule = f"-p udp --dport 9 -j NFQUEUE --queue-num {_QUEUE}"
        stage.command("b", "iptables", "-t", "raw", "-A", "PREROUTING", *rule.split())
        program = str(Path(__file__).with_name("peers") / "nfqueue_pass.py")
        command = [*pinned(cpu), sys.executable, program, str(_QUEUE), str(_LENGTH)]
        with stage.console("b", command, name="nfqueue_pass") as console:
            console.wait_for(r"ready\r?\n", _START)
            with source(stage, mac=stage.lab.mac("b"), flows=_FLOWS) as one:
                value = rate(count, seconds, of=console)
                made = one.stop()
            arrived = settled(count)
            interrupt(console)
            taken = int(console.wait_for(r"took (\d+) packets", _END)[1])
        detail: Detail = {"offered": made, "packets arrived": arrived, "taken": taken}
        return [in_millions("NetfilterQueue", value, detail, f"iptables -t raw -A PREROUTING {rule}")]


def stack(seconds: float = SECONDS) -> list[Measurement]:
    """What b's stack takes of the source by itself."""
    with _stage() as (stage, count, _):
        with source(stage, mac=stage.lab.mac("b"), flows=_FLOWS) as one:
            value = rate(count, seconds)
            made = one.stop()
        detail: Detail = {"offered": made, "packets arrived": settled(count)}
        return [in_millions("the host's stack alone", value, detail, "")]
