"""The kernel's own type information (BTF): where a program finds the number of a kernel function that it calls.

/sys/kernel/btf/vmlinux, which anybody may read, holds the names and types of everything in the kernel
(Documentation/bpf/btf.rst, section 2). A kernel function (kfunc) is called by its number there, and that is how many
types stand before it: so they are counted.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path

_VMLINUX = Path("/sys/kernel/btf/vmlinux")
_HEADER = struct.Struct("=HBBIIIII")
_MAGIC = 0xEB9F
_TYPE_WORDS = 3
_FUNCTION = 12
# Kinds with something behind their three words: so many words, and so many more a member.
_INTEGER, _ARRAY, _STRUCTURE, _UNION, _ENUMERATION, _PROTOTYPE, _VARIABLE, _SECTION, _TAG, _ENUMERATION_64 = (
    1, 3, 4, 5, 6, 13, 14, 15, 17, 19,
)  # fmt: skip
_WORDS = {_INTEGER: 1, _ARRAY: 3, _VARIABLE: 1, _TAG: 1}
_WORDS_A_MEMBER = {
    _STRUCTURE: 3, _UNION: 3, _ENUMERATION: 2, _PROTOTYPE: 2, _SECTION: 3, _ENUMERATION_64: 3,
}  # fmt: skip


@cache
def kernel_function(name: str) -> int | None:
    """The BTF number of a function of the running kernel, for `Assembler.call_kfunc`; None if it has none of that
    name, or no BTF. Takes some tens of milliseconds the first time."""
    try:
        raw = _VMLINUX.read_bytes()
    except OSError:
        return None
    return find_function(raw, name)


def find_function(raw: bytes, name: str) -> int | None:
    """The number of the function of this name in BTF data; None if there is none, or the data is no BTF."""
    if len(raw) < _HEADER.size:
        return None
    magic, _, _, header, types, types_size, strings, strings_size = _HEADER.unpack_from(raw)
    if magic != _MAGIC or header + types + types_size > len(raw) or types_size % 4:
        return None
    start = header + strings
    # Strings lie one behind the other, the first one empty, each with a zero byte at its end.
    found = raw.find(b"\0" + name.encode() + b"\0", start, start + strings_size)
    if found < 0:
        return None
    wanted = found + 1 - start
    words = memoryview(raw)[header + types : header + types + types_size].cast("I")
    fixed = [_TYPE_WORDS + _WORDS.get(kind, 0) for kind in range(32)]
    a_member = [_WORDS_A_MEMBER.get(kind, 0) for kind in range(32)]
    at, number, end = 0, 1, len(words) - 1
    while at < end:
        info = words[at + 1]
        kind = info >> 24 & 31
        if kind == _FUNCTION and words[at] == wanted:
            return number
        at += fixed[kind] + a_member[kind] * (info & 0xFFFF)
        number += 1
    return None
