"""What runs: a process that sends, the pipe's other end, the packet function, and the file for what is kept.

Every packet that the sender says it sent is looked for: offered = kept + dropped, by name. Control plane.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raceway.errors import RacewayError

_PATIENCE = 5.0
"""Seconds that the sender has to end by itself, and that its last packets have to arrive."""


@dataclass
class Passage:
    """What went through the function in one part of the demo. Written by the loop, read by the screen.

    samples: (seconds since the beginning, packets judged, packets kept) after each slice of work.
    dropped: packets by rule, in the order of the counters; drops: by the name of the place where they ended.
    """

    offered: int = 0
    octets: int = 0
    kept: int = 0
    seconds: float = 0.0
    done: bool = False
    dropped: list[int] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)
    samples: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """True if every packet that was offered was kept or dropped by a name, and every drop by a rule."""
        others = sum(count for name, count in self.drops.items() if name != "function")
        return self.offered == self.kept + sum(self.dropped) + others


class Sender:
    """The sending process. It ends when this object is closed, or when this process dies."""

    def __init__(self, pipe: str, file: str) -> None:
        self._complaints = os.memfd_create("raceway-demo-complaints", os.MFD_CLOEXEC)
        # -P: no module of the current directory gets in its way. A process group of its own: Ctrl-C is for us alone.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "raceway.apps.demo.sender", pipe, file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            process_group=0,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._said = b""

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.process.pid

    def tell(self, command: str) -> None:
        """Send one command; RacewayError if nobody is there."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.fail()

    def answer(self) -> dict[str, Any] | None:
        """The answer to the command, None while there is none; RacewayError if there will be none."""
        assert self.process.stdout is not None
        try:
            got = os.read(self.process.stdout.fileno(), 65536)
        except BlockingIOError:
            return None
        if not got:
            self.fail()
        self._said += got
        line, newline, rest = self._said.partition(b"\n")
        if not newline:
            return None
        self._said = rest
        answer: dict[str, Any] = json.loads(line)
        return answer

    def fail(self) -> None:
        """Raise the RacewayError that says how the process ended."""
        try:
            status = self.process.wait(_PATIENCE)
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            how = "it closed its output"
        size = os.fstat(self._complaints).st_size
        last = os.pread(self._complaints, size, 0).decode(errors="replace").strip().rpartition("\n")[2]
        raise RacewayError(
            f"the sending process {self.pid} ended before it had sent everything: {how}{': ' if last else ''}{last}"
        )

    def finish(self) -> None:
        """Let it end; do not wait for it."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass

    def close(self, *, now: bool = False) -> None:
        """Let it end, and wait until it has; now=True: do not let it finish. May be called twice."""
        if self._complaints < 0:
            return
        if now:
            self.process.terminate()
        self.finish()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._complaints)
        self._complaints = -1


class Journey:
    """The receiving end: judges what the sender sends. Use as a context manager.

    function: the packet function; counters: its drops by rule; forget: empties all of its state.
    """

    def __init__(
        self, pipe: str, sender: Sender, function: Any, counters: Any, forget: Callable[[], None]
    ) -> None:
        from raceway.ports.opening import open as open_port

        self.sender, self.function, self.counters, self.forget = sender, function, counters, forget
        self.port = open_port(pipe)
        self.port.carry_metadata()

    def __enter__(self) -> Journey:
        return self

    def __exit__(self, *_: object) -> None:
        self.port.close()

    def as_recorded(self, passage: Passage, speed: float, path: str) -> None:
        """The recording once, its gaps divided by `speed`; what is kept goes to a pcapng file at `path`."""
        from raceway.ports.geometry import Geometry
        from raceway.ports.pcap.port import CapturePort

        name = f"pcap:{path}"
        with CapturePort(name, path, Geometry(), self.port.region, write=True) as file:
            self._run(passage, file, f"pace {speed}")
            ring = file.tx[0]
            for _ in range(100):
                file.service()
                if ring.head == int(ring._kring["head"]):
                    break
                # What waited for room in the writer's window.
                file.txsync()
            assert file.writer is not None
            passage.kept = file.writer.packets

    def at_top_speed(self, passage: Passage, seconds: float) -> None:
        """The recording again and again for so many seconds; what is kept is swallowed."""
        from raceway.ports.opening import open as open_port

        with open_port("null:", region=self.port.region) as swallower:
            self._run(passage, swallower, f"top {seconds}")

    def _run(self, passage: Passage, target: Any, command: str) -> None:
        from raceway.apps.forwarder.forwarder import Forwarder, Way

        self.forget()
        forwarder = Forwarder([Way(self.port, target, self.function)])
        self.sender.tell(command)
        answer: dict[str, Any] | None = None
        began = 0.0
        late = 0.0

        def look(running: Forwarder) -> bool:
            nonlocal answer, began, late
            record = running.directions[0]
            judged, now = int(record["taken"]), time.monotonic()
            if judged and not began:
                # The first slice of packets; the sender was starting until then.
                began = now
            passage.offered, passage.kept = judged, int(record["sent"])
            passage.octets = int(record["taken_bytes"])
            passage.dropped = self.counters.values()
            passage.seconds = now - began if began else 0.0
            passage.samples.append((passage.seconds, judged, passage.kept))
            if answer is None:
                answer = self.sender.answer()
                late = now + _PATIENCE
            return answer is None or (judged < answer["packets"] and now < late)

        forwarder.run(look)
        if answer is None:
            answer = self.sender.answer() or {}
        if "packets" not in answer:
            self.sender.fail()
        # The sender's own figures: what it offered, and how long it took.
        passage.offered, passage.seconds = int(answer["packets"]), float(answer["seconds"])
        passage.octets = int(answer["bytes"])
        passage.dropped = self.counters.values()
        passage.drops = forwarder.drops() | target.drops()
        passage.done = True
