"""What `nft list ruleset` prints, as far as raceway's rules can say it (nft(8)); the rest is noted, word for word.

Taken over: base chains of the hooks ingress, prerouting and input, in the order of their priorities, and their
policies; named sets and sets in braces; `ip`, `ip6`, `tcp`, `udp`, `sctp`, `th`, `icmp`, `icmpv6`, `ether`, `vlan`,
`meta l4proto`, `meta protocol`; `accept`, `drop`, `reject` (as drop, and that is said). A rule with anything else is
left out as a whole. Behind `accept` nft asks the next base chain too, and raceway's first match is final: that is noted
where it could matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from raceway.apps.firewall.rules.importing.nft_statement import LeftOut, Statement, expression
from raceway.apps.firewall.rules.matching import Not, TooManyError
from raceway.apps.firewall.rules.rule_set import DROP, PASS, Rule, RuleSet
from raceway.apps.firewall.rules.text import Place, RulesError
from raceway.memory.collection import without_collection

_TOKEN = re.compile(r'"[^"]*"|[{}(),;=]|!=|<=|>=|[<>]|#[^\n]*|\n|[^\s{}(),;=!<>]+')
_HOOKS = ("ingress", "prerouting", "input")
_SEEN = {"ip": "ip", "ip6": "ip6", "inet": "ip or ip6"}
"""Which packets the chains of a table are asked about, by its family; those of others about all."""
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}


@dataclass
class _Token:
    text: str
    place: Place


@dataclass
class _Chain:
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    family: str = "ip"
    place: Place | None = None
    statements: list[list[_Token]] = field(default_factory=list)


@without_collection()
def read_nftables(path: str | Path) -> RuleSet:
    """Read what `nft list ruleset` has printed to a file. Raises RulesError where it is not that language at all."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RulesError(Place(str(path), 1, ""), f"{path}: {error.strerror}") from None
    return replace(parse_nftables(text, str(path)), files=(str(path),))


