"""The native target: a packet function as machine code, in a loop over a batch. Only imported to compile."""

from __future__ import annotations

import ast
import ctypes
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numba
from llvmlite import ir
from numba.core import errors, types
from numba.extending import intrinsic

from raceway.compile import (
    head,
    headers,
    lowering,
    lowering_state,
    native_errors,
    native_helpers,
    primitives,
    twins,
)
from raceway.compile.checker import check
from raceway.compile.classifier import lowering as lowering_classifier
from raceway.compile.flows import lowering as lowering_flows
from raceway.compile.lowering import MOVING, PACKET
from raceway.compile.lowering_addresses import build
from raceway.compile.pipeline import OFTEN, PartLibrary
from raceway.compile.remembering import operators_remembered
from raceway.compile.rewrite import Rewriter
from raceway.compile.source import Source
from raceway.compile.state.words import State
from raceway.memory.access import load_i64, store_8
from raceway.memory.jit import inner
from raceway.memory.layout import METADATA, SLOT, Batch, Metadata, Slot

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction

_i64 = ir.IntType(64)
_BAD_VERDICT = -1
_FAILED = -16

__all__ = [
    "NativeKernel",
    "compile_kernel",
    "lowering",
    "lowering_classifier",
    "lowering_flows",
    "lowering_state",
    "native_helpers",
]


class NativeKernel:
    """Machine code of one packet function's loop. Keeps alive what the code refers to."""

    def __init__(self, name: str, compiled: Any, function: FunctionType, moves_head: bool) -> None:
        self.name = name
        self.moves_head = moves_head
        self._compiled = compiled
        self.rewritten = function
        self.address: int = compiled.address
        self._call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(self.address)

    def __call__(self, batch: int) -> int:
        result: int = self._call(batch)
        return result

    @property
    def assembly(self) -> str:
        """The machine code, as LLVM's assembly."""
        text: str = self._compiled._library.get_asm_str()
        return text

    def __repr__(self) -> str:
        return f"<native kernel of {self.name} at {self.address:#x}>"


def prepare(function: PacketFunction, helpers: _Helpers | None = None) -> FunctionType:
    """Return the rewritten function, helpers as dispatchers in its globals: what every compiled target starts from."""
    return Rewriter(function.source, function.locals, helpers or _Helpers([function.function])).run()


class _Helpers:
    """Turns the user's other functions into dispatchers, each once, refusing recursion."""

    def __init__(self, above: list[Any], made: dict[Any, tuple[Any, Source]] | None = None) -> None:
        self.above = above
        self.made: dict[Any, tuple[Any, Source]] = {} if made is None else made

    @property
    def sources(self) -> list[Source]:
        """The helpers' sources."""
        return [source for _, source in self.made.values()]

    def __call__(self, function: Any, source: Source, node: ast.AST) -> Any:
        from raceway.compile.function import PacketFunction
        from raceway.compile.pcap_filter.expression import Expression

        if isinstance(function, Expression):
            from raceway.compile.pcap_filter.native import in_functions

            return in_functions(function)
        if isinstance(function, PacketFunction):
            function = function.function
        if function in self.above:
            source.refuse(node, f"{function.__name__} calls itself; write a loop with a bound instead")
        if not isinstance(function, FunctionType) or (function.__module__ or "").startswith(
            "raceway.compile."
        ):
            source.refuse(node, f"{ast.unparse(node)} is not a function that a packet function can call")
        if function not in self.made:
            helper = Source(function)
            below = _Helpers([*self.above, function], self.made)
            made = Rewriter(helper, check(helper, helper=True), below).run()
            self.made[function] = twins.compiled(made), helper
        return self.made[function][0]


