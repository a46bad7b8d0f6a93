"""Parts that the kernel's verifier walks once, however often and from wherever they are called.

In line, a part is walked again for everything that may have been before it, and two large parts one behind the other
are more than the verifier has patience for. A global function (Documentation/bpf/verifier.rst, btf.rst) it walks by
itself: it takes numbers, memory of a size that type information tells, and the program's context, from which it takes
the packet anew; what it leaves in memory is any number to whoever called it. In machine code such a part is in line
like others.

    i32 raceway_apart_NAME__CODE(...)      the twin of NAME; its status

CODE says what it takes, a letter each: `c` the context, `m80` memory of 80 bytes (`m80b5`: with a checked index into
the first five words), `n` a number. What else is said of it takes no argument: `s7` stands for the words of state
object 7, `s7o8` for those from the eighth on, `k5` for the constant 5, `w6` for a number that stands in memory at
index 6, and `r5` says that the result goes to index 5. Only imported to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types as numba_types

from raceway.compile import headers, primitives, twins
from raceway.compile.bpf.definitions import FLOW as FLOW, KEY as KEY, TABLE_KEY as TABLE_KEY
from raceway.compile.lowering import PACKET
from raceway.compile.lowering_addresses import TABLE, WORDS, build, constant
from raceway.compile.state.words import State

types: Any = numba_types  # numba fills this module in as it starts
_i32, _i64 = ir.IntType(32), ir.IntType(64)
_bytes = ir.IntType(8).as_pointer()
PREFIX = "raceway_apart_"


@dataclass(frozen=True)
class Packet:
    """The packet as it came or was left: its bytes and its length. Its time, port and ring are zero."""

    value: Any


@dataclass(frozen=True)
class Memory:
    """Some words: the pointer to them, and how many. bound: the function is handed so many of them, with an index that
    is checked (TABLE); 0 for all, by indexes that are constants (WORDS)."""

    start: Any
    count: int
    bound: int = 0


@dataclass(frozen=True)
class Words:
    """The words of a state object: all of them, or so many from a first one on."""

    state: State
    first: int = 0
    count: int = 0


@dataclass(frozen=True)
class Constant:
    """A number that is known when compiling."""

    number: int


@dataclass(frozen=True)
class Stored:
    """A number that goes by way of memory, the first that is an argument: at this index."""

    value: Any
    index: int


def call(
    context: Any, builder: Any, function: Callable[..., Any], *arguments: Any,
    into: tuple[Memory, int] | None = None,
) -> Any:  # fmt: skip
    """Emit the call of a shared function's twin; its error status is passed on. Returns the type of its result.

    arguments: `Packet`, `Memory`, `Words`, `Constant`, `Stored` or the value of a number. into: an argument that is
    memory, and the index at which the result is left, as a number; without, the function says all in memory.
    """
    codes, given = [], []
    memory = next((one for one in arguments if isinstance(one, Memory)), None)
    for one in arguments:
        if isinstance(one, Constant):
            codes.append(f"k{one.number & _ALL:x}")
        elif isinstance(one, Stored):
            assert memory is not None
            codes.append(f"w{one.index}")
            builder.store(one.value, builder.gep(memory.start, [constant(one.index)]))
        elif isinstance(one, Packet):
            codes.append("c")
            given.append(_context(context, builder, one.value))
        elif isinstance(one, Memory):
            codes.append(f"m{8 * one.count}" + (f"b{one.bound}" if one.bound else ""))
            given.append(one.start)
        elif isinstance(one, Words):
            codes.append(f"s{one.state.serial}" + (f"o{one.first}" if one.first else ""))
        else:
            codes.append("n")
            given.append(one)
    if len(given) > 5:
        raise AssertionError(f"{function.__name__} takes more than eBPF's five arguments")
    if into is not None:
        codes.append(f"r{into[1]}")
    home = function.__module__.rpartition(".")[2]
    name = f"{PREFIX}{home}_{function.__name__}__{'_'.join(codes)}"
    made = builder.module.globals.get(name)
    if made is None:
        kinds = [value.type for value in given]
        made = _made(context, builder.module, name, function, arguments, kinds, into)
    wanted = tuple(_kind(one) for one in arguments)
    returned = twins.twin(function).overloads[wanted].signature.return_type
    status = builder.call(made, given)
    with builder.if_then(builder.icmp_signed("!=", status, ir.Constant(_i32, 0)), likely=False):
        builder.ret(status)
    return returned


def _kind(argument: Any) -> Any:
    """The type that the function has an argument as."""
    if isinstance(argument, Packet):
        return PACKET
    if isinstance(argument, Memory):
        return TABLE if argument.bound else WORDS
    return TABLE if isinstance(argument, Words) else types.int64


_ALL = (1 << 64) - 1
_SCRATCH = 384


def room(builder: Any, at: int, count: int) -> Memory:
    """Emit a place for words that parts are handed, and that nobody needs when the next one is handed some there: eBPF
    has little stack, and its functions share it. at: bytes, where eBPF has it (`KEY`, `FLOW`, `TABLE_KEY`); what is
    more than there is room for lies on the stack."""
    place = cgutils.alloca_once(builder, ir.ArrayType(_i64, count))
    start = builder.bitcast(place, _i64.as_pointer())
    if at + 8 * count > _SCRATCH:
        return Memory(start, count)
    return Memory(primitives.emit(builder, "scratch", start, constant(at)), count)


def _context(context: Any, builder: Any, packet: Any) -> Any:
    """Emit what a packet is taken from anew: in machine code, where it begins and ends."""
    value = cgutils.create_struct_proxy(PACKET)(context, builder, value=packet)
    record = cgutils.alloca_once(builder, ir.ArrayType(_bytes, 2))
    for index, one in enumerate((value.data, value.end)):
        builder.store(one, cgutils.gep_inbounds(builder, record, 0, index))
    return primitives.emit(builder, "context", builder.bitcast(record, _bytes))


def _made(
    context: Any, module: Any, name: str, function: Callable[..., Any], arguments: Any, kinds: list[Any],
    into: tuple[Memory, int] | None,
) -> Any:  # fmt: skip
    made = ir.Function(module, ir.FunctionType(_i32, kinds), name)
    made.linkage = "linkonce_odr"
    made.attributes.add("alwaysinline")
    builder = ir.IRBuilder(made.append_basic_block())
    given = iter(made.args)
    values: list[Any] = []
    places: dict[int, Any] = {}
    for one in arguments:
        if isinstance(one, Packet):
            place = next(given)
            words = [primitives.emit(builder, f"context_{end}", place) for end in ("data", "end")]
            zeros = [ir.Constant(_i64, 0)] * len(headers.GIVEN)
            values.append(build(context, builder, PACKET, [*words, *zeros]))
        elif isinstance(one, Memory):
            start = places[id(one)] = next(given)
            # Memory of a size is, for all that the verifier knows, memory or none.
            with builder.if_then(cgutils.is_null(builder, start), likely=False):
                builder.ret(ir.Constant(_i32, twins.OUT_OF_BOUNDS))
            bounded = [start, constant(one.bound)]
            values.append(build(context, builder, TABLE, bounded) if one.bound else start)
        elif isinstance(one, Words):
            start = primitives.emit_state(builder, one.state)
            if one.first:
                start = builder.gep(start, [constant(one.first)])
            count = one.count or len(one.state.words)
            values.append(build(context, builder, TABLE, [start, constant(count)]))
        elif isinstance(one, Constant):
            values.append(constant(one.number))
        elif isinstance(one, Stored):
            (first,) = list(places.values())[:1]
            values.append(builder.load(builder.gep(first, [constant(one.index)])))
        else:
            values.append(next(given))
    wanted = tuple(_kind(one) for one in arguments)
    dispatcher = twins.twin(function)
    context.typing_context.resolve_function_type(numba.core.types.Dispatcher(dispatcher), wanted, {})
    overload = dispatcher.overloads[wanted]
    context.add_linking_libs((overload.library,))
    status, result = context.call_internal_no_propagate(builder, overload.fndesc, overload.signature, values)
    if into is not None:
        with builder.if_then(status.is_ok):
            number = context.cast(builder, result, overload.signature.return_type, types.int64)
            builder.store(number, builder.gep(places[id(into[0])], [constant(into[1])]))
    builder.ret(status.code)
    return made
