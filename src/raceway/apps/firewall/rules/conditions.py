"""Expressions that are conditions joined by `and`, as most rules of long files are, read quickly.

    tcp dst port 443 and src host 192.0.2.1 and dst net 10.0.0.0/8
    `-- known ----'     `-- an address, read here -----------'

Each condition says all that it is about, so what it means does not depend on the words before it; it is looked up
among those that were read before. One that is new is read by `expression.read`, but for addresses, of which long files
have as many as rules: those are read here. Whatever else there is, and whatever is wrong, `expression.read` reads as a
whole: what is accepted, and what is said of the rest, is what it says.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

from raceway.apps.firewall.rules.expression import Named, read
from raceway.apps.firewall.rules.lists import KNOWN
from raceway.apps.firewall.rules.matching import All, Alternative, Only, TooManyError, Tree, boxes, product
from raceway.apps.firewall.rules.text import Place, RulesError
from raceway.compile.classifier.sets import LAST_4, LAST_6, Addresses, Box, Ranges

_AND = re.compile(r"\s+and\s+")
_ADDRESS = re.compile(
    r"(src|dst)(?:\s+(?:host|net))?\s+"
    r"(?:([0-9]{1,3}(?:\.[0-9]{1,3}){3})|([0-9a-f:]*:[0-9a-f:]*))(?:/([0-9]{1,3}))?"
)
_WORD = r"[\w.:/-]+"
_CONDITION = re.compile(
    r"(?:ip6?|tcp|udp|sctp|icmp6?|igmp|gre|esp|ah)"
    rf"|(?:(?:ip6?|tcp|udp|sctp)\s+)?(?:(?:src|dst)\s+)?(?:host|net|port|portrange|in|port\s+in)\s+{_WORD}(?:\s*,\s*{_WORD})*"
)
_Read = tuple[Tree, list[Alternative]]


class Conditions:
    """Reads expressions, and remembers their parts. names: named sets, which may become more and never others."""

    def __init__(self, names: Mapping[str, Named]) -> None:
        self._names = names
        self._known: dict[str, _Read] = {}

    def read(self, text: str, place: Place) -> _Read:
        """Read an expression that stands at a place, into a tree and its alternatives. Raises RulesError."""
        found = self._quickly(text)
        if found is not None:
            return found
        tree = read(text, place, self._names)
        try:
            return tree, boxes(tree)
        except TooManyError as error:
            raise RulesError(place, str(error)) from None

    def _quickly(self, text: str) -> _Read | None:
        trees, parts = [], []
        for said in _AND.split(text):
            known = self._known.get(said)
            if known is None:
                known = _address(said) or self._condition(said)
                if known is None:
                    return None
                self._known[said] = known
            trees.append(known[0])
            parts.append(known[1])
        if len(parts) == 1:
            return trees[0], parts[0]
        try:
            return All(tuple(trees)), product(parts)
        except TooManyError:
            return None

    def _condition(self, said: str) -> _Read | None:
        if _CONDITION.fullmatch(said) is None:
            return None
        try:
            tree = read(said, Place("", 1, said), self._names)
            return tree, boxes(tree)
        except (RulesError, TooManyError):
            return None


def _address(said: str) -> _Read | None:
    """An address or a prefix of one side; None for everything else, and for all that is not quite right."""
    found = _ADDRESS.fullmatch(said)
    if found is None:
        return None
    side, four, six, length = found.groups()
    text = four or six
    text = text if length is None else f"{text}/{length}"
    addresses = KNOWN.get(text) or _addresses(bool(four), four or six, length)
    if addresses is None:
        return None
    KNOWN[text] = addresses
    box = Box(source=addresses) if side == "src" else Box(destination=addresses)
    return Only(box), [Alternative(box)]


def _addresses(is_four: bool, text: str, length_said: str | None) -> Addresses | None:
    family, bits, last = (socket.AF_INET, 32, LAST_4) if is_four else (socket.AF_INET6, 128, LAST_6)
    try:
        number = int.from_bytes(socket.inet_pton(family, text), "big")
    except OSError:
        return None
    length = bits if length_said is None else int(length_said)
    if length > bits:
        return None
    rest = last >> length
    if number & rest:
        return None
    if is_four:
        return Addresses(Ranges.of_one(number, number | rest))
    return Addresses(Ranges(), ((number, number | rest),))
