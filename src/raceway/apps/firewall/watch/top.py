"""`raceway firewall top`: what a firewall does now, from two looks at its counters.

Packets are counted exactly, rule by rule. Who sends them, and bytes, are estimated from samples (`talkers`), which a
firewall takes only while somebody watches.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SORTS = ("rate", "packets", "order")


@dataclass(frozen=True)
class Row:
    """Something with a counter. packets: since the firewall came; per_second: in the time between the looks."""

    name: str
    packets: int
    per_second: float
    action: str = ""
    number: int = -1


@dataclass(frozen=True)
class Source:
    """Who sends. share: of all packets, 0 to 1; mostly: protocol and destination port of most. All of it estimated."""

    source: str
    share: float
    per_second: float
    bytes_per_second: float
    mostly: str


@dataclass(frozen=True)
class View:
    """What the screen shows.

    seconds: between the two looks; seen, dropped, passed: packets a second; bytes_per_second: estimated; rules: those
    that have counted anything, in order; rule_count: of all; drops: by name; talkers: estimated from so many `samples`,
    each for `one_in` packets, of so many different `sources`.
    """

    interface: str
    mode: str
    uptime: float
    rules_for: float
    reloads: int
    rule_count: int
    seconds: float
    seen: float
    dropped: float
    passed: float
    bytes_per_second: float
    packets: int
    rules: tuple[Row, ...]
    drops: tuple[Row, ...]
    talkers: tuple[Source, ...]
    samples: int
    one_in: int
    sources: int

    @property
    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)

    def sorted_rules(self, sort: str) -> list[Row]:
        """The rules by "rate", by "packets" or in "order"."""
        if sort == "order":
            return list(self.rules)
        return sorted(
            self.rules, key=lambda row: (-row.per_second, -row.packets) if sort == "rate" else -row.packets
        )


def view_of(before: dict[str, Any], after: dict[str, Any]) -> View:
    """What has happened between two answers to `watch` (`control`)."""
    old, new = before["status"], after["status"]
    seconds = max(float(new["uptime"] - old["uptime"]), 1e-9)

    def rate(now: int, then: int) -> float:
        return max(now - then, 0) / seconds

    rules, drops = [], []
    known = _known(old, new)
    for rule in new["rules"]:
        text, action = rule["text"], rule["action"]
        then = known(rule)
        row = Row(
            text, rule["packets"], rate(rule["packets"], then["packets"]), rule["action"], rule["number"]
        )
        rules.append(row)
        if action == "drop":
            drops.append(row)
        elif action == "limit" and rule["limited"]:
            over = rate(rule["limited"], then["limited"])
            drops.append(Row(f"over the rate: {text}", rule["limited"], over, action, rule["number"]))
    if new["malformed_policy"] == "drop":
        drops += [
            Row(f"malformed: {why}", count, rate(count, old["malformed"].get(why, 0)), "malformed")
            for why, count in new["malformed"].items()
        ]
    default = Row(
        f"default {new['default']}",
        new["default_packets"],
        rate(new["default_packets"], old["default_packets"]),
        new["default"],
    )
    rules.append(default)
    if new["default"] == "drop":
        drops.append(default)
    if new["aborted"]:
        drops.append(Row("aborted", new["aborted"], rate(new["aborted"], old["aborted"]), "aborted"))
    seen = rate(new["seen"], old["seen"])
    # Each from its own counters: those that all packets have in common are looked at a moment earlier.
    dropped = sum(row.per_second for row in drops)
    passed = sum(row.per_second for row in rules if row.action in ("pass", "limit"))
    if new["malformed_policy"] == "pass":
        passed += sum(rate(count, old["malformed"].get(why, 0)) for why, count in new["malformed"].items())
    talk = after["talk"]
    talkers = tuple(
        Source(
            one["source"],
            one["share"],
            seen * one["share"],
            seen * one["share"] * one["length"],
            one["mostly"],
        )
        for one in talk["talkers"]
    )
    drops.sort(key=lambda row: (-row.per_second, -row.packets))
    return View(
        new["interface"], new["mode"], new["uptime"], new["rules_for"], new["reloads"], after["rules"], seconds,
        seen, dropped, passed, seen * talk["length"], new["seen"], tuple(rules), tuple(drops), talkers,
        talk["samples"], talk["one_in"], talk["sources"],
    )  # fmt: skip


def _known(old: dict[str, Any], new: dict[str, Any]) -> Any:
    """How to find what a rule had counted at the look before: by its number, by its text if there was a reload."""
    key = "number" if old["reloads"] == new["reloads"] else "text"
    found = {rule[key]: rule for rule in old["rules"]}
    nothing = {"packets": 0, "limited": 0}
    return lambda rule: found.get(rule[key], nothing)
