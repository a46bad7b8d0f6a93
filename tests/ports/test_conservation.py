"""Whatever is done with a region's rings, its buffers stay a permutation: none is lost and none is in two places."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import raceway
from conftest import scaled
from operations import Player

OPERATIONS = scaled(2_500, 400)
EXAMPLES = scaled(120, 25, soak=400)
"""120 examples of 2,500 operations; in script/soak 400, a million operations a round."""


def permutation(port: raceway.Port, lost: int) -> bool:
    """No buffer in two places, and none nowhere but those whose index an operation has overwritten."""
    held = np.concatenate(port.region.inventory())
    unique = np.unique(held)
    inside = unique[0] >= 1 and unique[-1] <= port.region.allocated_buffers
    return bool(inside) and len(unique) == len(held) == port.region.allocated_buffers - lost


@pytest.fixture(scope="module")
def totals():
    counts = {"operations": 0, "examples": 0, "errors": 0, "moved": 0}
    yield counts
    assert counts["errors"] > 0
    assert counts["moved"] > counts["examples"]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(slots=st.integers(2, 70), seed=st.integers(0, 2**32 - 1), fixed=st.binary(max_size=200))
def test_random_operations_in_one_process_keep_every_buffer(pipe_name, totals, slots, seed, fixed):
    chosen = fixed + random.Random(seed).randbytes(OPERATIONS)
    with (
        raceway.open(pipe_name + "{1", slots=slots, extra_buffers=5) as a,
        raceway.open(pipe_name + "}1") as b,
        raceway.open("null:", region=a.region, slots=slots) as null,
    ):
        player = Player([a, b, null], a.extra_buffers)
        for operation in chosen:
            player.play(operation)
        assert permutation(a, player.lost)
        assert player.sent_is_received_or_queued(a, b)
        totals["operations"] += len(chosen)
        totals["examples"] += 1
        totals["errors"] += player.errors
        totals["moved"] += player.moved


@settings(
    max_examples=scaled(20, 5, soak=60),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(slots=st.integers(2, 70), seeds=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)))
def test_random_operations_in_two_processes_keep_every_buffer(pipe_name, other, slots, seeds):
    """Both ends at once, each in its own process; looked at when both have stopped. 20 times 2 times
    9,000 operations; 60 times in script/soak."""
    count = scaled(9_000, 500)
    with raceway.open(pipe_name + "{1", slots=slots, extra_buffers=5) as a:
        other.stdin.write(f"{pipe_name}}}1 {seeds[1]} {count}\n")
        other.stdin.flush()
        assert other.stdout.readline().strip() == "open"
        player = Player([a], a.extra_buffers)
        for operation in np.random.default_rng(seeds[0]).integers(0, 256, count, dtype=np.uint8).tolist():
            player.play(operation)
        done, lost = other.stdout.readline().split()
        assert done == "done"
        assert permutation(a, player.lost + int(lost))
        other.stdin.write("close\n")
        other.stdin.flush()
        assert other.stdout.readline().strip() == "closed"


@pytest.fixture(scope="module")
def other():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = Path(__file__).parent / "operations.py"
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    yield process
    process.stdin.close()
    process.stdout.close()
    process.wait(20)
