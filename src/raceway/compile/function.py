"""`@packet_function`: an ordinary function of a packet that runs interpreted, native, and (elsewhere) in the kernel.

Decorating reads the function's source and refuses what no target supports; it imports no compiler. Compiling happens
at the first `native()`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raceway.compile.checker import check
from raceway.compile.kernel import InterpretedKernel, Kernel
from raceway.compile.packet import Packet
from raceway.compile.source import Source
from raceway.compile.verdicts import Verdict
from raceway.memory.collection import without_collection
from raceway.memory.jit import INTERPRETED

if TYPE_CHECKING:
    from raceway.compile.classifier.classifier import Classifier
    from raceway.compile.state.words import State

REASONS = ("out_of_bounds", "arithmetic", "bad_verdict", "other_error")
"""Why a packet is ABORTED: the names of the counters in `memory.layout.BATCH`."""


@dataclass(frozen=True)
class Staged:
    """How a packet function is made of three parts::

        key = classifier.key(packet)
        return decided(packet, key.wrong, classifier.match(key, asked(packet)))

    The first two only look at a packet, so machine code may do them for many packets before it decides about the first
    of those. asked: a function of a packet, or None for no answers; it must not fail, nor look at what `decided`
    changes. (A function may leave out what does not matter to `decided`, as the rule of a packet that is malformed.)
    """

    classifier: Classifier
    asked: Any
    decided: Any
    by_rule: tuple[State, ...] = ()
    """State whose word at the rule's number `decided` will look at: fetched for all packets before it does."""


class PacketFunction:
    """A function that decides about packets.

    Calling it with a `Packet` runs the function as it is written and returns a `Verdict`; whatever it raises comes
    out (IndexError for a read past the packet's end). `run` is the same as the loops do it. hook: where the kernel
    calls it (`compile.bpf.definitions.HOOKS`).
    """

    def __init__(self, function: Callable[[Any], int]) -> None:
        self.source = Source(function)
        self.function = function
        self.locals = check(self.source)
        self.hook = "xdp"
        self.typed: Any = None
        self.generated: Any = None
        self.kept_as: Any = None
        self.simulated: Any = None
        self.staged: Staged | None = None
        self._native: Kernel | None = None
        self._interpreted: InterpretedKernel | None = None
        functools.update_wrapper(self, function)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.source.name

    def __call__(self, packet: Any) -> Verdict:
        return Verdict(self.function(packet))

    def run(self, packet: Packet) -> tuple[Verdict, str]:
        """Run on one packet as the loops do: (verdict, ""), or (ABORTED, one of `REASONS`). Never raises."""
        try:
            verdict = self.function(packet)
        except IndexError:
            return Verdict.ABORTED, "out_of_bounds"
        except ZeroDivisionError:
            return Verdict.ABORTED, "arithmetic"
        except Exception:
            return Verdict.ABORTED, "other_error"
        if not isinstance(verdict, int) or not 0 <= verdict <= 4:
            return Verdict.ABORTED, "bad_verdict"
        return Verdict(verdict), ""

    def native(self) -> Kernel:
        """Return the batch kernel, compiled at the first call; with NUMBA_DISABLE_JIT=1 it is the interpreted one.

        Raises PacketFunctionError, with the user's line, for what cannot be compiled.
        """
        if INTERPRETED:
            return self.interpreted()
        if self._native is None:
            with without_collection():
                from raceway.compile.native import compile_kernel

                self._native = compile_kernel(self)
        return self._native

    def interpreted(self) -> InterpretedKernel:
        """Return a batch kernel that runs the function as it is written."""
        if self._interpreted is None:
            self._interpreted = InterpretedKernel(self)
        return self._interpreted

    def __repr__(self) -> str:
        return f"<packet function {self.name} of {self.source.file}:{self.source.tree.lineno}>"


def packet_function(function: Callable[[Any], int]) -> PacketFunction:
    """Make a packet function of `def name(packet)` that returns a verdict.

    Raises PacketFunctionError, with file, line and column, for what no target supports.
    """
    return PacketFunction(function)
