"""A classic BPF program as a decision diagram over fields at known places, so that many packets can be decided at once.

Following the program with symbols instead of numbers, every load at a constant offset is a field. An index register
that holds the length of an IPv4 header (`ldx 4*([14]&0xf)`) is taken for 20, as nearly all headers have it, and the
diagram says where that was assumed: where it does not hold the packet is decided by the program itself. What else
depends on a packet in its place (a second header's length, a loop) goes there too.

    Test    a comparison of values: on to `yes` or to `no`
    Leaf    ACCEPT so many bytes, REJECT, or CAREFUL: run the program

A load past the packet's end rejects, so before a field is looked at there is a Test of the packet's length, unless
every way there has made it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raceway.compile.pcap_filter import program as bpf
from raceway.compile.pcap_filter.interpreter import arithmetic, compare
from raceway.compile.pcap_filter.program import MASK, Program, targets

LARGEST = 200
"""Nodes of a diagram that is still worth it."""
FARTHEST = 1024
"""A field that is further from the packet's start is not worth it either."""
USUAL_HEADER = 20

Value = tuple[Any, ...]
"""("const", number), ("load", offset, size), ("length",) on the wire, ("op", operation, value, value)."""


class Equal(NamedTuple):
    """Bytes of the packet under a mask: ((offset, mask, value), ...), all of them equal."""

    bytes: tuple[tuple[int, int, int], ...]


class Compare(NamedTuple):
    """Two values compared by JEQ, JGT, JGE or JSET."""

    operation: int
    left: Value
    right: Value


class Captured(NamedTuple):
    """At least so many bytes were captured."""

    least: int


class All(NamedTuple):
    """Several conditions of which each must hold."""

    conditions: tuple[Equal | Compare | Captured, ...]


@dataclass
class Leaf:
    """An end: bytes accepted; 0 rejects, CAREFUL leaves it to the program."""

    accepted: int


CAREFUL = -1


@dataclass
class Test:
    """A condition and where to go."""

    condition: Equal | Compare | Captured | All
    yes: Leaf | Test = field(repr=False, default_factory=lambda: Leaf(0))
    no: Leaf | Test = field(repr=False, default_factory=lambda: Leaf(0))


Node = Leaf | Test


class Unsuitable(Exception):
    """The program makes no diagram that is worth it."""


def decide(program: Program) -> list[Node]:
    """Make the diagram: its nodes, each before those that it leads to. Raises Unsuitable."""
    if program.heads:
        raise Unsuitable("a loop")
    try:
        nodes = _ordered(_Follower(program).start())
    except RecursionError:
        raise Unsuitable("too long a way") from None
    if not any(isinstance(one, Test) for one in nodes):
        raise Unsuitable("nothing to test")
    if not _useful(nodes):
        raise Unsuitable("nothing but careful decisions")
    _merge(nodes)
    return _ordered(nodes[0])


def _useful(nodes: list[Node]) -> bool:
    return any(isinstance(one, Leaf) and one.accepted > 0 for one in nodes)


def _merge(nodes: list[Node]) -> None:
    """Make one test of two where the second is asked only if the first holds and both lead to the same place if not:
    all that has to hold of a TCP packet before its ports are looked at becomes one comparison."""
    arrivals: dict[int, int] = {}
    for one in nodes:
        if isinstance(one, Test):
            for follower in (one.yes, one.no):
                arrivals[id(follower)] = arrivals.get(id(follower), 0) + 1
    for one in reversed(nodes):
        if not isinstance(one, Test):
            continue
        second = one.yes
        while isinstance(second, Test) and arrivals[id(second)] == 1 and second.no is one.no:
            one.condition = _both(one.condition, second.condition)
            one.yes = second = second.yes


def _both(first: Any, second: Any) -> All:
    parts: list[Any] = []
    for one in (first, second):
        parts += one.conditions if isinstance(one, All) else [one]
    least = max((one.least for one in parts if isinstance(one, Captured)), default=0)
    asked: dict[tuple[int, int, int], None] = {}
    for one in parts:
        if isinstance(one, Equal):
            asked.update(dict.fromkeys(one.bytes))
    made: list[Any] = [one for one in parts if isinstance(one, Compare)]
    if least:
        made.append(Captured(least))
    if asked:
        made.append(Equal(tuple(asked)))
    return All(tuple(made))


def conditions(node: Test) -> tuple[Equal | Compare | Captured, ...]:
    """The single conditions of a test."""
    return node.condition.conditions if isinstance(node.condition, All) else (node.condition,)


def _ordered(root: Node) -> list[Node]:
    found: list[Node] = []
    seen: set[int] = set()

    def visit(node: Node) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, Test):
            visit(node.yes)
            visit(node.no)
        found.append(node)

    visit(root)
    return found[::-1]


class _State(NamedTuple):
    at: int
    a: Value
    x: Value
    memory: tuple[Value, ...]
    captured: int
    """Bytes that are known to be there."""
    assumed: frozenset[int]
    """Offsets of header lengths that are known to be usual."""


ZERO: Value = ("const", 0)


