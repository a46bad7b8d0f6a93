"""The few operations that differ between machine code and eBPF, as functions that a target defines when it links.

A function's parts are lowered once for all targets (`pipeline`). What a part cannot say in the same way everywhere it
leaves to a call of one of these, declared in the part and defined, always inline, by the target::

    i64 raceway_length(data, end)                  the packet's length
    i64 raceway_offset(offset)                     an offset, before it is looked at and added to data
    i1  raceway_far(offset, size)                  are some bytes outside what can be reached of any packet?
    ptr raceway_place(data, offset, size)          where bytes at an offset that is not far are
    i1  raceway_over(data, end, offset, size, place)    do they end behind the packet's end?
    i1  raceway_beyond(index, count)               is an index outside some words of state?
    i64 raceway_within(index)                      the same index, where it is known to be inside
    ptr raceway_state_N()                          where the words of state object N are
    i64 raceway_move(data, end, first, last, by)   move the packet's first byte; below zero if there is no room
    ptr raceway_data(data, first, by, moved)       where it begins then, by what `move` has answered
    ptr raceway_end(end, first, moved)             and where it ends
    ptr raceway_context(record)                    what a packet is taken from anew: the record, or eBPF's context
    ptr raceway_scratch(place, at)                 where words lie that a part is handed: there, or where eBPF has room
    ptr raceway_context_data(context)              where it begins
    ptr raceway_context_end(context)               and where it ends
        raceway_publish(place, value)              store a word after everything that was stored before
    i64 raceway_observe(place)                     load a word between what is loaded before and after
    i64 raceway_add(place, value)                  add to a word that others may be adding to; the sum
    i64 raceway_exchange(place, value)             store a word; what was there
    i1  raceway_compare_exchange(place, expected, value)    store a word if what is there is as expected; was it?

`first` is what a packet whose head moves was given for moving it: the lowest address of its buffer, and in eBPF the
program's context; `last` the highest address.

Here the calls, and machine code's definitions; eBPF's are in `bpf.definitions`. Only imported to compile.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakValueDictionary

from llvmlite import ir

from raceway.compile.state.words import State

_i1, _i8, _i64 = ir.IntType(1), ir.IntType(8), ir.IntType(64)
_bytes = _i8.as_pointer()
_void = ir.VoidType()
_words = _i64.as_pointer()
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "length": (_i64, [_i8.as_pointer(), _i8.as_pointer()]),
    "offset": (_i64, [_i64]),
    "far": (_i1, [_i64, _i64]),
    "place": (_i8.as_pointer(), [_i8.as_pointer(), _i64, _i64]),
    "over": (_i1, [_i8.as_pointer(), _i8.as_pointer(), _i64, _i64, _i8.as_pointer()]),
    "beyond": (_i1, [_i64, _i64]),
    "within": (_i64, [_i64]),
    "move": (_i64, [_bytes, _bytes, _bytes, _bytes, _i64]),
    "data": (_bytes, [_bytes, _bytes, _i64, _i64]),
    "end": (_bytes, [_bytes, _bytes, _i64]),
    "context": (_bytes, [_bytes]),
    "scratch": (_words, [_words, _i64]),
    "context_data": (_bytes, [_bytes]),
    "context_end": (_bytes, [_bytes]),
    "publish": (_void, [_words, _i64]),
    "observe": (_i64, [_words]),
    "add": (_i64, [_words, _i64]),
    "exchange": (_i64, [_words, _i64]),
    "compare_exchange": (_i1, [_words, _i64, _i64]),
}
_STATE = re.compile(r"@\"?raceway_state_(\d+)\"?\(")

states: WeakValueDictionary[int, State] = WeakValueDictionary()
"""State objects by serial number: those that compiled parts speak of."""


def _call(builder: Any, name: str, result: Any, kinds: list[Any], arguments: list[Any]) -> Any:
    module, name = builder.module, f"raceway_{name}"
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(result, kinds), name)
    return builder.call(function, arguments)


def emit(builder: Any, name: str, *arguments: Any) -> Any:
    """Emit a call of a primitive."""
    result, kinds = _SIGNATURES[name]
    return _call(builder, name, result, kinds, list(arguments))


def emit_state(builder: Any, state: State) -> Any:
    """Emit the pointer to a state object's words, which this code may write from now on."""
    states[state.serial] = state
    state.joined()
    return _call(builder, f"state_{state.serial}", _words, [], [])


def states_named(text: str) -> list[State]:
    """The state objects that a part's code speaks of."""
    return [states[number] for number in sorted({int(found) for found in _STATE.findall(text)})]


