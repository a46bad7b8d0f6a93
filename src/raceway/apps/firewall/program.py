"""From a rule set to a packet function and its state: the classifier, and what each of its rules means.

What a rule asks of a packet and no box can say (an expression of libpcap's) is asked of
every packet before: the answers are bits of a number, and that number is one more side of the boxes. So the
classifier gives the rule at once. The function's source is made for the rule set, with nothing in it that the rules do
not need, and compiled like every packet function.
"""

from __future__ import annotations

import copy
import itertools
import linecache
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from raceway.apps.firewall.divert.marks import MARKED, numbers_of
from raceway.apps.firewall.log import sampling
from raceway.apps.firewall.outgoing import noting
from raceway.apps.firewall.rules.rule_set import (
    DIVERT,
    DROP,
    ESTABLISHED,
    LIMIT,
    LOG,
    PASS,
    Rate,
    Rule,
    RuleSet,
)
from raceway.apps.firewall.rules.text import RulesError
from raceway.compile.classifier.classifier import Classifier
from raceway.compile.classifier.sets import LAST_ANSWER, QUESTIONS, Box, Ranges
from raceway.compile.classifier.walk import WRONGS
from raceway.compile.flows.flow_table import FlowTable
from raceway.compile.function import PacketFunction, Staged, packet_function
from raceway.compile.pcap_filter.expression import Expression
from raceway.compile.state import Counters, TokenBucket
from raceway.compile.state.samples import NOTE, Samples
from raceway.compile.verdicts import Verdict
from raceway.memory.collection import without_collection

if TYPE_CHECKING:
    from raceway.apps.firewall.ahead import Ahead

_KINDS = (DROP, PASS, LIMIT, LOG, DIVERT)
_KIND_BITS = 4
_IN_WORD = 64 // _KIND_BITS
"""Rules whose kinds stand in one word: those of ten thousand rules stay in a processor's nearest cache."""
_FEWEST = 64
"""Rules that there is room for at least."""
BUCKETS = 1 << 16
"""Sources, destinations or flows that a `limit ... per` rule keeps apart at once."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Judgement:
    """What becomes of a packet: the verdict, the number of the rule (-1: none), in words why, and the number of the
    rule that logs it (-1: none)."""

    verdict: Verdict
    rule: int
    why: str
    logged: int = -1


def _boxes(rule: Rule, questions: dict[str, int]) -> list[Box]:
    """A rule's boxes, with the answers that it wants."""
    made = []
    for one in rule.alternatives:
        box = one.box
        if one.asked:
            numbers = np.arange(LAST_ANSWER + 1)
            wanted = np.ones(len(numbers), dtype=bool)
            for what, answer in one.asked:
                wanted &= (numbers >> questions[what] & 1) == answer
            found = numbers[wanted]
            box = replace(box, answers=Ranges(np.stack((found, found), axis=1)))
        made.append(box)
    return made


def questions_of(rules: Sequence[Rule]) -> dict[str, int]:
    """What rules ask, and the bit of each answer. Raises RulesError where a rule asks one too many."""
    made: dict[str, int] = {}
    for rule in rules:
        for one in rule.alternatives:
            for what, _ in sorted(one.asked):
                made.setdefault(what, len(made))
        if len(made) > QUESTIONS:
            raise RulesError(
                rule.place,
                f"with this rule there are more than {QUESTIONS} different primitives that only libpcap can read; "
                "rules ask every packet all of them",
            )
    return made


