"""`raceway demo`: everything that people should see first, in one terminal, without root, in a few seconds."""

from __future__ import annotations

import contextlib
import io
import json as json_module
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from raceway.apps.demo import firewall
from raceway.apps.demo.journey import Journey, Passage, Sender
from raceway.apps.demo.listing import listing_of
from raceway.apps.demo.screen import ASCII, UNICODE, Glyphs, View, next_commands, render
from raceway.compile.state import Counters, HashTable, TokenBucket
from raceway.memory.jit import INTERPRETED

if TYPE_CHECKING:
    from rich.console import Console

RECORDING = "demo.pcapng.gz"
SPEED = 5.0
TOP_SECONDS = 0.3
_PICTURE_COLUMNS = 100


def run_demo(*, keep: str | None = None, picture: str | None = None, json: bool = False) -> None:
    """Run it, and leave the packets that were kept in a new pcapng file.

    keep: that file (None: one in the system's directory for temporary files); FileExistsError if there is one
    already. picture: an SVG file for the last screen. json: one JSON object as the last line of standard output.
    """
    for path in (keep, picture):
        if path is not None and os.path.lexists(path):
            raise FileExistsError(17, "there is such a file already; expected a new file's name", path)
    began = time.monotonic()
    console = _console()
    glyphs = UNICODE if console.encoding.startswith("utf") else ASCII
    with as_file(files("raceway") / "data" / RECORDING) as recording:
        pipe = f"netmap:demo{os.getpid()}"
        sender = Sender(f"{pipe}{{1", str(recording))
        finished = False
        try:
            view = View(
                listing_of(firewall), RECORDING, pipe, sender.pid, os.getpid(), SPEED, Passage(), Passage()
            )
            with _interrupts() as check, _live(console, view, glyphs), _memory_file() as kept:
                for _ in _parts(view, sender, recording, kept):
                    check()
                sender.close()
                finished = True
                check()
                view.kept_file = _keep(kept, keep)
        finally:
            sender.close(now=not finished)
    view.begin("done", "")
    console.print(render(view, console.width, console.height - 1 if console.is_terminal else None, glyphs))
    if picture is not None:
        _draw(view, picture)
    if json:
        print(json_module.dumps(summary(view, time.monotonic() - began)))


def _parts(view: View, sender: Sender, recording: Path, kept: int) -> Iterator[None]:
    """The demo's parts, one after the other, with a breath after each."""
    view.begin("compiling", "loading the compiler")
    if not INTERPRETED:
        import numba  # noqa: F401
    from raceway.apps.demo.measure import Packets, measure

    yield
    view.begin("compiling", "compiling the rings' loops")
    _prepare_loops()
    yield
    view.begin("compiling", "compiling firewall() to machine code")
    firewall.firewall.native()
    view.compile_seconds = time.monotonic() - view.stepped
    yield
    view.begin("compiling", "reading the recording")
    packets = Packets(str(recording))
    try:
        view.expected_seconds = packets.seconds / view.speed + 0.03
        with Journey(f"{view.pipe}}}1", sender, firewall.firewall, firewall.DROPPED, forget) as journey:
            yield
            view.begin("recorded", f"the recording, {view.speed:g} times as fast")
            journey.as_recorded(view.recorded, view.speed, f"/proc/self/fd/{kept}")
            yield
            view.begin("top", "the recording again and again, at top speed")
            journey.at_top_speed(view.top, TOP_SECONDS)
        sender.finish()
        yield
        view.begin("measuring", "measuring one packet's cost")
        view.cost = measure(firewall.firewall, packets, forget)
        yield
    finally:
        packets.close()


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], None]]:
    """Ctrl-C that is not lost: what is yielded raises KeyboardInterrupt if one came and went unnoticed.

    Python drops an exception that is raised while it runs a callback (of a weak reference, of the compiler's), and a
    demo that compiles runs many.
    """
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        # Signals are the main thread's affair.
        yield check
        return

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            complain(what)

    complain, sys.unraisablehook = sys.unraisablehook, dropped
    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = complain


def _prepare_loops() -> None:
    """Compile the loops, or load them from the cache: before the other process wants the same ones."""
    if INTERPRETED:
        return
    from raceway.apps.forwarder.loop import forward
    from raceway.ports.sync import sync_port

    forward.prepare()
    sync_port.prepare()


