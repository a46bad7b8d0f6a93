"""membarrier(2): one side of a rare-and-frequent pair pays for the ordering of both.

Publishing slots is frequent, going to sleep is rare. Each must order a store before a load, which takes a fence on
both sides, or none on the frequent one if the rare one makes every processor that runs a registered process pass
a fence (MEMBARRIER_CMD_GLOBAL_EXPEDITED, Linux 4.16). A process that is not on a processor passes one when it is
put there.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

MEMBARRIER: int = {"x86_64": 324, "aarch64": 283, "riscv64": 283}.get(platform.machine(), -1)
"""The system call's number; -1 where it is not known here, which every kernel answers with ENOSYS."""

GLOBAL_EXPEDITED = 1 << 1
_REGISTER_GLOBAL_EXPEDITED = 1 << 2
_QUERY = 0


@cache
def register() -> bool:
    """Let other processes' membarriers reach this one; whether that, and making them, is possible here."""
    if MEMBARRIER < 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    offered = libc.syscall(ctypes.c_long(MEMBARRIER), ctypes.c_long(_QUERY), 0, 0)
    wanted = GLOBAL_EXPEDITED | _REGISTER_GLOBAL_EXPEDITED
    if offered < 0 or offered & wanted != wanted:
        return False
    if libc.syscall(ctypes.c_long(MEMBARRIER), ctypes.c_long(_REGISTER_GLOBAL_EXPEDITED), 0, 0) != 0:
        return False
    return bool(libc.syscall(ctypes.c_long(MEMBARRIER), ctypes.c_long(GLOBAL_EXPEDITED), 0, 0) == 0)


# A child has a memory map of its own; whether it is registered too is not for us to guess.
os.register_at_fork(after_in_child=register.cache_clear)
