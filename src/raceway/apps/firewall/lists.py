"""Lists of addresses in files: FireHOL's netsets, and every list that has one address, prefix or range a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from socket import AF_INET, inet_pton

from raceway.apps.firewall.text import Place, RulesError
from raceway.compile.addresses import prefix
from raceway.compile.classifier.sets import Addresses, Ranges, merged


def load_prefixes(path: Path, place: Place | None = None) -> Addresses:
    """Read a list: an IPv4 or IPv6 address, a prefix or a range `first-last` a line; behind # or ; are comments.

    place: where the file is asked for, for errors. Raises RulesError with file and line for anything else.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        wanted = place or Place(str(path), 1, "")
        raise RulesError(wanted, f"{path}: {error.strerror}") from None
    four: list[tuple[int, int]] = []
    six: list[tuple[int, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        said = line.split("#", 1)[0].split(";", 1)[0].strip()
        if not said:
            continue
        quick = _ipv4(said)
        if quick is not None:
            four.append(quick)
            continue
        try:
            family, first, last = _other(said)
        except ValueError as error:
            raise RulesError(Place(str(path), number, line), str(error)) from None
        (four if family == "ipv4" else six).append((first, last))
    return Addresses(Ranges(four), merged(six))


def addresses_of(items: Iterable[str]) -> Addresses:
    """The addresses of items such as lines of a list. Raises ValueError."""
    four: list[tuple[int, int]] = []
    six: list[tuple[int, int]] = []
    for item in items:
        quick = _ipv4(item)
        family, first, last = ("ipv4", *quick) if quick is not None else _other(item)
        (four if family == "ipv4" else six).append((first, last))
    return Addresses(Ranges(four), merged(six))


def _ipv4(said: str) -> tuple[int, int] | None:
    """A plain IPv4 address or prefix, quickly; None for everything else."""
    address, slash, length = said.partition("/")
    try:
        number = int.from_bytes(inet_pton(AF_INET, address), "big")
    except (OSError, ValueError):
        return None
    if not slash:
        return number, number
    if not (length.isdecimal() and length.isascii()) or len(length) > 2 or int(length) > 32:
        return None
    rest = 0xFFFFFFFF >> int(length)
    # Lists are made by hand, too: what lies behind the prefix is forgotten.
    return number & ~rest, number | rest


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
