"""`raceway.Firewall`: a rule set on an interface, in the kernel.

A reload makes a whole new program beside the one that is in force, and one pointer in the kernel then leads to it, so
each packet meets the old rules or the new ones, all of them. What the old program has counted is read when no packet
is in it any more and added to what unchanged rules count on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raceway.apps.firewall.divert.diverter import Diverter, DivertStatus
from raceway.apps.firewall.log.writer import SIZE, Log, LogStatus
from raceway.apps.firewall.outgoing import Egress
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.language import parse_rules, read_rules
from raceway.apps.firewall.rules.rule_set import RuleSet
from raceway.apps.firewall.rules.text import RulesError
from raceway.apps.firewall.watch.talkers import Talk, Talkers
from raceway.apps.functions.attaching import Attachment, attach, interface_index
from raceway.apps.functions.pinning import pin_beside
from raceway.compile.classifier.walk import WRONGS
from raceway.kernel.bpf.maps import Map
from raceway.memory.collection import without_collection

if TYPE_CHECKING:
    from raceway.apps.firewall.ahead import Ahead

_GRACE = 0.02
"""Seconds after which no packet is in a program that nothing leads to."""


@dataclass(frozen=True)
class RuleStatus:
    """A rule and its packets: number (from 0), action, text; packets that it decided about, limited: over its rate. Of
    a rule that logs: packets that it logged, and did not for its rate."""

    number: int
    action: str
    text: str
    packets: int
    limited: int


@dataclass(frozen=True)
class Status:
    """What a firewall has counted.

    seen = packets and limited of all rules but those that log + default_packets + sum of malformed + gone + aborted;
    gone: packets that rules have decided about that are no longer in force. started, rules_since: when the firewall
    came onto the interface and when these rules did, seconds since 1970; uptime, rules_for: seconds since then, by a
    clock that is never set; reloads: how often other rules came into force since; log: of the log file, None without.
    flows: where rules ask for established ones, how many are
    `known` and `new`, how often there was no place for another known one (`full`), how many new ones gave way
    (`evicted`), how often somebody gave up (`busy`), and packets of the host that could not be looked at (`unseen`).
    divert: what became of diverted packets, None if there are no names to divert to.
    """

    interface: str
    mode: str
    rules: tuple[RuleStatus, ...]
    default: str
    default_packets: int
    malformed_policy: str
    malformed: dict[str, int]
    gone: int
    aborted: int
    seen: int
    started: float
    uptime: float
    rules_since: float
    rules_for: float
    reloads: int
    flows: dict[str, int] | None = None
    log: LogStatus | None = None
    divert: DivertStatus | None = None

    @property
    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def rule_set_of(rules: RuleSet | str | Path) -> RuleSet:
    """A rule set from one, from a file's Path, or from text. Raises RulesError."""
    if isinstance(rules, RuleSet):
        return rules
    return read_rules(rules) if isinstance(rules, Path) else parse_rules(rules)


