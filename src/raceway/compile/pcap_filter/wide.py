"""LLVM IR that decides several packets at once, without a branch between them: see `decision`.

Two costs make a filter slow, branches that nobody can predict (real traffic is mixed) and a swap of bytes and a shift
for each field. So:

    windows   32 bytes of each packet are loaded once, masked, compared with what they should be byte by byte, and
              become 32 bits: a field equals its constant where its bits are set. Fields that want different masks or
              constants at one place make several such planes of a window.
    lanes     the bits (and the lengths, and the few fields that are compared by size) of LANES packets lie side by side
              in one vector, and the diagram is followed for all of them: each node has a vector of who gets there.

What is at a packet's end needs care, for a window may reach past it. A load that does not cross into another page of
memory cannot fault if one byte of the packet is in it, and bytes that are not the packet's decide nothing, for each
field's length is tested. Packets for which a window would cross are left to the program, one by one, as are those that
the diagram leaves to it. Only imported when something is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from raceway.compile.pcap_filter import program as bpf
from raceway.compile.pcap_filter.decision import (
    CAREFUL,
    Captured,
    Compare,
    Equal,
    Leaf,
    Node,
    Test,
    Value,
    conditions,
)

LANES = 8
WINDOW = 32
PAGE = 4096
_i8, _i32, _i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LANES32 = ir.VectorType(_i32, LANES)
_LANES1 = ir.VectorType(ir.IntType(1), LANES)
_BYTES = ir.VectorType(_i8, WINDOW)


def splat(value: int, kind: Any = _LANES32) -> Any:
    """The same number in every lane."""
    return ir.Constant(kind, [value] * kind.count)


@dataclass
class Plane:
    """What one comparison of a window asks: byte in the window to (mask, value)."""

    bytes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def takes(self, wanted: dict[int, tuple[int, int]]) -> bool:
        """Whether these bytes can be asked here too."""
        return all(self.bytes.get(at, one) == one for at, one in wanted.items())


@dataclass
class Layout:
    """Which windows and planes a diagram needs, and where each condition finds its bits."""

    starts: list[int]
    planes: list[tuple[int, Plane]]
    """(window's number, plane)."""
    places: dict[Equal, list[tuple[int, int]]]
    """Of each condition: (plane's number, bits) that must all be set."""

    @property
    def end(self) -> int:
        """Where the last window ends."""
        return self.starts[-1] + WINDOW if self.starts else 0


def lay_out(nodes: list[Node]) -> Layout:
    """Choose windows and planes for all comparisons of bytes."""
    tests = [one for one in nodes if isinstance(one, Test)]
    asked = dict.fromkeys(part for one in tests for part in conditions(one) if isinstance(part, Equal))
    starts: list[int] = []
    for offset in sorted({at for one in asked for at, _, _ in one.bytes}):
        if not starts or offset >= starts[-1] + WINDOW:
            starts.append(offset)
    layout = Layout(starts, [], {})
    for one in asked:
        # A byte that is asked about twice, under different masks, takes two planes.
        bits: dict[int, int] = {}
        for at, mask, value in one.bytes:
            number = next(index for index, start in enumerate(starts) if start <= at < start + WINDOW)
            place = at - starts[number]
            plane = _plane(layout, number, {place: (mask, value)})
            bits[plane] = bits.get(plane, 0) | 1 << place
        layout.places[one] = list(bits.items())
    return layout


def _plane(layout: Layout, number: int, wanted: dict[int, tuple[int, int]]) -> int:
    for index, (window, plane) in enumerate(layout.planes):
        if window == number and plane.takes(wanted):
            plane.bytes.update(wanted)
            return index
    layout.planes.append((number, Plane(dict(wanted))))
    return len(layout.planes) - 1


class Wide:
    """Emits the decision of LANES packets. starts: their addresses (i64); captured, wire: vectors of i32."""

    def __init__(
        self, builder: Any, nodes: list[Node], layout: Layout, starts: list[Any], captured: Any, wire: Any
    ) -> None:
        self.builder, self.nodes, self.layout = builder, nodes, layout
        self.starts, self.captured, self.wire = starts, captured, wire
        self.known: dict[Any, Any] = {}

    def run(self, safe: list[list[Any]] | None) -> tuple[Any, Any]:
        """Return (bytes accepted, who is to be decided with care), vectors of i32 and i1.

        safe: of each window the addresses to load from instead, or None where no window reaches past its packet.
        """
        builder = self.builder
        planes = self.planes(safe)
        reached: dict[int, Any] = {id(self.nodes[0]): splat(1, _LANES1)}
        accepted, careful = splat(0), splat(0, _LANES1)
        for node in self.nodes:
            here = reached.get(id(node))
            if here is None:
                continue
            if isinstance(node, Leaf):
                if node.accepted == CAREFUL:
                    careful = here
                elif node.accepted:
                    accepted = builder.select(here, splat(node.accepted), accepted)
                continue
            condition = self.all_of(conditions(node), planes)
            negated = builder.xor(condition, splat(1, _LANES1))
            for follower, holds in ((node.yes, condition), (node.no, negated)):
                if isinstance(follower, Leaf) and follower.accepted == 0:
                    continue
                arriving = builder.and_(here, holds)
                before = reached.get(id(follower))
                reached[id(follower)] = arriving if before is None else builder.or_(before, arriving)
        return accepted, careful

    def planes(self, safe: list[list[Any]] | None) -> list[Any]:
        """Of each plane the vector of bits."""
        builder = self.builder
        windows: dict[tuple[int, int], Any] = {}
        found = []
        for number, plane in self.layout.planes:
            start = self.layout.starts[number]
            masks = [plane.bytes.get(at, (0xFF, 0))[0] for at in range(WINDOW)]
            values = [plane.bytes.get(at, (0xFF, 0))[1] for at in range(WINDOW)]
            bits: Any = ir.Constant(_LANES32, ir.Undefined)
            for lane in range(LANES):
                loaded = windows.get((number, lane))
                if loaded is None:
                    if safe is not None:
                        address = safe[number][lane]
                    else:
                        address = builder.add(self.starts[lane], ir.Constant(_i64, start))
                    pointer = builder.inttoptr(address, _BYTES.as_pointer())
                    loaded = windows[number, lane] = builder.load(pointer, align=1)
                if set(masks) != {0xFF}:
                    loaded = builder.and_(loaded, ir.Constant(_BYTES, masks))
                equal = builder.icmp_unsigned("==", loaded, ir.Constant(_BYTES, values))
                bits = builder.insert_element(bits, builder.bitcast(equal, _i32), ir.Constant(_i32, lane))
            found.append(bits)
        return found

    def all_of(self, parts: tuple[Equal | Compare | Captured, ...], planes: list[Any]) -> Any:
        """The vector of whom all conditions hold for."""
        made = self.condition(parts[0], planes)
        for one in parts[1:]:
            made = self.builder.and_(made, self.condition(one, planes))
        return made

    def condition(self, one: Equal | Compare | Captured, planes: list[Any]) -> Any:
        """The vector of whom a condition holds for."""
        builder = self.builder
        if one in self.known:
            return self.known[one]
        if isinstance(one, Captured):
            made = builder.icmp_signed(">", self.captured, splat(one.least - 1))
        elif isinstance(one, Equal):
            made = None
            for plane, bits in self.layout.places[one]:
                wanted = splat(bits)
                holds = builder.icmp_unsigned("==", builder.and_(planes[plane], wanted), wanted)
                made = holds if made is None else builder.and_(made, holds)
        else:
            made = self.compare(one)
        self.known[one] = made
        return made

    def compare(self, one: Compare) -> Any:
        """Two values, compared by size."""
        builder = self.builder
        left, right = self.value(one.left), self.value(one.right)
        if one.operation == bpf.JSET:
            return builder.icmp_unsigned("!=", builder.and_(left, right), splat(0))
        sign = {bpf.JEQ: "==", bpf.JGT: ">", bpf.JGE: ">="}[one.operation]
        return builder.icmp_unsigned(sign, left, right)

    def value(self, value: Value) -> Any:
        """The vector of a value."""
        made = self.known.get(value)
        if made is None:
            made = self.known[value] = self.make(value)
        return made

    def make(self, value: Value) -> Any:
        builder = self.builder
        if value[0] == "const":
            return splat(value[1])
        if value[0] == "length":
            return self.wire
        if value[0] == "load":
            return self.field(value[1], value[2])
        operation, a = value[1], self.value(value[2])
        if operation == bpf.NEG:
            return builder.sub(splat(0), a)
        if operation in (bpf.LSH, bpf.RSH):
            # The count is a constant: the program was refused otherwise, or the packet left to it.
            count = value[3][1]
            if count > 31:
                return splat(0)
            return (builder.shl if operation == bpf.LSH else builder.lshr)(a, splat(count))
        operations = {
            bpf.ADD: builder.add, bpf.SUB: builder.sub, bpf.MUL: builder.mul, bpf.DIV: builder.udiv,
            bpf.OR: builder.or_, bpf.AND: builder.and_, bpf.MOD: builder.urem, bpf.XOR: builder.xor,
        }  # fmt: skip
        return operations[operation](a, self.value(value[3]))

    def field(self, offset: int, size: int) -> Any:
        """A field of each packet; where it is not all there, one at the packet's start that is read instead decides
        nothing."""
        builder = self.builder
        found: Any = ir.Constant(_LANES32, ir.Undefined)
        there = self.condition(Captured(offset + size), [])
        for lane in range(LANES):
            place = ir.Constant(_i32, lane)
            at = builder.add(self.starts[lane], ir.Constant(_i64, offset))
            at = builder.select(builder.extract_element(there, place), at, self.elsewhere)
            pointer = builder.inttoptr(at, ir.IntType(8 * size).as_pointer())
            loaded = builder.load(pointer, align=1)
            if size > 1:
                loaded = builder.bswap(loaded)
            if size < 4:
                loaded = builder.zext(loaded, _i32)
            found = builder.insert_element(found, loaded, place)
        return found

    elsewhere: Any = None
    """An address (i64) where WINDOW bytes can always be read."""


def safe_addresses(
    builder: Any, layout: Layout, starts: list[Any], lengths: list[Any], elsewhere: Any
) -> tuple[list[list[Any]], Any]:
    """For packets that windows may reach past: of each window the addresses to load from, and who has lost by it.

    A window is loaded where it is if it lies within the packet, or begins in it and does not cross into another page.
    """
    addresses = []
    lost: Any = ir.Constant(_LANES1, ir.Undefined)
    unsafe: list[Any] = [ir.Constant(ir.IntType(1), 0)] * LANES
    for start in layout.starts:
        row = []
        for lane in range(LANES):
            at = builder.add(starts[lane], ir.Constant(_i64, start))
            within = builder.icmp_signed(">=", lengths[lane], ir.Constant(_i64, start + WINDOW))
            begins = builder.icmp_signed(">", lengths[lane], ir.Constant(_i64, start))
            in_page = builder.and_(at, ir.Constant(_i64, PAGE - 1))
            uncrossed = builder.icmp_unsigned("<=", in_page, ir.Constant(_i64, PAGE - WINDOW))
            safe = builder.or_(within, builder.and_(begins, uncrossed))
            row.append(builder.select(safe, at, elsewhere))
            # Of a window that begins behind the packet no byte decides anything.
            unsafe[lane] = builder.or_(unsafe[lane], builder.and_(begins, builder.not_(safe)))
        addresses.append(row)
    for lane in range(LANES):
        lost = builder.insert_element(lost, unsafe[lane], ir.Constant(_i32, lane))
    return addresses, lost
