"""Loss, reordering and duplicates: exact on sequences made by hand, and as a plain Python oracle says on any."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from arithmetic import note
from conftest import scaled
from raceway.apps.generator.records import Track
from raceway.apps.generator.sequence import WINDOW
from raceway.memory.structures import allocate

COUNTERS = ("lost", "reordered", "duplicates", "stale", "in_order")


def tracked(numbers: list[int]) -> dict[str, int]:
    """What the tracker counts."""
    track = allocate(Track)
    window = np.zeros(WINDOW // 32, dtype=np.uint32)
    track["window"] = window.ctypes.data
    for number in numbers:
        note(track.ctypes.data, number)
    values = {name: int(track[name][0]) for name in Track.fields}
    values["lost"] = values["next"] - values["lowest"] - values["in_order"] - values["reordered"]
    return {name: values[name] for name in COUNTERS}


@dataclass
class Oracle:
    """The definition, with a set that forgets nothing."""

    seen: set[int] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    usable: set[int] = field(default_factory=set)

    def note(self, number: int) -> None:
        highest = max(self.usable, default=None)
        if highest is None or number > highest:
            self.counts["in_order"] += 1
        elif number < highest + 1 - WINDOW:
            self.counts["stale"] += 1
            return
        elif number in self.usable:
            self.counts["duplicates"] += 1
        else:
            self.counts["reordered"] += 1
        self.usable.add(number)
        self.counts["lost"] = max(self.usable) - min(self.usable) + 1 - len(self.usable)


def expected(numbers: list[int]) -> dict[str, int]:
    oracle = Oracle()
    for number in numbers:
        oracle.note(number)
    return oracle.counts


@pytest.mark.parametrize(
    ("numbers", "counts"),
    [
        ([], {}),
        ([7], {"in_order": 1}),
        ([0, 1, 2, 3], {"in_order": 4}),
        ([0, 1, 3, 4], {"in_order": 4, "lost": 1}),
        ([0, 2, 1, 3], {"in_order": 3, "reordered": 1}),
        ([0, 0, 1, 1, 1], {"in_order": 2, "duplicates": 3}),
        ([3, 2, 1, 0], {"in_order": 1, "reordered": 3}),
        ([5, 2, 2], {"in_order": 1, "reordered": 1, "duplicates": 1, "lost": 2}),
        ([0, 1, WINDOW + 5, 1], {"in_order": 3, "stale": 1, "lost": WINDOW + 3}),
        # The oldest number in the window, and the one before it.
        ([0, WINDOW - 1, 0], {"in_order": 2, "duplicates": 1, "lost": WINDOW - 2}),
        ([0, WINDOW, 0], {"in_order": 2, "stale": 1, "lost": WINDOW - 1}),
        ([0, WINDOW, 1], {"in_order": 2, "reordered": 1, "lost": WINDOW - 2}),
        # A word's bits must not be taken for those of a window before.
        ([*range(64), WINDOW + 70, WINDOW + 10], {"in_order": 65, "reordered": 1, "lost": WINDOW + 5}),
        ([2**62 - 1, 0], {"in_order": 1, "stale": 1}),
    ],
)
def test_sequence_made_by_hand(numbers: list[int], counts: dict[str, int]) -> None:
    assert tracked(numbers) == dict.fromkeys(COUNTERS, 0) | counts
    assert expected(numbers) == dict.fromkeys(COUNTERS, 0) | counts


steps = st.one_of(
    st.just(1),
    st.just(1),
    st.integers(-4, 4),
    st.integers(-200, 200),
    st.sampled_from([WINDOW - 1, WINDOW, WINDOW + 1, 1 - WINDOW, -WINDOW, -WINDOW - 1, 3 * WINDOW]),
)


@given(start=st.integers(0, 2**40), walk=st.lists(steps, max_size=150))
@settings(max_examples=scaled(300, 60), deadline=None)
@example(start=0, walk=[1, 1, -1, WINDOW, -WINDOW])
def test_tracker_counts_as_the_oracle(start: int, walk: list[int]) -> None:
    numbers = [start]
    for step in walk:
        numbers.append(max(0, numbers[-1] + step))
    counts = tracked(numbers)
    assert counts == expected(numbers)
    assert sum(counts[name] for name in COUNTERS if name != "lost") == len(numbers)
