"""One row of the table of speeds: what, against whom, the figures of each round, and the ratio of the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.peers import Detail, Measurement, PeerUnavailable


@dataclass
class Row:
    """What is measured, and against whom. goal: the ratio that was aimed at; None: only shown.

    group: a word that `--only` knows beside the row's own words. details: the facts beside each round's figures.
    """

    work: str
    peer: str
    unit: str
    goal: float | None
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    better: str = "higher"
    note: str = ""
    group: str = "memory"
    details: list[dict[str, Detail]] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """How many times better raceway is: the median of the rounds' ratios."""
        if not self.theirs or not self.ours:
            return None
        pairs = zip(self.ours, self.theirs, strict=True)
        return median(a / b if self.better == "higher" else b / a for a, b in pairs)

    def matches(self, word: str) -> bool:
        """Is this one of the rows that `--only WORD` asks for?"""
        return word.lower() in f"{self.group} {self.work} {self.peer}".lower()

    def run(self, ours: Callable[[], float], theirs: Callable[[], Measurement] | None, rounds: int) -> Row:
        """Measure in turn, and say what came out."""
        for _ in range(rounds):
            self.ours.append(ours())
            if theirs is None:
                continue
            try:
                self.theirs.append(theirs().value)
            except PeerUnavailable as reason:
                self.note = f"peer not measured: {reason}"
                theirs, self.theirs = None, []
        print(self.text(), flush=True)
        return self

    def text(self) -> str:
        """The row as Markdown."""
        ours = f"{median(self.ours):,.3g} {self.unit}" if self.ours else "-"
        theirs = f"{median(self.theirs):,.3g} {self.unit}" if self.theirs else "-"
        ratio = f"**{self.ratio:.2f}x**" if self.ratio else "-"
        goal = f"{self.goal:g}x" if self.goal else "shown"
        return f"| {self.work} | {self.peer} | {ours} | {theirs} | {ratio} | {goal} |"


Measure = Callable[[], Sequence[Measurement]]
"""Measures once; a figure for each row that is filled from it."""


def contest(ours: Measure, peers: Sequence[tuple[Measure, Sequence[Row]]], rounds: int) -> list[Row]:
    """Fill rows that share raceway's figures: raceway and then each peer, in turn, `rounds` times.

    A side that gives no figure is not asked again, and its rows say why.
    """
    rows = [row for _, group in peers for row in group]
    silent: set[int] = set()
    for _ in range(rounds):
        mine = _asked(ours, rows, "raceway", silent, 0)
        for number, (measure, group) in enumerate(peers, 1):
            theirs = _asked(measure, group, "peer", silent, number)
            for index, row in enumerate(group):
                if mine:
                    row.ours.append(mine[index].value)
                if theirs:
                    row.theirs.append(theirs[index].value)
                row.details.append(
                    {
                        "raceway": dict(mine[index].detail) if mine else {},
                        "peer": dict(theirs[index].detail) if theirs else {},
                    }
                )
    for row in rows:
        print(row.text(), flush=True)
    return rows


def _asked(
    measure: Measure, rows: Sequence[Row], side: str, silent: set[int], number: int
) -> Sequence[Measurement]:
    if number in silent:
        return ()
    try:
        return measure()
    except PeerUnavailable as reason:
        silent.add(number)
        for row in rows:
            row.note = "; ".join(word for word in (row.note, f"{side} not measured: {reason}") if word)
            # Figures without a partner of the same round make no ratio.
            (row.ours if side == "raceway" else row.theirs).clear()
        return ()
