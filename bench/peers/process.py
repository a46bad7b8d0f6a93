"""Running the peers' programs: bounded in time, killed and waited for in all cases.

A program that outlives its benchmark would spoil every later figure on a machine of two cores. So each one
starts in a process group of its own, which is killed whole when its time is over, when its output is not what
was expected and on Ctrl-C; and each asks the kernel for SIGKILL should this process die without a chance to
tidy up (`setpriv --pdeathsig`, prctl(2) PR_SET_PDEATHSIG). The request belongs to the calling *thread*: call
from one that lives as long as the peer.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .measurement import PeerUnavailable

_GRACE = 10.0  # seconds that a killed process gets to be reaped
_TAIL = 300  # characters of a program's last output that an error quotes


def find_program(name: str) -> str:
    """The full path of a program, also from the system folders that an ordinary user's PATH lacks."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    found = shutil.which(name, path=search)
    if found is None:
        raise PeerUnavailable(f"{name} is not installed")
    return found


def pinned(cpu: int | None) -> list[str]:
    """Words to put before a command so that it runs on this CPU alone; none for None."""
    if cpu is None:
        return []
    if cpu not in os.sched_getaffinity(0):
        allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise PeerUnavailable(f"cannot pin to CPU {cpu}: this process may use {allowed}")
    return [find_program("taskset"), "--cpu-list", str(cpu)]


def shown(command: Sequence[str]) -> str:
    """The command as one would type it: programs by bare name, absolute paths by their last part."""
    return shlex.join(Path(word).name if word.startswith("/") else word for word in command)


def _guarded(command: Sequence[str]) -> list[str]:
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []), *command]


def _last_words(output: str) -> str:
    return " ".join(output[-_TAIL:].split()) or "no output"


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # The parsers read English and decimal points.
    return {**os.environ, "LC_ALL": "C", **(extra or {})}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kills the process's whole group and waits for it. Harmless if it has ended already."""
    if process.returncode is None:  # not reaped yet, so its number cannot be somebody else's
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait(_GRACE)


def run(
    command: Sequence[str],
    *,
    timeout: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Runs a command to its end and returns what it wrote to both streams.

    Raises PeerUnavailable if it cannot start, takes longer than `timeout` seconds or ends with a status other
    than 0.
    """
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            _guarded(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=_environment(environment),
            start_new_session=True,
        )
    except OSError as error:
        raise PeerUnavailable(f"{name} cannot be started: {error}") from error
    with process:
        try:
            written, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise PeerUnavailable(f"{name} had not ended after {timeout:g} s") from None
        finally:
            stop(process)
    output = written.decode(errors="replace")
    if process.returncode != 0:
        raise PeerUnavailable(f"{name} ended with status {process.returncode}: {_last_words(output)}")
    return output


class Console:
    """An interactive program: commands go in by a pipe, its output comes by a pseudo-terminal.

    The pseudo-terminal is there because C programs buffer what they write to a pipe until it amounts to some
    kilobytes: the answer to a command would come long after it. Use as a context manager; leaving kills the
    program.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = Path(command[0]).name
        self.output = ""
        self._read = 0  # how much of `output` earlier waits have consumed
        self._terminal, theirs = pty.openpty()
        tty.setraw(theirs)  # newlines as they are
        try:
            self.process = subprocess.Popen(
                _guarded(command),
                stdin=subprocess.PIPE,
                stdout=theirs,
                stderr=theirs,
                cwd=cwd,
                env=_environment(environment),
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._terminal)
            raise PeerUnavailable(f"{self.name} cannot be started: {error}") from error
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, line: str) -> None:
        """Types one line."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise PeerUnavailable(f"{self.name} took no {line!r}: {_last_words(self.output)}") from error

    def wait_for(self, pattern: str, timeout: float) -> re.Match[str]:
        """The first match in output not consumed yet. Let the pattern end in something that closes it, such
        as a newline: output comes in pieces, and `[0-9]+` would take half a number."""
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout
        while (match := expression.search(self.output, self._read)) is None:
            self._take(deadline, f"{pattern!r}")
        self._read = match.end()
        return match

    def lines(self, timeout: float) -> Iterator[str]:
        """Each further complete line as it comes, without its end; for at most `timeout` seconds in all."""
        deadline = time.monotonic() + timeout
        while True:
            while (end := self.output.find("\n", self._read)) >= 0:
                line, self._read = self.output[self._read : end], end + 1
                yield line.rstrip("\r")
            self._take(deadline, "more output")

    def _take(self, deadline: float, awaited: str) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._terminal], [], [], left)[0]:
            raise PeerUnavailable(f"{self.name} did not come to {awaited}: {_last_words(self.output)}")
        try:
            piece = os.read(self._terminal, 65536)
        except OSError:  # EIO: nobody holds the other side any more
            piece = b""
        if not piece:
            raise PeerUnavailable(f"{self.name} ended before {awaited}: {_last_words(self.output)}")
        self.output += piece.decode(errors="replace")

    def close(self) -> None:
        """Kills the program and its group, waits, and closes both ends. May be called again."""
        stop(self.process)
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
