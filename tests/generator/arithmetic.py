"""The data plane's arithmetic, callable from Python: compiled functions inside loops have no door of their own."""

from __future__ import annotations

import numpy as np

from raceway.apps.generator import histogram, pacing, sequence
from raceway.memory.jit import entry
from raceway.memory.structures import allocate, structure

CALL = np.dtype([("record", "<i8"), ("first", "<i8"), ("second", "<i8")])
Call = structure("Call", CALL)


@entry
def _allowance(address: int) -> int:
    call = Call(address)
    return pacing.allowance(call.record, call.first, call.second)


@entry
def _wait_for(address: int) -> int:
    call = Call(address)
    return pacing.wait_for(call.record, call.first)


@entry
def _note(address: int) -> int:
    call = Call(address)
    sequence.note(call.record, call.first)
    return 0


@entry
def _bucket(address: int) -> int:
    return histogram.bucket(Call(address).first)


@entry
def _record(address: int) -> int:
    call = Call(address)
    histogram.record(call.record, call.first)
    return 0


_call = allocate(Call)


def _prepared(record: int, first: int, second: int = 0) -> int:
    _call[0] = (record, first, second)
    return int(_call.ctypes.data)


def allowance(pace: int, now: int, wanted: int) -> int:
    """`pacing.allowance`."""
    return _allowance(_prepared(pace, now, wanted))


def wait_for(pace: int, wanted: int) -> int:
    """`pacing.wait_for`."""
    return _wait_for(_prepared(pace, wanted))


def note(track: int, number: int) -> None:
    """`sequence.note`."""
    _note(_prepared(track, number))


def bucket(value: int) -> int:
    """`histogram.bucket`."""
    return _bucket(_prepared(0, value))


def record(echo: int, value: int) -> None:
    """`histogram.record`."""
    _record(_prepared(echo, value))
