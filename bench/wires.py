"""raceway's side of the rows about interfaces: its own tools, as users start them, in the labs of stage.py.

Each function is one measurement on a stage of its own and returns figures as the peers' functions do. What a sender
has sent is counted where it arrives; what a receiver has received it says itself. Beside each figure stands what
became of the other packets, so that a loss shows.

PeerUnavailable here means that raceway gave no figure: its words are in the message.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.peers.measurement import Detail, Measurement, PeerUnavailable
from bench.peers.process import Console, pinned
from bench.programs import RACEWAY
from bench.stage import (
    PORT,
    SECONDS,
    SOURCE_CPU,
    WORK_CPU,
    Stage,
    check_running,
    in_millions,
    interrupt,
    outcome,
    rate,
    received_all,
    settled,
)

_START = 120.0  # seconds: the first time, a tool compiles
_END = 15.0
_READY = r"raceway: \S+: [^\n]+\n"
"""The line with which a tool introduces a port that it has opened."""
_OBJECT = r"\n(\{\"tool\".*\})\r?\n"
_PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "400"}


class Tool:
    """A running tool of raceway's, and the JSON object that it ends with."""

    def __init__(self, console: Console, command: str) -> None:
        self.console, self.command = console, command

    def ready(self, ports: int = 1) -> None:
        """Wait until its ports are open. An error has the form of an introduction too: `rate` and `stop` find it."""
        for _ in range(ports):
            self.console.wait_for(_READY, _START)

    def stop(self) -> dict[str, Any]:
        """Ctrl-C, and what it reports. PeerUnavailable if it does not end."""
        check_running(self.console)
        interrupt(self.console)
        try:
            found = self.console.wait_for(_OBJECT, _END)
        except PeerUnavailable as reason:
            raise PeerUnavailable(f"{self.command} gave no report after Ctrl-C: {reason}") from reason
        return parse_report(found[1])


def parse_report(line: str) -> dict[str, Any]:
    """The JSON object of a tool's report. Raises PeerUnavailable."""
    try:
        report: dict[str, Any] = json.loads(line)
        return report | {"packets": int(report["packets"]), "drops": dict(report["drops"])}
    except (ValueError, LookupError, TypeError) as error:
        raise PeerUnavailable(f"raceway's report is not of the form expected: {line[:200]!r}") from error


@contextmanager
def _tool(stage: Stage, host: str, *words: str, cpu: int | None = None) -> Iterator[Tool]:
    command = [*pinned(cpu), *RACEWAY, *words, "--json"]
    with stage.console(host, command, name="raceway", environment=_PLAIN) as console:
        yield Tool(console, " ".join(("raceway", *words)))


def transmit(length: int = 60, seconds: float = SECONDS, way: str = "") -> list[Measurement]:
    """`pkt-gen -f tx` at a; packets a second that arrive at b. way: what `@xdp:` is to say, "" for nothing."""
    with Stage() as stage:
        stage.drop("b")
        count = stage.arrivals("b")
        port = f"netmap:{stage.lab.interface('a')}{way}"
        with _tool(stage, "a", "pkt-gen", "-f", "tx", "-i", port, "-l", str(length), "-T", "0") as tool:
            tool.ready()
            value = rate(count, seconds, of=tool.console)
            report = tool.stop()
        arrived = settled(count)
        detail = outcome(report["packets"], arrived, drops=str(report["drops"]))
        return [in_millions("raceway pkt-gen -f tx", value, detail, tool.command)]


def receive(seconds: float = SECONDS, way: str = "") -> list[Measurement]:
    """`pkt-gen -f rx` at b; packets a second that it gets, and it must count them all. way: as for `transmit`."""
    # What the program has copied it drops, as it does what it has no room for; a socket's packets it redirects.
    in_memory = "rx=memory" in way
    with Stage() as stage:
        count = stage.deliveries("b", "xdp_drops" if in_memory else "xdp_redirect")
        port = f"netmap:{stage.lab.interface('b')}{way}"
        with _tool(stage, "b", "pkt-gen", "-f", "rx", "-i", port, "-T", "0", cpu=WORK_CPU) as tool:
            tool.ready()
            with stage.source("b") as source:
                value = rate(count, seconds, of=tool.console)
                made = source.stop()
            report = tool.stop()
        lost = sum(report["drops"].values()) if in_memory else 0
        received_all("pkt-gen", report["packets"] + lost, count())
        value *= report["packets"] / max(report["packets"] + lost, 1)
        detail: Detail = {
            "offered": made,
            "received": report["packets"],
            "drops": str(report["drops"]),
            "average batch": report["average_batch"],
        }
        return [in_millions("raceway pkt-gen -f rx", value, detail, tool.command)]


