"""The machine code by which Python's methods change shared state (`state.calls`). Only imported to compile."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types as numba_types
from numba.extending import intrinsic

from raceway.compile import lowering_state, native_helpers, primitives, twins
from raceway.compile.lowering_addresses import WORDS
from raceway.compile.pipeline import PartLibrary
from raceway.compile.state.calls import (
    ADD,
    ADDRESS,
    ALLOW,
    AMOUNT,
    BURST,
    CONTAINS,
    COUNT,
    DELETE,
    ENTRY,
    GET,
    KEY_AT,
    KIND,
    MASK,
    OPERATION,
    PUT,
    RATE,
    TAG,
    TIME,
    WORDS as KEY_WORDS,
)
from raceway.compile.state.hash_table import add, contains, delete, get, put
from raceway.compile.state.token_bucket import allow
from raceway.compile.state.words import count
from raceway.memory.jit import entry

types: Any = numba_types  # numba fills this module in as it starts
_words = ir.IntType(64).as_pointer()

# Both say what compiled code has instead of the functions that are called below.
__all__ = ["lowering_state", "native_helpers", "state_call"]


def perform(call: memoryview[int], table: memoryview[int], key: memoryview[int]) -> int:
    """Do what the record says to a state object's words."""
    operation, mask, amount = call[OPERATION], call[MASK], call[AMOUNT]
    if operation == COUNT:
        return count(table, mask, amount)
    size, words, tag, kind = call[ENTRY], call[KEY_WORDS], call[TAG], call[KIND]
    if operation == GET:
        return get(table, mask, size, key, words, tag, amount)
    if operation == ADD:
        return add(table, mask, size, key, words, tag, kind, amount)
    done = False
    if operation == CONTAINS:
        done = contains(table, mask, size, key, words, tag)
    elif operation == PUT:
        done = put(table, mask, size, key, words, tag, kind, amount)
    elif operation == DELETE:
        done = delete(table, mask, size, key, words, tag)
    elif operation == ALLOW:
        done = allow(table, mask, size, key, words, tag, kind, call[TIME], call[RATE], call[BURST], amount)
    return 1 if done else 0


@intrinsic
def _perform(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        call = builder.inttoptr(args[0], _words)
        table = builder.inttoptr(builder.load(builder.gep(call, [_constant(ADDRESS)])), _words)
        key = builder.gep(call, [_constant(KEY_AT)])
        found = twins.call(context, builder, perform, (WORDS,) * 3, (call, table, key))
        library = PartLibrary(context.codegen(), "raceway_primitives")
        library.add_text(primitives.native_definitions([]))
        library.finalize()
        dispatcher = twins.twin(perform)
        (compiled,) = dispatcher.overloads.values()
        for one in (*compiled.library.parts(), library):
            context.active_code_library.add_linking_library(one)
        return found

    return types.int64(types.int64), generate


def _constant(number: int) -> Any:
    return ir.Constant(ir.IntType(64), number)


@entry
def state_call(address: int) -> int:
    """Do one operation: `state.calls` draws the record at the address."""
    result: int = _perform(address)
    return result
