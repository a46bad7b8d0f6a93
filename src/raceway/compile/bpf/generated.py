"""What is generated of a packet function for the kernel: instructions, and what they want filled in."""

from __future__ import annotations

from typing import NamedTuple

from raceway.compile.state.words import State


class Reference(NamedTuple):
    """The instruction of this index wants the address of a map's value: of a state object, or of the control record;
    or a map itself: `definitions.NEXT` or `SOCKETS`."""

    instruction: int
    wanted: State | str
    offset: int


class Part(NamedTuple):
    """A function of a program. start: its first instruction; takes: nothing known (None), or what a part that the
    verifier walks once takes: "context", "number", or bytes of memory."""

    start: int
    takes: tuple[int | str, ...] | None


class Generated(NamedTuple):
    """What the kernel is to load. instructions: 8 bytes each; references: what they want filled in; parts: the
    program's functions, in order, if any of them is to be walked once."""

    name: str
    instructions: bytes
    references: tuple[Reference, ...]
    states: tuple[State, ...]
    processors: int
    ir: str
    places: tuple[tuple[str, int], ...] = ()
    """File and line of each instruction, if they were asked for."""
    parts: tuple[Part, ...] = ()
