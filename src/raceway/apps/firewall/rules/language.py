"""The language of rules files: statements, one a line. `read_rules` is the way in; docs/firewall.md is the page.

set bad = prefixes "firehol.netset"
set web = ports 80, 443
default pass
malformed drop
on death open
flows 100000

drop src in bad
pass established
limit 1000/s per src  udp dst port 53
log 5/s  tcp dst port 22
divert inspector  tcp dst port 25
pass tcp dst port in web
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raceway.apps.firewall.rules.conditions import Conditions
from raceway.apps.firewall.rules.expression import Named
from raceway.apps.firewall.rules.lists import load_prefixes
from raceway.apps.firewall.rules.rule_set import (
    ACTIONS,
    DIVERT,
    FLOWS,
    LIMIT,
    LOG,
    MALFORMED,
    MOST_FLOWS,
    ON_DEATH,
    Rate,
    Rule,
    RuleSet,
)
from raceway.apps.firewall.rules.text import Place, RulesError
from raceway.compile.addresses import prefix
from raceway.compile.classifier.sets import LAST_PORT, Addresses, Ranges
from raceway.memory.collection import without_collection

_NAME = re.compile(r"[A-Za-z_][\w-]*")
_WORD = re.compile(r'\s*("[^"]*"|\S+)')
_SPACE = re.compile(r"\s*")
_RATE = re.compile(r"(\d+)([kM]?)/(s|m|h|second|minute|hour)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_MOST_TOKENS = 4_000_000_000
_DEEPEST = 16
_RESERVED = {"any", "all", "established", "in", "host", "net", "port", "portrange", "proto", "src", "dst"}


@dataclass
class _Reading:
    """What has been read so far."""

    rules: list[Rule] = field(default_factory=list)
    names: dict[str, Named] = field(default_factory=dict)
    said: dict[str, tuple[str, Place]] = field(default_factory=dict)
    flows: int = FLOWS
    files: list[str] = field(default_factory=list)
    opened: list[Path] = field(default_factory=list)
    conditions: Conditions = field(init=False)

    def __post_init__(self) -> None:
        self.conditions = Conditions(self.names)


@without_collection()
def read_rules(path: str | Path) -> RuleSet:
    """Read a rules file, and what it includes. Raises RulesError with file, line, column and the line itself."""
    reading = _Reading()
    _file(Path(path), reading, Place(str(path), 1, ""))
    return _made(reading)


@without_collection()
def parse_rules(text: str, name: str = "rules") -> RuleSet:
    """Read rules from text. Files that it names are looked for from the current directory."""
    reading = _Reading()
    _statements(text, name, Path(), reading)
    return _made(reading)


def _made(reading: _Reading) -> RuleSet:
    said = {what: word for what, (word, _) in reading.said.items()}
    return RuleSet(
        tuple(reading.rules),
        said.get("default", "pass"),
        said.get("malformed", "drop"),
        said.get("on death", "open"),
        reading.flows,
        tuple(reading.files),
    )


def _file(path: Path, reading: _Reading, asked: Place) -> None:
    if path.resolve() in reading.opened:
        raise RulesError(asked, f"{path} includes itself")
    if len(reading.opened) >= _DEEPEST:
        raise RulesError(asked, f"more than {_DEEPEST} files include each other")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RulesError(asked, f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RulesError(asked, f"{path} is not UTF-8 text") from None
    reading.files.append(str(path))
    reading.opened.append(path.resolve())
    _statements(text, str(path), path.parent, reading)
    reading.opened.pop()


def _statements(text: str, name: str, folder: Path, reading: _Reading) -> None:
    for place in _lines(text, name):
        words = _Words(place)
        first = words.next("a statement")
        handler = _HANDLERS.get(first)
        if handler is not None:
            handler(words, folder, reading)
        elif first in ACTIONS:
            _rule(first, words, reading)
        else:
            known = (*ACTIONS, *_HANDLERS)
            raise words.refuse(f"{first!r} begins no statement; there are {', '.join(known)}", words.begin)


def _lines(text: str, name: str) -> Iterator[Place]:
    """Lines that say something, without their comments."""
    for number, line in enumerate(text.splitlines(), 1):
        if '"' not in line and "#" not in line:
            if not line.isspace() and line:
                yield Place(name, number, line.rstrip())
            continue
        quoted = False
        end = len(line)
        for index, letter in enumerate(line):
            if letter == '"':
                quoted = not quoted
            elif letter == "#" and not quoted:
                end = index
                break
        if quoted:
            raise RulesError(
                Place(name, number, line, line.rindex('"') + 1), "this quotation mark is not closed"
            )
        if line[:end].strip():
            yield Place(name, number, line[:end].rstrip())


class _Words:
    """A statement's words, one after the other."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.at = 0
        self.begin = 0

    def refuse(self, reason: str, at: int | None = None) -> RulesError:
        return RulesError(self.place.at((self.at if at is None else at) + 1), reason)

    def peek(self) -> str:
        found = _WORD.match(self.place.text, self.at)
        return found[1] if found else ""

    def next(self, wanted: str) -> str:
        found = _WORD.match(self.place.text, self.at)
        if found is None:
            raise self.refuse(f"{wanted} was expected at the end of this line")
        self.begin, self.at = found.start(1), found.end()
        return found[1]

    def rest(self) -> tuple[str, Place]:
        """What is left, and where it begins."""
        found = _SPACE.match(self.place.text, self.at)
        assert found is not None
        return self.place.text[found.end() :], self.place.at(found.end() + 1)

    def end(self) -> None:
        text, place = self.rest()
        if text:
            raise RulesError(place, f"{text.split()[0]!r} was not expected here")


