"""The batch kernel of a filter as LLVM IR: `int64 kernel(int64 batch)`, over a `Batch` of `memory.layout`.

    for each packet of the batch:
        LANES of them at once, where so many lie one behind the other and the program has a diagram (`decision`, `wide`)
        one alone otherwise, by the program itself

Only imported when something is compiled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from raceway.compile.pcap_filter.decision import Unsuitable, decide
from raceway.compile.pcap_filter.emission import emit
from raceway.compile.pcap_filter.program import NULL_EXPLICIT, Program
from raceway.compile.pcap_filter.wide import LANES, PAGE, Wide, lay_out, safe_addresses, splat
from raceway.memory.layout import BATCH, METADATA, SLOT

_i1, _i8, _i32, _i64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LANES8, _LANES32 = ir.VectorType(_i8, LANES), ir.VectorType(_i32, LANES)
_ABORTED, _DROP, _PASS = 0, 1, 2
_LENGTH_AT: int = SLOT.fields["length"][1]  # type: ignore[index]
_OTHER_ERROR_AT: int = BATCH.fields["other_error"][1]  # type: ignore[index]


def _number(value: int) -> Any:
    return ir.Constant(_i64, value)


def _mask(places: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_i32, len(places)), places)


def build(program: Program, link_type: int, *, counts: bool, wide: bool = True) -> ir.Module:
    """Make the module, with `kernel` in it.

    counts: write bytes accepted as 32-bit numbers; otherwise verdicts as bytes. wide=False: one packet at a time.
    """
    module = ir.Module(name="pcap_filter")
    one = _one(module, program)
    try:
        nodes = decide(program) if wide else None
    except Unsuitable:
        nodes = None
    one.attributes.add("alwaysinline" if nodes is None else "noinline")
    _Loop(module, one, program, nodes, link_type or NULL_EXPLICIT, counts).run()
    return module


def _one(module: Any, program: Program) -> Any:
    """`i32 one(i64 start, i64 captured, i64 wire)`: bytes accepted."""
    function = ir.Function(module, ir.FunctionType(_i32, [_i64] * 3), "one")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    start, captured, wire = function.args
    data = builder.inttoptr(start, _i8.as_pointer())
    builder.ret(emit(builder, program, data, captured, wire))
    return function


class _Loop:
    def __init__(
        self, module: Any, one: Any, program: Program, nodes: Any, link_type: int, counts: bool
    ) -> None:
        self.one, self.program, self.nodes, self.link_type, self.counts = (
            one,
            program,
            nodes,
            link_type,
            counts,
        )
        self.function = ir.Function(module, ir.FunctionType(_i64, [_i64]), "kernel")
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))

    def block(self, name: str) -> Any:
        return self.function.append_basic_block(name)

    def run(self) -> None:
        builder = self.builder
        self.fields = {
            name: self.load(self.function.args[0], BATCH, name)
            for name in (
                "slots",
                "metadata",
                "buffers",
                "buffer_size",
                "slot_count",
                "first",
                "count",
                "verdicts",
            )
        }
        self.index, self.at = builder.alloca(_i64), builder.alloca(_i64)
        self.wires = builder.alloca(_LANES32)
        builder.store(_number(0), self.index)
        builder.store(self.fields["first"], self.at)
        self.known = builder.icmp_unsigned("!=", self.fields["metadata"], _number(0))
        self.head, single, end = self.block("head"), self.block("single"), self.block("end")
        builder.branch(self.head)
        builder.position_at_end(self.head)
        index, at = builder.load(self.index), builder.load(self.at)
        more = self.block("more")
        builder.cbranch(builder.icmp_signed("<", index, self.fields["count"]), more, end)
        builder.position_at_end(more)
        if self.nodes is not None:
            several = self.block("several")
            enough = builder.icmp_signed("<=", builder.add(index, _number(LANES)), self.fields["count"])
            straight = builder.icmp_signed("<=", builder.add(at, _number(LANES)), self.fields["slot_count"])
            builder.cbranch(builder.and_(enough, straight), several, single)
            builder.position_at_end(several)
            self.several(index, at, single)
        else:
            builder.branch(single)
        builder.position_at_end(single)
        self.single(index, at)
        builder.position_at_end(end)
        builder.ret(self.fields["count"])

    # Memory.

    def load(self, address: Any, record: Any, name: str) -> Any:
        """A field of a record, as i64."""
        kind, offset = record.fields[name][:2]  # type: ignore[index,unused-ignore]
        width = ir.IntType(8 * kind.itemsize)
        place = self.builder.inttoptr(self.builder.add(address, _number(offset)), width.as_pointer())
        value = self.builder.load(place)
        return value if kind.itemsize == 8 else self.builder.sext(value, _i64)

    def row(self, name: str, record: Any, at: Any) -> Any:
        offset = self.builder.mul(at, _number(record.itemsize))
        return self.builder.add(self.fields[name], offset)

    def packet(self, slot: Any) -> tuple[Any, Any]:
        """(address of the packet, its length) of the slot at an address."""
        builder = self.builder
        buffer = builder.mul(self.load(slot, SLOT, "buffer"), self.fields["buffer_size"])
        start = builder.add(builder.add(self.fields["buffers"], buffer), self.load(slot, SLOT, "offset"))
        return start, self.load(slot, SLOT, "length")

    def about(self, metadata: Any, length: Any) -> tuple[Any, Any]:
        """(is the packet of another link type, its length on the wire), by its metadata."""
        builder = self.builder
        kind = self.load(metadata, METADATA, "link_type")
        other = builder.and_(
            builder.icmp_unsigned("!=", kind, _number(0)),
            builder.icmp_unsigned("!=", kind, _number(self.link_type)),
        )
        wire = self.load(metadata, METADATA, "wire_length")
        return other, builder.select(builder.icmp_unsigned("==", wire, _number(0)), length, wire)

    def result(self, index: Any, accepted: Any) -> None:
        """Write the result of one packet."""
        builder = self.builder
        if self.counts:
            place = builder.add(self.fields["verdicts"], builder.shl(index, _number(2)))
            builder.store(accepted, builder.inttoptr(place, _i32.as_pointer()), align=1)
            return
        verdict = builder.select(
            builder.icmp_unsigned("!=", accepted, ir.Constant(_i32, 0)),
            ir.Constant(_i8, _PASS),
            ir.Constant(_i8, _DROP),
        )
        place = builder.add(self.fields["verdicts"], index)
        builder.store(verdict, builder.inttoptr(place, _i8.as_pointer()))

    def advance(self, index: Any, at: Any, by: int) -> None:
        builder = self.builder
        builder.store(builder.add(index, _number(by)), self.index)
        at = builder.add(at, _number(by))
        wrapped = builder.icmp_signed("==", at, self.fields["slot_count"])
        builder.store(builder.select(wrapped, _number(0), at), self.at)
        builder.branch(self.head)

    # One packet.

    def single(self, index: Any, at: Any) -> None:
        builder = self.builder
        start, length = self.packet(self.row("slots", SLOT, at))
        wire = self.temporary()
        builder.store(length, wire)
        look, judge, other = self.block("look"), self.block("judge"), self.block("other")
        builder.cbranch(self.known, look, judge)
        builder.position_at_end(look)
        strange, told = self.about(self.row("metadata", METADATA, at), length)
        builder.store(told, wire)
        builder.cbranch(strange, other, judge)
        builder.position_at_end(judge)
        self.result(index, builder.call(self.one, [start, length, builder.load(wire)]))
        self.advance(index, at, 1)
        builder.position_at_end(other)
        self.strange(index)
        self.advance(index, at, 1)

    def temporary(self) -> Any:
        with self.builder.goto_entry_block():
            return self.builder.alloca(_i64)

    def strange(self, index: Any) -> None:
        """A packet of another link type: ABORTED, or nothing accepted, and counted."""
        builder = self.builder
        place = builder.add(self.function.args[0], _number(_OTHER_ERROR_AT))
        counter = builder.inttoptr(place, _i64.as_pointer())
        builder.store(builder.add(builder.load(counter), _number(1)), counter)
        if self.counts:
            self.result(index, ir.Constant(_i32, 0))
        else:
            place = builder.add(self.fields["verdicts"], index)
            builder.store(ir.Constant(_i8, _ABORTED), builder.inttoptr(place, _i8.as_pointer()))

    # Several packets.

    def several(self, index: Any, at: Any, single: Any) -> None:
        builder = self.builder
        slot = self.row("slots", SLOT, at)
        rows = [builder.add(slot, _number(SLOT.itemsize * lane)) for lane in range(LANES)]
        # First what the metadata say, so that nothing is carried over this branch.
        look, decide_ = self.block("look_at_all"), self.block("decide")
        builder.cbranch(self.known, look, decide_)
        builder.position_at_end(look)
        about = self.row("metadata", METADATA, at)
        found = [
            self.about(
                builder.add(about, _number(METADATA.itemsize * lane)), self.load(rows[lane], SLOT, "length")
            )
            for lane in range(LANES)
        ]
        strange = found[0][0]
        for other, _ in found[1:]:
            strange = builder.or_(strange, other)
        if self.program.uses_length:
            builder.store(self.lanes([builder.trunc(wire, _i32) for _, wire in found]), self.wires)
        builder.cbranch(strange, single, decide_)
        builder.position_at_end(decide_)
        starts = [self.packet(row)[0] for row in rows]
        captured = self.lengths(rows)
        wire = captured
        if self.program.uses_length:
            wire = builder.select(self.known, builder.load(self.wires), captured)
        layout = lay_out(self.nodes)
        long = self.readable(starts, captured, layout.end)
        inside, crossing = self.block("inside"), self.block("crossing")
        builder.cbranch(long, inside, crossing)
        for block in (inside, crossing):
            builder.position_at_end(block)
            wide = Wide(builder, self.nodes, layout, starts, captured, wire)
            wide.elsewhere = self.function.args[0]
            if block is inside:
                accepted, careful = wide.run(None)
            else:
                lengths = [self.load(row, SLOT, "length") for row in rows]
                safe, lost = safe_addresses(builder, layout, starts, lengths, wide.elsewhere)
                accepted, careful = wide.run(safe)
                careful = builder.or_(careful, lost)
            self.results(index, accepted)
            self.carefully(careful, index, at, rows, wire)

    def readable(self, starts: list[Any], captured: Any, end: int) -> Any:
        """Whether the first `end` bytes of all can be read, the packet's or not: they are in the page in which the
        packet begins."""
        builder = self.builder
        differing = None
        for start in starts:
            bits = builder.xor(start, builder.add(start, _number(end - 1)))
            differing = bits if differing is None else builder.or_(differing, bits)
        one_page = builder.icmp_unsigned("<", differing, _number(PAGE))
        empty = builder.bitcast(builder.icmp_unsigned("==", captured, splat(0)), ir.IntType(LANES))
        there = builder.icmp_unsigned("==", empty, ir.Constant(ir.IntType(LANES), 0))
        return builder.and_(one_page, there)

    def lengths(self, rows: list[Any]) -> Any:
        """The slots' lengths side by side: a slot is four 32-bit numbers, of which the second is the length."""
        builder = self.builder
        four = ir.VectorType(_i32, 4)
        parts = [builder.load(builder.inttoptr(row, four.as_pointer()), align=4) for row in rows]
        place = _LENGTH_AT // 4
        while len(parts) > 1:
            width = len(rows) // len(parts)
            taken = range(width) if width > 1 else (place,)
            parts = [
                builder.shuffle_vector(
                    left, right, _mask([*taken, *(left.type.count + one for one in taken)])
                )
                for left, right in zip(parts[::2], parts[1::2], strict=True)
            ]
        return parts[0]

    def lanes(self, values: list[Any]) -> Any:
        builder = self.builder
        made: Any = ir.Constant(_LANES32, ir.Undefined)
        for lane, value in enumerate(values):
            made = builder.insert_element(made, value, ir.Constant(_i32, lane))
        return made

    def results(self, index: Any, accepted: Any) -> None:
        builder = self.builder
        if self.counts:
            place = builder.add(self.fields["verdicts"], builder.shl(index, _number(2)))
            builder.store(accepted, builder.inttoptr(place, _LANES32.as_pointer()), align=1)
            return
        verdicts = builder.select(
            builder.icmp_unsigned("!=", accepted, splat(0)), splat(_PASS, _LANES8), splat(_DROP, _LANES8)
        )
        place = builder.add(self.fields["verdicts"], index)
        builder.store(verdicts, builder.inttoptr(place, _LANES8.as_pointer()), align=1)

    def carefully(self, careful: Any, index: Any, at: Any, rows: list[Any], wire: Any) -> None:
        """Let the program decide the packets that the diagram left to it."""
        builder = self.builder
        bits = builder.bitcast(careful, ir.IntType(LANES))
        some, done = self.block("some_with_care"), self.block("all_decided")
        nothing = ir.Constant(ir.IntType(LANES), 0)
        builder.cbranch(builder.icmp_unsigned("==", bits, nothing), done, some)
        builder.position_at_end(some)
        for lane in range(LANES):
            this, onward = self.block(f"care{lane}"), self.block(f"care_on{lane}")
            wanted = builder.extract_element(careful, ir.Constant(_i32, lane))
            builder.cbranch(wanted, this, onward)
            builder.position_at_end(this)
            on_wire = builder.zext(builder.extract_element(wire, ir.Constant(_i32, lane)), _i64)
            accepted = builder.call(self.one, [*self.packet(rows[lane]), on_wire])
            self.result(builder.add(index, _number(lane)), accepted)
            builder.branch(onward)
            builder.position_at_end(onward)
        builder.branch(done)
        builder.position_at_end(done)
        self.advance(index, at, LANES)
