"""From generated eBPF to a loaded program: maps for its state, a control record with its counters, the verifier asked.

A processor counts for itself (`compile.bpf.definitions`); who reads adds up.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raceway.compile.bpf import definitions, kept
from raceway.compile.recipe import recipe
from raceway.compile.state.words import State
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.part_types import described, load_types
from raceway.kernel.bpf.programs import LOG_STEPS, LOG_WORDS, Program
from raceway.kernel.bpf.system import MAP_MMAPABLE, PROGRAM_XDP_FRAGMENTS, MapKind, ProgramKind, VerifierError
from raceway.kernel.functions.refusals import explained, too_complex
from raceway.kernel.functions.sharing import shared
from raceway.memory.collection import without_collection

if TYPE_CHECKING:
    from raceway.compile.bpf.generated import Generated
    from raceway.compile.function import PacketFunction

_MAP, _MAP_VALUE = 1, 2  # BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE
_KINDS = {"xdp": (ProgramKind.XDP, PROGRAM_XDP_FRAGMENTS), "tcx": (ProgramKind.SCHED_CLS, 0)}
_SECOND = 1_000_000_000


class LoadedFunction:
    """A packet function in the kernel, attached to nothing yet.

    program: what can be attached or run; counters: packets by verdict and by why they were ABORTED. Raises
    PacketFunctionError, VerifierError, PermissionNeededError, OSError.
    """

    def __init__(self, function: PacketFunction, sockets: Map | None = None) -> None:
        generated = generated_for(function)
        self.function = function
        self.generated = generated
        size = definitions.control_size(generated.processors)
        self._maps: dict[str, Map] = {}
        try:
            self._maps[definitions.CONTROL] = control = Map(
                MapKind.ARRAY, value_size=size, entries=1, name="rw_control", flags=MAP_MMAPABLE
            )
            self._maps[definitions.NEXT] = self.next = Map(
                MapKind.PROG_ARRAY, value_size=4, entries=1, name="rw_next"
            )
            if sockets is None:
                # Empty: no queue has a ring.
                sockets = self._maps[definitions.SOCKETS] = Map(
                    MapKind.XSKMAP, value_size=4, entries=1, name="rw_sockets"
                )
            self._sockets = sockets
            memory = control.memory().view(np.int64)
            # The kernel's TAI clock steps as the clock of the day does, and is whole seconds ahead of it.
            ahead = time.clock_gettime_ns(time.CLOCK_TAI) - time.time_ns()
            memory[definitions.TIME_OFFSET // 8] = (ahead + _SECOND // 2) // _SECOND * _SECOND
            self.record = memory[: definitions.ZEROS_AT // 8]
            counted = memory[definitions.COUNTERS_AT // 8 : size // 8]
            self._counters = counted.reshape(generated.processors, definitions.COUNTERS_STRIDE // 8)
            try:
                self.program = self._load(generated, LOG_WORDS)
            except VerifierError as error:
                self.program = self._otherwise(error)
        except BaseException:
            self._close_maps()
            raise

    def _otherwise(self, error: VerifierError) -> Program:
        """The program in another arrangement, if it is the verifier's patience that the first was too much for."""
        if too_complex(error):
            from raceway.compile.bpf.generate import ARRANGEMENTS, generate

            for arrangement in range(1, ARRANGEMENTS):
                made = generate(self.function, processors(), arrangement=arrangement)
                try:
                    program = self._load(made, LOG_WORDS)
                except VerifierError:
                    continue
                self.generated = self.function.generated = made
                if self.function.kept_as is not None:
                    kept.store(self.function.kept_as, made)
                return program
        raise self._refusal(error) from None

    def _refusal(self, error: VerifierError) -> VerifierError:
        from raceway.compile.bpf.generate import generate

        def load(generated: Generated) -> None:
            self._load(generated, LOG_STEPS).close()

        return explained(
            self.function, error, lambda: generate(self.function, processors(), places=True), load
        )

    def _load(self, generated: Generated, log: int) -> Program:
        code = bytearray(generated.instructions)
        for reference in generated.references:
            at, wanted = reference.instruction * 8, reference.wanted
            if isinstance(wanted, State):
                used, how = shared(wanted), _MAP_VALUE
            else:
                used = self._sockets if wanted == definitions.SOCKETS else self._maps[wanted]
                how = _MAP_VALUE if wanted == definitions.CONTROL else _MAP
            code[at + 1] |= how << 4
            code[at + 4 : at + 8] = used.fd.to_bytes(4, "little")
            code[at + 12 : at + 16] = reference.offset.to_bytes(4, "little")
        name = program_name(self.function.name)
        with ExitStack() as stack:
            types = None
            if generated.parts:
                blob, rows = described(generated.parts, definitions.HOOKS[self.function.hook].context)
                types = stack.enter_context(load_types(blob)), rows
            kind, flags = _KINDS[self.function.hook]
            return Program(kind, bytes(code), name=name, flags=flags, log=log, types=types)

    def go_on(self, following: Program | None) -> None:
        """Hand what passes to another program from now on, or to nobody."""
        if following is None:
            self.next.delete(0)
        else:
            self.next.update(0, following.fd)

    def _close_maps(self) -> None:
        for one in self._maps.values():
            one.close()

    @property
    def counters(self) -> dict[str, int]:
        """Packets by verdict (`ABORTED` to `REDIRECT`), then by why they were ABORTED, over all processors."""
        sums = self._counters.sum(axis=0).tolist()
        return dict(zip(definitions.COUNTERS, sums, strict=False))

    def close(self) -> None:
        """Let go of it. What it is attached to keeps it."""
        self.program.close()
        self._close_maps()

    def __enter__(self) -> LoadedFunction:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def generated_for(function: PacketFunction) -> Generated:
    """The function's eBPF, made at the first call. Raises PacketFunctionError."""
    from raceway.memory.jit import INTERPRETED

    if INTERPRETED:
        raise NotImplementedError(
            "eBPF is made by the compiler that NUMBA_DISABLE_JIT=1 has switched off; unset it"
        )
    if function.generated is None:
        function.generated = _kept_or_made(function)
    made: Generated = function.generated
    return made


def _kept_or_made(function: PacketFunction) -> Generated:
    """From the cache, without a compiler; else generated, and kept.

    Not so if the function was compiled for another target already: its constants are those of that moment, and the
    recipe would have today's.
    """
    before = recipe(function) if function.typed is None else None
    if before is not None:
        found = kept.load(before, processors())
        if found is not None:
            return found
    with without_collection():
        from raceway.compile.bpf.generate import generate

        made = generate(function, processors())
    if before is not None:
        after = recipe(function)
        # Another thread may have given a global another value meanwhile.
        if after is not None and after.text == before.text:
            function.kept_as = before
            kept.store(before, made)
    return made


def processors() -> int:
    """The power of two that every processor's number is below."""
    # As "0-3,8-11".
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace("-", ",").split(",")[-1]
    return 1 << int(last).bit_length()


def program_name(name: str) -> str:
    """A function's name as the kernel's tools shall show it."""
    letters = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter == "_") else "_" for letter in name
    )
    return f"rw_{letters}"[:15]