def forget() -> None:
    """Empty all state of the firewall."""
    for value in vars(firewall).values():
        if isinstance(value, Counters | HashTable | TokenBucket):
            value.clear()


def unpack(directory: str) -> list[str]:
    """Copy firewall.py and the recording into a directory; FileExistsError before it would overwrite one of them."""
    place = Path(directory)
    if not place.is_dir():
        raise NotADirectoryError(20, "expected a directory", directory)
    sources = {
        "firewall.py": files("raceway.apps.demo") / "firewall.py",
        RECORDING: files("raceway") / "data" / RECORDING,
    }
    for name in sources:
        if os.path.lexists(place / name):
            raise FileExistsError(
                17, "there is such a file already; expected a directory without it", str(place / name)
            )
    written = []
    for name, source in sources.items():
        with (place / name).open("xb") as target, source.open("rb") as original:
            shutil.copyfileobj(original, target)
        written.append(str(place / name))
    return written


# The file of what was kept: in memory until it is whole, so that whatever ends the demo leaves no piece of it behind.


@contextlib.contextmanager
def _memory_file() -> Iterator[int]:
    descriptor = os.memfd_create("raceway-demo-kept", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _keep(descriptor: int, path: str | None) -> str:
    """Write the memory file to a new file on disk; its name."""
    data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    if path is None:
        number, path = tempfile.mkstemp(prefix="raceway-demo-", suffix=".pcapng")
        with open(number, "wb") as file:
            file.write(data)
    else:
        with open(path, "xb") as file:
            file.write(data)
    return path


# Where it is shown.


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


@contextlib.contextmanager
def _live(console: Console, view: View, glyphs: Glyphs) -> Iterator[None]:
    """Draw the view about twelve times a second, on a terminal; elsewhere say nothing until the end."""
    if not console.is_terminal:
        yield
        return
    from rich.live import Live

    said = io.StringIO()
    live = Live(
        get_renderable=lambda: render(view, console.width, console.height - 1, glyphs),
        console=console,
        refresh_per_second=12,
        transient=True,
        redirect_stderr=False,
        redirect_stdout=False,
        vertical_overflow="crop",
    )
    try:
        # What the compiler says of its progress would be written across the screen; the view says it.
        with contextlib.redirect_stderr(said), live:
            yield
    finally:
        sys.stderr.write(said.getvalue())


def _draw(view: View, path: str) -> None:
    """The last screen as a picture, of the very same run."""
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console

    console = Console(
        record=True,
        file=io.StringIO(),
        width=_PICTURE_COLUMNS,
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
    )
    console.print(render(view, _PICTURE_COLUMNS, None))
    # Without fonts from the network: pictures in a README may not load any.
    form = re.sub(r"@font-face\s*\{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    drawn = console.export_svg(title="raceway demo", code_format=form)
    # Some viewers drop the spaces at either end of a piece of text, and with them those between the pieces.
    Path(path).write_text(drawn.replace("<text ", '<text xml:space="preserve" '))


def summary(view: View, seconds: float) -> dict[str, Any]:
    """For programs. Times in seconds unless the name says otherwise."""
    recorded, top, cost = view.recorded, view.top, view.cost
    assert cost is not None
    return {
        "tool": "demo",
        "packets": recorded.offered,
        "bytes": recorded.octets,
        "kept": recorded.kept,
        "dropped": {
            rule.name: {"line": rule.line, "packets": count}
            for rule, count in zip(view.listing.rules, recorded.dropped, strict=True)
        },
        "drops": recorded.drops,
        "balanced": recorded.balanced,
        "seconds": round(seconds, 3),
        "file": view.kept_file,
        "speed": view.speed,
        "compile_seconds": round(view.compile_seconds, 3),
        "top_speed": {
            "packets": top.offered,
            "bytes": top.octets,
            "kept": top.kept,
            "drops": top.drops,
            "balanced": top.balanced,
            "seconds": round(top.seconds, 6),
            "pps": round(top.offered / top.seconds, 1) if top.seconds else 0.0,
        },
        "ns_per_packet": {
            "native": None if cost.native is None else round(cost.native, 2),
            "interpreted": round(cost.interpreted, 1),
        },
        "same_verdicts": cost.same_verdicts,
        "next": [command for command, _ in next_commands(view)],
    }
