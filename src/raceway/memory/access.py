"""Loads, stores, copies, fences and the few calls to the C library that compiled loops make.

One name each, in both worlds: compiled, these are single instructions or direct calls (`lowering`); interpreted,
they are ctypes on the same addresses. Values are signed 64-bit integers. Addresses are believed, as in
`structures`; what comes from a packet is checked against its bounds before it gets here.

The two that order memory between processors:

`load_acquire` / `store_release`
    a ring's index is stored with release after the slots that it hands over, and loaded with acquire before
    they are read: whoever sees the index sees the slots.
`fence`
    between "I publish" and "is the other asleep?", and between "I go to sleep" and "did something come?".
    Without it both may see the old value, and the wake-up is lost.
"""

from __future__ import annotations

import ctypes
from typing import Any

from raceway.memory.jit import INTERPRETED, inner, interpreted_batches

_libc = ctypes.CDLL(None, use_errno=True)


def _external(name: str, result: str, *arguments: str) -> Any:
    """A C library function, callable from compiled code (and cacheable, unlike a ctypes pointer) and from Python."""
    if INTERPRETED:
        kinds = {"i4": ctypes.c_int, "i8": ctypes.c_int64, "p": ctypes.c_void_p}
        function = getattr(_libc, name)
        function.restype = kinds[result]
        function.argtypes = [kinds[argument] for argument in arguments]
        return function
    from numba.core import types

    numba_kinds: Any = {"i4": types.int32, "i8": types.int64, "p": types.int64}
    signature = numba_kinds[result](*(numba_kinds[argument] for argument in arguments))
    return types.ExternalFunction(name, signature)


poll = _external("poll", "i4", "p", "i8", "i4")
write = _external("write", "i8", "i4", "p", "i8")
read = _external("read", "i8", "i4", "p", "i8")
readv = _external("readv", "i8", "i4", "p", "i4")
writev = _external("writev", "i8", "i4", "p", "i4")
clock_gettime = _external("clock_gettime", "i4", "i4", "p")
sendto = _external("sendto", "i8", "i4", "p", "i8", "i4", "p", "i4")
recvfrom = _external("recvfrom", "i8", "i4", "p", "i8", "i4", "p", "p")
eventfd_write = _external("eventfd_write", "i4", "i4", "i8")
eventfd_read = _external("eventfd_read", "i4", "i4", "p")
clock_nanosleep = _external("clock_nanosleep", "i4", "i4", "i4", "p", "p")
syscall = _external("syscall", "i8", "i8", "i8", "i8", "i8")
sched_yield = _external("sched_yield", "i4")

if INTERPRETED:

    def _loader(kind: Any, swap: int = 0) -> Any:
        at = kind.from_address
        if not swap:
            return lambda address: at(address).value
        return lambda address: int.from_bytes(ctypes.string_at(address, swap), "big")

    def _storer(kind: Any, swap: int = 0) -> Any:
        at = kind.from_address

        def store(address: int, value: int) -> None:
            at(address).value = value

        def store_swapped(address: int, value: int) -> None:
            ctypes.memmove(address, (value & ((1 << 8 * swap) - 1)).to_bytes(swap, "big"), swap)

        return store_swapped if swap else store

    load_u8, store_8 = _loader(ctypes.c_uint8), _storer(ctypes.c_uint8)
    load_u16, store_16 = _loader(ctypes.c_uint16), _storer(ctypes.c_uint16)
    load_u32, store_32 = _loader(ctypes.c_uint32), _storer(ctypes.c_uint32)
    load_i32 = _loader(ctypes.c_int32)
    load_i64, store_64 = _loader(ctypes.c_int64), _storer(ctypes.c_int64)
    load_be16, store_be16 = _loader(ctypes.c_uint16, 2), _storer(ctypes.c_uint16, 2)
    load_be32, store_be32 = _loader(ctypes.c_uint32, 4), _storer(ctypes.c_uint32, 4)
    store_be64 = _storer(ctypes.c_int64, 8)

    def load_be64(address: int) -> int:
        return int.from_bytes(ctypes.string_at(address, 8), "big", signed=True)

    load_acquire, store_release = load_i64, store_64
    load_acquire32, store_release32 = load_u32, store_32
    errno = ctypes.get_errno

    def fence() -> None:
        """Nothing to do: the interpreter's own calls order memory on the processors that raceway runs on."""
        _libc.sched_yield()

    def copy(destination: int, source: int, length: int) -> None:
        ctypes.memmove(destination, source, length)

    def copy_line(destination: int, source: int) -> None:
        ctypes.memmove(destination, source, 64)

    def call_batch(function: int, argument: int) -> int:
        return interpreted_batches[function](argument)

else:
    from raceway.memory import lowering as _lowering

    load_u8, store_8 = _lowering.load("u1"), _lowering.store("u1")
    load_u16, store_16 = _lowering.load("u2"), _lowering.store("u2")
    load_u32, store_32 = _lowering.load("u4"), _lowering.store("u4")
    load_i32 = _lowering.load("i4")
    load_i64, store_64 = _lowering.load("i8"), _lowering.store("i8")
    load_be16, store_be16 = _lowering.load("u2", swap=True), _lowering.store("u2", swap=True)
    load_be32, store_be32 = _lowering.load("u4", swap=True), _lowering.store("u4", swap=True)
    load_be64, store_be64 = _lowering.load("i8", swap=True), _lowering.store("i8", swap=True)
    load_acquire = _lowering.load("i8", ordering="acquire")
    store_release = _lowering.store("i8", ordering="release")
    load_acquire32 = _lowering.load("u4", ordering="acquire")
    store_release32 = _lowering.store("u4", ordering="release")
    _errno_location = _external("__errno_location", "p")
    fence, copy, copy_line, call_batch = (
        _lowering.fence, _lowering.copy, _lowering.copy_line, _lowering.call_batch,
    )  # fmt: skip

    @inner
    def errno() -> int:
        """What the last of these calls that failed has set."""
        return load_i32(_errno_location())