class Program:
    """A rule set as a packet function.

    function: the packet function; diverts: whether a rule diverts; counts: packets that each rule decided about, or
    logged; limited: that were dropped, or not logged, because a rule's rate was exceeded; samples: the ring of what is
    logged, None if nothing is; others: by what was wrong with them (`walk.WRONGS`), at 0 those that no rule matched.
    keep: a program whose limits go on in rules that are the same here; names: those that rules may divert to, and the
    number of each (None: any); ahead: who makes the function's eBPF meanwhile. Raises RulesError, TooComplexError.
    """

    @without_collection()
    def __init__(
        self, rule_set: RuleSet, keep: Program | None = None, names: Mapping[str, int] | None = None,
        ahead: Ahead | None = None,
    ) -> None:  # fmt: skip
        self.rule_set = rule_set
        rules = rule_set.rules
        self.diverts = any(rule.action == DIVERT for rule in rules)
        questions = questions_of(rules)
        self.logging = [number for number, rule in enumerate(rules) if rule.action == LOG]
        self.samples: Samples | None = sampling.ring(self.logging[0]) if self.logging else None
        # Sizes of few steps, so that code for these rules serves the next.
        size = max(_FEWEST, 1 << (len(rules) - 1).bit_length()) if rules else _FEWEST
        self.counts = Counters(size)
        self.limited = Counters(size)
        self.others = Counters(len(WRONGS))
        self.kinds = Counters(size // _IN_WORD)
        self.details = Counters(size)
        diverted = numbers_of(rules, names)
        kinds = np.array([_KINDS.index(rule.action) for rule in rules], np.int64)
        has_rate = np.array([rule.rate is not None for rule in rules], bool)
        ports = np.array([diverted.get(rule.port, 0) for rule in rules], np.int64)
        limits = np.flatnonzero(has_rate).tolist()
        details = np.where(has_rate, np.cumsum(has_rate), ports)
        self.kinds.words[: -(-len(rules) // _IN_WORD)] = _spread(kinds)
        self.details.words[: len(rules)] = details
        before: dict[str, TokenBucket] = (
            dict(zip(keep.limited_rules, keep.buckets, strict=True)) if keep else {}
        )
        self.limited_rules: list[str] = [rules[number].text for number in limits]
        self.buckets: list[TokenBucket] = [
            before.pop(text) if (text := rules[number].text) in before else _bucket(rate)
            for number in limits
            if (rate := rules[number].rate)
        ]
        self.flows = self._flows(keep) if ESTABLISHED in questions else None
        self.outgoing: PacketFunction | None = None
        if self.flows is not None:
            self.outgoing = keep.outgoing if keep and keep.flows is self.flows else noting(self.flows)
        self.expressions = {what: Expression(what) for what in questions if what != ESTABLISHED}
        self.source, scope = self._written(questions, [rules[number] for number in limits])
        if ahead is not None:
            nobody = Classifier([])
            ahead.expect(self.source, {**scope, "RULES": nobody, "LOGS": nobody})
        self.classifier = Classifier(
            [() if rule.action == LOG else _boxes(rule, questions) for rule in rules]
        )
        self.logs: Classifier | None = None
        if self.logging:
            # Few rules in the most cases, and so a small one.
            self.logs = Classifier([_boxes(rule, questions) if rule.action == LOG else () for rule in rules])
        scope |= {"RULES": self.classifier, "LOGS": self.logs}
        if ahead is not None:
            ahead.make(self.source, scope)
        self._scope = functions_of(self.source, scope)
        self.function: PacketFunction = self._scope["firewall"]
        if not self.logging and self.flows is None:
            # What is asked of a packet then does not depend on what was decided about those before it.
            self.function.staged = Staged(
                self.classifier,
                self._scope.get("asked"),
                self._scope["decided"],
                (self.counts,),
            )
        self._noted: list[tuple[str, int]] = []

    def _flows(self, keep: Program | None) -> FlowTable:
        """Flows go on in the rules that follow, if those want room for as many."""
        before = keep.flows if keep else None
        if before is not None and keep is not None and keep.rule_set.flows == self.rule_set.flows:
            return before
        return FlowTable(self.rule_set.flows)

    def _written(self, questions: dict[str, int], limits: list[Rule]) -> tuple[str, dict[str, Any]]:
        """The function's source, and what it names but for the classifiers."""
        scope: dict[str, Any] = {
            "KINDS": self.kinds, "DETAILS": self.details, "COUNTS": self.counts, "LIMITED": self.limited,
            "OTHERS": self.others, "SAMPLES": self.samples, "FLOWS": self.flows,
        }  # fmt: skip
        for index, one in enumerate(self.buckets):
            scope[f"BUCKET_{index}"] = one
        names = {}
        for index, (what, expression) in enumerate(self.expressions.items()):
            names[what] = f"EXPRESSION_{index}"
            scope[names[what]] = expression
        return _source(self.rule_set, questions, limits, names), scope

    def judge(self, packet: Any) -> Judgement:
        """Say what becomes of a packet, and why, by the interpreted function. Counts, and limits, like the others."""
        before = [self.counts[rule] for rule in self.logging]
        self._noted.clear()
        verdict, reason = self._noting.run(packet)
        counts = zip(self.logging, before, strict=True)
        logged = next((rule for rule, count in counts if self.counts[rule] != count), -1)
        if reason or not self._noted:
            return Judgement(verdict, -1, reason, logged)
        name, number = self._noted[-1]
        if name == "OTHERS":
            return Judgement(verdict, -1, "default" if number == 0 else WRONGS[number], logged)
        return Judgement(verdict, number, _WHY[name], logged)

    @cached_property
    def _noting(self) -> PacketFunction:
        """The function, that notes on which counter it counts a packet."""
        function = self.function.function
        names = {
            name: _Noting(name, self._scope[name], self._noted)
            for name in ("OTHERS", *_WHY)
            if name in self._scope
        }
        scope = {**function.__globals__, **names}
        scope["decided"] = types.FunctionType(self._scope["decided"].__code__, scope)
        made = copy.copy(self.function)
        made.function = types.FunctionType(function.__code__, scope)
        return made


def functions_of(source: str, scope: dict[str, Any]) -> dict[str, Any]:
    """The functions of a source, and what they name: `firewall` is the packet function."""
    # A file of no folder, but one that inspect and tracebacks can read.
    file = f"<firewall {next(_numbers)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    module = types.ModuleType(f"raceway_firewall_{file.strip('<>').split()[1]}")
    module.__dict__.update(scope)
    module.__dict__.update({verdict.name: verdict for verdict in Verdict}, packet_function=packet_function)
    module.__file__ = file
    exec(compile(source, file, "exec"), module.__dict__)
    return module.__dict__


_WHY = {"COUNTS": "rule", "LIMITED": "over its rate"}


class _Noting:
    """Counters that note what is counted on them."""

    def __init__(self, name: str, counters: Counters, noted: list[tuple[str, int]]) -> None:
        self._name, self._counters, self._noted = name, counters, noted

    def add(self, index: int) -> int:
        """Count, and note it."""
        self._noted.append((self._name, index))
        return self._counters.add(index)


def _spread(kinds: Any) -> Any:
    """Numbers of `_KIND_BITS` bits, `_IN_WORD` of them in a word, the first in its lowest bits: int64."""
    padded = np.zeros((-(-len(kinds) // _IN_WORD), _IN_WORD), np.int64)
    padded.reshape(-1)[: len(kinds)] = kinds
    return np.bitwise_or.reduce(padded << np.arange(0, 64, _KIND_BITS), axis=1)


def _bucket(rate: Rate) -> TokenBucket:
    return TokenBucket(
        rate.packets,
        rate.burst * rate.seconds,
        BUCKETS if rate.per else 1,
        key_words=5 if rate.per == "flow" else 2,
    )


_KEYS = {
    "": "0",
    "src": "packet.five_tuple.source",
    "dst": "packet.five_tuple.destination",
    "flow": "packet.five_tuple",
}


def _source(rule_set: RuleSet, questions: dict[str, int], limits: list[Rule], names: dict[str, str]) -> str:
    """The function's source."""
    # Each asked from one place alone, for a place is all of a bucket's code.
    lines = [*_within("within", LIMIT, limits), *_within("may_log", LOG, limits)]
    logging = [rule for rule in rule_set.rules if rule.action == LOG]
    if logging:
        lines += [*_noting(logging), "", ""]
    asking = ["    answers = 0"]
    for what, bit in questions.items():
        call = "FLOWS.arriving(packet, key)" if what == ESTABLISHED else f"{names[what]}(packet)"
        asking += [f"    if {call}:", f"        answers |= {1 << bit}"]
    if questions and ESTABLISHED not in questions:
        lines += ["def asked(packet):", *asking, "    return answers", "", ""]
        asking = ["    answers = asked(packet)"]
    lines += ["def decided(packet, wrong, rule):"]
    if rule_set.malformed != "match":
        lines += [
            "    if wrong:",
            "        OTHERS.add(wrong)",
            f"        return {rule_set.malformed.upper()}",
        ]
    lines += ["    if rule >= 0:", *(f"        {line}" for line in _deciding(rule_set))]
    lines += ["    OTHERS.add(0)", f"    return {rule_set.default.upper()}", "", ""]
    lines += ["@packet_function", "def firewall(packet):", "    key = RULES.key(packet)"]
    if rule_set.malformed != "match":
        lines += ["    if key.wrong:", "        return decided(packet, key.wrong, -1)"]
    lines += [*asking, "    rule = RULES.match(key, answers)"]
    if logging:
        lines += [
            # What is decided by a rule before all that log is not looked up in those.
            f"    if rule < 0 or rule > SAMPLES[{NOTE}]:",
            "        noted = LOGS.match(key, answers)",
            "        if noted >= 0 and (rule < 0 or noted < rule):",
            "            note(packet, noted)",
        ]
    lines += ["    return decided(packet, 0, rule)"]
    return "\n".join(lines) + "\n"


def _within(name: str, action: str, limits: list[Rule]) -> list[str]:
    """A function that asks the bucket of a rule with this action, by its number from 1, whether the packet may pass."""
    lines = []
    for number, rule in enumerate(limits):
        if rule.action == action:
            assert rule.rate is not None
            call = f"BUCKET_{number}.allow(packet, {_KEYS[rule.rate.per]}, {rule.rate.seconds})"
            lines += [f"    if number == {number + 1}:", f"        return {call}"]
    return [f"def {name}(packet, number):", *lines, "    return True", "", ""] if lines else []


def _noting(logging: list[Rule]) -> list[str]:
    """What is done for a rule that logs."""
    lines = ["def note(packet, rule):"]
    if any(rule.rate is not None for rule in logging):
        lines += [
            "    if not may_log(packet, DETAILS[rule]):",
            "        LIMITED.add(rule)",
            "        return 0",
        ]
    return [*lines, "    COUNTS.add(rule)", "    return SAMPLES.sample(packet, rule)"]


def _deciding(rule_set: RuleSet) -> list[str]:
    """What is done for the rule at hand."""
    kinds = {rule.action for rule in rule_set.rules}
    shift = f"((rule & {_IN_WORD - 1}) << {_KIND_BITS.bit_length() - 1})"
    lines = [f"kind = KINDS[rule >> {_IN_WORD.bit_length() - 1}] >> {shift} & {(1 << _KIND_BITS) - 1}"]
    if LIMIT in kinds:
        lines += [
            f"if kind == {_KINDS.index(LIMIT)} and not within(packet, DETAILS[rule]):",
            "    LIMITED.add(rule)",
            "    return DROP",
        ]
    if DIVERT in kinds:
        lines += [f"if kind == {_KINDS.index(DIVERT)}:", *(f"    {line}" for line in MARKED)]
    return [*lines, "COUNTS.add(rule)", f"if kind == {_KINDS.index(DROP)}:", "    return DROP", "return PASS"]
