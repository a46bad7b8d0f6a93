"""The rate limiter's arithmetic, driven with given times: nothing here looks at a clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from arithmetic import allowance, wait_for
from raceway.apps.generator.records import Pace
from raceway.memory.structures import allocate

SECOND = 1_000_000_000


def limiter(rate: int, quantum: int = 1, backlog: int | None = None, epoch: int = 5 * SECOND) -> Any:
    pace = allocate(Pace)
    pace["rate"], pace["quantum"], pace["epoch"] = rate, quantum, epoch
    pace["backlog"] = max(2, rate // 10) if backlog is None else backlog
    return pace


def send(pace: Any, now: int, wanted: int = -1, most: int = 1 << 40) -> int:
    sent = min(allowance(pace.ctypes.data, now, wanted), most)
    pace["paced"] += sent
    return int(sent)


@pytest.mark.parametrize("rate", [1, 3, 10, 1_000, 999_983, 1_000_000, 14_880_952, 1_000_000_000])
def test_n_packets_take_n_over_rate_seconds(rate: int) -> None:
    pace = limiter(rate)
    start = int(pace["epoch"][0])
    sent, now = 0, start
    step = max(SECOND // 50, SECOND // rate)
    while now < start + 7 * SECOND:
        now += step
        sent += send(pace, now)
        assert sent == (now - start) * rate // SECOND
    assert pace["forgone"][0] == 0


def test_first_packet_is_not_sent_at_once() -> None:
    pace = limiter(10)
    assert send(pace, 5 * SECOND) == 0
    assert wait_for(pace.ctypes.data, -1) == 5 * SECOND + SECOND // 10
    assert send(pace, 5 * SECOND + SECOND // 10 - 1) == 0
    assert send(pace, 5 * SECOND + SECOND // 10) == 1


@given(
    rate=st.integers(1, 1_000_000_000),
    quantum=st.integers(1, 512),
    steps=st.lists(st.integers(1, 90_000_000), min_size=1, max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_any_pattern_of_looks_gives_the_rate(rate: int, quantum: int, steps: list[int]) -> None:
    pace = limiter(rate, quantum, backlog=quantum + rate // 10 + 1)
    start = now = int(pace["epoch"][0])
    sent = 0
    for step in steps:
        now += step
        sent += send(pace, now)
        due = (now - start) * rate // SECOND
        assert due - quantum < sent <= due


@given(rate=st.integers(1, 1_000_000_000), quantum=st.integers(1, 512), wanted=st.integers(-1, 600))
@settings(max_examples=200, deadline=None)
def test_at_the_time_waited_for_packets_may_go_and_not_before(rate: int, quantum: int, wanted: int) -> None:
    wanted = wanted or -1
    pace = limiter(rate, quantum, backlog=quantum + rate // 10 + 1)
    for _ in range(5):
        due = wait_for(pace.ctypes.data, wanted)
        assert allowance(pace.ctypes.data, due - 1, wanted) == 0
        assert send(pace, due, wanted) >= 1


def test_last_few_packets_do_not_wait_for_a_whole_quantum() -> None:
    pace = limiter(1_000_000, quantum=50)
    now = 5 * SECOND + 3_000
    assert allowance(pace.ctypes.data, now, -1) == 0
    assert allowance(pace.ctypes.data, now, 3) == 3


def test_a_sender_that_was_held_up_catches_up_with_the_backlog_only() -> None:
    pace = limiter(1_000, backlog=100)
    assert send(pace, 5 * SECOND + SECOND // 20) == 50
    assert send(pace, 65 * SECOND) == 100
    assert pace["forgone"][0] == 60_000 - 150
    assert send(pace, 65 * SECOND + SECOND // 100) == 10


def test_a_stop_of_years_overflows_nothing() -> None:
    pace = limiter(1_000_000_000, backlog=7)
    now = 5 * SECOND + 100 * 365 * 86_400 * SECOND
    assert send(pace, now) == 7
    assert send(pace, now + 3) == 3
