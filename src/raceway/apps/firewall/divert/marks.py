"""What the rules' function does with a packet that is diverted: the mark before it says to which name.

The mark goes with the packet, for the function that the rule named is to get it even if the rules are others by the
time that it is taken out of the ring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raceway.apps.firewall.divert.records import MARK, MARK_SIZE
from raceway.apps.firewall.rules.rule_set import DIVERT, Rule
from raceway.apps.firewall.rules.text import RulesError

MARKED = (
    f"if not packet.grow_head({MARK_SIZE}):",
    "    return ABORTED",
    f"packet.store64_little(0, {MARK << 32} | DETAILS[rule])",
    "COUNTS.add(rule)",
    "return REDIRECT",
)
"""Lines of the function. A driver that leaves no room before the packet makes it ABORTED."""


def numbers_of(rules: Sequence[Rule], names: Mapping[str, int] | None) -> Mapping[str, int]:
    """The number of each name that rules divert to. names: those that there are; None: whatever rules say.

    Raises RulesError for a name that there is not.
    """
    used = {rule.port: rule for rule in rules if rule.action == DIVERT}
    if names is None:
        return {name: number for number, name in enumerate(used)}
    for name, rule in used.items():
        if name not in names:
            column = rule.place.text.find(name, rule.place.text.find(DIVERT) + len(DIVERT)) + 1
            known = f"there are {', '.join(names)}" if names else "there are none"
            raise RulesError(
                rule.place.at(max(column, 1)),
                f"nobody takes packets that are diverted to {name!r}; {known}. raceway firewall run --divert "
                f'{name}=FILE.py:FUNCTION, or raceway.Firewall(..., divert={{"{name}": function}}), says who does',
            )
    return names