def parse_nftables(text: str, name: str = "ruleset") -> RuleSet:
    """The same from text."""
    return _Reader(text, name).rule_set()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.tokens = _tokens(text, name)
        self.at = 0
        self.end = Place(name, text.count("\n") + 1, "")
        self.sets: dict[str, str] = {}
        self.chains: list[_Chain] = []
        self.notes: list[str] = []

    def rule_set(self) -> RuleSet:
        while self.at < len(self.tokens):
            token = self.next()
            if token.text == "table":
                words = self._until("{")
                family = words[0].text if len(words) > 1 else "ip"
                self._table(family)
            elif token.text not in ("\n", ";", "flush", "delete", "add", "ruleset"):
                raise RulesError(token.place, f"{token.text!r} was not expected: nft's tables were")
        return self._made()

    def _made(self) -> RuleSet:
        chains = sorted(
            (one for one in self.chains if one.hook in _HOOKS and one.family != "arp"),
            key=lambda one: one.priority,
        )
        chains.sort(key=lambda one: _HOOKS.index(one.hook))
        rules: list[Rule] = []
        policy = PASS
        unseen: list[Rule] = []
        for position, chain in enumerate(chains):
            seen = _SEEN.get(chain.family)
            made = [rule for words in chain.statements for rule in self._rule(words, seen)]
            if chain.policy == "drop" and seen is not None and chain.place is not None:
                # Such a chain's policy is not about ARP, nor about the other version of IP.
                unseen.append(
                    Rule(PASS, f"pass not ({seen})", chain.place, Not(expression(seen, chain.place)))
                )
            last = position == len(chains) - 1
            if not last and (any(rule.action != DROP for rule in made) or chain.policy == "drop"):
                self.notes.append(
                    f"chain of hook {chain.hook}, priority {chain.priority}: its accepts are final here, and in nft "
                    "the chains behind it are asked as well"
                )
            rules += made
            policy = DROP if chain.policy == "drop" else policy
        other = [
            one.hook for one in self.chains if one.hook and (one.hook not in _HOOKS or one.family == "arp")
        ]
        if other:
            self.notes.append(f"chains of the hooks {', '.join(dict.fromkeys(other))} were not imported")
        return RuleSet((*rules, *unseen), policy, "pass", notes=tuple(self.notes))

    # Reading.

    def next(self) -> _Token:
        if self.at >= len(self.tokens):
            raise RulesError(self.end, "the text ends in the middle of a table")
        self.at += 1
        return self.tokens[self.at - 1]

    def _until(self, *ends: str) -> list[_Token]:
        """Tokens up to one of these outside braces, which is taken too."""
        found: list[_Token] = []
        depth = 0
        while True:
            token = self.next()
            if depth == 0 and token.text in ends:
                return [one for one in found if one.text != "\n"]
            depth += (token.text == "{") - (token.text == "}")
            if depth < 0:
                raise RulesError(token.place, "a brace is closed that was not opened")
            found.append(token)

    def _table(self, family: str) -> None:
        while True:
            token = self.next()
            if token.text == "}":
                return
            if token.text in ("\n", ";"):
                continue
            if token.text in ("chain", "set", "map", "flowtable", "counter", "quota", "limit", "ct"):
                words = self._until("{")
                body = self._body()
                if token.text == "chain":
                    chain = _chain(body)
                    chain.family, chain.place = family, token.place
                    self.chains.append(chain)
                elif token.text == "set":
                    self._set(words, body)
                else:
                    names = " ".join(one.text for one in words)
                    self.notes.append(f"{token.text} {names} of the {family} table was not imported")
            else:
                self._until("\n", ";")

    def _body(self) -> list[list[_Token]]:
        """The statements in braces: up to each end of line or semicolon outside inner braces."""
        made: list[list[_Token]] = []
        current: list[_Token] = []
        depth = 0
        while True:
            token = self.next()
            if depth == 0 and token.text == "}":
                return [*made, current] if current else made
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0 and token.text in ("\n", ";"):
                made += [current] if current else []
                current = []
            elif token.text != "\n":
                current.append(token)

    def _set(self, words: list[_Token], body: list[list[_Token]]) -> None:
        name = words[0].text if words else ""
        for statement in body:
            if statement[0].text == "elements":
                elements = [one.text for one in statement[1:] if one.text not in ("=", "{", "}", ",")]
                self.sets[name] = ", ".join(one for one in elements if not _is_option(one))
                return
        self.sets[name] = ""

    # Meaning.

    def _rule(self, words: list[_Token], seen: str | None) -> list[Rule]:
        place = words[0].place
        statement = Statement([one.text for one in words], place, self.sets)
        try:
            made = statement.rule(seen)
        except (LeftOut, RulesError, TooManyError) as error:
            reason = error.reason if isinstance(error, RulesError) else error
            self.notes.append(f"{place}: not imported: {place.text.strip()} ({reason})")
            return []
        self.notes += [f"{place}: {note}" for note in statement.notes]
        if made is None:
            return []
        if "reject" in [one.text for one in words]:
            self.notes.append(f"{place}: reject is imported as drop")
        return [made]


def _is_option(word: str) -> bool:
    return word in ("timeout", "expires", "counter", "packets", "bytes", "comment") or word.startswith('"')


def _tokens(text: str, name: str) -> list[_Token]:
    lines = text.split("\n")
    made = []
    number, start = 1, 0
    for found in _TOKEN.finditer(text):
        column = found.start() - start + 1
        if not found[0].startswith("#"):
            made.append(_Token(found[0], Place(name, number, lines[number - 1], column)))
        if found[0] == "\n":
            number, start = number + 1, found.end()
    return made


def _chain(body: list[list[_Token]]) -> _Chain:
    chain = _Chain()
    for words in body:
        texts = [one.text for one in words]
        if texts[0] == "type" and "hook" in texts:
            if "priority" not in texts or texts[-1] == "hook":
                raise RulesError(words[0].place, "a base chain has a hook and a priority")
            chain.hook = texts[texts.index("hook") + 1]
            chain.priority = _priority(texts[texts.index("priority") + 1 :])
        elif texts[0] == "policy" and len(texts) > 1:
            chain.policy = texts[1]
        else:
            chain.statements.append(words)
    return chain


def _priority(words: list[str]) -> int:
    total, sign = 0, 1
    for word in words:
        if word in ("+", "-"):
            sign = 1 if word == "+" else -1
        elif word in _PRIORITIES:
            total += sign * _PRIORITIES[word]
        elif re.fullmatch(r"-?\d+", word):
            total += sign * int(word)
    return total
