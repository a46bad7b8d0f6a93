"""What the process may do and what the machine is set to: capabilities, limits, processors, the compiler's cache."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from raceway.apps.doctor.attempts import NEEDED, grant
from raceway.apps.doctor.findings import Finding, State
from raceway.kernel import capabilities

AREA = "machine"

_CPUS = Path("/sys/devices/system/cpu")
# A port's region has room for some 32,768 buffers of 2,048 bytes besides its rings' own: `memory.region`.
PACKET_MEMORY = 80 << 20


def machine_findings() -> Iterator[Finding]:
    """Everything about the process and the machine."""
    yield from _capabilities()
    yield _locked_memory()
    yield _processors()
    yield _governor()
    yield _cache()


def _capabilities() -> Iterator[Finding]:
    absent = capabilities.missing(NEEDED)
    if not absent:
        yield Finding(AREA, State.OK, "capabilities", "all that network interfaces take")
        return
    held = [name for name in NEEDED if name not in absent]
    needed = [name for name in absent if name != "CAP_IPC_LOCK"]
    if needed:
        what = f"network interfaces take {', '.join(needed)}; pipes, files and user namespaces do without"
        yield Finding(AREA, State.NOTE, "capabilities", what, grant(NEEDED))
    if held:
        yield Finding(AREA, State.OK, "capabilities held", ", ".join(held))


def _locked_memory() -> Finding:
    subject = "locked memory"
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY:
        return Finding(AREA, State.OK, subject, "no limit")
    if not capabilities.missing(["CAP_IPC_LOCK"]):
        return Finding(AREA, State.OK, subject, "the limit does not bind this process (CAP_IPC_LOCK)")
    if limit >= PACKET_MEMORY:
        return Finding(AREA, State.OK, subject, f"up to {limit >> 20:,} MiB")
    what = (
        f"at most {limit:,} bytes, and a port on a network interface registers some {PACKET_MEMORY >> 20} MiB"
    )
    remedy = "ulimit -l unlimited (for good: memlock in /etc/security/limits.conf)"
    return Finding(AREA, State.WARN, subject, what, remedy)


def _processors() -> Finding:
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    what = f"{there}" if usable == there else f"{usable} of {there} may be used by this process"
    if usable > 1:
        return Finding(AREA, State.OK, "processors", what)
    remedy = "taskset, the container's or the service's settings decide" if there > 1 else "more of them"
    return Finding(
        AREA, State.WARN, "processors", f"{what}: whoever waits and whoever is waited for take turns", remedy
    )


def _governor() -> Finding:
    subject = "processor clock"
    governors = sorted({_line(path) for path in _CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""})
    if not governors:
        return Finding(AREA, State.OK, subject, "not governed by this system (a virtual machine, or fixed)")
    if governors == ["performance"]:
        return Finding(AREA, State.OK, subject, "governor performance")
    what = f"governor {' and '.join(governors)}: slow to wake, and measurements wander"
    return Finding(AREA, State.NOTE, subject, what, "sudo cpupower frequency-set -g performance")


def _cache() -> Finding:
    from raceway.memory.jit import INTERPRETED, cache_directory

    subject = "compiled loops"
    if INTERPRETED:
        what = "interpreted, a thousand times slower: NUMBA_DISABLE_JIT is set"
        return Finding(AREA, State.WARN, subject, what, "unset NUMBA_DISABLE_JIT")
    directory = cache_directory()
    if directory is None:
        what = "kept nowhere: every start compiles them again"
        return Finding(
            AREA, State.WARN, subject, what, "RACEWAY_CACHE_DIR=a directory that is yours and writable"
        )
    return Finding(AREA, State.OK, subject, f"kept in {directory.parent}")


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
