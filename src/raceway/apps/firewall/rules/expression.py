"""Expressions in rules: tcpdump's language (pcap-filter(7)), read here as far as boxes can say it.

Addresses, networks, ports, ranges of ports and protocols, with and, or, not and parentheses as tcpdump has them (and
and or bind equally, from left to right), become conditions of the classifier; so do named sets (`src in bad`) and
lists (`port 80, 443`). Every other primitive goes to libpcap as it is written, and is asked of each packet. What
differs from tcpdump, on purpose: addresses, protocols and ports are looked for behind VLAN tags and IPv6 extension
headers; `host` is about IP, not ARP; names of hosts are not looked up.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from raceway.apps.firewall.rules import matching
from raceway.apps.firewall.rules.matching import All, Asked, Either, Not, Tree
from raceway.apps.firewall.rules.text import Place, RulesError
from raceway.compile.addresses import Prefix, prefix
from raceway.compile.classifier.sets import ANY_IPV4, ANY_IPV6, LAST_PORT, Addresses, Ranges
from raceway.compile.errors import ExpressionError

_TOKEN = re.compile(r"\s*(?:(&&|\|\||[()!,])|([^\s()!,&|]+|[&|]))")
_NUMBER = re.compile(r"\d+|0x[0-9a-fA-F]+")
_VALUE = re.compile(r"[0-9]|[0-9a-fA-F]*:")
_WORD_AND, _WORD_OR, _WORD_NOT = ("and", "&&"), ("or", "||"), ("not", "!")
_PROTOCOLS = {
    "tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmp6": 58, "igmp": 2, "gre": 47, "esp": 50, "ah": 51, "pim": 103,
    "vrrp": 112,
}  # fmt: skip
_OF_FAMILY = {"icmp": ANY_IPV4, "igmp": ANY_IPV4, "icmp6": ANY_IPV6}
_FAMILIES = {"ip": ANY_IPV4, "ip6": ANY_IPV6}
_WITH_PORTS = (6, 17, 132)
_KINDS = ("host", "net", "port", "portrange", "proto", "in")
_DEEPEST = 64


@dataclass(frozen=True)
class Named:
    """A named set: addresses, or ports."""

    name: str
    addresses: Addresses | None = None
    ports: Ranges | None = None


@dataclass(frozen=True)
class _Token:
    text: str
    at: int
    """Where it begins in the expression."""


@dataclass(frozen=True)
class _Qualifiers:
    protocol: str = ""
    direction: str = ""
    kind: str = ""


def read(text: str, place: Place, names: Mapping[str, Named] | None = None) -> Tree:
    """Read an expression that stands at a place. An empty one, `any` and `all` match everything. Raises RulesError."""
    return _Reader(text, place, names or {}).whole()


class _Reader:
    def __init__(self, text: str, place: Place, names: Mapping[str, Named]) -> None:
        self.text, self.place, self.names = text, place, names
        self.tokens = self._split()
        self.at = 0
        self.last = _Qualifiers()
        self.depth = 0

    def _split(self) -> list[_Token]:
        made = []
        for found in _TOKEN.finditer(self.text):
            group = found.lastindex or 0
            made.append(_Token(found[group], found.start(group)))
        return made

    def refuse(self, reason: str, token: _Token | None = None) -> RulesError:
        at = token.at if token else len(self.text)
        return RulesError(self.place.at(self.place.column + at), reason)

    def peek(self) -> str:
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def token(self) -> _Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, *wanted: str) -> bool:
        if self.peek().lower() in wanted and self.at < len(self.tokens):
            self.at += 1
            return True
        return False

    def whole(self) -> Tree:
        if not self.tokens:
            return matching.EVERYTHING
        tree = self.expression()
        left = self.token()
        if left is not None:
            raise self.refuse(f"{left.text!r} was not expected here", left)
        return tree

    def expression(self) -> Tree:
        tree = self.term()
        while True:
            if self.take(*_WORD_AND):
                tree = All((tree, self.term()))
            elif self.take(*_WORD_OR):
                tree = Either((tree, self.term()))
            else:
                return tree

    def term(self) -> Tree:
        if self.take(*_WORD_NOT):
            self.depth += 1
            if self.depth > _DEEPEST:
                raise self.refuse("the expression is nested too deeply", self.token())
            opposite = Not(self.term())
            self.depth -= 1
            return opposite
        if self.peek() == "(" and not self._arithmetic():
            opening = self.token()
            self.at += 1
            self.depth += 1
            if self.depth > _DEEPEST:
                raise self.refuse("the expression is nested too deeply", opening)
            tree = self.expression()
            self.depth -= 1
            if not self.take(")"):
                raise self.refuse("this parenthesis is not closed", opening)
            return tree
        return self.primitive()

    def _arithmetic(self) -> bool:
        """Whether the parenthesis here is part of a sum that is compared with something."""
        depth = 0
        for index in range(self.at, len(self.tokens)):
            text = self.tokens[index].text
            depth += (text == "(") - (text == ")")
            if depth == 0:
                following = self.tokens[index + 1].text if index + 1 < len(self.tokens) else ""
                # "!" may begin "!=".
                return (
                    following[:1] in ("=", "<", ">", "&", "|", "+", "-", "*", "/", "%", "^")
                    and following
                    not in (
                        "&&",
                        "||",
                    )
                ) or (following == "!" and self.text[self.tokens[index + 1].at :].startswith("!="))
        return False

    # One thing that is asked.

    def primitive(self) -> Tree:
        first = self.token()
        if first is None:
            raise self.refuse("the expression ends where something to match was expected")
        start = self.at
        word = first.text.lower()
        if word in ("any", "all"):
            self.at += 1
            return matching.EVERYTHING
        if word == "established":
            self.at += 1
            return Asked("established")
        if _VALUE.match(first.text) and self.last.kind:
            return self.values(self.last)
        qualifiers = self._qualifiers()
        if qualifiers is not None and (qualifiers.kind or self._alone(qualifiers)):
            return self._known(qualifiers, first)
        self.at = start
        return self._libpcap()

    def _qualifiers(self) -> _Qualifiers | None:
        protocol = direction = kind = ""
        word = self.peek().lower()
        if word in _PROTOCOLS or word in _FAMILIES:
            protocol = word
            self.at += 1
        if self.peek().lower() in ("src", "dst"):
            direction = self.peek().lower()
            self.at += 1
            if self.peek().lower() in ("and", "or") and self._following() in ("src", "dst"):
                direction = f"src {self.peek().lower()} dst"
                self.at += 2
        if self.peek().lower() in _KINDS:
            kind = self.peek().lower()
            self.at += 1
            if kind in ("host", "port") and self.peek().lower() == "in":
                self.at += 1
                kind = "in" if kind == "host" else kind
        elif direction and _VALUE.match(self.peek() or " "):
            kind = "host"
        if not (protocol or direction or kind):
            return None
        return _Qualifiers(protocol, direction, kind)

    def _following(self) -> str:
        return self.tokens[self.at + 1].text.lower() if self.at + 1 < len(self.tokens) else ""

    def _alone(self, qualifiers: _Qualifiers) -> bool:
        """Whether a protocol stands for itself here."""
        ends = self.peek() in ("", ")") or self.peek().lower() in (*_WORD_AND, *_WORD_OR)
        return bool(qualifiers.protocol) and not qualifiers.direction and ends

    def _known(self, qualifiers: _Qualifiers, first: _Token) -> Tree:
        if not qualifiers.kind:
            return _of_protocol(qualifiers.protocol)
        if qualifiers.kind == "proto":
            return self._protocol_number(qualifiers)
        self.last = qualifiers
        if not self.peek():
            raise self.refuse(f"a value was expected behind {qualifiers.kind!r}", first)
        return self.values(qualifiers)

    def _protocol_number(self, qualifiers: _Qualifiers) -> Tree:
        token = self.token()
        if token is None:
            raise self.refuse("a protocol was expected behind 'proto'")
        self.at += 1
        name = token.text.lstrip("\\").lower()
        number = _PROTOCOLS.get(name, int(name, 0) if _NUMBER.fullmatch(name) else -1)
        if not 0 <= number <= 255:
            raise self.refuse(
                f"{token.text!r} is no protocol: a number up to 255 or a name was expected", token
            )
        return All((_of_protocol(qualifiers.protocol), matching.protocol(number)))

    def values(self, qualifiers: _Qualifiers) -> Tree:
        """One value, or several with commas or in parentheses."""
        if self.take("("):
            made = [self.value(qualifiers)]
            while self.take("or", "||", ","):
                made.append(self.value(qualifiers))
            if not self.take(")"):
                raise self.refuse("')' or 'or' was expected behind a value in parentheses", self.token())
        else:
            made = [self.value(qualifiers)]
            while self.take(","):
                made.append(self.value(qualifiers))
        return made[0] if len(made) == 1 else Either(tuple(made))

    def value(self, qualifiers: _Qualifiers) -> Tree:
        token = self.token()
        if token is None or token.text in ("(", ")", ","):
            raise self.refuse(f"a value was expected for {qualifiers.kind!r}", token)
        self.at += 1
        kind = qualifiers.kind
        named = self.names.get(token.text)
        if kind == "in" or (named is not None and not _VALUE.match(token.text)):
            if named is None:
                known = (
                    f"; there are {', '.join(sorted(self.names))}"
                    if self.names
                    else "; no set is defined above"
                )
                raise self.refuse(f"there is no set {token.text!r}{known}", token)
            if named.ports is not None and kind not in ("port", "portrange"):
                raise self.refuse(f"set {named.name!r} holds ports; write port in {named.name}", token)
            if named.ports is not None:
                return self._ports(qualifiers, named.ports, token)
            assert named.addresses is not None
            if kind in ("port", "portrange"):
                raise self.refuse(f"set {named.name!r} holds addresses, and ports were expected", token)
            return self._addresses(qualifiers, named.addresses)
        if kind in ("port", "portrange"):
            return self._ports(qualifiers, self._port_range(token), token)
        return self._addresses(qualifiers, Addresses.of_prefixes([self._network(token, kind)]))

    def _network(self, token: _Token, kind: str) -> Prefix:
        text = token.text
        parts = text.split(".")
        if kind == "net" and "/" not in text and ":" not in text and len(parts) < 4:
            # tcpdump: "net 10.1" is 10.1.0.0/16.
            text = ".".join([*parts, *["0"] * (4 - len(parts))]) + f"/{8 * len(parts)}"
        if kind == "net" and self.peek().lower() == "mask":
            self.at += 1
            mask = self.token()
            self.at += 1
            text = f"{text}/{self._mask_length(mask)}"
        try:
            found = prefix(text)
        except ValueError as error:
            hint = "" if _VALUE.match(text) else "; names of hosts are not looked up in rules"
            raise self.refuse(f"{error}{hint}", token) from None
        if found.family == "mac":
            raise self.refuse(f"{text} is a MAC address; write ether host {text}", token)
        return found

    def _mask_length(self, mask: _Token | None) -> int:
        try:
            number = int.from_bytes(socket.inet_aton(mask.text if mask else ""), "big")
        except OSError:
            raise self.refuse("a mask such as 255.255.0.0 was expected", mask) from None
        length = number.bit_count()
        if number != (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
            raise self.refuse("the mask's bits are not all at its beginning", mask)
        return length

    def _port_range(self, token: _Token) -> Ranges:
        bounds = [self._port(part, token) for part in token.text.split("-", 1)]
        if bounds[0] > bounds[-1]:
            raise self.refuse(f"the range {token.text} ends before it begins", token)
        return Ranges([(bounds[0], bounds[-1])])

    def _port(self, text: str, token: _Token) -> int:
        if _NUMBER.fullmatch(text):
            number = int(text, 0) if text.startswith("0x") else int(text)
        else:
            try:
                number = socket.getservbyname(text)
            except (OSError, UnicodeError, ValueError):
                raise self.refuse(
                    f"{text!r} is no port: a number up to 65535, a range or a service's name was expected",
                    token,
                ) from None
        if number > LAST_PORT:
            raise self.refuse(f"port {text} is above 65535", token)
        return number

    def _addresses(self, qualifiers: _Qualifiers, addresses: Addresses) -> Tree:
        sides = matching.source(addresses), matching.destination(addresses)
        return All((_of_protocol(qualifiers.protocol), _directed(qualifiers.direction, *sides)))

    def _ports(self, qualifiers: _Qualifiers, ports: Ranges, token: _Token) -> Tree:
        name = qualifiers.protocol
        if name in _PROTOCOLS and _PROTOCOLS[name] not in _WITH_PORTS:
            raise self.refuse(f"{name} has no ports", token)
        of = _of_protocol(name)
        if name not in _PROTOCOLS:
            of = All((of, matching.protocol(*_WITH_PORTS)))
        sides = matching.source_port(ports), matching.destination_port(ports)
        return All((of, _directed(qualifiers.direction, *sides)))

    def _libpcap(self) -> Tree:
        """Everything up to the next and, or, or the parenthesis that closes one before, as libpcap reads it."""
        first = self.tokens[self.at]
        depth = 0
        while self.at < len(self.tokens):
            word = self.peek().lower()
            if depth == 0 and (word in (*_WORD_AND, *_WORD_OR, ")")):
                break
            depth += (word == "(") - (word == ")")
            self.at += 1
        end = self.tokens[self.at].at if self.at < len(self.tokens) else len(self.text)
        said = self.text[first.at : end].strip()
        from raceway.compile.pcap_filter.libpcap import compile_expression

        try:
            compile_expression(said)
        except ExpressionError as error:
            raise self.refuse(f"{said!r}: {error}", first) from None
        return Asked(said)


def _of_protocol(name: str) -> Tree:
    """What a protocol's name alone matches."""
    parts: list[Tree] = []
    family = _FAMILIES.get(name, _OF_FAMILY.get(name))
    if family is not None:
        parts.append(matching.source(family))
    if name in _PROTOCOLS:
        parts.append(matching.protocol(_PROTOCOLS[name]))
    return All(tuple(parts))


def _directed(direction: str, source: Tree, destination: Tree) -> Tree:
    if direction == "src":
        return source
    if direction == "dst":
        return destination
    return All((source, destination)) if direction == "src and dst" else Either((source, destination))
