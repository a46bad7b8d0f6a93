"""Who is inside a network namespace, and ending them.

A process is inside if one of its threads is. Processes that a `Lab` of Python started carry its mark in their
environment, so that those whose lab has died without a chance to end them can be found.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from raceway.kernel import namespaces

MARK = "RACEWAY_LAB_OF"
"""An environment variable: the number and the starting time of the process whose lab it is."""

_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is inside; `command` is the kernel's short name for it."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.command})"


def inside(spaces: Collection[tuple[int, int]]) -> dict[tuple[int, int], list[Process]]:
    """By the identity of a namespace, the processes in it, but for the calling one.

    What the caller may not look at (others' processes, for an ordinary user) is not found.
    """
    found: dict[tuple[int, int], list[Process]] = {space: [] for space in spaces}
    for pid in _every_process():
        if pid == os.getpid():
            continue
        for space in _spaces_of(pid) & found.keys():
            found[space].append(Process(pid, _command(pid)))
    return found


def orphans() -> list[Process]:
    """What labs of Python processes that are dead started, and is still running."""
    found = []
    for pid in _every_process():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        for entry in environment.split(b"\0"):
            key, _, value = entry.partition(b"=")
            if key == MARK.encode() and _is_dead(value.decode(errors="replace")):
                found.append(Process(pid, _command(pid)))
    return found


def owner_mark(pid: int | None = None) -> str:
    """The mark of a process, by default of this one: its number alone will be another's one day."""
    pid = os.getpid() if pid is None else pid
    # proc_pid_stat(5): field 22, counted from behind the command, which may hold blanks and brackets.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{pid}-{fields[19]}"


def end(processes: Iterable[Process], patience: float = _PATIENCE) -> None:
    """End processes: SIGTERM, and SIGKILL for what is still there after `patience` seconds. Returns when they are gone.

    PermissionError if they are somebody else's.
    """
    waiting = {}
    try:
        for process in processes:
            try:
                descriptor = os.pidfd_open(process.pid)
            except ProcessLookupError:
                continue
            waiting[descriptor] = process
        # SIGCONT: a stopped process would take its SIGTERM only when it goes on.
        _signal(waiting, signal.SIGTERM, signal.SIGCONT)
        left = _wait(waiting, patience)
        _signal(left, signal.SIGKILL)
        _wait(left, _PATIENCE)
    finally:
        for descriptor in waiting:
            os.close(descriptor)


def _signal(descriptors: Iterable[int], *signals: signal.Signals) -> None:
    for descriptor in descriptors:
        for number in signals:
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                pass


def _wait(descriptors: Iterable[int], seconds: float) -> list[int]:
    """Wait for processes to end; return those that have not. A pidfd is readable when its process has ended."""
    left = set(descriptors)
    poll = select.poll()
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + seconds
    while left:
        ready = poll.poll(max(0, deadline - time.monotonic()) * 1000)
        if not ready:
            break
        for descriptor, _ in ready:
            poll.unregister(descriptor)
            left.discard(descriptor)
    return sorted(left)


def _every_process() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _spaces_of(pid: int) -> set[tuple[int, int]]:
    spaces = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                spaces.add(namespaces.identity(f"/proc/{pid}/task/{thread}/ns/net"))
            except OSError:
                pass  # It has ended, or is none of our business.
    except OSError:
        pass
    return spaces


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def _is_dead(mark: str) -> bool:
    pid, _, _ = mark.partition("-")
    try:
        return owner_mark(int(pid)) != mark
    except (OSError, ValueError):
        return True