def _choice(what: str, allowed: tuple[str, ...], words: _Words, reading: _Reading) -> None:
    where = words.place.at(words.begin + 1)
    word = words.next(f"one of {', '.join(allowed)}")
    if word not in allowed:
        raise words.refuse(f"{what} is one of {', '.join(allowed)}, not {word!r}", words.begin)
    words.end()
    if what in reading.said:
        before = reading.said[what][1]
        raise RulesError(where, f"{what} was set before, at {before}")
    reading.said[what] = word, where


def _default(words: _Words, folder: Path, reading: _Reading) -> None:
    _choice("default", ("pass", "drop"), words, reading)


def _malformed(words: _Words, folder: Path, reading: _Reading) -> None:
    _choice("malformed", MALFORMED, words, reading)


def _on(words: _Words, folder: Path, reading: _Reading) -> None:
    if words.next("'death'") != "death":
        raise words.refuse("'on death open' or 'on death keep' was expected", words.begin)
    _choice("on death", ON_DEATH, words, reading)


def _flows(words: _Words, folder: Path, reading: _Reading) -> None:
    where = words.place.at(words.begin + 1)
    word = words.next("a number of flows")
    digits = word.replace("_", "").replace(",", "")
    if not digits.isdecimal() or not 1 <= int(digits) <= MOST_FLOWS:
        raise words.refuse(
            f"a number of flows from 1 to {MOST_FLOWS:,} was expected, not {word!r}", words.begin
        )
    words.end()
    if "flows" in reading.said:
        raise RulesError(where, f"flows was set before, at {reading.said['flows'][1]}")
    reading.said["flows"] = word, where
    reading.flows = int(digits)


def _quoted(words: _Words) -> Path:
    word = words.next("a file's name in quotation marks")
    if len(word) < 3 or word[0] != '"' or word[-1] != '"':
        raise words.refuse("a file's name in quotation marks was expected", words.begin)
    return Path(word[1:-1])


def _include(words: _Words, folder: Path, reading: _Reading) -> None:
    path = _quoted(words)
    where = words.place.at(words.begin + 1)
    words.end()
    _file(folder / path, reading, where)


