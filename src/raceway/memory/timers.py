"""Timers that come when they are due: the kernel lets a thread's timers be 50 us late, unless it asks otherwise."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def precise_timers() -> Iterator[None]:
    """Let the calling thread's sleeps be at most 1 us longer than asked for (prctl(2), PR_SET_TIMERSLACK)."""
    before = _libc.prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1000), 0, 0, 0)
    try:
        yield
    finally:
        if before > 0:
            _libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(before), 0, 0, 0)
