"""libpcap's filter over packets in memory: what `tcpdump` costs a packet once the packet is there.

The program beside this module calls `pcap_offline_filter()` in a tight loop over a capture that was loaded
whole. That is the BPF interpreter of user space; the kernel's JIT is another matter and not measured here.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .compiler import compile_program
from .measurement import Detail, Measurement, PeerUnavailable
from .process import pinned, run, shown

_RESULT = re.compile(
    r"^packets (\d+) repeats (\d+) matches (\d+) mean_ns (\d+\.\d+) best_ns (\d+\.\d+) instructions (\d+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class FilterResult:
    """What `libpcap_filter` prints; times in ns a packet, over all passes and in the fastest."""

    packets: int
    repeats: int
    matches: int
    mean_ns: float
    best_ns: float
    instructions: int


def parse_filter_result(output: str) -> FilterResult:
    """Reads the program's one line. Raises PeerUnavailable."""
    result = _RESULT.search(output)
    if result is None:
        raise PeerUnavailable(f"libpcap_filter printed no result line: {output[-200:]!r}")
    packets, repeats, matches, mean_ns, best_ns, instructions = result.groups()
    return FilterResult(
        int(packets), int(repeats), int(matches), float(mean_ns), float(best_ns), int(instructions)
    )


def libpcap_filter(
    capture: Path, expression: str, repeats: int = 100, cpu: int | None = None, timeout: float = 60.0
) -> Measurement:
    """ns a packet that libpcap takes to decide `expression`: mean over `repeats` passes through `capture`.

    The count of matches is in the detail, so that a caller can compare verdicts before speeds. Raises
    PeerUnavailable, also for a capture that libpcap cannot read or an expression that it cannot compile.
    """
    if not capture.is_file():
        raise PeerUnavailable(f"no capture {capture.name}")
    with tempfile.TemporaryDirectory(prefix="raceway-peer-") as name:
        program = compile_program("libpcap_filter.c", Path(name), libraries=["-lpcap"])
        words = [str(program), str(capture.resolve()), expression, str(repeats)]
        result = parse_filter_result(run([*pinned(cpu), *words], timeout=timeout))
    detail: Detail = {
        "matches": result.matches,
        "packets": result.packets,
        "repeats": result.repeats,
        "ns/packet, fastest pass": result.best_ns,
        "BPF instructions": result.instructions,
    }
    return Measurement("libpcap", result.mean_ns, "ns/packet", detail, shown(words))