# Lengths, as `len(packet)` is computed, so that what the function has asked before need not be asked again.
_NATIVE = """
define i64 @raceway_length(ptr %data, ptr %end) alwaysinline {
  %end_number = ptrtoint ptr %end to i64
  %data_number = ptrtoint ptr %data to i64
  %length = sub i64 %end_number, %data_number
  ret i64 %length
}
define i64 @raceway_offset(i64 %offset) alwaysinline {
  ret i64 %offset
}
define i1 @raceway_far(i64 %offset, i64 %size) alwaysinline {
  %limit = sub i64 {MAXIMUM}, %size
  %far = icmp ugt i64 %offset, %limit
  ret i1 %far
}
define ptr @raceway_place(ptr %data, i64 %offset, i64 %size) alwaysinline {
  %place = getelementptr i8, ptr %data, i64 %offset
  ret ptr %place
}
define i1 @raceway_over(ptr %data, ptr %end, i64 %offset, i64 %size, ptr %place) alwaysinline {
  %end_number = ptrtoint ptr %end to i64
  %data_number = ptrtoint ptr %data to i64
  %length = sub i64 %end_number, %data_number
  %behind = add nuw nsw i64 %offset, %size
  %over = icmp sgt i64 %behind, %length
  ret i1 %over
}
define i1 @raceway_beyond(i64 %index, i64 %count) alwaysinline {
  ret i1 false
}
define i64 @raceway_within(i64 %index) alwaysinline {
  ret i64 %index
}
define i64 @raceway_move(ptr %data, ptr %end, ptr %lowest, ptr %highest, i64 %by) alwaysinline {
  %data_number = ptrtoint ptr %data to i64
  %end_number = ptrtoint ptr %end to i64
  %lowest_number = ptrtoint ptr %lowest to i64
  %highest_number = ptrtoint ptr %highest to i64
  %before = sub i64 %data_number, %lowest_number
  %left = add i64 %before, %by
  %short = icmp slt i64 %left, 0
  br i1 %short, label %behind, label %inside
inside:
  ret i64 0
behind:
  %lack = sub i64 0, %left
  %room = sub i64 %highest_number, %end_number
  %none = icmp sgt i64 %lack, %room
  br i1 %none, label %full, label %up
full:
  ret i64 -1
up:
  %length = sub i64 %end_number, %data_number
  %place = getelementptr i8, ptr %data, i64 %lack
  call void @llvm.memmove.p0.p0.i64(ptr %place, ptr %data, i64 %length, i1 false)
  ret i64 %lack
}
declare void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)
define ptr @raceway_data(ptr %data, ptr %lowest, i64 %by, i64 %moved) alwaysinline {
  %failed = icmp slt i64 %moved, 0
  %sum = add i64 %by, %moved
  %change = select i1 %failed, i64 0, i64 %sum
  %place = getelementptr i8, ptr %data, i64 %change
  ret ptr %place
}
define ptr @raceway_end(ptr %end, ptr %lowest, i64 %moved) alwaysinline {
  %failed = icmp slt i64 %moved, 0
  %change = select i1 %failed, i64 0, i64 %moved
  %place = getelementptr i8, ptr %end, i64 %change
  ret ptr %place
}
define ptr @raceway_context(ptr %record) alwaysinline {
  ret ptr %record
}
define ptr @raceway_scratch(ptr %place, i64 %at) alwaysinline {
  ret ptr %place
}
define ptr @raceway_context_data(ptr %record) alwaysinline {
  %data = load ptr, ptr %record
  ret ptr %data
}
define ptr @raceway_context_end(ptr %record) alwaysinline {
  %place = getelementptr i8, ptr %record, i64 8
  %end = load ptr, ptr %place
  ret ptr %end
}
define void @raceway_publish(ptr %place, i64 %value) alwaysinline {
  store atomic i64 %value, ptr %place release, align 8
  ret void
}
define i64 @raceway_observe(ptr %place) alwaysinline {
  fence acquire
  %value = load atomic i64, ptr %place acquire, align 8
  ret i64 %value
}
define i64 @raceway_add(ptr %place, i64 %value) alwaysinline {
  %old = atomicrmw add ptr %place, i64 %value monotonic
  %sum = add i64 %old, %value
  ret i64 %sum
}
define i64 @raceway_exchange(ptr %place, i64 %value) alwaysinline {
  %old = atomicrmw xchg ptr %place, i64 %value acq_rel
  ret i64 %old
}
define i1 @raceway_compare_exchange(ptr %place, i64 %expected, i64 %value) alwaysinline {
  %pair = cmpxchg ptr %place, i64 %expected, i64 %value acq_rel acquire
  %done = extractvalue { i64, i1 } %pair, 1
  ret i1 %done
}
"""
_NATIVE_STATE = """
define ptr @raceway_state_{SERIAL}() alwaysinline {
  ret ptr inttoptr (i64 {ADDRESS} to ptr)
}
"""


def native_definitions(used: list[State]) -> str:
    """Machine code's definitions, with the addresses of these state objects."""
    from raceway.compile.headers import MAXIMUM_PACKET

    text = _NATIVE.replace("{MAXIMUM}", str(MAXIMUM_PACKET))
    for state in used:
        text += _NATIVE_STATE.replace("{SERIAL}", str(state.serial)).replace("{ADDRESS}", str(state.address))
    return text
