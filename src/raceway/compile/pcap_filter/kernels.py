"""Batch kernels of filters as machine code, kept on disk by their program: nothing here or below imports numba, and a
program that was compiled before needs no compiler either."""

from __future__ import annotations

from typing import Protocol

from raceway.compile.pcap_filter.program import Program
from raceway.memory.machine_code import MachineCode, kept

_NAME = "kernel"


class Judged(Protocol):
    """What of an expression its kernel depends on."""

    text: str
    link_type: int
    program: Program


class NativeFilterKernel:
    """Machine code of a filter's loop over a batch."""

    moves_head = False

    def __init__(self, name: str, code: MachineCode) -> None:
        self.name = name
        self._code = code
        self.address = code.address(_NAME)
        self._call = code.function(_NAME)

    def __call__(self, batch: int, /) -> int:
        return self._call(batch)

    def __repr__(self) -> str:
        return f"<native kernel of {self.name!r} at {self.address:#x}>"


def compile_program(
    program: Program, link_type: int, name: str, *, counts: bool = False, wide: bool = True
) -> NativeFilterKernel:
    """Compile or load the batch kernel of a program for packets of a link type.

    counts: it writes the bytes accepted as 32-bit numbers instead of verdicts. wide=False: one packet at a time, for
    comparison.
    """

    def make() -> str:
        from raceway.compile.pcap_filter.loops import build

        return str(build(program, link_type, counts=counts, wide=wide))

    key = repr((tuple(map(tuple, program)), link_type, counts, wide)).encode()
    return NativeFilterKernel(name, kept("filter", key, make))


def compile_kernel(expression: Judged, *, counts: bool = False, wide: bool = True) -> NativeFilterKernel:
    """The same of an expression."""
    return compile_program(
        expression.program, expression.link_type, expression.text, counts=counts, wide=wide
    )
