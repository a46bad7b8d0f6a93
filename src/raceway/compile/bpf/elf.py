"""The object file that LLVM makes of a program (ELF, little-endian, 64 bit): sections, symbols, relocations.

Only what LLVM's own BPF back end writes is read, so nothing here is on guard against hostile files.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_SYMBOLS, _RELOCATIONS = 2, 9  # SHT_SYMTAB, SHT_REL


@dataclass(frozen=True)
class Symbol:
    """A symbol: its section's index (0: defined elsewhere) and its offset there."""

    name: str
    section: int
    value: int


@dataclass(frozen=True)
class Relocation:
    """At `offset` of its section, something of `symbol` is wanted."""

    offset: int
    kind: int
    symbol: Symbol


@dataclass
class Section:
    """A section: its index, name, bytes and relocations; `symbols`: what begins in it, by name."""

    index: int
    name: str
    data: bytes
    relocations: list[Relocation] = field(default_factory=list)
    symbols: dict[str, int] = field(default_factory=dict)


def read(raw: bytes) -> dict[str, Section]:
    """The sections of an object file, by name."""
    header = _HEADER.unpack_from(raw)
    start, size, count, names_at = header[6], header[11], header[12], header[13]
    rows = [_SECTION.unpack_from(raw, start + index * size) for index in range(count)]
    contents = [raw[row[4] : row[4] + row[5]] for row in rows]

    sections = [
        Section(index, _text(contents[names_at], row[0]), contents[index]) for index, row in enumerate(rows)
    ]
    for index, row in enumerate(rows):
        if row[1] == _SYMBOLS:
            for one in _symbols(contents[index], contents[row[6]]):
                if one.name and 0 < one.section < count:
                    sections[one.section].symbols[one.name] = one.value
        if row[1] != _RELOCATIONS:
            continue
        table, target = row[6], row[7]
        symbols = _symbols(contents[table], contents[rows[table][6]])
        sections[target].relocations = [
            Relocation(offset, info & 0xFFFFFFFF, symbols[info >> 32])
            for offset, info in _RELOCATION.iter_unpack(contents[index])
        ]
    return {section.name: section for section in sections}


def _symbols(table: bytes, names: bytes) -> list[Symbol]:
    return [
        Symbol(_text(names, name), section, value)
        for name, _, _, section, value, _ in _SYMBOL.iter_unpack(table)
    ]


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()
