"""What a packet costs with ten thousand rules, against ten of them: in the kernel, by traffic that differs.

    mixed source at a  =====  b   raceway's rules as XDP in b's driver

Packets lie at the edges of the rules and inside them, in no order (65,536 of them, again and again), so that the
classifier's tables are looked up all over. Either all is dropped, and both sides have the same packets; or rules drop
and pass in turn, and each side has packets for its own rules, for of ten thousand rules' packets ten match hardly any.
What passes is for another host's MAC address, so that b's stack ends it at once.

A packet's cost is the time that the NAPI thread of b's interface has run, divided by the packets: who else wants the
processor meanwhile takes caches from it, but is not counted.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import raceway
from bench import firewall
from bench.kernel_filters import ELSEWHERE, prepared
from bench.peers.measurement import Detail, Measurement, PeerUnavailable
from bench.peers.process import pinned
from bench.stage import SECONDS, SOURCE_CPU, Source, Stage, rate, settled
from raceway.apps.firewall.rules.rule_set import RuleSet

_START = 30.0


def all_of(name: str, passing: bool, seconds: float = SECONDS) -> list[Measurement]:
    """Nanoseconds a packet with all rules of a filter set. passing: whether every second rule passes."""
    return _measured(firewall._mixed(name), firewall._trace(name), passing, seconds, "raceway firewall")


def ten_of(name: str, passing: bool, seconds: float = SECONDS) -> list[Measurement]:
    """The same with ten of them."""
    rules = firewall._mixed(name)
    # As many of either action.
    chosen = range(0, len(rules.rules), len(rules.rules) // 10 | 1)[:10]
    few = replace(rules, rules=tuple(rules.rules[number] for number in chosen))
    packets = firewall._trace(name, tuple(chosen)) if passing else firewall._trace(name)
    return _measured(few, packets, passing, seconds, "raceway firewall, ten rules")


def _measured(
    rules: RuleSet, packets: list[bytes], passing: bool, seconds: float, name: str
) -> list[Measurement]:
    if not passing:
        dropping = tuple(replace(rule, action="drop") for rule in rules.rules)
        rules = replace(rules, rules=dropping, default="drop")
    with (
        tempfile.NamedTemporaryFile(suffix=".rows") as file,
        prepared() as stage,
        stage.lab.inside("b"),
        raceway.Firewall(stage.lab.interface("b"), rules) as wall,
    ):
        file.write(b"".join(_row(packet) for packet in packets))
        file.flush()

        def count() -> int:
            return sum(wall.attachment.counters[verdict] for verdict in ("DROP", "PASS"))

        running = _running(stage)
        command = [
            *pinned(SOURCE_CPU), sys.executable, "-m", "bench.mixed_source",
            stage.lab.interface("a"), ELSEWHERE, file.name,
        ]  # fmt: skip
        with stage.console("a", command, name="the source", cwd=Path(__file__).parents[1]) as console:
            console.wait_for(r"sending\r?\n", _START)
            rate(count, 0.1)
            before, ran = count(), running()
            time.sleep(seconds)
            after, until = count(), running()
            made = Source(console).stop()
        received = settled(count)
        dropped = wall.attachment.counters["DROP"] / max(received, 1)
        detail: Detail = {"offered": made, "received": received, "dropped": round(dropped, 3)}
        if after == before:
            raise PeerUnavailable(f"no packet arrived in {seconds:g} s")
        value = (until - ran) / (after - before)
        return [Measurement(name, value, "ns/packet", detail, "raceway firewall run IFACE -f RULES")]


def _running(stage: Stage) -> Callable[[], int]:
    """A function that says for how many nanoseconds the NAPI threads of b's interface have run."""
    threads = stage.command("b", "pgrep", f"napi/{stage.lab.interface('b')}").split()

    def running() -> int:
        # Documentation/scheduler/sched-stats.rst: the first number is the time on a processor.
        return sum(int(Path(f"/proc/{thread}/schedstat").read_text().split()[0]) for thread in threads)

    return running


def _row(packet: bytes) -> bytes:
    """What the mixed source fills in."""
    return packet[26:38] + struct.pack("B3x", packet[23])
