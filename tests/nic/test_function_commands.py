"""`raceway attach`, `functions` and `detach`, as somebody types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labs import lab as lab, needs_root, reaches
from raceway.kernel.interface import xdp_attached
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]
WALL = """
import raceway
from raceway import DROP, PASS


@raceway.packet_function
def wall(packet):
    if packet.icmp:
        return DROP
    return PASS
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def raceway_at(two, *words, **options):
    command = [sys.executable, "-m", "raceway", *words]
    return two.run("b", command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, **options)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, "detach"])
def test_attach_list_and_take_off(lab, tmp_path, end):
    two = lab()
    name = two.interface("b")
    file = tmp_path / "wall.py"
    file.write_text(WALL)
    with two.inside("b"):
        process = subprocess.Popen(
            [sys.executable, "-m", "raceway", "attach", name, f"{file}:wall", "--json"],
            stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"wall is on {name} in driver mode; Ctrl-C takes it off\n"
        assert not reaches(two, "a", two.address("b"), patience=0.3)
        listed = raceway_at(two, "functions", "--json")
        assert f"{name}  0  wall  (driver)" in listed.stdout, listed.stderr
        (one,) = json.loads(listed.stdout.splitlines()[-1])["functions"]
        assert one["counters"]["DROP"] == 1
        if end == "detach":
            assert "wall taken off" in raceway_at(two, "detach", name).stdout
        else:
            process.send_signal(end)
        rest = process.stdout.read()
        assert json.loads(rest.splitlines()[-1])["counters"]["DROP"] == 1
        assert process.wait(20) == 0
    assert reaches(two, "a", two.address("b"))
    again = raceway_at(two, "detach", name)
    assert again.returncode == 2
    assert "no packet function is attached" in again.stderr


@pytest.fixture
def mounts():
    """A process in a mount namespace of its own, which has a BPF file system whatever the machine has."""
    command = ["unshare", "--mount", "sh", "-c", "mount -t bpf bpf /sys/fs/bpf && echo there && exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "there\n"
        yield holder.pid
        holder.kill()


def test_a_pinned_function_outlives_its_process(lab, tmp_path, mounts):
    two = lab()
    name = two.interface("b")
    file = tmp_path / "wall.py"
    file.write_text(WALL)

    def inside(*words: str) -> subprocess.CompletedProcess[str]:
        # In the lab's network namespace alone: its own /sys has no BPF file system.
        enter = ["nsenter", f"--mount=/proc/{mounts}/ns/mnt", f"--wdns={tmp_path}"]
        with two.inside("b"):
            return subprocess.run(
                [*enter, sys.executable, "-m", "raceway", *words], capture_output=True, text=True, timeout=60,
                env=ENVIRONMENT, check=False,
            )  # fmt: skip

    done = inside("attach", name, f"{file}:wall", "--pin")
    try:
        assert done.returncode == 0, done.stderr
        assert not reaches(two, "a", two.address("b"), patience=0.3)
        assert "pinned" in inside("functions").stdout
        path = Path(f"/proc/{mounts}/root{done.stdout.split('pinned at ')[1].strip()}")
        assert path.exists()
    finally:
        off = inside("detach", name)
    assert "wall taken off" in off.stdout, off.stderr
    assert not path.exists()
    assert reaches(two, "a", two.address("b"))
    with two.inside("b"):
        assert not xdp_attached(name)
