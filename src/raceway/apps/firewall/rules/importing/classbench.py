"""ClassBench's filter files (Taylor, Turner: "ClassBench: a packet classification benchmark", 2005), IPv4 and IPv6.

One filter a line: `@source/length destination/length low : high low : high protocol/mask flags/mask`, tabs or spaces
between. The first filter that matches counts; which one it was is all that there is to know. A packet without ports
counts as one whose ports are 0, as the traces that come with such filters have it.
"""

from __future__ import annotations

import re
from pathlib import Path

from raceway.apps.firewall.rules.lists import KNOWN
from raceway.apps.firewall.rules.matching import Alternative, Only
from raceway.apps.firewall.rules.rule_set import DROP, PASS, Rule, RuleSet
from raceway.apps.firewall.rules.text import Place, RulesError
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
from raceway.memory.collection import without_collection

_FILTER = re.compile(
    r"@(\S+)\s+(\S+)\s+(\d+)\s*:\s*(\d+)\s+(\d+)\s*:\s*(\d+)\s+(?:0x)?([0-9a-fA-F]+)/(?:0x)?([0-9a-fA-F]+)"
    r"(?:\s+0x([0-9a-fA-F]+)/0x([0-9a-fA-F]+))?\s*"
)


@without_collection()
def read_classbench(path: str | Path) -> RuleSet:
    """Read a filter file. Raises RulesError with file and line for what is no filter."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RulesError(Place(str(path), 1, ""), f"{path}: {error.strerror}") from None
    rules: list[Rule] = []
    flags = 0
    # Filters are made of few different parts, and each part is read once.
    addresses: dict[str, Addresses] = {}
    ports: dict[tuple[str, str], Ranges] = {}
    protocols: dict[tuple[str, str], Ranges] = {}
    flagged: dict[str | None, bool] = {None: False}
    for number, line in enumerate(text.splitlines(), 1):
        found = _FILTER.fullmatch(line)
        if found is None and not line.strip():
            continue
        place = Place(str(path), number, line)
        if found is None:
            raise RulesError(place, "this is no ClassBench filter")
        one, other, low, high, low_2, high_2, protocol, mask, _, flag_mask = found.groups()
        if one not in addresses:
            _addresses(one, addresses, place)
        if other not in addresses:
            _addresses(other, addresses, place)
        if (low, high) not in ports:
            _ports(low, high, ports, place)
        if (low_2, high_2) not in ports:
            _ports(low_2, high_2, ports, place)
        if (protocol, mask) not in protocols:
            _protocols(protocol, mask, protocols, place)
        if flag_mask not in flagged:
            flagged[flag_mask] = int(flag_mask, 16) != 0
        flags += flagged[flag_mask]
        box = Box(
            addresses[one],
            addresses[other],
            ports[low, high],
            ports[low_2, high_2],
            protocols[protocol, mask],
        )
        rules.append(Rule(DROP, line.strip(), place, Only(box)).known_as([Alternative(box)]))
    made = RuleSet(tuple(rules), PASS, "match", files=(str(path),))
    if flags:
        return made.with_notes(
            f"the flags column of {flags:,} filters was not imported: filters are those of five-tuples"
        )
    return made


def _addresses(text: str, known: dict[str, Addresses], place: Place) -> None:
    before = KNOWN.get(text)
    if before is not None:
        known[text] = before
        return
    try:
        found = prefix(text)
    except ValueError as error:
        raise RulesError(place, str(error)) from None
    first, last = found.value, found.value | (1 << found.bits) - 1 >> found.length
    # Filters are about IP packets, also those that name no address.
    if found.family == "ipv4":
        known[text] = Addresses(Ranges.of_one(first, last))
    elif found.family == "ipv6":
        known[text] = Addresses(Ranges(), ((first, last),))
    else:
        raise RulesError(place, f"{found} is a MAC address; an IPv4 or IPv6 prefix was expected")
    KNOWN[text] = known[text]


def _ports(low_said: str, high_said: str, known: dict[tuple[str, str], Ranges], place: Place) -> None:
    low, high = int(low_said), int(high_said)
    if not low <= high <= LAST_PORT:
        raise RulesError(place, f"{low} : {high} is no range of ports")
    if (low, high) == (0, LAST_PORT):
        made = ANY_PORT
    else:
        made = Ranges.of_one(low, high) if low else Ranges([(0, high), (NO_PORT, NO_PORT)])
    known[low_said, high_said] = made


def _protocols(number_said: str, mask_said: str, known: dict[tuple[str, str], Ranges], place: Place) -> None:
    number, mask = int(number_said, 16), int(mask_said, 16)
    if number > 255 or mask > 255:
        raise RulesError(place, f"protocol {number:#x}/{mask:#x} does not fit in a byte")
    made = ANY_PROTOCOL
    if mask:
        made = Ranges([(one, one) for one in range(256) if one & mask == number & mask])
    known[number_said, mask_said] = made