class _Follower:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.made: dict[_State, Node] = {}
        self.leaves: dict[int, Leaf] = {}

    def start(self) -> Node:
        return self.follow(_State(0, ZERO, ZERO, (ZERO,) * bpf.MEMORY_WORDS, 0, frozenset()))

    def leaf(self, accepted: int) -> Leaf:
        return self.leaves.setdefault(accepted, Leaf(accepted))

    def follow(self, state: _State) -> Node:
        known = self.made.get(state)
        if known is None:
            if len(self.made) > LARGEST:
                raise Unsuitable("too many ways")
            known = self.made[state] = self.step(state)
        return known

    def step(self, state: _State) -> Node:
        one = self.program[state.at]
        onward = state._replace(at=state.at + 1)
        kind = one.kind
        if kind in (bpf.LD, bpf.LDX):
            return self.load(state, one)
        if kind == bpf.ST:
            return self.follow(onward._replace(memory=_put(state.memory, one.k, state.a)))
        if kind == bpf.STX:
            return self.follow(onward._replace(memory=_put(state.memory, one.k, state.x)))
        if kind == bpf.MISC:
            if one.code & 0xF8 == bpf.TXA:
                return self.follow(onward._replace(a=state.x))
            return self.follow(onward._replace(x=state.a))
        if kind == bpf.RET:
            if one.code & 0x18 != bpf.A:
                return self.leaf(one.k)
            return self.leaf(state.a[1] if state.a[0] == "const" else CAREFUL)
        operand: Value = state.x if one.uses_x else ("const", one.k)
        if kind == bpf.ALU:
            return self.compute(onward, one.operation, operand)
        return self.jump(state, one, operand)

    def compute(self, onward: _State, operation: int, operand: Value) -> Node:
        a = onward.a
        if operation == bpf.NEG:
            operand = ZERO
        if a[0] == operand[0] == "const":
            number = arithmetic(operation, a[1], operand[1])
            return self.leaf(0) if number is None else self.follow(onward._replace(a=("const", number)))
        if operation in (bpf.DIV, bpf.MOD, bpf.LSH, bpf.RSH) and operand[0] != "const":
            return self.leaf(CAREFUL)
        return self.follow(onward._replace(a=("op", operation, a, operand)))

    def load(self, state: _State, one: bpf.Instruction) -> Node:
        onward = state._replace(at=state.at + 1)

        def loaded(value: Value) -> Node:
            return self.follow(onward._replace(a=value) if one.kind == bpf.LD else onward._replace(x=value))

        if one.mode == bpf.IMM:
            return loaded(("const", one.k))
        if one.mode == bpf.MEM:
            return loaded(state.memory[one.k])
        if one.mode == bpf.LEN:
            return loaded(("length",))
        offset = one.k
        if one.mode == bpf.IND:
            if state.x[0] != "const":
                return self.leaf(CAREFUL)
            offset += state.x[1]
        behind = offset + one.size
        if behind > FARTHEST:
            return self.leaf(CAREFUL)
        if behind > state.captured:
            there = self.follow(state._replace(captured=behind))
            return Test(Captured(behind), there, self.leaf(0))
        if one.mode != bpf.MSH:
            return loaded(("load", offset, one.size))
        if offset in state.assumed:
            return loaded(("const", USUAL_HEADER))
        usual = self.follow(state._replace(assumed=state.assumed | {offset}))
        return Test(Equal(((offset, 0x0F, USUAL_HEADER >> 2),)), usual, self.leaf(CAREFUL))

    def jump(self, state: _State, one: bpf.Instruction, operand: Value) -> Node:
        found = targets(state.at, one)
        if one.operation == bpf.JA:
            return self.follow(state._replace(at=found[0]))
        yes, no = found
        if yes == no:
            return self.follow(state._replace(at=yes))
        condition, inverted = _condition(one.operation, state.a, operand)
        if isinstance(condition, bool):
            return self.follow(state._replace(at=yes if condition else no))
        if inverted:
            yes, no = no, yes
        return Test(condition, self.follow(state._replace(at=yes)), self.follow(state._replace(at=no)))


def _put(memory: tuple[Value, ...], index: int, value: Value) -> tuple[Value, ...]:
    return (*memory[:index], value, *memory[index + 1 :])


def _condition(operation: int, a: Value, operand: Value) -> tuple[Equal | Compare | bool, bool]:
    """The condition and whether its answers change places; a bool where it is known."""
    if a[0] == operand[0] == "const":
        return compare(operation, a[1], operand[1]), False
    if operand[0] == "const" and operation in (bpf.JEQ, bpf.JSET):
        masked = _masked(a)
        if masked is not None:
            offset, size, mask = masked
            wanted = operand[1]
            if operation == bpf.JSET:
                # Any of the bits: not all of them zero.
                mask, wanted = mask & operand[1], 0
                if not mask:
                    return False, False
            if wanted & ~mask:
                return False, False
            return Equal(_bytes(offset, size, mask, wanted)), operation == bpf.JSET
    return Compare(operation, a, operand), False


def _masked(value: Value) -> tuple[int, int, int] | None:
    """(offset, size, mask) of a field, or of a field and a constant."""
    if value[0] == "load":
        return value[1], value[2], (1 << 8 * value[2]) - 1
    if value[0] == "op" and value[1] == bpf.AND and value[3][0] == "const":
        inner = _masked(value[2])
        if inner is not None and inner[2] & value[3][1]:
            return inner[0], inner[1], inner[2] & value[3][1]
    return None


def _bytes(offset: int, size: int, mask: int, wanted: int) -> tuple[tuple[int, int, int], ...]:
    pairs = zip(mask.to_bytes(size, "big"), (wanted & MASK).to_bytes(size, "big"), strict=True)
    return tuple((offset + index, bits, value) for index, (bits, value) in enumerate(pairs) if bits)
