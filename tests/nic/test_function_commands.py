"""`raceway attach`, `functions` and `detach`, as somebody types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labs import lab as lab, mounts as mounts, needs_root, reaches
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


COUNT = """
import raceway
from raceway import DROP, PASS

SEEN = raceway.Counters("all")


@raceway.packet_function
def count(packet):
    SEEN["all"] += 1
    return PASS


@raceway.packet_function
def no_udp(packet):
    return DROP if packet.udp else PASS
"""


def test_a_chain_is_attached_in_order_and_another_process_is_told_whose_it_is(lab, tmp_path):
    two = lab()
    name = two.interface("b")
    (tmp_path / "wall.py").write_text(WALL)
    (tmp_path / "count.py").write_text(COUNT)
    words = [f"{tmp_path}/count.py:count", f"{tmp_path}/wall.py:wall", f"{tmp_path}/count.py:no_udp"]
    with two.inside("b"):
        process = subprocess.Popen(
            [sys.executable, "-m", "raceway", "attach", name, *words, "--json"],
            stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"count, wall, no_udp are on {name} in driver mode; Ctrl-C takes them off\n"
        assert not reaches(two, "a", two.address("b"), patience=0.3)
        listed = json.loads(raceway_at(two, "functions", "--json").stdout.splitlines()[-1])["functions"]
        assert [(one["position"], one["name"]) for one in listed] == [
            (0, "count"),
            (1, "wall"),
            (2, "no_udp"),
        ]
        refused = raceway_at(two, "attach", name, words[0])
        assert refused.returncode == 1
        assert "count, wall, no_udp" in refused.stderr
        assert f"process {process.pid}, " in refused.stderr
        assert f"raceway detach {name}" in refused.stderr
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read().splitlines()
        assert process.wait(20) == 0
    assert rest[0].startswith("count: ")
    first, second, _ = json.loads(rest[-1])["functions"]
    assert first["name"] == "count"
    assert first["counters"]["PASS"] > 0
    assert second["counters"]["DROP"] == 1
    assert reaches(two, "a", two.address("b"))


@pytest.mark.parametrize(
    ("option", "text", "name"), [("--drop", "icmp", "drop"), ("--only", "not icmp", "only")]
)
def test_an_expression_is_attached_without_a_file(lab, option, text, name):
    two = lab()
    interface = two.interface("b")
    with two.inside("b"):
        process = subprocess.Popen(
            [sys.executable, "-m", "raceway", "attach", interface, option, text, "--json"],
            stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{name} is on {interface} in driver mode; Ctrl-C takes it off\n"
        assert not reaches(two, "a", two.address("b"), patience=0.3)
        process.send_signal(signal.SIGINT)
        counters = json.loads(process.stdout.read().splitlines()[-1])["counters"]
        assert counters["DROP"] == 1
        # ARP.
        assert counters["PASS"] >= 1
        assert process.wait(20) == 0
    assert reaches(two, "a", two.address("b"))
    wrong = raceway_at(two, "attach", interface, option, "tcp prot 80")
    assert wrong.returncode == 2
    assert "syntax error" in wrong.stderr
    both = raceway_at(two, "attach", interface, "wall.py:wall", option, "tcp")
    assert both.returncode == 2
    assert "expected one of" in both.stderr


@pytest.fixture
def inside(mounts, tmp_path):
    """Runs raceway at b in the lab's network namespace alone: its own /sys has no BPF file system."""

    def run(two, *words: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--mount=/proc/{mounts}/ns/mnt", f"--wdns={tmp_path}"]
        with two.inside("b"):
            return subprocess.run(
                [*enter, sys.executable, "-m", "raceway", *words], capture_output=True, text=True, timeout=60,
                env=ENVIRONMENT, check=False,
            )  # fmt: skip

    return run


@pytest.mark.parametrize("before", [[], ["count.py:count", "count.py:no_udp"]])
def test_pinned_functions_outlive_their_process(lab, tmp_path, mounts, inside, before):
    two = lab()
    name = two.interface("b")
    (tmp_path / "wall.py").write_text(WALL)
    (tmp_path / "count.py").write_text(COUNT)
    done = inside(two, "attach", name, *before, "wall.py:wall", "--pin")
    try:
        assert done.returncode == 0, done.stderr
        # What drops is the last of the chain.
        assert not reaches(two, "a", two.address("b"), patience=0.3)
        listed = inside(two, "functions").stdout
        assert listed.count("pinned") == len(before) + 1
        path = Path(f"/proc/{mounts}/root{done.stdout.split('pinned at ')[1].strip()}")
        names = sorted(one.name for one in path.parent.iterdir())
        assert names == [path.name, *(f"{path.name}-next-{place}" for place in range(len(before) + 1))]
        refused = inside(two, "attach", name, "wall.py:wall")
        assert "wall (pinned at " in refused.stderr
    finally:
        off = inside(two, "detach", name)
    assert "wall taken off" in off.stdout, off.stderr
    assert not list(path.parent.iterdir())
    assert reaches(two, "a", two.address("b"))
    with two.inside("b"):
        assert not xdp_attached(name)
