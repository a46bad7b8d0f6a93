"""How long it takes from `attach` to packets being filtered: a function of thirty lines, and the same in C.

raceway: a new Python process that calls `raceway.attach`, in a lab, with a cache that has the function (warm) or is
empty (cold). The peer: `clang -O2`, `bpftool prog load`, `bpftool net attach` in the same lab. bcc, which compiles C in
the process, wants the running kernel's headers, and few machines have them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.peers import Measurement, PeerUnavailable
from bench.row import Row
from raceway.apps.lab import Lab

HERE = Path(__file__).parent
_ATTACH = """
import sys, time
import raceway
from bench.wall import wall
begun = time.perf_counter()
attachment = raceway.attach(sys.argv[1], wall)
print(time.perf_counter() - begun, flush=True)
sys.stdin.readline()
"""
_COMPILE = """
set -e
mount -t bpf bpf "$1"
echo ready
read -r _
clang -O2 -g -target bpf -mcpu=v3 -I/usr/include/x86_64-linux-gnu -c {source} -o "$1.o" 2>&1
bpftool prog load "$1.o" "$1/wall" type xdp
bpftool net attach xdp pinned "$1/wall" dev "$2"
echo attached
read -r _
"""


def rows() -> list[Row]:
    """The rows of the table, in the order of the figures of `ours` and `theirs`."""
    peer = "clang -O2 and bpftool"
    return [
        Row("from `attach` to filtering, a function of 30 lines, warm", peer, "ms", 3, better="lower", group="kernel"),
        Row("the same, from the start of the process", peer, "ms", None, better="lower", group="kernel"),
        Row("from `attach` to filtering, cold", peer, "ms", None, better="lower", group="kernel"),
    ]  # fmt: skip


def ours() -> Sequence[Measurement]:
    """Milliseconds of `attach`, of a whole process up to then, and of `attach` with an empty cache."""
    with tempfile.TemporaryDirectory(prefix="raceway-bench-") as cache, Lab(ipv6=False) as lab:
        cold, _ = _attached(lab, cache)
        call, whole = min(_attached(lab, cache) for _ in range(3))
    return [Measurement("raceway", 1e3 * seconds, "ms") for seconds in (call, whole, cold)]


def _attached(lab: Lab, cache: str) -> tuple[float, float]:
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
        "PYTHONPATH": str(HERE.parent),
        "RACEWAY_CACHE_DIR": cache,
    }
    begun = time.perf_counter()
    with lab.popen(
        "b", [sys.executable, "-c", _ATTACH, lab.interface("b")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        whole = time.perf_counter() - begun
        _check(lab)
        process.communicate("\n")
    return float(line), whole


def theirs() -> Sequence[Measurement]:
    """Milliseconds of the peer's three commands, for each row."""
    for program in ("clang", "bpftool"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            raise PeerUnavailable(f"there is no {program} here")
    seconds = min(_compiled() for _ in range(3))
    return [Measurement("clang", 1e3 * seconds, "ms", {}, "clang ... && bpftool ...")] * 3


def _compiled() -> float:
    script = _COMPILE.replace("{source}", str(HERE / "wall.c"))
    with tempfile.TemporaryDirectory(prefix="raceway-bench-") as folder, Lab(ipv6=False) as lab:
        place = Path(folder) / "bpf"
        place.mkdir()
        command = ["unshare", "--mount", "sh", "-c", script, "sh", str(place), lab.interface("b")]
        with lab.popen(
            "b", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise PeerUnavailable("no BPF file system can be mounted here")
            begun = time.perf_counter()
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
            seconds = time.perf_counter() - begun
            if line != "attached\n":
                raise PeerUnavailable(f"clang or bpftool: {line.strip()}")
            _check(lab)
            process.communicate("\n")
    return seconds


def _check(lab: Lab) -> None:
    """It filters: the wall lets no echo request in."""
    command = ["ping", "-c", "1", "-W", "0.2", lab.address("b")]
    assert lab.run("a", command, stdout=subprocess.DEVNULL).returncode != 0, "nothing is filtered"
