"""One rule of nft's, as a rule of raceway's: its matches one after the other, its verdict, and notes."""

from __future__ import annotations

from raceway.apps.firewall.rules.expression import Named, read
from raceway.apps.firewall.rules.lists import addresses_of
from raceway.apps.firewall.rules.matching import EVERYTHING, All, Asked, Either, Not, Tree
from raceway.apps.firewall.rules.rule_set import DROP, ESTABLISHED, PASS, Rule
from raceway.apps.firewall.rules.text import Place

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


class LeftOut(Exception):
    """This rule cannot be said in raceway's words, and why."""


class Statement:
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
                raise LeftOut("its rate decides only whether the rules behind it are asked")
            else:
                self.parts.append(self._match(word))
        if not verdict:
            raise LeftOut("it has no accept, drop or reject")
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
                raise LeftOut("ct state vmap of this kind")
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
            raise LeftOut(f"ct state {','.join(states)}")
        elif "related" not in states:
            self.notes.append("ct state established is imported with what is related to it")
        self.parts.append(Not(Asked(ESTABLISHED)) if negated else Asked(ESTABLISHED))
        return ""

    def take(self) -> str:
        if self.at >= len(self.words):
            raise LeftOut("it ends too early")
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
        raise LeftOut(word)

    def _values(self) -> tuple[list[str], bool]:
        """What a match is compared with, and whether it must be none of it."""
        negated = self.peek() == "!="
        self.at += self.peek() in ("!=", "==")
        if self.peek() in ("<", ">", "<=", ">="):
            raise LeftOut(f"comparing by {self.peek()}")
        first = self.take()
        if first.startswith("@"):
            if first[1:] not in self.sets:
                raise LeftOut(f"set {first[1:]} is not defined")
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
        return expression(text, self.place)

    def _ip(self) -> Tree:
        side = self.take()
        values, negated = self._values()
        if side in ("saddr", "daddr"):
            return self._addresses("ip", side, values, negated)
        if side == "protocol":
            return self._made(
                "ip", side, negated, [_PROTOCOLS.get(one, one) for one in values], "ip proto {}"
            )
        raise LeftOut(f"ip {side}")

    def _ip6(self) -> Tree:
        side = self.take()
        values, negated = self._values()
        if side in ("saddr", "daddr"):
            return self._addresses("ip6", side, values, negated)
        if side == "nexthdr":
            return self._made(
                "ip6", side, negated, [_PROTOCOLS.get(one, one) for one in values], "ip6 proto {}"
            )
        raise LeftOut(f"ip6 {side}")

    def _addresses(self, family: str, side: str, values: list[str], negated: bool) -> Tree:
        try:
            found = addresses_of(values)
        except ValueError as error:
            raise LeftOut(str(error)) from None
        names = {"these": Named("these", addresses=found)}
        side = "src" if side == "saddr" else "dst"
        tree = read(f"{side} in these", Place(self.place.file, self.place.line, side), names)
        return All((self._read(family), Not(tree) if negated else tree))

    def _ports(self, protocol: str) -> Tree:
        side = self.take()
        if protocol == "tcp" and side == "flags":
            return self._flags()
        if side not in ("sport", "dport"):
            raise LeftOut(f"{protocol} {side}")
        values, negated = self._values()
        direction = "src" if side == "sport" else "dst"
        name = "" if protocol == "th" else protocol
        of = "tcp or udp or sctp" if protocol == "th" else protocol
        return self._made(of, side, negated, values, f"{name} {direction} port {{}}")

    def _flags(self) -> Tree:
        if self.peek() in ("{", "!=", "&", "("):
            raise LeftOut("tcp flags of this kind")
        names = self.take().split("|")
        if self.peek() == "/" or any(one not in _FLAGS for one in names):
            raise LeftOut("tcp flags of this kind")
        mask = sum(_FLAGS[one] for one in names)
        return self._read(f"tcp[13] & {mask} != 0")

    def _icmp(self) -> Tree:
        if self.take() != "type":
            raise LeftOut("icmp")
        values, negated = self._values()
        numbers = [str(_ICMP.get(one, one)) for one in values]
        return self._made("icmp", "type", negated, numbers, "icmp[0] == {}")

    def _icmp6(self) -> Tree:
        if self.take() != "type":
            raise LeftOut("icmpv6")
        values, negated = self._values()
        numbers = [str(_ICMP6.get(one, one)) for one in values]
        return self._made("icmp6", "type", negated, numbers, "icmp6[0] == {}")

    def _ether(self) -> Tree:
        side = self.take()
        values, negated = self._values()
        forms = {"saddr": "ether src {}", "daddr": "ether dst {}", "type": "ether proto {}"}
        if side not in forms:
            raise LeftOut(f"ether {side}")
        return self._made("", side, negated, values, forms[side])

    def _vlan(self) -> Tree:
        if self.take() != "id":
            raise LeftOut("vlan")
        values, negated = self._values()
        return self._made("", "id", negated, values, "vlan {}")

    def _meta(self) -> Tree:
        what = self.take()
        values, negated = self._values()
        if what == "l4proto":
            return self._made("", what, negated, [_PROTOCOLS.get(one, one) for one in values], "proto {}")
        if what == "protocol" and all(one in ("ip", "ip6") for one in values):
            return self._made("", what, negated, values, "{}")
        raise LeftOut(f"meta {what}")


def expression(text: str, place: Place) -> Tree:
    """An expression of raceway's that stands for something at a place."""
    return read(text, Place(place.file, place.line, text), _NOTHING)


_FOLLOWED = {"established", "related"}
_NOTHING: dict[str, Named] = {}
