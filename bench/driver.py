"""A flood dropped in a driver's place, by one processor: what a packet costs, with no sender and no cable.

    frame in a page of a pool --+--> raceway: XDP, the rules -----------------------------> the page is free
                                +--> peers:   XDP passes --> skb --> nft or iptables -----> freed, the page is free

On the other rows' stage (stage.py) a second processor makes the flood, and both take pages from one pool and put them
back into it: with a sender that offers several times what the receiver takes, a quarter of the receiver's time goes by
at that pool's lock. A card fills its pages by itself; the processor that serves it has the pool for itself, and finds a
frame with room before it and no skb. That is what is here: live frames (BPF_PROG_TEST_RUN), as if b's interface had
received them. raceway's program is the one that its firewall loads. For the peers the kernel makes an skb of each
frame, as a driver does of what XDP passes, and b's stack meets their rule. Both count what they have dropped. What a
card's own rings cost a driver is on neither side.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence

from bench.firewall import _FLOOD, _feed, _needs, _table, iptables_rule
from bench.kernel_filters import ELSEWHERE
from bench.peers.measurement import Measurement
from bench.source import packet
from bench.stage import SECONDS, WORK_CPU, Stage, in_millions
from raceway.apps.firewall.program import Program as Rules
from raceway.apps.firewall.rules.language import parse_rules
from raceway.kernel.bpf.assembler import R0, Assembler
from raceway.kernel.bpf.programs import Program, xdp_context
from raceway.kernel.bpf.system import TEST_LIVE_FRAMES, ProgramKind, XdpAction
from raceway.kernel.functions.loading import LoadedFunction

_LENGTH = 60
_TRIAL = 1 << 18


def drops(seconds: float = SECONDS) -> Sequence[Measurement]:
    """Packets a second of a flood that raceway drops."""
    with Stage() as stage, stage.lab.inside("b"):
        rules = Rules(parse_rules(_FLOOD))
        with LoadedFunction(rules.function) as loaded:
            value = _rate(stage, loaded.program, ELSEWHERE, lambda: rules.counts[0], seconds)
    return [in_millions("raceway firewall", value, {}, _FLOOD)]


def nft_drops(seconds: float = SECONDS) -> Sequence[Measurement]:
    """The same by nft, in a netdev ingress chain. Raises PeerUnavailable."""
    _needs("nft")
    with Stage() as stage:
        _feed(stage, ["nft", "-f", "-"], _table(stage.lab.interface("b"), "udp dport 9 counter drop"))

        def count() -> int:
            found = re.search(r"counter packets (\d+)", stage.command("b", "nft", "list", "ruleset"))
            return int(found[1]) if found else 0

        value = _passed(stage, ELSEWHERE, count, seconds)
    return [in_millions("nft, netdev ingress", value, {}, "nft -f RULES")]


def iptables_drops(seconds: float = SECONDS) -> Sequence[Measurement]:
    """The same by iptables, in the raw table. Raises PeerUnavailable."""
    with Stage() as stage:
        match = "-p udp --dport 9"
        count = iptables_rule(stage, match, "raw")
        # Its rule is about b's own packets.
        value = _passed(stage, stage.lab.mac("b"), count, seconds)
    return [in_millions("iptables, raw", value, {}, f"iptables -t raw -A PREROUTING {match} -j DROP")]


def _passed(stage: Stage, mac: str, count: Callable[[], int], seconds: float) -> float:
    """The rate behind an XDP program that passes everything."""
    code = Assembler().mov(R0, XdpAction.PASS).exit().assemble()
    with Program(ProgramKind.XDP, code, name="bench_pass") as program, stage.lab.inside("b"):
        return _rate(stage, program, mac, count, seconds)


def _rate(stage: Stage, program: Program, mac: str, count: Callable[[], int], seconds: float) -> float:
    """Packets a second that are dropped, of frames that b's interface receives one behind the other."""
    frame = packet(mac, stage.lab.address("b"), _LENGTH)
    context = xdp_context(len(frame), index=stage.lab.index("b"))

    def run(frames: int) -> float:
        began = time.perf_counter()
        program.test_run(frame, context=context, repeat=frames, flags=TEST_LIVE_FRAMES)
        return time.perf_counter() - began

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {WORK_CPU})
    try:
        frames = int(_TRIAL * seconds / run(_TRIAL))
        first = count()
        took = run(frames)
        dropped = count() - first
    finally:
        os.sched_setaffinity(0, before)
    if dropped != frames:
        raise AssertionError(f"{dropped} of {frames} frames were dropped")
    return dropped / took