class Firewall:
    """Rules on an interface; `close`, or the end of a `with`, takes them off again.

    interface: a name in the calling thread's network namespace; rules: a `RuleSet`, the Path of a rules file, or rules
    as text; mode: "driver", "generic", or "" for the better one that can be had; log: a pcapng file for what rules log,
    which is begun anew at so many bytes (`log.Log`); divert: by the name that stands in rules, who decides about
    packets that are diverted to it: a packet function, or any callable that takes a `Packet` and answers PASS or DROP;
    apart: those that it passes go back into the host's stack one by one, and not together where they are of one flow;
    ahead: a process that compiles while the rules are looked at (`ahead.compiling_ahead`).
    Raises RulesError, and what `attach` and `Diverter` raise; OSError for the file.
    """

    def __init__(
        self,
        interface: str,
        rules: RuleSet | str | Path,
        *,
        mode: str = "",
        log: str | Path | None = None,
        log_size: int = SIZE,
        divert: Mapping[str, Callable[[Any], Any]] | None = None,
        apart: bool = False,
        ahead: Ahead | None = None,
    ) -> None:
        self.diverter = Diverter(interface, divert or {}, join=not apart)
        self.program = Program(rule_set_of(rules), names=self.diverter.numbers, ahead=ahead)
        self._check_log(self.program, log)
        self._base: dict[tuple[str, int], tuple[int, int]] = {}
        self._others = [0] * len(WRONGS)
        self._gone = self._aborted = self._seen = 0
        self.interface = interface
        self._talkers: tuple[Talkers, Attachment] | None = None
        self._reloads = 0
        self._started = self._since = time.time(), time.monotonic()
        self._log: Log | None = None
        # First the way out: connections that are there are known before the first packet is judged.
        self._egress = self._egress_for(self.program)
        try:
            self.attachment: Attachment = attach(
                interface, self.program.function, mode=mode, succeed=True, sockets=self._rings(self.program)
            )
        except BaseException:
            self._close_egress()
            self.diverter.close()
            raise
        try:
            if log is not None:
                self._log = Log(log, interface, log_size)
                self._log.follow(self.program)
            self._follow_policy()
        except BaseException:
            self.close()
            raise

    def _egress_for(self, program: Program) -> Egress | None:
        """What notes the flows of a program, on the interface's way out."""
        if program.flows is None or program.outgoing is None:
            return None
        return Egress(interface_index(self.interface), program.outgoing, program.flows, time.time_ns())

    def _close_egress(self) -> None:
        if self._egress is not None:
            self._egress.close()
            self._egress = None

    @staticmethod
    def _check_log(program: Program, log: object) -> None:
        if program.logging and log is None:
            raise RulesError(
                program.rule_set.rules[program.logging[0]].place,
                "what is logged needs a file: run --log FILE.pcapng, or Firewall(..., log=FILE)",
            )

    def _rings(self, program: Program) -> Map | None:
        """Where the program's REDIRECT is to lead: open by now, if it needs that."""
        return self.diverter.open() if program.diverts else None

    def _follow_policy(self) -> None:
        """Do what the rules want for the case that this process is killed."""
        if self.program.rule_set.on_death == "keep":
            pin_beside(self.attachment.pin(), "egress", self._egress.link if self._egress else None)
        else:
            self.attachment.unpin()

    @without_collection()
    def reload(self, rules: RuleSet | str | Path) -> None:
        """Put other rules in force, between two packets. If they are not accepted, those in force stay: RulesError."""
        following = Program(rule_set_of(rules), keep=self.program, names=self.diverter.numbers)
        self._check_log(following, self._log)
        old = self.program
        egress = self._egress
        if following.flows is not old.flows:
            egress = self._egress_for(following)
        try:
            final = self._replaced(following)
        except BaseException:
            if egress is not self._egress and egress is not None:
                egress.close()
            if not old.diverts:
                self.diverter.close()
            raise
        if egress is not self._egress:
            self._close_egress()
            self._egress = egress
        self.program = following
        self._since = time.time(), time.monotonic()
        self._reloads += 1
        self.diverter.add(final)
        if not following.diverts:
            self.diverter.close()
        self._follow_policy()
        if self._log is not None:
            self._log.follow(following)
        # What the old program counted goes to the rules that are still there, by their text.
        kept = self._counted(old)
        self._base = {key: kept[key] for key in following.rule_set.keys if key in kept}
        noted = set(old.logging)
        logging = {key for number, key in enumerate(old.rule_set.keys) if number in noted}
        gone = [count for key, count in kept.items() if key not in self._base and key not in logging]
        for number, count in enumerate(old.others.values()):
            self._others[number] += count
        self._gone += sum(map(sum, gone))
        self._aborted += final["ABORTED"]
        self._seen += sum(final[name] for name in _VERDICTS)

    def _replaced(self, following: Program) -> dict[str, int]:
        """Put a program in the place of the one in force, and return that one's last counters."""
        if following.rule_set.on_death == "keep":
            # First what can fail.
            self.attachment.pin()
        return self.attachment.replace(following.function, _GRACE, self._rings(following))

    def _counted(self, program: Program) -> dict[tuple[str, int], tuple[int, int]]:
        counts, limited = program.counts.values(), program.limited.values()
        made = {}
        for number, key in enumerate(program.rule_set.keys):
            before = self._base.get(key, (0, 0))
            made[key] = counts[number] + before[0], limited[number] + before[1]
        return made

    def status(self) -> Status:
        """What has been counted up to now."""
        program = self.program
        counters = self.attachment.counters
        counted = self._counted(program)
        rules = tuple(
            RuleStatus(number, rule.action, rule.text, *counted[key])
            for number, (rule, key) in enumerate(
                zip(program.rule_set.rules, program.rule_set.keys, strict=True)
            )
        )
        others = [a + b for a, b in zip(self._others, program.others.values(), strict=True)]
        return Status(
            self.interface,
            self.attachment.mode,
            rules,
            program.rule_set.default,
            others[0],
            program.rule_set.malformed,
            {WRONGS[number]: count for number, count in enumerate(others) if number and count},
            self._gone,
            self._aborted + counters["ABORTED"],
            self._seen + sum(counters[name] for name in _VERDICTS),
            self._started[0],
            time.monotonic() - self._started[1],
            self._since[0],
            time.monotonic() - self._since[1],
            self._reloads,
            self._flows(),
            self._log.status() if self._log is not None else None,
            self.diverter.status(counters) if self.diverter.numbers else None,
        )

    def _flows(self) -> dict[str, int] | None:
        flows, egress = self.program.flows, self._egress
        if flows is None or egress is None:
            return None
        return {
            "known": flows.known, "new": flows.new, "full": flows.full, "evicted": flows.evicted, "busy": flows.busy,
            "unseen": egress.aborted,
        }  # fmt: skip

    def talkers(self, most: int = 50) -> Talk:
        """Who has sent the most since the last call, estimated from samples (`talkers.Talk`).

        The first call begins to take samples, and has none yet; `ignore_talkers` ends it. Raises what `attach` raises.
        """
        if self._talkers is None:
            made = Talkers()
            self._talkers = made, self.attachment.precede(made.function)
            # What is pinned was so anew, and what lies beside it has to be again.
            self._follow_policy()
        return self._talkers[0].look(most)

    def ignore_talkers(self) -> None:
        """Take no samples any more: from now on they cost nothing. May be called at any time."""
        if self._talkers is not None:
            self._end_talkers()
            if self.attachment.attached:
                self._follow_policy()

    def _end_talkers(self) -> None:
        if self._talkers is not None:
            (_, attachment), self._talkers = self._talkers, None
            attachment.close()

    def close(self) -> None:
        """Take the rules off, also those that a kill would leave in force. May be called twice."""
        self._end_talkers()
        self.attachment.unpin()
        self.attachment.close()
        self._close_egress()
        if self._log is not None:
            self._log.close()
        # What has been diverted up to now is still decided about.
        self.diverter.close()

    def __enter__(self) -> Firewall:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Firewall of {len(self.program.rule_set.rules):,} rules on {self.interface}>"


_VERDICTS = ("ABORTED", "DROP", "PASS", "TX", "REDIRECT")
