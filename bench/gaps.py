"""How well replay keeps recorded gaps: what dump saw behind a pipe, against the recording."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

import raceway
from bench.programs import finish, start


def gap_errors(capture: Path, speed: float = 1.0) -> dict[str, float]:
    """Microseconds by which gaps differ from the recorded ones: median, 99th percentile, largest."""
    name = f"netmap:gaps{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="raceway-bench-") as folder:
        recorded = Path(folder) / "recorded.pcapng"
        recorder = start("dump", name + "}1", "-w", str(recorded), "--json", cpu=1)
        player = start("replay", str(capture), name + "{1", "--speed", str(speed), "--json", cpu=0)
        finish(player)
        finish(recorder)
        told, seen = raceway.load_capture(capture), raceway.load_capture(recorded)
    if len(told) != len(seen):
        raise RuntimeError(f"{len(told)} packets replayed, {len(seen)} recorded")
    wanted, got = np.diff(told.timestamps) / speed, np.diff(seen.timestamps)
    errors = np.abs(got - wanted) / 1000
    return {
        "median": float(np.median(errors)),
        "99 %": float(np.percentile(errors, 99)),
        "largest": float(errors.max()),
    }


if __name__ == "__main__":
    from bench.filters import DEMO

    for attempt in range(3):
        print(attempt, {name: round(value, 1) for name, value in gap_errors(DEMO).items()})
