"""Which processes have what open: one walk over /proc/PID/fd, for `raceway ports` and `raceway doctor`.

A process can be looked into by its own user and by root (CAP_SYS_PTRACE); how many could not be is said. Processes come
and go during the walk: what is gone by the time it is looked at is left out. Nothing is opened by looking: a
descriptor's *name* is read (readlink of /proc/PID/fd/N), and what the kernel says of it (/proc/PID/fdinfo/N).

Names and commands are somebody else's words: `printable` them before a terminal sees them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from raceway.memory.identity import printable, started

PROC = Path("/proc")
_PF_KTHREAD = 0x0020_0000  # <linux/sched.h>, of field 9 of /proc/PID/stat


@dataclass(frozen=True)
class Process:
    """A process, by the number that it has in the looker's pid namespace."""

    pid: int

    @property
    def path(self) -> Path:
        """/proc/PID."""
        return PROC / str(self.pid)

    @cached_property
    def started(self) -> int:
        """When it began, in clock ticks since the machine's start; with the pid this names one process for ever."""
        return started(self.path)

    @cached_property
    def command(self) -> str:
        """Its command line, as one printable line; the bare name in brackets for who hides it."""
        raw = _read(self.path / "cmdline").rstrip(b"\0").replace(b"\0", b" ")
        return printable(raw) if raw else f"[{printable(_read(self.path / 'comm').strip())}]"

    @cached_property
    def inner_pids(self) -> tuple[int, ...]:
        """Its numbers from the looker's pid namespace down to its own."""
        for line in _read(self.path / "status").splitlines():
            if line.startswith(b"NSpid:"):
                return tuple(int(word) for word in line.split()[1:])
        return (self.pid,)

    @cached_property
    def in_kernel(self) -> bool:
        """True for the kernel's own threads, which have nothing open."""
        try:
            return bool(int(_read(self.path / "stat").rpartition(b")")[2].split()[6]) & _PF_KTHREAD)
        except (IndexError, ValueError):
            return False

    @cached_property
    def user(self) -> int:
        """The user id that it runs as; -1 if it is gone."""
        try:
            return self.path.stat().st_uid
        except OSError:
            return -1

    def open_again(self, number: int, flags: int) -> int:
        """A new descriptor of what its descriptor `number` stands for. OSError."""
        return os.open(self.path / "fd" / str(number), flags | os.O_CLOEXEC)


@dataclass(frozen=True)
class OpenFile:
    """One descriptor of a process: its number and what the kernel calls the thing."""

    process: Process
    number: int
    target: str

    @cached_property
    def info(self) -> dict[str, str]:
        """The lines of /proc/PID/fdinfo/N; {} if it is closed by now."""
        text = _read(self.process.path / "fdinfo" / str(self.number)).decode(errors="replace")
        pairs = (line.partition(":") for line in text.splitlines())
        return {key.strip(): value.strip() for key, _, value in pairs}

    @property
    def inode(self) -> int:
        """Of a socket: the number in `socket:[N]`; of others as fdinfo says; 0 if neither tells."""
        if self.target.startswith("socket:["):
            return int(self.target[8:-1])
        return _number(self.info.get("ino"))


@dataclass
class Survey:
    """What a walk has found. hidden: processes that could not be looked into."""

    files: list[OpenFile] = field(default_factory=list)
    hidden: int = 0


def survey(wanted: Callable[[str], bool]) -> Survey:
    """Every descriptor of every process that can be looked into, whose target's name is wanted."""
    found = Survey()
    for process in processes():
        try:
            found.files += _descriptors(process, wanted)
        except PermissionError:
            found.hidden += not process.in_kernel
        except OSError:
            continue  # Gone since.
    return found


def _descriptors(process: Process, wanted: Callable[[str], bool]) -> list[OpenFile]:
    found = []
    for number in os.listdir(process.path / "fd"):
        try:
            target = os.readlink(f"/proc/{process.pid}/fd/{number}")
        except FileNotFoundError:
            continue  # Closed since.
        if wanted(target):
            found.append(OpenFile(process, int(number), target))
    return found


def processes() -> Iterable[Process]:
    """Every process that /proc shows."""
    for name in os.listdir(PROC):
        if name.isdigit():
            yield Process(int(name))


def namespace_of(identity: int, candidates: Iterable[Process], files: Iterable[OpenFile] = ()) -> str | None:
    """A path to a network namespace by its inode: at one of these processes' threads, or among these descriptors; None
    if it is nowhere there."""
    for file in files:
        if file.target == f"net:[{identity}]":
            return str(file.process.path / "fd" / str(file.number))
    for process in candidates:
        for task in (process.path, *_tasks(process)):
            path = task / "ns" / "net"
            try:
                if path.stat().st_ino == identity:
                    return str(path)
            except OSError:
                continue
    return None


def _tasks(process: Process) -> list[Path]:
    try:
        return list((process.path / "task").iterdir())
    except OSError:
        return []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0
