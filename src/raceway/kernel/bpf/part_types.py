"""Type information (BTF) of a program's own functions: what the verifier wants to know of those that it walks once.

A blob of types and names (Documentation/bpf/btf.rst, section 2), which the kernel takes before the program, and a row a
function: its first instruction, and its type (section 3.4, `func_info`).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

from raceway.kernel.bpf.system import Command, Descriptor, bpf, named

_MAGIC, _VERSION = 0xEB9F, 1
_INTEGER, _POINTER, _ARRAY, _STRUCTURE, _FUNCTION, _PROTOTYPE = 1, 2, 3, 4, 12, 13
_STATIC, _GLOBAL = 0, 1
_SIGNED = 1 << 24
_ROW = struct.Struct("=II")
ROW_SIZE = _ROW.size


class _LoadAttributes(ctypes.Structure):
    """For BTF_LOAD."""

    _fields_ = [
        ("btf", ctypes.c_uint64),
        ("btf_log_buf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("btf_log_size", ctypes.c_uint32),
        ("btf_log_level", ctypes.c_uint32),
    ]


class _Types:
    """Types, numbered from 1, and the names that they have."""

    def __init__(self) -> None:
        self.raw = bytearray()
        self.names = bytearray(b"\0")
        self._count = 0

    def name(self, text: str) -> int:
        at = len(self.names)
        self.names += text.encode() + b"\0"
        return at

    def add(self, name: str, kind: int, length: int, size_or_type: int, *more: int) -> int:
        at = self.name(name) if name else 0
        self.raw += struct.pack(f"={3 + len(more)}I", at, kind << 24 | length, size_or_type, *more)
        self._count += 1
        return self._count

    @property
    def blob(self) -> bytes:
        header = struct.pack(
            "=HBBIIIII", _MAGIC, _VERSION, 0, 24, 0, len(self.raw), len(self.raw), len(self.names)
        )
        return header + self.raw + self.names


def described(
    parts: Sequence[tuple[int, Sequence[int | str] | None]], context: str = "xdp_md"
) -> tuple[bytes, bytes]:
    """The types of a program's functions, and the rows that say which is whose.

    parts: of each function, in order, its first instruction, and what it takes: "context", "number" (of 64 bits), or
    bytes of memory; None for those about which nothing is said: they are walked wherever they are called. context: the
    name of the structure that the kernel hands to programs of this kind.
    """
    types = _Types()
    status = types.add("int", _INTEGER, 0, 4, _SIGNED | 32)
    number = types.add("long", _INTEGER, 0, 8, _SIGNED | 64)
    handed = types.add("", _POINTER, 0, types.add(context, _STRUCTURE, 0, 4))
    memory: dict[int, int] = {}
    rows = b""
    for index, (start, takes) in enumerate(parts):
        arguments = []
        for one in (("context",) if not index else takes) or ():
            if one == "context":
                arguments.append(handed)
            elif one == "number":
                arguments.append(number)
            else:
                size = int(one)
                if size not in memory:
                    words = types.add("", _ARRAY, 0, 0, number, status, size // 8)
                    memory[size] = types.add("", _POINTER, 0, words)
                arguments.append(memory[size])
        pairs = [
            word for place, one in enumerate(arguments) for word in (types.name(f"argument_{place}"), one)
        ]
        prototype = types.add("", _PROTOTYPE, len(arguments), status, *pairs)
        linkage = _GLOBAL if takes is not None or not index else _STATIC
        rows += _ROW.pack(start, types.add(f"part_{index}", _FUNCTION, linkage, prototype))
    return types.blob, rows


def load_types(blob: bytes) -> Descriptor:
    """Hand types to the kernel. Raises OSError."""
    raw = ctypes.create_string_buffer(blob, len(blob))
    try:
        return Descriptor(
            bpf(Command.BTF_LOAD, _LoadAttributes(btf=ctypes.addressof(raw), btf_size=len(blob))), "BPF types"
        )
    except OSError as error:
        raise named(error, "loading a program's type information") from None
