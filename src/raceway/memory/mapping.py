"""A file's bytes as an array, by mmap(2) itself: Python's own keeps a second descriptor open as long as it lives."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def map_shared(
    descriptor: int, size: int, offset: int = 0, *, writable: bool = True
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Map `size` bytes of a descriptor from `offset` on, shared, for reading and (`writable`) writing: uint8, shape
    (size,).

    Unmapped when the last array over it is gone, never earlier. Raises OSError.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    address = _libc.mmap(None, size, protection, mmap.MAP_SHARED, descriptor, offset)
    if address in (None, _FAILED):
        error = ctypes.get_errno()
        raise OSError(error, f"mapping {size:,} bytes of shared memory: {os.strerror(error)}")
    room = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(room, _libc.munmap, address, size)
    return np.frombuffer(memoryview(room), dtype=np.uint8)
