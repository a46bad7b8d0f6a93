"""tcpdump as a filter: `tcpdump -r FILE -w FILE EXPRESSION`, the whole program."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from .measurement import Measurement, PeerUnavailable
from .process import shown


def tcpdump_filter(capture: Path, output: Path, expression: str) -> Measurement:
    """Seconds that tcpdump takes from start to end. Raises PeerUnavailable."""
    if shutil.which("tcpdump") is None:
        raise PeerUnavailable("tcpdump is not installed")
    # As root it would become another user before it opens the file.
    words = ["tcpdump", "-Z", "root", "-r", str(capture), "-w", str(output), expression]
    began = time.perf_counter()
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    seconds = time.perf_counter() - began
    if result.returncode:
        raise PeerUnavailable(f"tcpdump: {result.stderr.strip()[-200:]}")
    return Measurement("tcpdump", seconds, "s", {}, shown(words))
