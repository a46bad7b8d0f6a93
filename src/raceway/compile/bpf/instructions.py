"""Instructions as numbers (RFC 9669): where they jump, finding loops, and putting instructions in between.

A program is a row of 64-bit slots: the main function first, then those that it calls. A jump counts slots, so whoever
puts a slot in between counts all jumps over it anew.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

SLOT = struct.Struct("<BBhi")

_LOAD_64, _CALL, _EXIT, _JUMP, _JUMP_LONG, _MAY_GOTO = 0x18, 0x85, 0x95, 0x05, 0x06, 0xE5
_JUMP_CLASS, _JUMP32_CLASS = 5, 6
_PSEUDO_CALL = 1


@dataclass
class Instruction:
    """One instruction. target: the instruction that it jumps to; callee: the one whose function it calls; wide: the
    second slot's number; note: what whoever made it wants to find again."""

    code: int
    registers: int
    offset: int
    immediate: int
    target: Instruction | None = None
    callee: Instruction | None = None
    wide: int | None = None
    note: Any = None
    origin: int = -1
    place: int = field(default=0, compare=False)

    @property
    def slots(self) -> int:
        """How many slots it takes."""
        return 1 if self.wide is None else 2

    @property
    def is_conditional(self) -> bool:
        """Whether it jumps or goes on."""
        kind = self.code & 7
        if kind not in (_JUMP_CLASS, _JUMP32_CLASS):
            return False
        return self.code not in (_CALL, _EXIT, _JUMP, _JUMP_LONG)

    @property
    def ends(self) -> bool:
        """Whether what follows it is not what runs next."""
        return self.code in (_EXIT, _JUMP, _JUMP_LONG)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def parse(raw: bytes) -> list[Instruction]:
    """Instructions with their jumps resolved. `origin` is the first slot's index."""
    slots = list(SLOT.iter_unpack(raw))
    made: list[Instruction] = []
    at: dict[int, Instruction] = {}
    index = 0
    while index < len(slots):
        code, registers, offset, immediate = slots[index]
        one = Instruction(code, registers, offset, immediate, origin=index)
        if one.code == _LOAD_64:
            one.wide = slots[index + 1][3]
        at[index] = one
        made.append(one)
        index += one.slots
    for one in made:
        if one.is_conditional or one.code == _JUMP:
            one.target = at[one.origin + 1 + one.offset]
        elif one.code == _JUMP_LONG:
            one.target = at[one.origin + 1 + one.immediate]
        elif one.code == _CALL and one.registers >> 4 == _PSEUDO_CALL:
            one.callee = at[one.origin + 1 + one.immediate]
    return made


def assemble(instructions: list[Instruction]) -> bytes:
    """The slots of instructions, with their jumps counted."""
    place = 0
    for one in instructions:
        one.place = place
        place += one.slots
    raw = []
    for one in instructions:
        offset, immediate = one.offset, one.immediate
        if one.target is not None:
            distance = one.target.place - one.place - 1
            if one.code == _JUMP_LONG:
                immediate = distance
            elif -32768 <= distance <= 32767:
                offset = distance
            else:
                raise JumpTooFarError(one)
        elif one.callee is not None:
            immediate = one.callee.place - one.place - 1
        raw.append(SLOT.pack(one.code, one.registers, offset, immediate))
        if one.wide is not None:
            raw.append(SLOT.pack(0, 0, 0, one.wide))
    return b"".join(raw)


class JumpTooFarError(Exception):
    """A jump of more than 32,767 slots."""


def reachable(instructions: list[Instruction]) -> list[Instruction]:
    """Those that some way leads to from the first one: the verifier refuses a program with others, and LLVM leaves a
    function that nobody calls any more."""
    following = dict(zip(instructions, [*instructions[1:], None], strict=True))
    found: set[Instruction] = set()
    waiting: list[Instruction | None] = [instructions[0]]
    while waiting:
        one = waiting.pop()
        if one is None or one in found:
            continue
        found.add(one)
        waiting += [one.target, one.callee, None if one.ends else following[one]]
    return [one for one in instructions if one in found]


def functions(instructions: list[Instruction]) -> list[list[Instruction]]:
    """The program's functions, each as its instructions."""
    starts = {instructions[0], *(one.callee for one in instructions if one.callee is not None)}
    made: list[list[Instruction]] = []
    for one in instructions:
        if one in starts:
            made.append([])
        made[-1].append(one)
    return made


def loop_heads(function: list[Instruction]) -> list[Instruction]:
    """The instructions to which a function goes back: the first of each loop."""
    following = dict(zip(function, [*function[1:], None], strict=True))
    heads: dict[Instruction, None] = {}
    state: dict[Instruction, int] = {function[0]: 1}

    def edges(one: Instruction) -> list[Instruction]:
        found = [] if one.target is None else [one.target]
        after = following[one]
        return found if one.ends or after is None else [after, *found]

    stack = [(function[0], iter(edges(function[0])))]
    while stack:
        one, rest = stack[-1]
        for target in rest:
            if state.get(target) == 1:
                heads[target] = None
            elif target not in state:
                state[target] = 1
                stack.append((target, iter(edges(target))))
                break
        else:
            state[one] = 2
            stack.pop()
    return list(heads)


def bounded(instructions: list[Instruction], stubs: list[list[Instruction]]) -> list[Instruction]:
    """Put `may_goto` at the head of each loop. stubs: for the main function and for all others, what it goes to."""
    made: list[Instruction] = []
    for number, function in enumerate(functions(instructions)):
        heads = loop_heads(function)
        if not heads:
            made += function
            continue
        stub = [
            Instruction(one.code, one.registers, one.offset, one.immediate, wide=one.wide, note=one.note)
            for one in stubs[min(number, 1)]
        ]
        guards = {head: Instruction(_MAY_GOTO, 0, 0, 0, target=stub[0], origin=head.origin) for head in heads}
        for one in function:
            if one.target in guards:
                one.target = guards[one.target]
            if one in guards:
                made.append(guards[one])
            made.append(one)
        made += stub
    for one in made:
        # A function that begins with a loop begins with its guard.
        if one.callee is not None:
            index = made.index(one.callee)
            if index and made[index - 1].code == _MAY_GOTO and made[index - 1].origin == one.callee.origin:
                one.callee = made[index - 1]
    return made
