"""A rule set, as it was read: what the classifier, the program and the reports are made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from raceway.apps.firewall.rules.matching import EVERYTHING, Alternative, Tree, boxes
from raceway.apps.firewall.rules.text import Place

DROP, PASS, LOG, LIMIT, DIVERT = "drop", "pass", "log", "limit", "divert"
ACTIONS = (DROP, PASS, LOG, LIMIT, DIVERT)
ESTABLISHED = "established"
FLOWS = 1 << 20
"""Flows that are known at once, if nothing else is said."""
MOST_FLOWS = 1 << 24
MALFORMED = ("drop", "pass", "match")
ON_DEATH = ("open", "keep")


@dataclass(frozen=True)
class Rate:
    """So many packets in so many seconds, and how many at once; kept apart for each `per`: "", src, dst or flow."""

    packets: int
    seconds: int
    burst: int
    per: str = ""

    def __str__(self) -> str:
        unit = {1: "s", 60: "m", 3600: "h"}[self.seconds]
        return f"{self.packets}/{unit}{f' per {self.per}' if self.per else ''} burst {self.burst}"


@dataclass(frozen=True)
class Rule:
    """One rule. text: as it was written; rate: of limit and log; port: of divert."""

    action: str
    text: str
    place: Place
    tree: Tree = EVERYTHING
    rate: Rate | None = None
    port: str = ""

    @cached_property
    def alternatives(self) -> list[Alternative]:
        """What it matches. Raises TooManyError."""
        return boxes(self.tree)

    def known_as(self, alternatives: list[Alternative]) -> Rule:
        """The same rule, whose alternatives need not be worked out again: those of its tree."""
        self.__dict__["alternatives"] = alternatives
        return self


@dataclass(frozen=True)
class RuleSet:
    """Rules in order; the first that matches decides, `default` if none does. Those that log do not decide: the first
    of them that matches, if none before it has decided, logs the packet.

    malformed: what happens to what cannot be parsed: drop, pass, or match (go through the rules as far as it was
    parsed); on_death: whether the interface is open or goes on being filtered when the controller has died; flows: how
    many are known at once, where rules ask whether a packet is of an established one; files: that were read; notes:
    what was not taken over from elsewhere, in words.
    """

    rules: tuple[Rule, ...] = ()
    default: str = PASS
    malformed: str = DROP
    on_death: str = "open"
    flows: int = FLOWS
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def keys(self) -> list[tuple[str, int]]:
        """What tells rules apart: their text, and how many with the same stand before."""
        seen: dict[str, int] = {}
        made = []
        for rule in self.rules:
            text = rule.text
            before = seen.get(text, 0)
            made.append((text, before))
            seen[text] = before + 1
        return made

    def with_notes(self, *notes: str) -> RuleSet:
        """The same, with more notes."""
        return replace(self, notes=(*self.notes, *notes))
