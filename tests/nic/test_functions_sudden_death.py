"""SIGKILL at any moment leaves the interface clean, also in the middle of attaching, detaching and changing a chain."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import raceway
from labs import lab as lab, needs_root, reaches
from nic_world import attached, until
from raceway.kernel.bpf.programs import program_info
from raceway.kernel.bpf.system import Command, next_id
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]

ROUNDS = int(os.environ.get("RACEWAY_SOAK_ROUNDS", "0")) or 60


def programs() -> list[str]:
    """Names of the loaded programs that a killed process has made."""
    found = []
    number: int | None = 0
    while (number := next_id(Command.PROG_GET_NEXT_ID, number or 0)) is not None:
        try:
            name = program_info(number).name
        except FileNotFoundError:
            continue
        if name.startswith("rw_mortal_"):
            found.append(name)
    return found


@raceway.packet_function
def next_one(packet):
    return raceway.DROP if packet.icmp else raceway.PASS


def test_the_interface_is_clean_after_every_kill(lab):
    two = lab(ipv6=False)
    dice = random.Random(os.getpid() if "RACEWAY_SOAK_ROUNDS" in os.environ else 1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(Path(__file__).parent / "function_zygote.py")]
    met = 0
    with two.popen(
        "b", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as zygote:
        try:
            assert zygote.stdout.readline() == "warm\n"
            for _ in range(ROUNDS):
                zygote.stdin.write("\n")
                zygote.stdin.flush()
                pid = int(zygote.stdout.readline())
                if dice.random() < 0.7:
                    # In the middle of it; else perhaps before the first is there.
                    assert until(lambda: attached(two, "b") == ["driver"])
                time.sleep(dice.random() ** 2 * 0.08)
                met += attached(two, "b") == ["driver"]
                os.kill(pid, signal.SIGKILL)
                assert zygote.stdout.readline() == "dead\n"
                assert until(lambda: attached(two, "b") == [])
        finally:
            # Its child goes with it.
            zygote.kill()
    assert met > ROUNDS // 4
    assert until(lambda: programs() == [])
    assert reaches(two, "a", two.address("b"))
    with two.inside("b"), raceway.attach(two.interface("b"), next_one):
        assert not reaches(two, "a", two.address("b"), patience=0.3)
