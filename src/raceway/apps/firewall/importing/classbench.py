"""ClassBench's filter files (Taylor, Turner: "ClassBench: a packet classification benchmark", 2005), IPv4 and IPv6.

One filter a line: `@source/length destination/length low : high low : high protocol/mask flags/mask`, tabs or spaces
between. The first filter that matches counts; which one it was is all that there is to know. A packet without ports
counts as one whose ports are 0, as the traces that come with such filters have it.
"""

from __future__ import annotations

import re
from pathlib import Path

from raceway.apps.firewall.matching import Only
from raceway.apps.firewall.rules import DROP, PASS, Rule, RuleSet
from raceway.apps.firewall.text import Place, RulesError
from raceway.compile.addresses import prefix
from raceway.compile.classifier.sets import (
    ANY_PORT,
    ANY_PROTOCOL,
    LAST_PORT,
    NO_PORT,
    Addresses,
    Box,
    Ranges,
)

_FILTER = re.compile(
    r"@(\S+)\s+(\S+)\s+(\d+)\s*:\s*(\d+)\s+(\d+)\s*:\s*(\d+)\s+(?:0x)?([0-9a-fA-F]+)/(?:0x)?([0-9a-fA-F]+)"
    r"(?:\s+0x([0-9a-fA-F]+)/0x([0-9a-fA-F]+))?\s*"
)


def read_classbench(path: str | Path) -> RuleSet:
    """Read a filter file. Raises RulesError with file and line for what is no filter."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RulesError(Place(str(path), 1, ""), f"{path}: {error.strerror}") from None
    rules: list[Rule] = []
    flags = 0
    addresses: dict[str, Addresses] = {}
    ranges: dict[tuple[int, int, int], Ranges] = {(0, LAST_PORT, NO_PORT): ANY_PORT}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        place = Place(str(path), number, line)
        found = _FILTER.fullmatch(line)
        if found is None:
            raise RulesError(place, "this is no ClassBench filter")
        source, destination = (_addresses(one, addresses, place) for one in found.group(1, 2))
        ports = [
            _ports(int(low), int(high), ranges, place) for low, high in (found.group(3, 4), found.group(5, 6))
        ]
        protocols = _protocols(int(found[7], 16), int(found[8], 16), ranges, place)
        flags += found[10] is not None and int(found[10], 16) != 0
        rules.append(
            Rule(DROP, line.strip(), place, Only(Box(source, destination, ports[0], ports[1], protocols)))
        )
    made = RuleSet(tuple(rules), PASS, "match", files=(str(path),))
    if flags:
        return made.with_notes(
            f"the flags column of {flags:,} filters was not imported: filters are those of five-tuples"
        )
    return made


def _addresses(text: str, known: dict[str, Addresses], place: Place) -> Addresses:
    if text not in known:
        try:
            found = prefix(text)
            # Filters are about IP packets, also those that name no address.
            known[text] = Addresses.of_prefixes([found])
        except ValueError as error:
            raise RulesError(place, str(error)) from None
    return known[text]


def _ports(low: int, high: int, known: dict[tuple[int, int, int], Ranges], place: Place) -> Ranges:
    if not low <= high <= LAST_PORT:
        raise RulesError(place, f"{low} : {high} is no range of ports")
    key = (low, high, NO_PORT if low == 0 else 0)
    if key not in known:
        known[key] = Ranges([(low, high)] if low else [(0, high), (NO_PORT, NO_PORT)])
    return known[key]


def _protocols(number: int, mask: int, known: dict[tuple[int, int, int], Ranges], place: Place) -> Ranges:
    if number > 255 or mask > 255:
        raise RulesError(place, f"protocol {number:#x}/{mask:#x} does not fit in a byte")
    if mask == 0:
        return ANY_PROTOCOL
    key = (-1 - number, mask, 0)
    if key not in known:
        matching = [(one, one) for one in range(256) if one & mask == number & mask]
        known[key] = Ranges(matching)
    return known[key]
