"""From generated eBPF to a loaded program: maps for its state, a control record with its counters, the verifier asked.

A processor counts for itself (`compile.bpf.definitions`); who reads adds up.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raceway.compile.bpf import definitions
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import MAP_MMAPABLE, PROGRAM_XDP_FRAGMENTS, MapKind, ProgramKind
from raceway.kernel.functions.sharing import shared

if TYPE_CHECKING:
    from raceway.compile.bpf.generate import Generated
    from raceway.compile.function import PacketFunction

_MAP_VALUE = 2  # BPF_PSEUDO_MAP_VALUE
_SECOND = 1_000_000_000


class LoadedFunction:
    """A packet function in the kernel, attached to nothing yet.

    program: what can be attached or run; counters: packets by verdict and by why they were ABORTED. Raises
    PacketFunctionError, VerifierError, PermissionNeededError, OSError.
    """

    def __init__(self, function: PacketFunction) -> None:
        generated = generated_for(function)
        self.function = function
        self.generated = generated
        self._control = Map(
            MapKind.ARRAY,
            value_size=definitions.control_size(generated.processors),
            entries=1,
            name="rw_control",
            flags=MAP_MMAPABLE,
        )
        try:
            memory = self._control.memory().view(np.int64)
            # The kernel's TAI clock steps as the clock of the day does, and is whole seconds ahead of it.
            ahead = time.clock_gettime_ns(time.CLOCK_TAI) - time.time_ns()
            memory[definitions.TIME_OFFSET // 8] = (ahead + _SECOND // 2) // _SECOND * _SECOND
            self.record = memory[: definitions.COUNTERS_AT // 8]
            counted = memory[definitions.COUNTERS_AT // 8 : self._control.value_size // 8]
            self._counters = counted.reshape(generated.processors, definitions.COUNTERS_STRIDE // 8)
            self.program = self._load()
        except BaseException:
            self._control.close()
            raise

    def _load(self) -> Program:
        code = bytearray(self.generated.instructions)
        for reference in self.generated.references:
            used = self._control if reference.state is None else shared(reference.state)
            at = reference.instruction * 8
            code[at + 1] |= _MAP_VALUE << 4
            code[at + 4 : at + 8] = used.fd.to_bytes(4, "little")
            code[at + 12 : at + 16] = reference.offset.to_bytes(4, "little")
        return Program(
            ProgramKind.XDP, bytes(code), name=program_name(self.function.name), flags=PROGRAM_XDP_FRAGMENTS
        )

    @property
    def counters(self) -> dict[str, int]:
        """Packets by verdict (`ABORTED` to `REDIRECT`), then by why they were ABORTED, over all processors."""
        sums = self._counters.sum(axis=0).tolist()
        return dict(zip(definitions.COUNTERS, sums, strict=False))

    def close(self) -> None:
        """Let go of it. What it is attached to keeps it."""
        self.program.close()
        self._control.close()

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
        from raceway.compile.bpf.generate import generate

        function.generated = generate(function, processors())
    made: Generated = function.generated
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
