"""BPF maps: tables that live in the kernel, and arrays that programs and processes have in memory together.

A lookup or update is a system call of some 0.3 us to 1 us. `memory` costs nothing: the array's own pages, mapped.

    values of an array, in `memory`:   | value 0, padded to `stride` | value 1, padded | ... |   whole pages in all
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from raceway.kernel.bpf.system import (
    MAP_MMAPABLE,
    UPDATE_ANY,
    Command,
    Descriptor,
    MapKind,
    bpf,
    check_name,
    named,
    object_info,
    open_id,
)
from raceway.kernel.capabilities import refused
from raceway.memory.mapping import map_shared

_PER_CPU = (MapKind.PERCPU_HASH, MapKind.PERCPU_ARRAY, MapKind.LRU_PERCPU_HASH)
_OF_NETWORKS = (MapKind.DEVMAP, MapKind.DEVMAP_HASH, MapKind.XSKMAP)


class CreateAttributes(ctypes.Structure):
    """For MAP_CREATE."""

    _fields_ = [
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * 16),
    ]


class ElementAttributes(ctypes.Structure):
    """For MAP_*_ELEM and MAP_GET_NEXT_KEY. The pad is the compiler's, and must be zero."""

    _fields_ = [
        ("map_fd", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),  # or next_key
        ("flags", ctypes.c_uint64),
    ]


