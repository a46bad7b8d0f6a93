"""The native target of a packet function in stages: keys of a chunk of packets, then their rules, then what is decided.

A `Staged` function says how it is made of three parts, of which the middle one is a classifier's; so many packets can
be looked up at once (`classifier.batches`). For each packet the same is done as by the function, in the same order
where it matters: what is decided happens packet by packet. Only imported to compile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from raceway.compile import headers, lowering_state, native, twins
from raceway.compile.classifier import batch_lowering, batches, walk
from raceway.compile.lowering import PACKET
from raceway.compile.lowering_addresses import TABLE, WORDS, build, constant
from raceway.compile.native import failed
from raceway.memory.access import load_i64, store_8
from raceway.memory.layout import Batch, Metadata, Slot

if TYPE_CHECKING:
    from raceway.compile.function import Staged

_i64 = ir.IntType(64)
__all__ = ["batch_lowering", "kernel"]


def kernel(staged: Staged, made: native.Typed) -> Any:
    """Make the loop of a function in stages."""
    decided = made.helper(staged.decided)
    asked = None if staged.asked is None else made.helper(staged.asked)
    rules = staged.classifier
    _link = _linking(asked, decided, rules)
    _fetch = _fetching(staged.by_rule)

    def packet_kernel(address: int) -> Any:
        batch = Batch(address)
        slots, metadata, buffers, buffer_size = batch.slots, batch.metadata, batch.buffers, batch.buffer_size
        size, count, verdicts = batch.slot_count, batch.count, batch.verdicts
        now, port, ring = batch.now, batch.port, batch.ring
        words = _places()
        _link()
        at = batch.first
        done = 0
        while done < count:
            chunk = min(_CHUNK, count - done)
            here = at
            for index in range(chunk):
                slot = Slot(slots + here * _SLOT)
                _prepare(asked, words, index, buffers + slot.buffer * buffer_size + slot.offset, slot.length)
                here += 1
                if here == size:
                    here = 0
            _match(rules, words, chunk)
            for index in range(chunk):
                _fetch(words, index)
            for index in range(chunk):
                slot = Slot(slots + at * _SLOT)
                time = now
                if metadata != 0:
                    stamped = load_i64(metadata + at * _METADATA)
                    if stamped != 0:
                        time = stamped
                data = buffers + slot.buffer * buffer_size + slot.offset
                verdict = _decide(decided, words, index, data, slot.length, time, port, ring)
                if verdict < 0:
                    verdict = failed(address, verdict)
                store_8(verdicts + done + index, verdict)
                at += 1
                if at == size:
                    at = 0
            done += chunk
        return count

    return packet_kernel


_SLOT, _METADATA, _CHUNK = Slot.size, Metadata.size, batches.CHUNK


_DECIDED = (PACKET, types.int64, types.int64)
_LOOKED_UP = (TABLE, WORDS, types.int64)


def _linking(asked: Any, decided: Any, rules: Any) -> Any:
    """The intrinsic that links the kernel with its parts, each once."""

    @intrinsic
    def link(typing: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            overloads = [
                (twins.twin(walk.key), (PACKET, WORDS)),
                (twins.twin(batches.match_all), _LOOKED_UP),
                (decided, _DECIDED),
                *([] if asked is None else [(asked, (PACKET,))]),
            ]
            parts: dict[Any, None] = {}
            for dispatcher, kinds in overloads:
                dispatcher.get_call_template(kinds, {})
                parts.update(dict.fromkeys(dispatcher.overloads[kinds].library.parts()))
            native.link(context, list(parts), (rules,))
            return context.get_dummy_value()

        return types.none(), generate

    return link


def _fetching(states: Any) -> Any:
    """The intrinsic that asks memory for the words of a packet's rule. A rule's number of -1 is no harm: what is asked
    for is never looked at."""

    @intrinsic
    def fetch(typing: Any, words: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            rule = builder.load(builder.gep(args[0], [builder.add(args[1], constant(batches.ANSWERS))]))
            for state in states:
                start = builder.inttoptr(constant(state.address), _i64.as_pointer())
                batch_lowering.prefetch(builder, builder.gep(start, [rule]), write=True)
            return context.get_dummy_value()

        return types.none(WORDS, types.int64), generate

    return fetch


@intrinsic
def _places(typing: Any) -> Any:
    """The words of a chunk, on the stack."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = cgutils.alloca_once(builder, ir.ArrayType(_i64, batches.PLACES))
        return builder.bitcast(place, _i64.as_pointer())

    return WORDS(), generate


def _packet(context: Any, builder: Any, address: Any, length: Any, given: Any) -> Any:
    data = builder.inttoptr(address, ir.IntType(8).as_pointer())
    return build(context, builder, PACKET, [data, builder.gep(data, [length]), *given])


@intrinsic
def _prepare(typing: Any, asked: Any, words: Any, index: Any, address: Any, length: Any) -> Any:
    """Put a packet's key into its place, and the answers to what else is asked of it."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, words, index, address, length = args
        packet = _packet(context, builder, address, length, [constant(0)] * len(headers.GIVEN))
        at = builder.mul(index, constant(walk.KEY_WORDS))
        place = builder.gep(words, [builder.add(at, constant(batches.KEYS))])
        twins.call(context, builder, walk.key, (PACKET, WORDS), (packet, place))
        answers = constant(0)
        if sig.args[0] != types.none:
            compiled = sig.args[0].dispatcher.overloads[(PACKET,)]
            _, answers = context.call_internal_no_propagate(
                builder, compiled.fndesc, compiled.signature, (packet,)
            )
            answers = context.cast(builder, answers, compiled.signature.return_type, types.int64)
        builder.store(answers, builder.gep(words, [builder.add(index, constant(batches.ANSWERS))]))
        return context.get_dummy_value()

    return types.none(asked, WORDS, types.int64, types.int64, types.int64), generate


@intrinsic
def _match(typing: Any, rules: Any, words: Any, count: Any) -> Any:
    """Look up a chunk's keys."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        state = sig.args[0].state
        start = lowering_state.state_address(context, builder, sig.args[0])
        table = build(context, builder, TABLE, [start, constant(len(state.words))])
        twins.call(context, builder, batches.match_all, _LOOKED_UP, (table, args[1], args[2]))
        return context.get_dummy_value()

    return types.none(rules, WORDS, types.int64), generate


@intrinsic
def _decide(
    typing: Any, decided: Any, words: Any, index: Any, address: Any, length: Any, time: Any, port: Any, ring: Any
) -> Any:  # fmt: skip
    """What becomes of a packet, as `native.decide` says it."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, words, index, address, length, *given = args
        packet = _packet(context, builder, address, length, given)
        at = builder.mul(index, constant(walk.KEY_WORDS))
        wrong = builder.load(builder.gep(words, [builder.add(at, constant(batches.KEYS + walk.WRONG))]))
        rule = builder.load(builder.gep(words, [builder.add(index, constant(batches.ANSWERS))]))
        compiled = sig.args[0].dispatcher.overloads[_DECIDED]
        return native.verdict_or_failure(context, builder, compiled, packet, wrong, rule)

    return types.int64(decided, WORDS, *[types.int64] * 6), generate
