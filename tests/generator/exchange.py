"""Running generators against each other, and against a reader in Python."""

from __future__ import annotations

import io
import threading
from typing import Any

import raceway
from raceway.apps.generator.generator import Generator, open_port
from raceway.apps.generator.options import Options, read
from raceway.apps.report import Report


class Run(threading.Thread):
    """One generator in a thread of its own; `join` gives its report or raises what it raised."""

    def __init__(self, options: Options) -> None:
        super().__init__(daemon=True)
        self.output = io.StringIO()
        self.port = open_port(options)
        try:
            self.generator = Generator(self.port, options, output=self.output)
        except BaseException:
            self.port.close()
            raise
        self._report: Report | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            with self.port:
                self._report = self.generator.run()
        except BaseException as error:
            self._error = error

    def report(self) -> Report:
        self.join(60)
        if self.is_alive():
            self.generator.interrupt()
            self.join(10)
            raise AssertionError(f"{self.generator.options.function} did not end")
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report


def run_pair(pipe: str, near: dict[str, Any], far: dict[str, Any]) -> tuple[Report, Report]:
    """Two generators at the two ends of a pipe; their reports."""
    far_run = Run(read(f"{pipe}}}1", **far))
    near_run = Run(read(f"{pipe}{{1", **near))
    far_run.start()
    near_run.start()
    return near_run.report(), far_run.report()


def sent_frames(pipe: str, count: int, **words: Any) -> tuple[list[bytes], Report]:
    """The first `count` frames that a generator sends, and its report."""
    words.setdefault("function", "tx")
    rings = words.pop("rings", "")
    run = Run(read(f"{pipe}{{1", count=str(count), rings=rings, **words))
    frames: list[bytes] = []
    with raceway.open(f"{pipe}}}1") as port:
        run.start()
        while len(frames) < count:
            frames += port.receive(timeout=20).to_bytes()
        report = run.report()
    return frames, report