class Typed:
    """A packet function whose parts are typed and lowered, for whatever target: made once a function."""

    def __init__(self, function: PacketFunction) -> None:
        helpers = self._helpers = _Helpers([function.function])
        self.rewritten = prepare(function, helpers)
        self.sources = [function.source, *helpers.sources]
        OFTEN.add(self.rewritten.__code__)
        self.dispatcher = twins.compiled(self.rewritten)
        self.packet = MOVING if any(map(_moves, self.sources)) else PACKET
        """The type of its packet."""
        try:
            with operators_remembered():
                self.dispatcher.get_call_template((self.packet,), {})
            self.overload = self.dispatcher.overloads[(self.packet,)]
            returned = self.overload.signature.return_type
            if not isinstance(returned, types.Integer | types.Boolean):
                function.source.refuse(
                    function.source.tree,
                    f"a packet function returns a verdict, this one returns {native_errors.plain(returned)}",
                )
        except errors.NumbaError as error:
            raise native_errors.explained(error, self.sources) from error

    def helper(self, function: Any) -> Any:
        """The dispatcher of a function that this one calls."""
        return self._helpers.made[function][0]


def _moves(source: Source) -> bool:
    """Whether a function speaks of moving the packet's head."""
    return any(isinstance(one, ast.Attribute) and one.attr in head.METHODS for one in ast.walk(source.tree))


def typed(function: PacketFunction) -> Typed:
    """Type and lower a packet function, if that is not done yet. Raises PacketFunctionError."""
    if function.typed is None:
        function.typed = Typed(function)
    made: Typed = function.typed
    return made


def compile_kernel(function: PacketFunction) -> NativeKernel:
    """Compile a packet function into its batch kernel."""
    made = typed(function)
    if function.staged is not None and function.staged.classifier.joint and made.packet == PACKET:
        from raceway.compile import native_stages

        loop = native_stages.kernel(function.staged, made)
    else:
        loop = _kernel(made.dispatcher)
    try:
        compiled = numba.cfunc("int64(int64)", **_KERNEL_OPTIONS)(loop)
    except errors.NumbaError as error:
        raise native_errors.explained(error, made.sources) from error
    return NativeKernel(function.name, compiled, made.rewritten, made.packet == MOVING)


_KERNEL_OPTIONS = {"error_model": "numpy", "_nrt": False}


def _kernel(function: Any) -> Any:
    """Make the loop; the user's function is a global constant of it."""

    def packet_kernel(address: int) -> Any:
        batch = Batch(address)
        slots, metadata, buffers, buffer_size = batch.slots, batch.metadata, batch.buffers, batch.buffer_size
        size, count, verdicts = batch.slot_count, batch.count, batch.verdicts
        now, port, ring = batch.now, batch.port, batch.ring
        at = batch.first
        for index in range(count):
            slot = Slot(slots + at * _SLOT)
            time = now
            known = 0
            if metadata != 0:
                known = metadata + at * _METADATA
                stamped = load_i64(known)
                if stamped != 0:
                    time = stamped
            buffer = buffers + slot.buffer * buffer_size
            verdict = decide(
                function, buffer, slot.offset, slot.length, time, port, ring, buffer_size, slot.address, known
            )
            if verdict < 0:
                verdict = failed(address, verdict)
            store_8(verdicts + index, verdict)
            at += 1
            if at == size:
                at = 0
        return count

    return packet_kernel


@inner
def failed(address: int, verdict: int) -> int:
    """Count why a packet of the batch at an address is ABORTED; return that verdict."""
    batch = Batch(address)
    if verdict == _BAD_VERDICT:
        batch.bad_verdict = batch.bad_verdict + 1
    elif verdict == _OUT_OF_BOUNDS:
        batch.out_of_bounds = batch.out_of_bounds + 1
    elif verdict == _ARITHMETIC:
        batch.arithmetic = batch.arithmetic + 1
    else:
        batch.other_error = batch.other_error + 1
    return 0


_SLOT, _METADATA = Slot.size, Metadata.size
_OUT_OF_BOUNDS, _ARITHMETIC = _FAILED - twins.OUT_OF_BOUNDS, _FAILED - twins.ARITHMETIC
FAILURES = {
    "BAD_VERDICT": _BAD_VERDICT,
    "OUT_OF_BOUNDS": _OUT_OF_BOUNDS,
    "ARITHMETIC": _ARITHMETIC,
    "OTHER": _FAILED - twins.OTHER,
}
"""What `verdict_or_failure` gives for each kind of failure."""


