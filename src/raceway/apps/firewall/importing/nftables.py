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

from raceway.apps.firewall.collection import without_collection
from raceway.apps.firewall.expression import Named, read
from raceway.apps.firewall.lists import addresses_of
from raceway.apps.firewall.matching import EVERYTHING, All, Asked, Either, Not, TooManyError, Tree
from raceway.apps.firewall.rules import DROP, ESTABLISHED, PASS, Rule, RuleSet
from raceway.apps.firewall.text import Place, RulesError

_TOKEN = re.compile(r'"[^"]*"|[{}(),;=]|!=|<=|>=|[<>]|#[^\n]*|\n|[^\s{}(),;=!<>]+')
_HOOKS = ("ingress", "prerouting", "input")
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_PORTED = ("tcp", "udp", "sctp", "th")
_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
_ICMP = {
    "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
    "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
    "timestamp-request": 13, "timestamp-reply": 14,
}  # fmt: skip
_ICMP6 = {
    "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4, "echo-request": 128,
    "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131, "nd-router-solicit": 133,
    "nd-router-advert": 134, "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136,
}  # fmt: skip
_PROTOCOLS = {"icmpv6": "icmp6", "ipv6-icmp": "icmp6"}


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


class _LeftOut(Exception):
    """This rule cannot be said in raceway's words, and why."""


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
                unseen.append(Rule(PASS, f"pass not ({seen})", chain.place, Not(_read(seen, chain.place))))
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
        statement = _Statement([one.text for one in words], place, self.sets)
        try:
            made = statement.rule(seen)
        except (_LeftOut, RulesError, TooManyError) as error:
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


