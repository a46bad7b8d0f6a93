"""What the kernel itself offers for the same work, each from C: sockets, TAP, AF_PACKET and its own bridge.

    round trips     UDP sockets, asleep until the packet is there, or spinning       udp_ping.c
    forwarding      the Linux bridge
    injecting       write(2) to a TAP device; sendmmsg(2) on AF_PACKET               inject.c

The labs, the source, the sinks and what counts are those of raceway's side: stage.py.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from bench.source import packet
from bench.stage import (
    PORT,
    SECONDS,
    SOURCE_CPU,
    WORK_CPU,
    Stage,
    in_millions,
    interrupt,
    outcome,
    rate,
    settled,
)

from .compiler import compile_program
from .measurement import Detail, Measurement, PeerUnavailable
from .process import pinned

_TAP = "tap0"
_START, _END = 10.0, 15.0
_TRIPS = re.compile(r"trips (\d+) lost (\d+) p50 (\d+) p99 (\d+) min (\d+) max (\d+)")


def parse_udp_ping(line: str) -> dict[str, int]:
    """What udp_ping printed: trips, lost, and p50, p99, min and max in nanoseconds. Raises PeerUnavailable."""
    found = _TRIPS.search(line)
    if found is None:
        raise PeerUnavailable(f"udp_ping printed no result line: {line[-200:]!r}")
    return dict(zip(("trips", "lost", "p50", "p99", "min", "max"), map(int, found.groups()), strict=True))


def udp_ping_pong(seconds: float = SECONDS, spin: bool = False) -> list[Measurement]:
    """Round trips of 60-byte frames between two UDP sockets: median and 99th percentile. spin: they never sleep.

    Raises PeerUnavailable.
    """
    words = ["spin"] if spin else []
    with Stage() as stage, tempfile.TemporaryDirectory(prefix="raceway-peer-") as folder:
        program = str(compile_program("udp_ping.c", Path(folder)))
        answer = [*pinned(WORK_CPU), program, "pong", str(PORT), *words]
        with stage.console("b", answer, name="udp_ping pong") as echo:
            echo.wait_for(r"ready\r?\n", _START)
            command = [program, "ping", stage.lab.address("b"), str(PORT), f"{seconds:g}", *words]
            with stage.console("a", [*pinned(SOURCE_CPU), *command], name="udp_ping") as pinger:
                line = pinger.wait_for(r"trips [^\n]+\n", seconds + _END)[0]
    trips = parse_udp_ping(line)
    detail: Detail = {
        "round trips": trips["trips"],
        "lost": trips["lost"],
        "min us": trips["min"] / 1000,
        "max us": trips["max"] / 1000,
    }
    how = "spinning" if spin else "blocking"
    shown = " ".join(["udp_ping", *command[1:]])
    return [
        Measurement(f"UDP sockets, {how}, {what}", trips[key] / 1000, "us", detail, shown)
        for what, key in (("median", "p50"), ("99 %", "p99"))
    ]


def linux_bridge(seconds: float = SECONDS, threaded: bool = False) -> list[Measurement]:
    """The kernel's bridge in the middle; packets a second that arrive at b. Raises PeerUnavailable.

    GRO lets the left interface take live frames, and the bridge knows where b is, so that it need not flood. Its work
    is done on the source's processor; threaded: in a thread of its own (Documentation/networking/napi.rst).
    """
    with Stage(3) as stage:
        stage.drop("b")
        count = stage.arrivals("b")
        left, right = (stage.lab.interface("m", towards) for towards in "ab")
        for words in (
            ("ip", "link", "add", "bridge0", "type", "bridge"),
            ("ip", "link", "set", left, "master", "bridge0"),
            ("ip", "link", "set", right, "master", "bridge0"),
            ("ip", "link", "set", "bridge0", "up"),
            ("bridge", "fdb", "replace", stage.lab.mac("b"), "dev", right, "master", "static"),
            ("ethtool", "-K", left, "gro", "on"),
            ("sh", "-c", f"echo {int(threaded)} >/sys/class/net/{left}/threaded"),
        ):
            stage.command("m", *words)
        with stage.source("b") as source:
            value = rate(count, seconds)
            made = source.stop()
        detail: Detail = {
            "source made": made,
            "packets arrived": settled(count),
            "threaded": "yes" if threaded else "no",
        }
        return [in_millions("Linux bridge", value, detail, "ip link set left master bridge0")]


def tap_write(seconds: float = SECONDS) -> list[Measurement]:
    """write(2) to a TAP device with an address; packets a second that the host's IP counts. Raises PeerUnavailable."""
    with Stage() as stage:
        stage.deaf_socket("b")
        mac, address = "02:00:00:00:01:00", "10.1.0.2"
        for words in (
            ("ip", "tuntap", "add", "dev", _TAP, "mode", "tap"),
            ("ip", "link", "set", _TAP, "address", mac),
            ("ip", "address", "add", f"{address}/24", "dev", _TAP),
            ("ip", "link", "set", _TAP, "up"),
        ):
            stage.command("b", *words)
        return _inject(stage, "tap", "b", _TAP, packet(mac, address, 60), seconds, "TAP, write by one thread")


def packet_send(seconds: float = SECONDS) -> list[Measurement]:
    """AF_PACKET at a into the veth whose other end is b's; packets a second that b's IP counts.

    Raises PeerUnavailable.
    """
    with Stage() as stage:
        stage.deaf_socket("b")
        frame = packet(stage.lab.mac("b"), stage.lab.address("b"), 60)
        return _inject(stage, "packet", "a", stage.lab.interface("a"), frame, seconds, "AF_PACKET, sendmmsg")


def _inject(
    stage: Stage, door: str, host: str, interface: str, frame: bytes, seconds: float, name: str
) -> list[Measurement]:
    count = stage.ip_arrivals("b")
    with tempfile.TemporaryDirectory(prefix="raceway-peer-") as folder:
        program = str(compile_program("inject.c", Path(folder)))
        command = [*pinned(SOURCE_CPU), program, door, interface, frame.hex()]
        with stage.console(host, command, name="inject") as console:
            console.wait_for(r"sending\r?\n", _START)
            value = rate(count, seconds)
            interrupt(console)
            made = int(console.wait_for(r"made (\d+) frames\r?\n", _END)[1])
    detail = outcome(made, settled(count))
    return [in_millions(name, value, detail, f"inject {door} {interface} FRAME")]
