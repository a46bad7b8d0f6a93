"""DPDK's `rte_ring` in a loop of our own: any bulk size, for a second or more, timed by the wall clock.

`ring_perf_autotest` (module `ring`) is DPDK's word about itself, but it knows few bulk sizes, gives
each a few milliseconds and prints a sum of two cores' cycles that is easily misread. This program moves
elements between the same two cores through the same inline functions, compiled here with -O3 for this very
CPU, and counts at the consumer. Needs libdpdk's headers, pkg-config and cc.
"""

from __future__ import annotations

import re

from .compiler import compile_program, pkg_config
from .dpdk import eal_options, runtime_folder, two_cores
from .measurement import Detail, Measurement, PeerUnavailable
from .process import find_program, run, shown

_RESULT = re.compile(r"^elements (\d+) seconds (\d+\.\d+) tsc_hertz (\d+) preempted (\d+)$", re.MULTILINE)
_LARGEST_BULK = 1024  # LARGEST_BULK in ring_loop.c


def parse_ring_loop(output: str) -> tuple[int, float, float, int]:
    """Elements, seconds, TSC frequency in Hz and preemptions that `ring_loop` printed. Raises PeerUnavailable."""
    result = _RESULT.search(output)
    if result is None:
        raise PeerUnavailable(f"ring_loop printed no result line: {output[-200:]!r}")
    return int(result[1]), float(result[2]), float(result[3]), int(result[4])


def dpdk_ring_loop(
    bulk: int = 32, seconds: float = 1.0, cores: tuple[int, int] = (0, 1), timeout: float = 30.0
) -> Measurement:
    """Elements a second through an SP/SC `rte_ring` of 16-byte elements, `bulk` at a time.

    `cores[0]` consumes and `cores[1]` produces, for `seconds` after a tenth of a second to warm up. Raises
    PeerUnavailable.
    """
    two_cores(cores)
    if not 1 <= bulk <= _LARGEST_BULK:
        raise PeerUnavailable(f"bulk must be 1 to {_LARGEST_BULK}, got {bulk}")
    find_program("cc")
    flags = [word for word in pkg_config("libdpdk", "--cflags") if not word.startswith("-march=")]
    with runtime_folder() as folder:
        program = compile_program(
            "ring_loop.c",
            folder.path,
            flags=[*flags, "-O3", "-march=native"],
            libraries=[*pkg_config("libdpdk", "--libs-only-L"), "-lrte_ring", "-lrte_eal"],
        )
        options = eal_options(
            cores, main=cores[0], megabytes=64, prefix=folder.prefix, extra=["--log-level=error"]
        )
        command = [str(program), *options, "--", str(bulk), str(seconds)]
        output = run(command, timeout=timeout + seconds, cwd=folder.path, environment=folder.environment)
    elements, elapsed, tsc_hertz, preempted = parse_ring_loop(output)
    detail: Detail = {
        "elements": elements,
        "seconds": elapsed,
        "TSC MHz (measured)": tsc_hertz / 1e6,
        "cycles per element": elapsed * tsc_hertz / elements,
        "preempted": preempted,  # times; above a few dozen a second, somebody else was at work
    }
    return Measurement(
        f"DPDK rte_ring, loop, bulk {bulk}",
        elements / elapsed / 1e6,
        "million elements/s",
        detail,
        shown(command).replace(folder.prefix, "peer"),
    )
