"""Lists of addresses in files: FireHOL's netsets, and every list that has one address, prefix or range a line.

Lists are long, and nearly all of their lines are IPv4 addresses or prefixes and nothing else: those are read all at
once, as arrays; each other line is read by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from raceway.apps.firewall.rules.text import Place, RulesError
from raceway.compile.addresses import prefix
from raceway.compile.classifier.sets import LAST_4, LAST_6, Addresses, Ranges, merged

KNOWN: WeakValueDictionary[str, Addresses] = WeakValueDictionary()
"""Addresses of single prefixes that some rules in this process hold, by their text: most of a reload's are the same."""

_Numbers = np.ndarray[Any, np.dtype[np.int64]]
_BREAKS = (b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")
"""What ends a line besides a newline, in UTF-8: where there is one, nothing is read at once."""
_NEWLINE, _DOT, _SLASH, _ZERO = b"\n./0"


def load_prefixes(path: Path, place: Place | None = None) -> Addresses:
    """Read a list: an IPv4 or IPv6 address, a prefix or a range `first-last` a line; behind # or ; are comments.

    place: where the file is asked for, for errors. Raises RulesError with file and line for anything else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        wanted = place or Place(str(path), 1, "")
        raise RulesError(wanted, f"{path}: {error.strerror}") from None
    plain, others = _parted(content)
    four: list[tuple[int, int]] = []
    six: list[tuple[int, int]] = []
    for number, line in others:
        said = line.split("#", 1)[0].split(";", 1)[0].strip()
        if not said:
            continue
        try:
            family, first, last = _item(said)
        except ValueError as error:
            raise RulesError(Place(str(path), number, line), str(error)) from None
        (four if family == "ipv4" else six).append((first, last))
    rows = np.concatenate((plain, np.array(four, np.int64).reshape(-1, 2)))
    return Addresses(Ranges(rows), merged(six))


def addresses_of(items: Iterable[str]) -> Addresses:
    """The addresses of items such as lines of a list. Raises ValueError."""
    four: list[tuple[int, int]] = []
    six: list[tuple[int, int]] = []
    for item in items:
        family, first, last = _item(item)
        (four if family == "ipv4" else six).append((first, last))
    return Addresses(Ranges(four), merged(six))


def _parted(content: bytes) -> tuple[_Numbers, Iterator[tuple[int, str]]]:
    """First and last of each line that is an IPv4 address or prefix and nothing else, int64 of shape (n, 2); and all
    other lines with their numbers, from 1."""
    plain = content.replace(b"\r\n", b"\n")
    if any(one in plain for one in _BREAKS):
        lines = content.decode("utf-8", "replace").splitlines()
        return np.zeros((0, 2), np.int64), enumerate(lines, 1)
    letters = np.frombuffer(plain + b"\n", np.uint8)
    ends = np.flatnonzero(letters == _NEWLINE)
    begins = np.concatenate(([0], ends[:-1] + 1))
    # A line that ends nowhere has a newline now, and what ends with one has a line too many, of nothing.
    marks = np.flatnonzero((letters == _DOT) | (letters == _SLASH) | (letters == _NEWLINE))
    digits = (letters >= _ZERO) & (letters <= _ZERO + 9)
    first_mark = np.searchsorted(marks, begins)
    count = np.searchsorted(marks, ends) - first_mark
    known = np.concatenate(([0], np.cumsum(digits)))
    whole = known[ends] - known[begins] + count == ends - begins
    # An address has three dots, a prefix a slash behind them.
    chosen = np.flatnonzero(whole & ((count == 3) | (count == 4)))
    at = first_mark[chosen, None] + np.arange(4)
    borders = marks[at]
    fine = (letters[borders[:, :3]] == _DOT).all(axis=1)
    address, good = _decimals(letters, np.column_stack((begins[chosen], borders[:, :3] + 1)), borders)
    fine &= (good & (address < 256)).all(axis=1)
    with_length = count[chosen] == 4
    fine &= letters[borders[:, 3]] == np.where(with_length, _SLASH, _NEWLINE)
    length = np.full(len(chosen), 32)
    some = np.flatnonzero(with_length & fine)
    behind = borders[some, 3] + 1
    ending = ends[chosen[some]]
    said, _ = _decimals(letters, behind, ending)
    size = ending - behind
    length[some] = said
    # A prefix may be long as it is elsewhere, with a zero before it, and with at most two digits.
    fine[some] &= (size >= 1) & (size <= 2) & (said <= 32)
    chosen, address, length = chosen[fine], address[fine], length[fine]
    number = address @ np.array([1 << 24, 1 << 16, 1 << 8, 1])
    rest = LAST_4 >> length
    others = np.ones(len(ends), dtype=bool)
    others[chosen] = False

    def lines_of() -> Iterator[tuple[int, str]]:
        for index in np.flatnonzero(others).tolist():
            yield index + 1, plain[begins[index] : ends[index]].decode("utf-8", "replace")

    # Lists are made by hand, too: what lies behind the prefix is forgotten.
    return np.column_stack((number & ~rest, number | rest)), lines_of()


def _decimals(letters: Any, begins: _Numbers, ends: _Numbers) -> tuple[_Numbers, Any]:
    """Numbers whose digits stand between some places; and whether each has one to three, the first of them no 0 that
    others follow."""
    size = ends - begins
    value = np.zeros(begins.shape, np.int64)
    for place in range(3):
        here = np.where(place < size, ends - 1 - place, begins)
        value += np.where(place < size, letters[here].astype(np.int64) - _ZERO, 0) * 10**place
    good = (size >= 1) & (size <= 3) & ((size == 1) | (letters[begins] != _ZERO))
    return value, good


def _item(said: str) -> tuple[str, int, int]:
    return _quickly(said) or _other(said)


def _quickly(said: str) -> tuple[str, int, int] | None:
    """A plain address or prefix; None for everything else."""
    address, slash, length = said.partition("/")
    six = ":" in address
    try:
        number = int.from_bytes(inet_pton(AF_INET6 if six else AF_INET, address), "big")
    except (OSError, ValueError):
        return None
    family, bits, last = ("ipv6", 128, LAST_6) if six else ("ipv4", 32, LAST_4)
    if not slash:
        return family, number, number
    if not (length.isdecimal() and length.isascii()) or len(length) > 2 + six or int(length) > bits:
        return None
    rest = last >> int(length)
    if six and number & rest:
        return None
    return family, number & ~rest, number | rest


def _other(said: str) -> tuple[str, int, int]:
    if "-" in said:
        first, last = (prefix(part.strip()) for part in said.split("-", 1))
        if first.family != last.family or not (first.is_address and last.is_address):
            raise ValueError(f"{said!r}: a range has two addresses of one family")
        if first.value > last.value:
            raise ValueError(f"{said!r}: the range ends before it begins")
        return first.family, first.value, last.value
    found = prefix(said)
    if found.family == "mac":
        raise ValueError(f"{said!r} is a MAC address; an IP address, prefix or range was expected")
    rest = (1 << (32 if found.family == "ipv4" else 128)) - 1 >> found.length
    return found.family, found.value, found.value | rest
