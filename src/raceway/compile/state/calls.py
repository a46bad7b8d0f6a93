"""How Python's methods reach state objects that compiled code, here or in the kernel, writes too: by machine code.

A plain Python `if word == old: word = new` is not one step, and would hold a lock for microseconds. So once an object
is not the interpreter's alone, its methods run the same functions as machine code (`compile.lowering_calls`): one entry
for all objects, told what to do by a record of words, compiled at the first need and kept on disk::

    | operation | address | mask | entry | words | tag | kind | amount | time | rate | burst | - ... | key, at 16 ... |
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache
from typing import Any

OPERATION, ADDRESS, MASK, ENTRY, WORDS, TAG, KIND, AMOUNT, TIME, RATE, BURST = range(11)
KEY_AT = 16
GET, CONTAINS, PUT, ADD, DELETE, ALLOW, COUNT = range(7)
_REST = [0] * (KEY_AT - BURST - 1)


@cache
def _entry() -> Callable[[int], int]:
    from raceway.compile.lowering_calls import state_call

    return state_call


def table_call(
    table: Any, operation: int, key: list[int], tag: int, kind: int = 0, amount: int = 0,
    time: int = 0, rate: int = 0, burst: int = 0,
) -> int:  # fmt: skip
    """Do one operation on a table; return its result, truth values as 1 and 0."""
    record = [
        operation,
        table.address,
        table.mask,
        table.entry,
        len(key),
        tag,
        kind,
        amount,
        time,
        rate,
        burst,
    ]
    call = array("q", record + _REST + key)
    return _entry()(call.buffer_info()[0])


def count_call(state: Any, index: int, amount: int) -> int:
    """Add to a word of a state object; return the sum."""
    record = [COUNT, state.address, index, 0, 0, 0, 0, amount, 0, 0, 0]
    call = array("q", record + _REST)
    return _entry()(call.buffer_info()[0])