class _Statement:
    """One rule's words."""

    def __init__(self, words: list[str], place: Place, sets: dict[str, str]) -> None:
        self.words, self.place, self.sets = words, place, sets
        self.at = 0
        self.parts: list[Tree] = []
        self.notes: list[str] = []

    def rule(self, seen: str | None) -> Rule | None:
        """The rule, None if it can match nothing. seen: which packets its chain is asked about, if not all."""
        verdict = ""
        while self.at < len(self.words):
            word = self.take()
            if word in ("accept", "drop"):
                verdict = word
            elif word == "reject":
                verdict, self.at = "drop", len(self.words)
            elif word == "counter":
                self._skip_counter()
            elif word == "comment":
                self.take()
            elif word == "ct" and self.peek() == "state":
                self.at += 1
                verdict = self._state() or verdict
            elif word == "limit":
                raise _LeftOut("its rate decides only whether the rules behind it are asked")
            else:
                self.parts.append(self._match(word))
        if not verdict:
            raise _LeftOut("it has no accept, drop or reject")
        if seen is not None:
            self.parts.insert(0, self._read(seen))
        tree: Tree = All(tuple(self.parts)) if self.parts else EVERYTHING
        text = self.place.text.strip()
        rule = Rule(DROP if verdict == "drop" else PASS, text, self.place, tree)
        return rule if rule.alternatives else None

    def _state(self) -> str:
        """What follows ct state: adds the condition; the verdict, where a verdict map says it.

        Of conntrack's states raceway knows whether a packet is of an established flow, or related to one.
        """
        if self.peek() == "vmap":
            self.at += 1
            words, _ = self._values()
            verdicts = dict(zip(words[::3], words[2::3], strict=False))
            wanted = verdicts.get("established", "")
            if wanted not in ("accept", "drop") or verdicts.get("related", wanted) != wanted:
                raise _LeftOut("ct state vmap of this kind")
            self.notes += [
                f"ct state {state} is not known, so its {verdict} was not imported"
                for state, verdict in verdicts.items()
                if state not in _FOLLOWED
            ]
            self.parts.append(Asked(ESTABLISHED))
            return wanted
        states, negated = self._values()
        while self.peek() == ",":
            self.at += 1
            states.append(self.take())
        if states == ["new"]:
            self.notes.append("ct state new is imported as not established")
            negated = not negated
        elif "established" not in states or set(states) - _FOLLOWED:
            raise _LeftOut(f"ct state {','.join(states)}")
        elif "related" not in states:
            self.notes.append("ct state established is imported with what is related to it")
        self.parts.append(Not(Asked(ESTABLISHED)) if negated else Asked(ESTABLISHED))
        return ""

    def take(self) -> str:
        if self.at >= len(self.words):
            raise _LeftOut("it ends too early")
        self.at += 1
        return self.words[self.at - 1]

    def peek(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def _skip_counter(self) -> None:
        while self.peek() in ("packets", "bytes", "name"):
            self.at += 2

    def _match(self, word: str) -> Tree:
        handler = {
            "ip": self._ip, "ip6": self._ip6, "icmp": self._icmp, "icmpv6": self._icmp6, "ether": self._ether,
            "vlan": self._vlan, "meta": self._meta,
        }.get(word)  # fmt: skip
        if handler is not None:
            return handler()
        if word in _PORTED:
            return self._ports(word)
        raise _LeftOut(word)

    def _values(self) -> tuple[list[str], bool]:
        """What a match is compared with, and whether it must be none of it."""
        negated = self.peek() == "!="
        self.at += self.peek() in ("!=", "==")
        if self.peek() in ("<", ">", "<=", ">="):
            raise _LeftOut(f"comparing by {self.peek()}")
        first = self.take()
        if first.startswith("@"):
            if first[1:] not in self.sets:
                raise _LeftOut(f"set {first[1:]} is not defined")
            found = [one.strip() for one in self.sets[first[1:]].split(",") if one.strip()]
            return found, negated
        if first != "{":
            return [first], negated
        found = []
        while True:
            word = self.take()
            if word == "}":
                return found, negated
            if word != ",":
                found.append(word)

    def _made(self, of: str, what: str, negated: bool, values: list[str], form: str) -> Tree:
        """An expression of raceway's for values, behind what it is asked about. of: must hold as well."""
        tree: Tree = Either(tuple(self._read(form.format(one)) for one in values))
        tree = Not(tree) if negated else tree
        return All((self._read(of), tree)) if of else tree

    def _read(self, text: str) -> Tree:
        return _read(text, self.place)

    def _ip(self) -> Tree:
        side = self.take()
        values, negated = self._values()
        if side in ("saddr", "daddr"):
            return self._addresses("ip", side, values, negated)
        if side == "protocol":
            return self._made(
                "ip", side, negated, [_PROTOCOLS.get(one, one) for one in values], "ip proto {}"
            )
        raise _LeftOut(f"ip {side}")

    def _ip6(self) -> Tree:
        side = self.take()
        values, negated = self._values()
        if side in ("saddr", "daddr"):
            return self._addresses("ip6", side, values, negated)
        if side == "nexthdr":
            return self._made(
                "ip6", side, negated, [_PROTOCOLS.get(one, one) for one in values], "ip6 proto {}"
            )
        raise _LeftOut(f"ip6 {side}")

    def _addresses(self, family: str, side: str, values: list[str], negated: bool) -> Tree:
        try:
            found = addresses_of(values)
        except ValueError as error:
            raise _LeftOut(str(error)) from None
        names = {"these": Named("these", addresses=found)}
        side = "src" if side == "saddr" else "dst"
        tree = read(f"{side} in these", Place(self.place.file, self.place.line, side), names)
        return All((self._read(family), Not(tree) if negated else tree))

    def _ports(self, protocol: str) -> Tree:
        side = self.take()
        if protocol == "tcp" and side == "flags":
            return self._flags()
        if side not in ("sport", "dport"):
            raise _LeftOut(f"{protocol} {side}")
        values, negated = self._values()
        direction = "src" if side == "sport" else "dst"
        name = "" if protocol == "th" else protocol
        of = "tcp or udp or sctp" if protocol == "th" else protocol
        return self._made(of, side, negated, values, f"{name} {direction} port {{}}")

    def _flags(self) -> Tree:
        if self.peek() in ("{", "!=", "&", "("):
            raise _LeftOut("tcp flags of this kind")
        names = self.take().split("|")
        if self.peek() == "/" or any(one not in _FLAGS for one in names):
            raise _LeftOut("tcp flags of this kind")
        mask = sum(_FLAGS[one] for one in names)
        return self._read(f"tcp[13] & {mask} != 0")

    def _icmp(self) -> Tree:
        if self.take() != "type":
            raise _LeftOut("icmp")
        values, negated = self._values()
        numbers = [str(_ICMP.get(one, one)) for one in values]
        return self._made("icmp", "type", negated, numbers, "icmp[0] == {}")

    def _icmp6(self) -> Tree:
        if self.take() != "type":
            raise _LeftOut("icmpv6")
        values, negated = self._values()
        numbers = [str(_ICMP6.get(one, one)) for one in values]
        return self._made("icmp6", "type", negated, numbers, "icmp6[0] == {}")

    def _ether(self) -> Tree:
        side = self.take()
        values, negated = self._values()
        forms = {"saddr": "ether src {}", "daddr": "ether dst {}", "type": "ether proto {}"}
        if side not in forms:
            raise _LeftOut(f"ether {side}")
        return self._made("", side, negated, values, forms[side])

    def _vlan(self) -> Tree:
        if self.take() != "id":
            raise _LeftOut("vlan")
        values, negated = self._values()
        return self._made("", "id", negated, values, "vlan {}")

    def _meta(self) -> Tree:
        what = self.take()
        values, negated = self._values()
        if what == "l4proto":
            return self._made("", what, negated, [_PROTOCOLS.get(one, one) for one in values], "proto {}")
        if what == "protocol" and all(one in ("ip", "ip6") for one in values):
            return self._made("", what, negated, values, "{}")
        raise _LeftOut(f"meta {what}")


def _read(text: str, place: Place) -> Tree:
    """An expression of raceway's that stands for something at a place."""
    return read(text, Place(place.file, place.line, text), _NOTHING)


_SEEN = {"ip": "ip", "ip6": "ip6", "inet": "ip or ip6"}
"""Which packets the chains of a table are asked about, by its family; those of others about all."""
_FOLLOWED = {"established", "related"}
_NOTHING: dict[str, Named] = {}