def link(context: Any, parts: list[Any], states: tuple[State, ...] = ()) -> None:
    """Link a kernel with its parts, machine code's primitives, and where the state objects of both are."""
    library = PartLibrary(context.codegen(), "raceway_primitives")
    used = {state for part in parts for state in primitives.states_named("".join(getattr(part, "texts", [])))}
    library.add_text(primitives.native_definitions(sorted({*used, *states}, key=lambda state: state.serial)))
    library.finalize()
    for one in [*parts, library]:
        context.active_code_library.add_linking_library(one)


def verdict_or_failure(context: Any, builder: Any, compiled: Any, *arguments: Any) -> Any:
    """Emit the call of the user's function: its verdict, or a negative number of `FAILURES`."""
    status, verdict = context.call_internal_no_propagate(
        builder, compiled.fndesc, compiled.signature, arguments
    )
    verdict = context.cast(builder, verdict, compiled.signature.return_type, types.int64)
    legal = builder.icmp_unsigned("<=", verdict, ir.Constant(_i64, 4))
    verdict = builder.select(legal, verdict, ir.Constant(_i64, _BAD_VERDICT))
    # numba's own exceptions are those of a tuple's index.
    code = builder.sext(status.code, _i64)
    one = ir.Constant(_i64, 1)
    code = builder.select(builder.icmp_signed("==", code, one), ir.Constant(_i64, twins.OUT_OF_BOUNDS), code)
    failed = builder.sub(ir.Constant(_i64, _FAILED), code)
    return builder.select(status.is_error, failed, verdict)


@intrinsic
def decide(
    typing: Any, function: Any, buffer: Any, offset: Any, length: Any, time: Any, port: Any, ring: Any,
    buffer_size: Any, slot: Any, metadata: Any,
) -> Any:  # fmt: skip
    """Call the user's function on the packet in a buffer: its verdict, or a negative number for a failure.

    A function that moves the packet's head is told where its buffer ends, and what it made of it goes into the slot.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (kind,), compiled = next(iter(function.dispatcher.overloads.items()))
        buffer, offset, length, *given, size, slot, metadata = args[1:]
        lowest = builder.inttoptr(buffer, ir.IntType(8).as_pointer())
        data = builder.gep(lowest, [offset])
        words = {
            "data": data,
            "end": builder.gep(data, [length]),
            **dict(zip(headers.GIVEN, given, strict=True)),
        }
        if kind == MOVING:
            record = lowering.moving(builder, **words, first=lowest, last=builder.gep(lowest, [size]))
            found = verdict_or_failure(context, builder, compiled, record)
            _put_back(builder, record, lowest, slot, metadata)
        else:
            packet = build(context, builder, PACKET, words.values())
            found = verdict_or_failure(context, builder, compiled, packet)
        link(context, compiled.library.parts())
        return found

    integers = [types.int64] * 9
    return types.int64(function, *integers), generate


def _put_back(builder: Any, record: Any, lowest: Any, slot: Any, metadata: Any) -> None:
    """Emit the stores of a packet's new offset and length into its slot; and its metadata know how long it was on the
    wire, which has changed as well."""
    data, end, start = (lowering.word(builder, record, name) for name in ("data", "end", "start"))
    first, low, high = (builder.ptrtoint(one, _i64) for one in (lowest, data, end))

    def place(address: Any, kind: Any, name: str) -> Any:
        at = ir.Constant(_i64, kind.fields[name][1])
        return builder.inttoptr(builder.add(address, at), ir.IntType(32).as_pointer())

    for name, value in (("offset", builder.sub(low, first)), ("length", builder.sub(high, low))):
        builder.store(builder.trunc(value, ir.IntType(32)), place(slot, SLOT, name))
    zero = ir.Constant(_i64, 0)
    with builder.if_then(builder.icmp_unsigned("!=", metadata, zero)):
        wire = place(metadata, METADATA, "wire_length")
        before = builder.load(wire)
        after = builder.sub(before, builder.trunc(start, ir.IntType(32)))
        unknown = builder.icmp_unsigned("==", before, ir.Constant(ir.IntType(32), 0))
        builder.store(builder.select(unknown, before, after), wire)
