"""DPDK's own ring benchmark: `ring_perf_autotest` of `dpdk-test`.

What the figure means. In "Testing using two physical cores" one core enqueues and another dequeues the same
elements at the same time; each divides the TSC cycles that it took by the elements that it moved; and the
program prints the *sum* of the two quotients. Each element takes both cores as long as the slower one needs,
so a line of 7.2 cycles means that an element passes every 3.6 cycles: the rate is 2 x TSC frequency / printed
cycles. Dividing by the printed number as it stands would halve DPDK's result. `dpdk_ring_loop` in `ring_loop`
measures the same ring against the wall clock and agrees with the doubled reading.

The TSC frequency is the one that DPDK found in the same run and writes to its log, rounded by DPDK to 10 MHz
where it had to measure it. Each line stands for a few milliseconds of work, so expect scatter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .dpdk import eal_options, runtime_folder, two_cores
from .measurement import Detail, Measurement, PeerUnavailable
from .process import Console, find_program, shown

_SECTION = re.compile(r"### Testing (.+?) ###")
# As DPDK 22.11 prints it and as later releases do, for instance:
#   elem APIs: element size 16B: SP/SC: bulk (size: 32): 7.18
#   elem APIs (size:16B) - SP/SC - bulk (n:32 ) - cycles per elem: 7.180
_LINE = re.compile(
    r"^(?:(?P<legacy>legacy) APIs|elem APIs(?:: element size| \(size:)\s*(?P<bytes>\d+)B\)?)"
    r"(?::| -) (?P<threads>SP/SC|MP/MC)(?::| -) (?P<operation>single|burst|bulk)"
    r"(?: \((?:size|n):\s*(?P<batch>\d+)\s*\))?(?::| -)(?: cycles per elem:)? (?P<cycles>\d+\.\d+)$"
)
_TSC = re.compile(r"TSC frequency is ~(\d+) KHz", re.IGNORECASE)
_LAST_LINE = re.compile(r"^Test (OK|Failed)$")
_TWO_CORES = "using two physical cores"
_ELEMENT_BYTES = 16  # the size of our slot, and the only one besides pointers that the test knows


@dataclass(frozen=True)
class RingLine:
    """One result line: `element_bytes` is None for the legacy API (pointers), `cycles` is as printed."""

    section: str
    element_bytes: int | None
    threads: str
    operation: str
    batch: int
    cycles: float


@dataclass(frozen=True)
class RingReport:
    """What a run of the autotest said, as far as it went."""

    lines: tuple[RingLine, ...]
    tsc_hertz: float | None
    ended: bool

    def between_cores(self, element_bytes: int | None) -> dict[int, float]:
        """Printed cycles by bulk size: single producer and consumer on two physical cores."""
        return {
            line.batch: line.cycles
            for line in self.lines
            if (line.section, line.threads, line.operation) == (_TWO_CORES, "SP/SC", "bulk")
            and line.element_bytes == element_bytes
        }


def parse_ring_report(lines: Iterable[str]) -> RingReport:
    """Reads the output of `ring_perf_autotest`, whole or cut off; passes over what is not a result."""
    results: list[RingLine] = []
    section, tsc_hertz, ended = "", None, False
    for raw in lines:
        line = raw.strip()
        if heading := _SECTION.search(line):
            section = heading[1]
        elif result := _LINE.match(line):
            size, batch = result["bytes"], result["batch"]
            results.append(
                RingLine(
                    section,
                    int(size) if size else None,
                    result["threads"],
                    result["operation"],
                    int(batch) if batch else 1,
                    float(result["cycles"]),
                )
            )
        elif frequency := _TSC.search(line):
            tsc_hertz = int(frequency[1]) * 1e3
        elif _LAST_LINE.match(line):
            ended = True
    return RingReport(tuple(results), tsc_hertz, ended)


def elements_per_second(cycles: float, tsc_hertz: float) -> float:
    """Rate of a ring from a two-core line, which is the sum of both sides' cycles per element."""
    return 2 * tsc_hertz / cycles


def dpdk_ring(bulk: int = 32, cores: tuple[int, int] = (0, 1), timeout: float = 60.0) -> Measurement:
    """Elements a second through an SP/SC `rte_ring` of 16-byte elements, `bulk` at a time.

    Stops the autotest as soon as the line has come. The other bulk sizes seen on the way are in the detail.
    Which sizes there are is the build's choice: 8 and 32 in DPDK 22.11; later releases add 64, 128 and 256.
    Raises PeerUnavailable.
    """
    program = find_program("dpdk-test")
    two_cores(cores)
    with runtime_folder() as folder:
        # The frequency is a message of the EAL's debug level; nothing is logged once the test runs.
        options = eal_options(
            cores, main=cores[0], megabytes=256, prefix=folder.prefix, extra=["--log-level=lib.eal:debug"]
        )
        with Console([program, *options], cwd=folder.path, environment=folder.environment) as console:
            console.send("ring_perf_autotest")
            seen: list[str] = []
            report = parse_ring_report(seen)
            for line in console.lines(timeout):
                seen.append(line)
                if not ("bulk" in line or line.startswith(("###", "Test "))):
                    continue
                report = parse_ring_report(seen)
                passed = bool(report.between_cores(_ELEMENT_BYTES)) and "all worker" in line
                if bulk in report.between_cores(_ELEMENT_BYTES) or passed or report.ended:
                    break
    command = "echo ring_perf_autotest | " + shown([program, *options]).replace(folder.prefix, "peer")
    return _measurement(report, bulk, cores, command)


def _measurement(report: RingReport, bulk: int, cores: tuple[int, int], command: str) -> Measurement:
    found = report.between_cores(_ELEMENT_BYTES)
    if not found:
        raise PeerUnavailable(f"ring_perf_autotest had no section {_TWO_CORES!r} for cores {cores}")
    if bulk not in found:
        sizes = ", ".join(map(str, sorted(found)))
        raise PeerUnavailable(f"this ring_perf_autotest has no bulk size {bulk}, only {sizes}")
    if report.tsc_hertz is None:
        raise PeerUnavailable("dpdk-test did not log the TSC frequency that its cycles are counted in")
    detail: Detail = {"TSC MHz (DPDK's log)": report.tsc_hertz / 1e6}
    for size, cycles in sorted(found.items()):
        detail[f"printed cycles, both sides, 16 B, bulk {size}"] = cycles
    for size, cycles in sorted(report.between_cores(None).items()):
        detail[f"printed cycles, both sides, pointers, bulk {size}"] = cycles
    rate = elements_per_second(found[bulk], report.tsc_hertz) / 1e6
    return Measurement(f"DPDK rte_ring, autotest, bulk {bulk}", rate, "million elements/s", detail, command)
