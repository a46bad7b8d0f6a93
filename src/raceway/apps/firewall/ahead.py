"""A second process that compiles while the first reads rules and builds their classifier, so that both take as long as
the longer one.

What is compiled for a rule set depends on how its rules are worded and on how large its tables are, not on what they
hold. So the second process begins with what all rule sets have in common; is told the function when the rules are read,
and the tables' sizes when they are known; and keeps what it has generated where the first one finds it (`bpf.kept`)::

    first     read rules ---> classifier ---> load
                  | function      | sizes      ^
    second    parts ------> parts -> eBPF -----+ kept on disk

It only ever saves time: what is not found there the first process makes itself, and says what is wrong with it. It ends
with the process that has started it, however that ends.
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import pickle
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from raceway.compile.bpf import kept
from raceway.compile.flows.flow_table import FlowTable
from raceway.compile.pcap_filter.expression import Expression
from raceway.compile.state.words import State
from raceway.memory.jit import INTERPRETED, cache_directory

PATIENCE = 60.0
"""Seconds after which an answer is not waited for any longer."""
_PR_SET_PDEATHSIG = 1
_COMMON = "drop src 192.0.2.1\n"


@contextmanager
def compiling_ahead() -> Iterator[Ahead | None]:
    """Start the second process, and end it behind the `with`; None where it would be of no use.

    That is where this version has kept eBPF already and so probably has this, where there is no cache to keep it in,
    one processor, no compiler (NUMBA_DISABLE_JIT=1), or no second process allowed. Nor is a process with threads
    divided: the new one would have their locks, and not them.
    """
    ahead = None
    if (
        not INTERPRETED
        and len(os.sched_getaffinity(0)) > 1
        and threading.active_count() == 1
        and kept.nothing()
    ):
        with suppress(OSError):
            ahead = Ahead()
    try:
        yield ahead
    finally:
        if ahead is not None:
            ahead.close()


class Ahead:
    """The second process, as the first one sees it. process: its number. Raises OSError."""

    def __init__(self) -> None:
        cache_directory()
        mine, its = socket.socketpair()
        above = os.getpid()
        with mine, its:
            self.process = os.fork()
            if self.process == 0:
                _second(mine, its, above)
            mine.settimeout(PATIENCE)
            self._to, self._from = mine.makefile("wb"), mine.makefile("rb")
            self._socket = mine.dup()

    def expect(self, source: str, scope: dict[str, Any]) -> None:
        """Say what function there will be, with tables of whatever size."""
        self._say("expect", source, scope)

    def make(self, source: str, scope: dict[str, Any]) -> bool:
        """Have a function's eBPF made and kept, and wait for it; whether that has been done."""
        try:
            return self._say("make", source, scope) and self._from.read(1) == b"+"
        except OSError:
            return False

    def _say(self, what: str, source: str, scope: dict[str, Any]) -> bool:
        try:
            text = _by_shape((what, source, scope))
            self._to.write(struct.pack("<Q", len(text)) + text)
            self._to.flush()
        except (OSError, pickle.PicklingError, TypeError, AttributeError):
            return False
        return True

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        for one in (self._to, self._from, self._socket):
            with suppress(OSError):
                one.close()


def _second(mine: socket.socket, its: socket.socket, above: int) -> None:
    """The second process; never returns."""
    try:
        _die_with(above)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        mine.close()
        gc.disable()
        _serve(its.makefile("rb"), its)
    finally:
        # Whatever it was: the first process will say it.
        os._exit(0)


def _die_with(above: int) -> None:
    """Be killed as soon as the process above ends, even if it is itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != above:
        os._exit(0)


def _serve(asked: BinaryIO, answers: socket.socket) -> None:
    from raceway.apps.firewall.outgoing import noting
    from raceway.apps.firewall.program import Program, functions_of
    from raceway.apps.firewall.rules.language import parse_rules
    from raceway.compile import native
    from raceway.kernel.functions.loading import generated_for

    native.typed(Program(parse_rules(_COMMON)).function)
    outgoing = 0
    while True:
        (size,) = struct.unpack("<Q", asked.read(8))
        what, source, scope = pickle.loads(asked.read(size))
        function = functions_of(source, scope)["firewall"]
        if what == "make":
            generated_for(function)
            if outgoing:
                os.waitpid(outgoing, 0)
            answers.sendall(b"+")
            continue
        native.typed(function)
        if scope["FLOWS"] is not None:
            # What the host sends has a function of its own, made of the same parts, whatever the size of the rules.
            above = os.getpid()
            outgoing = os.fork()
            if outgoing == 0:
                try:
                    _die_with(above)
                    generated_for(noting(scope["FLOWS"]))
                finally:
                    os._exit(0)


def _by_shape(what: Any) -> bytes:
    """Pickle something, state objects without what they hold."""
    file = io.BytesIO()
    _Shapes(file).dump(what)
    return file.getvalue()


class _Shapes(pickle.Pickler):
    def reducer_override(self, one: Any) -> Any:
        if isinstance(one, FlowTable):
            return FlowTable, (one.known_capacity,)
        if isinstance(one, State):
            plain = {
                name: value
                for name, value in vars(one).items()
                if name not in State.CONTENT and not isinstance(value, memoryview)
            }
            return _blank, (type(one), len(one.words), plain)
        if isinstance(one, Expression):
            return Expression, (one.text, one.link_type)
        return NotImplemented


def _blank(kind: type[State], count: int, attributes: dict[str, Any]) -> State:
    """A state object of a shape, that holds nothing."""
    made = kind.__new__(kind)
    State.__init__(made, count)
    vars(made).update(attributes)
    return made
