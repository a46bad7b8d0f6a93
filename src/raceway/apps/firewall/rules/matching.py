"""What a rule matches, as a tree of conditions, and the tree as boxes.

A leaf wants one thing of one side of a packet (a `Box` that is open on all other sides), or is something that no box
can say: an expression for libpcap, or that the packet belongs to an established flow. Whatever and, or and not are made
of, `boxes` gives the alternatives of it: a box, and what else must hold or must not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from raceway.compile.classifier.sets import (
    ANY_ADDRESS,
    ANY_PORT,
    ANY_PROTOCOL,
    NO_PORT,
    NO_PROTOCOL,
    Addresses,
    Box,
    Ranges,
)

ALTERNATIVES = 4096
"""How many a rule may have."""


@dataclass(frozen=True)
class Only:
    """One side of a box."""

    box: Box


@dataclass(frozen=True)
class Asked:
    """What is asked of each packet that gets here: "established", or an expression that libpcap has compiled."""

    what: str


@dataclass(frozen=True)
class All:
    """All of these hold. None: everything matches."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Either:
    """One of these holds. None: nothing matches."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Not:
    """This does not hold."""

    part: Tree


Tree = Only | Asked | All | Either | Not
EVERYTHING = All(())


@dataclass(frozen=True)
class Alternative:
    """A box, and what must hold besides: pairs of what is asked and the answer that is wanted."""

    box: Box
    asked: frozenset[tuple[str, bool]] = frozenset()


class TooManyError(ValueError):
    """An expression has more alternatives than are allowed."""


def source(addresses: Addresses) -> Tree:
    """The source address is one of these."""
    return Only(Box(source=addresses))


def destination(addresses: Addresses) -> Tree:
    """The destination address is one of these."""
    return Only(Box(destination=addresses))


def source_port(ports: Ranges) -> Tree:
    """The source port is one of these."""
    return Only(Box(source_ports=ports))


def destination_port(ports: Ranges) -> Tree:
    """The destination port is one of these."""
    return Only(Box(destination_ports=ports))


def protocol(*numbers: int) -> Tree:
    """The transport protocol is one of these."""
    return Only(Box(protocols=Ranges([(number, number) for number in numbers])))


_SIDES = [side.name for side in fields(Box)]


def boxes(tree: Tree) -> list[Alternative]:
    """The alternatives of a tree, those that contradict themselves left out. Raises TooManyError."""
    return _alternatives(tree, wanted=True)


def _alternatives(tree: Tree, *, wanted: bool) -> list[Alternative]:
    if isinstance(tree, Not):
        return _alternatives(tree.part, wanted=not wanted)
    if isinstance(tree, Only):
        box = tree.box if wanted else _opposite(tree.box)
        return [Alternative(box)] if box else []
    if isinstance(tree, Asked):
        return [Alternative(Box(), frozenset([(tree.what, wanted)]))]
    # De Morgan: not all is either not.
    if isinstance(tree, All) is wanted:
        return product([_alternatives(part, wanted=wanted) for part in tree.parts])
    made = [one for part in tree.parts for one in _alternatives(part, wanted=wanted)]
    return _joined(made)


_ANYTHING = Alternative(Box())


def product(parts: Sequence[list[Alternative]]) -> list[Alternative]:
    """The alternatives of all of some parts together, whose own these are. Raises TooManyError."""
    made = [_ANYTHING]
    for part in parts:
        if len(part) == 1 and part[0] is _ANYTHING:
            continue
        following = []
        for left in made:
            for right in part:
                if left is _ANYTHING:
                    # A part has no box that is empty, and none that contradicts itself.
                    following.append(right)
                    continue
                asked = left.asked | right.asked
                contradicts = asked and any((what, not answer) in asked for what, answer in asked)
                box = left.box & right.box
                if box and not contradicts:
                    following.append(Alternative(box, asked))
            _check(len(following))
        made = _joined(following)
    return made


def _joined(made: list[Alternative]) -> list[Alternative]:
    """Make one of alternatives that differ in one side only: a list of ports is one box."""
    _check(len(made))
    if len(made) < 2:
        return made
    for side in _SIDES:
        together: dict[tuple[object, ...], Alternative] = {}
        for one in made:
            key = (one.asked, *(getattr(one.box, other) for other in _SIDES if other != side))
            known = together.get(key)
            if known is None:
                together[key] = one
            else:
                both = getattr(known.box, side) | getattr(one.box, side)
                together[key] = Alternative(replace(known.box, **{side: both}), one.asked)
        made = list(together.values())
    return made


def _check(count: int) -> None:
    if count > ALTERNATIVES:
        raise TooManyError(
            f"the expression has more than {ALTERNATIVES:,} alternatives; write it as several rules"
        )


def _opposite(box: Box) -> Box:
    """The complement of a box that is open on all sides but one."""
    if box.source is not ANY_ADDRESS:
        return Box(source=~box.source)
    if box.destination is not ANY_ADDRESS:
        return Box(destination=~box.destination)
    if box.source_ports is not ANY_PORT:
        return Box(source_ports=box.source_ports.complement(NO_PORT))
    if box.destination_ports is not ANY_PORT:
        return Box(destination_ports=box.destination_ports.complement(NO_PORT))
    if box.protocols is not ANY_PROTOCOL:
        return Box(protocols=box.protocols.complement(NO_PROTOCOL))
    return Box(protocols=Ranges())
