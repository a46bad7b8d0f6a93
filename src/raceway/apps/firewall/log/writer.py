"""What `log` rules sample, in a pcapng file: each packet's time in nanoseconds, its length, its first bytes, and as a
comment the rule that wanted it.

A thread takes samples out of the ring of the program in force (`sampling`) and writes them; the file is whole whenever
it rests. It never takes more than half of its time from what else the process does, and what it cannot keep up with is
counted as lost. When the file has reached its size it becomes FILE.1.pcapng, over the one before, and begins anew.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raceway.apps.firewall.log.sampling import Reader
from raceway.compile.state.samples import BYTES
from raceway.ports.pcap.writer import CaptureWriter

if TYPE_CHECKING:
    from raceway.apps.firewall.program import Program
    from raceway.apps.firewall.rules.rule_set import RuleSet

SIZE = 100_000_000
"""Bytes of a file, by default."""
_SMALLEST = 10_000
_BATCH = 512
_IDLE, _REST = 0.02, 0.001
"""Seconds between two looks at a ring that had nothing, and that had something."""
_COMMENT = 1000


@dataclass(frozen=True)
class LogStatus:
    """Of a log file. written, lost: packets; waiting: those that are still in the ring; bytes: of the file that is
    open; error: why nothing can be written, if so."""

    file: str
    written: int
    lost: int
    waiting: int
    bytes: int
    error: str


class Log:
    """A log file, and the thread that fills it.

    path: the file; what has that name and is not empty becomes FILE.1.pcapng. interface: for the file; size: bytes at
    which it is begun anew. Raises OSError, ValueError.
    """

    def __init__(self, path: str | os.PathLike[str], interface: str, size: int = SIZE) -> None:
        if size < _SMALLEST:
            raise ValueError(f"{os.fspath(path)}: a log file has at least {_SMALLEST:,} bytes, not {size:,}")
        self.path, self.interface, self.size = Path(path), interface, size
        self._lock = threading.Lock()
        self._current: tuple[Reader, list[bytes]] | None = None
        self._written = self._lost = 0
        self._error = ""
        if self.path.is_file() and self.path.stat().st_size:
            self._put_aside()
        self._writer: CaptureWriter | None = self._begin()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raceway firewall log", daemon=True)
        self._thread.start()

    @property
    def previous(self) -> Path:
        """The name of the file before."""
        return self.path.with_name(f"{self.path.stem}.1{self.path.suffix}")

    def follow(self, program: Program) -> None:
        """Take samples from this program from now on, having taken what is left of the one before, which no packet is
        in any more."""
        following = None
        if program.samples is not None:
            following = Reader(program.samples), _comments(program.rule_set)
        with self._lock:
            self._drain(final=True)
            self._current = following

    def status(self) -> LogStatus:
        """What has become of the samples."""
        with self._lock:
            waiting, lost = 0, self._lost
            if self._current is not None:
                waiting, lost = self._current[0].waiting, lost + self._current[0].lost
            size = self._writer.written if self._writer is not None else 0
            return LogStatus(str(self.path), self._written, lost, waiting, size, self._error)

    def close(self) -> None:
        """Write what is left, and close the file. May be called twice."""
        if self._end.is_set():
            return
        self._end.set()
        self._thread.join()
        with self._lock:
            self._drain(final=True)
            try:
                if self._writer is not None:
                    self._writer.close()
            except OSError as error:
                self._error = str(error)

    def _run(self) -> None:
        pause = _IDLE
        while not self._end.wait(pause):
            began = time.monotonic()
            with self._lock:
                busy = self._take(final=False)
            pause = max(time.monotonic() - began, _REST) if busy else _IDLE

    def _drain(self, *, final: bool) -> None:
        while self._take(final=final):
            pass
        if self._current is not None:
            self._lost += self._current[0].lost
            self._current = None

    def _take(self, *, final: bool) -> bool:
        """Write some samples; whether there were any."""
        if self._current is None:
            return False
        reader, comments = self._current
        before = reader.lost
        samples = reader.take(_BATCH, final=final)
        if not samples:
            return reader.lost > before
        added = 0
        try:
            if self._writer is None:
                self._writer = self._begin()
            packets = self._writer.packets
            try:
                self._writer.add((one.data, one.time, one.length, comments[one.rule]) for one in samples)
            finally:
                added = self._writer.packets - packets
            self._writer.flush()
            self._error = ""
            if self._writer.written >= self.size:
                full, self._writer = self._writer, None
                full.close()
                self._put_aside()
                self._writer = self._begin()
        except OSError as error:
            # What the writer holds is tried again with the next ones.
            self._error = str(error)
        self._written += added
        self._lost += len(samples) - added
        return True

    def _begin(self) -> CaptureWriter:
        made = CaptureWriter(
            self.path, "pcapng", snaplen=BYTES, interface_name=self.interface, comment="raceway firewall"
        )
        try:
            # A file without packets can be read as well.
            made.flush()
        except OSError:
            with suppress(OSError):
                made.close()
            raise
        return made

    def _put_aside(self) -> None:
        self.path.replace(self.previous)


def _comments(rules: RuleSet) -> list[bytes]:
    """For each rule what its packets are marked with."""
    return [
        f"{rule.place}: {rule.text}"[:_COMMENT].encode() if rule.action == "log" else b""
        for rule in rules.rules
    ]
