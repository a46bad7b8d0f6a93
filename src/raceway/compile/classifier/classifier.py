"""`Classifier`: the state object that tells a packet function the first of many rules that a packet matches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raceway.compile.classifier import walk
from raceway.compile.classifier.groups import part
from raceway.compile.classifier.sets import LAST_ANSWER, Box
from raceway.compile.classifier.tables import LARGEST_RULE, packed
from raceway.compile.state.words import State

_SMALLEST = 1 << 12


class Key(list[int]):
    """What rules look at in a packet: the words of `walk.key`."""

    @property
    def wrong(self) -> int:
        """What is wrong with the packet, by number (`walk.WRONGS`); 0 for nothing."""
        return self[walk.WRONG]


class Classifier(State):
    """Rules, each some boxes; the first that matches counts.

    rules: for each rule its boxes (`Box`), any of which matches; a rule without boxes matches nothing. In a packet
    function: `key = RULES.key(packet)`, then `RULES.match(key)` is the number of the first rule that the packet
    matches, -1 if there is none. `RULES.match(key, answers)`: with what else was asked of the packet, one bit each, as
    boxes want it. `key.wrong` says that the packet is malformed, and how (`walk.WRONGS`). What it costs depends on how
    many groups of rules there are (four for most sets), not on how many rules; and is less where none looks at
    addresses (`flat`).

    Raises TooComplexError where ranges overlap in too many ways, ValueError for more than 2,097,150 rules.
    """

    CONTENT = State.CONTENT | {"rule_count", "used"}

    def __init__(self, rules: Sequence[Sequence[Box]]) -> None:
        if len(rules) > LARGEST_RULE:
            raise ValueError(f"{len(rules):,} rules; a classifier has room for {LARGEST_RULE:,}")
        self.rule_count = len(rules)
        boxes = [(number, box) for number, some in enumerate(rules) for box in some]
        words = packed(part(boxes))
        # A size of few steps, so that code for one classifier serves the next.
        size = max(_SMALLEST, 1 << (len(words) - 1).bit_length())
        super().__init__(size)
        self.words[: len(words)] = words
        self.used = len(words)
        # Not of what there is, but of how it is looked for: other code.
        self.flat = bool(self.words[walk.JOINT] and self.words[walk.RULES])

    def key(self, packet: Any) -> Key:
        """Return what rules look at in a packet."""
        key = Key([0] * walk.KEY_WORDS)
        walk.key(packet, key)
        return key

    def match(self, key: Key, answers: int = 0) -> int:
        """Return the number of the first rule that a packet's key matches, -1 if there is none.

        answers: a number whose bits say what else was asked of the packet, up to `QUESTIONS` bits of it.
        """
        look = walk.flat if self.flat else walk.match
        return look(self.memory, key, answers & LAST_ANSWER)

    @property
    def joint(self) -> bool:
        """Whether all combinations of ports, protocols and answers are in one table."""
        return bool(self.words[walk.JOINT])

    def __len__(self) -> int:
        return self.rule_count

    def __repr__(self) -> str:
        return f"<Classifier: {self.rule_count:,} rules in {self.used * 8:,} bytes>"
