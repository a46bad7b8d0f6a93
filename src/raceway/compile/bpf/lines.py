"""Which line of the user's source an instruction comes from: LLVM writes it beside the instructions (.BTF.ext).

Only made when somebody asks, which is when the verifier has refused a program: the function is lowered once more then,
with the lines of the user's own functions noted. What is inlined into a line belongs to that line.
Format: Documentation/bpf/btf.rst, section 4.2.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from raceway.compile.bpf.elf import Section

_HEADER = struct.Struct("<HBBIIIII")
_STRINGS = struct.Struct("<HBBIIIII")
_RECORD = struct.Struct("<IIII")


def read(sections: dict[str, Section]) -> list[tuple[int, str, int]]:
    """Slot, file and line where each stretch of instructions begins, in the order of slots; [] if nothing is noted."""
    if ".BTF.ext" not in sections or ".BTF" not in sections:
        return []
    types = sections[".BTF"].data
    *_, header, _, _, strings_at, strings_size = _STRINGS.unpack_from(types)
    strings = types[header + strings_at : header + strings_at + strings_size]
    raw = sections[".BTF.ext"].data
    _, _, _, header, _, _, lines_at, lines_size = _HEADER.unpack_from(raw)
    at, end = header + lines_at, header + lines_at + lines_size
    size = struct.unpack_from("<I", raw, at)[0]
    at += 4
    found = []
    while at < end:
        _, count = struct.unpack_from("<II", raw, at)
        at += 8
        for _ in range(count):
            offset, file, _, line = _RECORD.unpack_from(raw, at)
            name = strings[file : strings.index(b"\0", file)].decode(errors="replace")
            found.append((offset // 8, name, line >> 10))
            at += size
    return sorted(found)


def place_of(table: list[tuple[int, str, int]], slot: int) -> tuple[str, int]:
    """File and line of an instruction, ("", 0) where none is known. LLVM says line 0 of what is nobody's."""
    index = bisect.bisect_right([first for first, _, _ in table], slot) - 1
    while index >= 0 and table[index][2] == 0:
        index -= 1
    return (table[index][1], table[index][2]) if index >= 0 else ("", 0)


@contextmanager
def noted() -> Iterator[None]:
    """Have what is lowered meanwhile note its lines."""
    from raceway.compile import pipeline

    pipeline.note_lines = True
    try:
        yield
    finally:
        pipeline.note_lines = False
