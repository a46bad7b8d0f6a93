"""A program's functions with types: the kernel takes them, and holds callers and callees to them."""

from __future__ import annotations

import struct

import pytest

from bpf_harness import needs_bpf
from raceway.kernel.bpf.part_types import described, load_types
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import ProgramKind, VerifierError

pytestmark = needs_bpf


def instruction(code: int, registers: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return struct.pack("<BBhi", code, registers, offset, number)


EXIT = instruction(0x95)


def program(room: int) -> bytes:
    """Hands memory of so many bytes and 7 to a function, which leaves 7 + 35 there; returns what is there then."""
    return b"".join((
        instruction(0x7A, 0x0A, -room, 0) + (instruction(0x7A, 0x0A, -room + 8, 0) if room > 8 else b""),
        instruction(0xBF, 0xA2) + instruction(0x07, 0x02, 0, -room),  # r2 = r10 - room
        instruction(0xB7, 0x03, 0, 7),  # r3 = 7
        instruction(0x85, 0x10, 0, 2),  # call the function behind
        instruction(0x79, 0xA0, -room) + EXIT,
        instruction(0x55, 0x02, 2, 0) + instruction(0xB7, 0x00, 0, 1) + EXIT,  # if r2 == 0: return 1
        instruction(0x07, 0x03, 0, 35) + instruction(0x7B, 0x32, 0),  # *r2 = r3 + 35
        instruction(0xB7, 0x00, 0, 0) + EXIT,
    ))  # fmt: skip


def parts(room: int, size: int):
    start = program(room).index(EXIT) // 8 + 1
    return [(0, None), (start, ("context", size, "number"))]


def loaded(room: int, size: int) -> Program:
    blob, rows = described(parts(room, size))
    with load_types(blob) as types:
        return Program(ProgramKind.XDP, program(room), types=(types, rows))


def test_a_function_with_types_takes_context_memory_and_a_number():
    with loaded(16, 16) as made:
        assert made.test_run(bytes(64))[0] == 42


def test_memory_of_another_size_is_refused():
    with pytest.raises(VerifierError):
        loaded(8, 16)


def test_types_that_are_none_are_refused_by_name():
    with pytest.raises(OSError, match="type information"):
        load_types(b"\0" * 24)
