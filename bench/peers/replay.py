"""tcpreplay at top speed into a veth pair: the usual way from a capture to the wire.

tcpreplay sends each packet with a system call (PF_PACKET). It gets all the help that it offers: the capture
preloaded into memory, no flow statistics. At the other end the host's stack takes each packet and finds
nobody listening; veth does that work on the sender's CPU, so it is part of the price, as it is for every
sender into a veth without an XDP program.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .measurement import Detail, Measurement, PeerUnavailable
from .namespaces import FAR, NEAR, veth_pair
from .process import find_program, pinned, run, shown

_ACTUAL = re.compile(r"^Actual: (\d+) packets \((\d+) bytes\) sent in (\d+\.\d+) seconds", re.MULTILINE)
_RATED = re.compile(r"^Rated: .*?([\d.]+) pps$", re.MULTILINE)
_COUNT = re.compile(r"^\s*(Successful packets|Failed packets|Truncated packets):\s+(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class ReplayReport:
    """tcpreplay's closing words; `packets` as it counts attempts, `rate` in packets/s."""

    packets: int
    seconds: float
    rate: float
    successful: int
    failed: int
    truncated: int


def parse_replay_report(output: str) -> ReplayReport:
    """Reads tcpreplay 4's summary for one interface. Raises PeerUnavailable."""
    actual, rated, counts = _ACTUAL.search(output), _RATED.search(output), dict(_COUNT.findall(output))
    if actual is None or rated is None or "Successful packets" not in counts:
        raise PeerUnavailable(f"tcpreplay printed no summary: {' '.join(output[-300:].split())!r}")
    return ReplayReport(
        int(actual[1]),
        float(actual[3]),
        float(rated[1]),
        int(counts["Successful packets"]),
        int(counts.get("Failed packets", 0)),
        int(counts.get("Truncated packets", 0)),
    )


def tcpreplay(capture: Path, seconds: int = 2, cpu: int | None = None, timeout: float = 30.0) -> Measurement:
    """Packets a second that `tcpreplay --topspeed` sends of `capture`, over and over for `seconds`.

    tcpreplay knows only whole seconds, from 1. Makes namespaces of its own, for which it needs root. The
    detail has the far end's count, which must not be less than what tcpreplay says it sent. Raises
    PeerUnavailable.
    """
    if seconds != int(seconds) or seconds < 1:
        raise PeerUnavailable(f"tcpreplay counts its duration in whole seconds from 1, got {seconds}")
    if not capture.is_file():
        raise PeerUnavailable(f"no capture {capture.name}")
    words = [find_program("tcpreplay"), "--topspeed", "--preload-pcap", "--no-flow-stats", "--loop=0"]
    words += [f"--duration={seconds}", f"--intf1={NEAR}", str(capture.resolve())]
    with veth_pair() as (near, far):
        report = parse_replay_report(run([*near.inside(), *pinned(cpu), *words], timeout=timeout + seconds))
        received = far.received(FAR)
    if received < report.successful:
        raise PeerUnavailable(f"tcpreplay sent {report.successful} packets, but only {received} arrived")
    detail: Detail = {
        "packets sent": report.successful,
        "packets arrived": received,
        "failed": report.failed,
        "truncated": report.truncated,
        "seconds": report.seconds,
    }
    return Measurement("tcpreplay", report.rate, "packets/s", detail, shown(words))
