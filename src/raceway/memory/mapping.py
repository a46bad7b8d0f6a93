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
_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value


def map_shared(
    descriptor: int, size: int, offset: int = 0, *, writable: bool = True
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Map `size` bytes of a descriptor from `offset` on, shared, for reading and (`writable`) writing: uint8, shape
    (size,).

    Unmapped when the last array over it is gone, never earlier. Raises OSError.
    """
    return _array(_map(None, size, mmap.MAP_SHARED, descriptor, offset, writable=writable), size)


def map_private(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pages of this process, zeros: uint8, shape (size,), starting on a page of their own. Raises OSError."""
    return _array(_map(None, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0), size)


def map_over(address: int, size: int, descriptor: int) -> None:
    """Put a descriptor's bytes, shared, where `map_private` has put pages: who has the address sees them from now on.

    Raises OSError; then what was there is there still.
    """
    _map(address, size, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)


def _map(
    address: int | None, size: int, flags: int, descriptor: int, offset: int, *, writable: bool = True
) -> int:
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    found: int | None = _libc.mmap(address, size, protection, flags, descriptor, offset)
    if found is None or found == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"mapping {size:,} bytes of memory: {os.strerror(error)}")
    return found


def _array(address: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    room = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(room, _libc.munmap, address, size)
    return np.frombuffer(memoryview(room), dtype=np.uint8)
