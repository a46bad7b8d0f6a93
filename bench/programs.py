"""Whole programs: raceway's own tools as users start them, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.peers import pinned

RACEWAY = [sys.executable, "-c", "from raceway.faces.cli import main; main()"]


def start(*arguments: str, cpu: int | None = None, cache: str | None = None) -> subprocess.Popen[str]:
    """Start a tool, its standard output captured."""
    environment = os.environ | ({"RACEWAY_CACHE_DIR": cache} if cache else {})
    command = [*pinned(cpu), *RACEWAY, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> dict[str, Any]:
    """Wait for a tool; the JSON object on its last line."""
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def generator_pair(length: int = 64, count: int = 300_000_000, burst: int = 512, slots: int = 1024) -> float:
    """Packets a second that `pkt-gen -f rx` reports for what `pkt-gen -f tx` sends it through a pipe."""
    name = f"netmap:bench{os.getpid()}"
    ring = ["-C", str(slots)]
    receiver = start("pkt-gen", "-f", "rx", "-i", name + "}1", "--json", *ring, "-b", str(burst), cpu=1)
    sender = start(
        "pkt-gen", "-f", "tx", "-i", name + "{1", "-l", str(length), "-n", str(count), "--json",
        *ring, "-b", str(burst), cpu=0,
    )  # fmt: skip
    sent, received = finish(sender), finish(receiver)
    if received["packets"] != sent["packets"] or received["drops"]:
        raise RuntimeError(f"{sent['packets']} sent, {received['packets']} received: {received['drops']}")
    return float(received["pps"])


def replay_at_top_speed(capture: Path, packets: int = 20_000_000) -> float:
    """Packets a second of `raceway replay --top` into a pipe whose other end `pkt-gen -f rx` empties."""
    name = f"netmap:bench{os.getpid()}"
    receiver = start("pkt-gen", "-f", "rx", "-i", name + "}1", "--json", cpu=1)
    sender = start(
        "replay", str(capture), name + "{1", "--top", "--loop", "0", "-n", str(packets), "--json", cpu=0
    )
    sent, received = finish(sender), finish(receiver)
    if received["packets"] != packets or sent["drops"] or received["drops"]:
        raise RuntimeError(f"{sent['packets']} sent, {received['packets']} received")
    return float(received["pps"])


def seconds_of(*arguments: str, cache: str | None = None) -> float:
    """Seconds from starting a tool to its end."""
    began = time.perf_counter()
    process = start(*arguments, cache=cache)
    process.communicate(timeout=120)
    return time.perf_counter() - began


def filter_seconds(capture: Path, output: Path, expression: str) -> float:
    """Seconds that `raceway filter` takes from start to end, from one file to another."""
    arguments = ("filter", "-r", str(capture), "-w", str(output), expression)
    return seconds_of(*arguments)


def start_up() -> dict[str, float]:
    """Seconds that tools take: warm the fastest of three, cold with an empty cache of compiled code."""
    one = ("pkt-gen", "-f", "tx", "-i", "null:", "-n", "1", "--json")
    with tempfile.TemporaryDirectory(prefix="raceway-bench-") as cache:
        cold = seconds_of(*one, cache=cache)
    seconds_of(*one)
    return {
        "raceway --help": min(seconds_of("--help") for _ in range(3)),
        "pkt-gen, one packet, warm": min(seconds_of(*one) for _ in range(3)),
        "pkt-gen, one packet, cold (compiles)": cold,
        "demo, warm": demo_seconds(),
    }


def demo_seconds() -> float:
    """Seconds of `raceway demo` without a terminal."""
    with tempfile.TemporaryDirectory(prefix="raceway-bench-") as folder:
        arguments = ("demo", "--json", "--keep")
        seconds_of(*arguments, f"{folder}/first.pcapng")
        return seconds_of(*arguments, f"{folder}/second.pcapng")