def _set(words: _Words, folder: Path, reading: _Reading) -> None:
    name = words.next("a name")
    where = words.begin
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise words.refuse(f"{name!r} cannot be a set's name: letters, digits, - and _ make one", where)
    if name in reading.names:
        raise words.refuse(f"set {name!r} is defined above", where)
    if words.next("'='") != "=":
        raise words.refuse("'=' was expected behind the set's name", words.begin)
    if words.peek() == "prefixes":
        words.next("")
        path = folder / _quoted(words)
        place = words.place.at(words.begin + 1)
        words.end()
        reading.names[name] = Named(name, addresses=load_prefixes(path, place))
        reading.files.append(str(path))
        return
    ports = words.peek() == "ports"
    if ports:
        words.next("")
    text, place = words.rest()
    if not text:
        raise words.refuse("a set holds addresses and prefixes, or ports: their list was expected")
    if ports:
        reading.names[name] = Named(name, ports=Ranges([_port_pair(*one) for one in _items(text, place)]))
    else:
        parts = [_prefix(*one) for one in _items(text, place)]
        reading.names[name] = Named(name, addresses=Addresses.of_prefixes(parts))


def _items(text: str, place: Place) -> Iterator[tuple[str, Place]]:
    at = 0
    for piece in text.split(","):
        item = piece.strip()
        where = place.at(place.column + at + len(piece) - len(piece.lstrip()))
        if not item or " " in item:
            raise RulesError(where, "items stand between commas")
        yield item, where
        at += len(piece) + 1


def _port_pair(item: str, place: Place) -> tuple[int, int]:
    first, _, last = item.partition("-")
    last = last or first
    if not (first.isdecimal() and last.isdecimal()) or not int(first) <= int(last) <= LAST_PORT:
        raise RulesError(place, f"{item!r} is no port and no range of ports up to {LAST_PORT}")
    return int(first), int(last)


def _prefix(item: str, place: Place):  # type: ignore[no-untyped-def]
    try:
        found = prefix(item)
        if found.family == "mac":
            raise ValueError(f"{item!r} is a MAC address; sets hold IP addresses and prefixes")
    except ValueError as error:
        raise RulesError(place, str(error)) from None
    return found


_HANDLERS = {
    "set": _set,
    "default": _default,
    "malformed": _malformed,
    "on": _on,
    "flows": _flows,
    "include": _include,
}


def _rule(action: str, words: _Words, reading: _Reading) -> None:
    rate, port = None, ""
    if action == LIMIT:
        rate = _rate(words, required=True)
    elif action == LOG and _RATE.match(words.peek()):
        rate = _rate(words, required=False)
    elif action == DIVERT:
        port = words.next("a name for the packets that are diverted")
        if not _NAME.fullmatch(port):
            raise words.refuse(f"{port!r} cannot be a name: letters, digits, - and _ make one", words.begin)
    text, place = words.rest()
    if not text:
        raise words.refuse("an expression was expected; write any to match everything")
    tree, alternatives = reading.conditions.read(text, place)
    if not alternatives:
        raise RulesError(place, "this can match no packet: its parts contradict each other")
    rule = Rule(action, words.place.text.strip(), words.place, tree, rate, port)
    reading.rules.append(rule.known_as(alternatives))


def _rate(words: _Words, *, required: bool) -> Rate:
    word = words.next("a rate such as 1000/s")
    found = _RATE.fullmatch(word)
    if found is None:
        raise words.refuse(f"{word!r} is no rate: 1000/s, 5k/s, 30/m or 10/h was expected", words.begin)
    packets = int(found[1]) * {"": 1, "k": 1000, "M": 1_000_000}[found[2]]
    seconds = _SECONDS[found[3][0]]
    burst, per = 0, ""
    while words.peek() in ("burst", "per"):
        option = words.next("")
        value = words.next("a number" if option == "burst" else "src, dst or flow")
        if option == "per":
            if value not in ("src", "dst", "flow"):
                raise words.refuse(f"per is src, dst or flow, not {value!r}", words.begin)
            per = value
        elif not value.isdecimal() or not int(value):
            raise words.refuse(f"burst is a number of packets, not {value!r}", words.begin)
        else:
            burst = int(value)
    burst = burst or max(packets // seconds, 1)
    if not 1 <= packets <= 1_000_000_000 or burst * seconds > _MOST_TOKENS:
        raise words.refuse(f"the rate {word} or the burst {burst:,} is out of range", words.begin)
    return Rate(packets, seconds, burst, per)
