"""Starting `raceway demo` as people do, and looking at what it has started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import raceway

RACEWAY = [sys.executable, "-c", "from raceway.faces.cli import main; main()"]
PATIENCE = 120.0
"""Seconds for what takes five on a machine that has nothing else to do, and compiled code in its cache."""


def environment(temporary: Path, **more: str) -> dict[str, str]:
    """The tests' own environment, with this package and a directory of its own for temporary files."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")
    }
    sources = str(Path(raceway.__file__).parents[1])
    path = os.pathsep.join(one for one in (sources, os.environ.get("PYTHONPATH", "")) if one)
    return kept | {"TMPDIR": str(temporary), "PYTHONPATH": path} | more


def start(temporary: Path, *options: str, **more: str) -> subprocess.Popen[bytes]:
    """`raceway demo`, its output in pipes."""
    return subprocess.Popen(
        [*RACEWAY, "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(temporary, **more),
    )


def until(what: str, look: Callable[[], object]) -> object:
    """Look again and again until there is something; what it was."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, f"{what}: not within {PATIENCE} s"
        time.sleep(0.005)
    return found


def sender_of(demo: subprocess.Popen[bytes]) -> int:
    """The process that the demo has started, once it has."""

    def children() -> list[str]:
        assert demo.poll() is None, demo.communicate()
        return Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()

    found = until("the sending process", children)
    assert isinstance(found, list)
    return int(found[0])


def is_sending(process: int) -> bool:
    """Whether the sender has put its tape in: from then on packets go."""
    try:
        names = [os.readlink(entry) for entry in Path(f"/proc/{process}/fd").iterdir()]
    except OSError:
        return False
    return any("raceway-demo-tape" in name for name in names)


def is_alive(process: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