class MapInfoRecord(ctypes.Structure):
    """struct bpf_map_info, as far as it is wanted here."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    ]


class Map(Descriptor):
    """A map. Gone when nobody has a descriptor of it, no program uses it and no array over its memory is left.

    kind: `MapKind`; key_size and value_size: bytes; entries: how many at most; name: shown by the kernel's tools;
    flags: MAP_ values of `system`; inner: for a map of maps, one of the kind that it holds. Keys and values are bytes
    of exactly those sizes, or integers in the machine's byte order. Of a map with one value a processor, a value is one
    of `stride` bytes for every possible processor.
    Raises PermissionNeededError and OSError.
    """

    def __init__(
        self,
        kind: int,
        *,
        key_size: int = 4,
        value_size: int,
        entries: int,
        name: str = "",
        flags: int = 0,
        inner: Map | None = None,
    ) -> None:
        for what, number in (("key_size", key_size), ("value_size", value_size), ("entries", entries)):
            if not 0 <= number < 1 << 32:
                raise ValueError(f"map {name!r}: {what} is {number}, and 0 to 2^32 - 1 was expected")
        what = f"making the BPF map {name!r}"
        attributes = CreateAttributes(kind, key_size, value_size, entries, flags)
        attributes.map_name = check_name("map", name)
        if inner is not None:
            attributes.inner_map_fd = inner.fd
        try:
            descriptor = bpf(Command.MAP_CREATE, attributes)
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise named(error, what) from None
            needed = ["CAP_NET_ADMIN", "CAP_BPF"] if kind in _OF_NETWORKS else ["CAP_BPF"]
            raise refused(what, needed) from None
        except OSError as error:
            raise named(
                error, f"{what} of {entries:,} entries, {key_size} and {value_size} bytes each"
            ) from None
        self._adopt(descriptor, kind, key_size, value_size, entries, name, flags)

    def _adopt(
        self, descriptor: int, kind: int, key_size: int, value_size: int, entries: int, name: str, flags: int
    ) -> None:
        super().__init__(descriptor, f"BPF map {name!r}")
        self.kind = kind
        self.key_size = key_size
        self.value_size = value_size
        self.entries = entries
        self.name = name
        self.flags = flags
        self._value_bytes = self.stride * _possible_processors() if kind in _PER_CPU else value_size

    @classmethod
    def from_fd(cls, descriptor: int) -> Self:
        """The map of a descriptor, which is the map's to close from now on. Raises OSError if it is none."""
        info = MapInfoRecord()
        object_info(descriptor, info)
        found = cls.__new__(cls)
        found._adopt(
            descriptor,
            info.type,
            info.key_size,
            info.value_size,
            info.max_entries,
            info.name.decode(errors="replace"),
            info.map_flags,
        )
        return found

    @classmethod
    def from_id(cls, number: int) -> Self:
        """The map of this id. Takes CAP_SYS_ADMIN; FileNotFoundError if there is none."""
        try:
            return cls.from_fd(open_id(Command.MAP_GET_FD_BY_ID, number))
        except OSError as error:
            if error.errno == errno.EPERM:
                raise refused(f"opening BPF map {number}", ["CAP_SYS_ADMIN"]) from None
            raise named(error, f"opening BPF map {number}") from None

    @property
    def id(self) -> int:
        """The kernel's number of it."""
        info = MapInfoRecord()
        object_info(self.fd, info)
        number: int = info.id
        return number

    @property
    def stride(self) -> int:
        """From one value of an array to the next, in bytes: the value's size rounded up to 8."""
        return -(-self.value_size // 8) * 8

    def lookup(self, key: bytes | int) -> bytes | None:
        """The value, or None if there is none."""
        value = ctypes.create_string_buffer(max(self._value_bytes, 1))
        try:
            self._element(Command.MAP_LOOKUP_ELEM, key, value)
        except FileNotFoundError:
            return None
        return value.raw[: self._value_bytes]

    def update(self, key: bytes | int, value: bytes | int, flags: int = UPDATE_ANY) -> None:
        """Set a value. flags: UPDATE_ values of `system`. FileExistsError, FileNotFoundError as they ask for;
        OSError E2BIG when the map is full or the key beyond an array's end."""
        data = self._bytes("value", value, self._value_bytes)
        self._element(
            Command.MAP_UPDATE_ELEM, key, ctypes.create_string_buffer(data, max(len(data), 1)), flags
        )

    def delete(self, key: bytes | int) -> bool:
        """Remove an entry. False if there was none. OSError EINVAL for an array, whose entries are always there."""
        try:
            self._element(Command.MAP_DELETE_ELEM, key, None)
        except FileNotFoundError:
            return False
        return True

    def next_key(self, key: bytes | int | None = None) -> bytes | None:
        """The key after this one, in the map's own order; the first for None or a key that is not there; None at
        the end."""
        following = ctypes.create_string_buffer(max(self.key_size, 1))
        try:
            self._element(Command.MAP_GET_NEXT_KEY, key, following)
        except FileNotFoundError:
            return None
        return following.raw[: self.key_size]

    def __iter__(self) -> Iterator[bytes]:
        """All keys. Others may change the map meanwhile: a key can come twice then, or not at all."""
        key = self.next_key()
        while key is not None:
            yield key
            key = self.next_key(key)

    def memory(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The values of an array that was made with MAP_MMAPABLE, as they are: uint8, shape (whole pages,).

        Value i begins at i * `stride`. Stays mapped, and the map alive, until the last array over it is gone.
        """
        if self.kind != MapKind.ARRAY or not self.flags & MAP_MMAPABLE:
            raise ValueError(f"map {self.name!r} has no memory to show: that is for arrays with MAP_MMAPABLE")
        size = self.stride * self.entries
        return map_shared(self.fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)

    def positions(self) -> tuple[Any, Any]:
        """How far a ring buffer's reader and its writers have got, as they are: two int64 arrays of shape (1,), the
        first one the reader's to move (Documentation/bpf/ringbuf.rst)."""
        if self.kind != MapKind.RINGBUF:
            raise ValueError(f"map {self.name!r} is no ring buffer")
        reader = map_shared(self.fd, mmap.PAGESIZE)
        writers = map_shared(self.fd, mmap.PAGESIZE, mmap.PAGESIZE, writable=False)
        return reader[:8].view(np.int64), writers[:8].view(np.int64)

    def _element(
        self,
        command: int,
        key: bytes | int | None,
        value: ctypes.Array[ctypes.c_char] | None,
        flags: int = 0,
    ) -> None:
        attributes = ElementAttributes(self.fd, flags=flags)
        if key is not None:
            data = self._bytes("key", key, self.key_size)
            key_buffer = ctypes.create_string_buffer(data, max(len(data), 1))
            attributes.key = ctypes.addressof(key_buffer)
        if value is not None:
            attributes.value = ctypes.addressof(value)
        try:
            bpf(command, attributes)
        except OSError as error:
            raise named(error, f"map {self.name!r}, key {key!r}") from None

    def _bytes(self, what: str, value: bytes | int, size: int) -> bytes:
        if isinstance(value, int):
            try:
                return value.to_bytes(size, sys.byteorder, signed=value < 0)
            except OverflowError:
                raise ValueError(
                    f"map {self.name!r}: {what} {value} does not fit into {size} bytes"
                ) from None
        if len(value) != size:
            raise ValueError(f"map {self.name!r}: a {what} of {len(value)} bytes, where {size} were expected")
        return bytes(value)


def _possible_processors() -> int:
    """How many processors there could ever be: values a processor are kept for all of them."""
    # As "0-3,8-11".
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    bounds = [[int(number) for number in text.split("-")] for text in ranges]
    return sum(bound[-1] - bound[0] + 1 for bound in bounds)
