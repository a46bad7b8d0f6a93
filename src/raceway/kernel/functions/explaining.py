"""`raceway.explain`: what was generated of a packet function, for whoever wants to see it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raceway.kernel.functions.loading import generated_for

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction


@dataclass(frozen=True)
class Explanation:
    """What a packet function became.

    llvm: LLVM's language, of the eBPF program, optimised; machine_code: the native batch kernel, as assembly; ebpf: the
    program that the kernel gets, an instruction a line, by slot; instructions: how many slots it has.
    """

    llvm: str
    machine_code: str
    ebpf: str
    instructions: int

    def __str__(self) -> str:
        return f"{self.instructions} eBPF instructions\n\n{self.ebpf}\n"


def explain(function: PacketFunction) -> Explanation:
    """Show what is made of a packet function. Needs no privilege. Raises PacketFunctionError."""
    from raceway.compile.bpf.disassembler import line
    from raceway.compile.bpf.instructions import assemble, parse

    generated = generated_for(function)
    native: Any = function.native()
    made = parse(generated.instructions)
    assemble(made)
    notes = {one.instruction: one.wanted for one in generated.references}
    for one in made:
        wanted = notes.get(one.place)
        one.note = wanted if isinstance(wanted, str) or wanted is None else type(wanted).__name__
    rows: Iterable[str] = (f"{one.place:6}: {line(one)}" for one in made)
    return Explanation(generated.ir, native.assembly, "\n".join(rows), len(generated.instructions) // 8)