def forward(seconds: float = SECONDS, way: str = "") -> list[Measurement]:
    """`bridge` in the middle; packets a second that arrive at b. way: as for `transmit`."""
    with Stage(3) as stage:
        stage.drop("b")
        count = stage.arrivals("b")
        left, right = (stage.lab.interface("m", towards) for towards in "ab")
        words = ("bridge", "-i", f"netmap:{left}{way}", "-i", f"netmap:{right}{way}")
        with _tool(stage, "m", *words) as tool:
            tool.ready(2)
            with stage.source("b") as source:
                value = rate(count, seconds, of=tool.console)
                made = source.stop()
            report = tool.stop()
        arrived = settled(count)
        detail = outcome(report["packets"], arrived, offered=made, drops=str(report["drops"]))
        return [in_millions("raceway bridge", value, detail, tool.command)]


def ping_pong(seconds: float = SECONDS, way: str = "") -> list[Measurement]:
    """`pkt-gen -f ping` at a and `pkt-gen -f pong` at b, opened in this `way`: the round trip's median and 99th
    percentile."""
    with Stage() as stage:
        port = f"netmap:{stage.lab.interface('b')}{way}"
        with _tool(stage, "b", "pkt-gen", "-f", "pong", "-i", port, "-T", "0", cpu=WORK_CPU) as echo:
            echo.ready()
            figures = ping(stage, "raceway ping, raceway pong", seconds)
            echo.stop()
        return figures


def lone_packets(seconds: float = SECONDS) -> list[Measurement]:
    """The same with 20 packets a second, so that both ends sleep when one comes, and nothing is warm: what a trickle
    pays."""
    with Stage() as stage:
        port = f"netmap:{stage.lab.interface('b')}"
        with _tool(stage, "b", "pkt-gen", "-f", "pong", "-i", port, "-T", "0", cpu=WORK_CPU) as echo:
            echo.ready()
            figures = ping(stage, "raceway ping -R 20, raceway pong", seconds, "-R", "20")
            echo.stop()
        return figures


def ping(stage: Stage, name: str, seconds: float, *more: str) -> list[Measurement]:
    """The pinger of every row of round trips on AF_XDP: `pkt-gen -f ping` at a, whoever echoes at b."""
    port = f"netmap:{stage.lab.interface('a')}"
    with _tool(stage, "a", "pkt-gen", "-f", "ping", "-i", port, "-T", "0", *more, cpu=SOURCE_CPU) as tool:
        tool.ready()
        time.sleep(seconds)
        report = tool.stop()
    return round_trips(name, report, tool.command)


def round_trips(name: str, report: dict[str, Any], command: str) -> list[Measurement]:
    """Median and 99th percentile in microseconds, of the report of `pkt-gen -f ping`. Raises PeerUnavailable."""
    trips = report.get("rtt_ns") or {}
    if "p50" not in trips or "p99" not in trips:
        raise PeerUnavailable(f"{name}: no echo of {report.get('sent', 0)} packets came back")
    detail: Detail = {
        "round trips": report["packets"],
        "lost": report.get("lost", 0),
        "min us": trips["min"] / 1000,
        "max us": trips["max"] / 1000,
    }
    return [
        Measurement(f"{name}, {what}", trips[key] / 1000, "us", detail, command)
        for what, key in (("median", "p50"), ("99 %", "p99"))
    ]


def inject(seconds: float = SECONDS) -> list[Measurement]:
    """`pkt-gen -f tx` into the host ring of b's own interface; packets a second that b's IP counts."""
    with Stage() as stage:
        stage.deaf_socket("b")
        count = stage.ip_arrivals("b")
        words = (
            "pkt-gen", "-f", "tx", "-i", f"netmap:{stage.lab.interface('b')}^", "-l", "60", "-T", "0",
            "-D", stage.lab.mac("b"), "-s", f"10.0.0.99:{PORT}", "-d", f"{stage.lab.address('b')}:{PORT}",
        )  # fmt: skip
        with _tool(stage, "b", *words) as tool:
            tool.ready()
            value = rate(count, seconds, of=tool.console)
            report = tool.stop()
        arrived = settled(count)
        detail = outcome(report["packets"], arrived, drops=str(report["drops"]))
        return [in_millions("raceway pkt-gen -f tx into a host ring", value, detail, tool.command)]
