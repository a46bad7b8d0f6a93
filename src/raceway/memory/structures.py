"""Records at an address: the one way in which data-plane code reads and writes state.

`structure("Ring", dtype)` makes a class from a numpy structured dtype. `Ring(address)` is that record seen at
an address, and its fields are attributes. In compiled code such a view is the bare address and an access is
one load or store; interpreted it is a small object. Every field, whatever its width, is read as a signed
64-bit integer: numba follows NumPy in turning an unsigned 64-bit and a signed one into a double, and a packet
length must never become one. Hence there are no unsigned 64-bit fields.

The address is believed. Who calls `Ring(address)` has got the address from a region that it keeps mapped.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from raceway.memory.jit import INTERPRETED

_CTYPES = {
    "i1": ctypes.c_int8, "u1": ctypes.c_uint8, "i2": ctypes.c_int16, "u2": ctypes.c_uint16,
    "i4": ctypes.c_int32, "u4": ctypes.c_uint32, "i8": ctypes.c_int64,
}  # fmt: skip


class Structure:
    """Base of the classes that `structure` makes: a record's fields seen at an address."""

    __slots__ = ("address",)
    dtype: np.dtype[Any]
    size: int

    def __init__(self, address: int) -> None:
        self.address = address

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)}" for name in self.dtype.names or ())
        return f"{type(self).__name__}({fields})"


def structure(name: str, dtype: np.dtype[Any]) -> Any:
    """Make the class of views of one record type.

    dtype: a numpy structured dtype whose fields are integers of 1, 2, 4 bytes (signed or not) or 8 bytes
    (signed); fields of other kinds (arrays) are laid out but have no attribute.
    """
    if "address" in (dtype.names or ()):
        raise TypeError(f"{name}.address: that is where the record is, so no field can have the name")
    fields: dict[str, tuple[str, int]] = {}
    for field in dtype.names or ():
        kind, offset = dtype.fields[field][:2]  # type: ignore[index]
        if kind.str[1:] in _CTYPES:
            fields[field] = (kind.str[1:], int(offset))
        elif kind.shape == ():
            raise TypeError(f"{name}.{field}: a field of kind {kind.str} cannot be a signed 64-bit number")
    body: dict[str, Any] = {"__slots__": (), "dtype": dtype, "size": dtype.itemsize, "fields": fields}
    for field, (code, offset) in fields.items():
        body[field] = _property(_CTYPES[code], offset)
    made = type(name, (Structure,), body)
    if not INTERPRETED:
        _compiled_later.append(made)
        if _register:
            announce(_register[0])
    return made


_compiled_later: list[Any] = []
_register: list[Callable[[Any], None]] = []


def announce(register: Callable[[Any], None]) -> None:
    """Hand every class, and each that will be made, to what makes them known to the compiler.

    It calls this itself when it is imported: so a program whose loops are all kept from before never imports it.
    """
    _register[:] = [register]
    while _compiled_later:
        register(_compiled_later.pop(0))


def _property(kind: Any, offset: int) -> property:
    at = kind.from_address

    def read(self: Structure) -> int:
        value: int = at(self.address + offset).value
        return value

    def write(self: Structure, value: int) -> None:
        at(self.address + offset).value = value

    return property(read, write)


def allocate(kind: type[Structure], count: int = 1) -> np.ndarray[Any, np.dtype[Any]]:
    """Return `count` zeroed records of this process's own memory, on cache lines of their own, shape (count,)."""
    size = kind.dtype.itemsize
    raw = np.zeros(count * size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * size].view(kind.dtype)
