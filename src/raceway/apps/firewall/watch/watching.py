"""`raceway firewall top` in a terminal: asks a firewall for its counters again and again, draws, and hears keys.

The firewall is another process. When it goes this ends, as it does at q and at Ctrl-C.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live

from raceway.apps.firewall.control import NoFirewallError, ask
from raceway.apps.firewall.watch.screen import render
from raceway.apps.firewall.watch.top import SORTS, View, view_of
from raceway.errors import NoSuchInterfaceError

_FIRST = 0.5
"""Seconds from the first look to the second, when there is something to show."""
_LOOKS = 3
_SLICE = 0.1
"""Seconds in which a key or another size of the terminal is noticed."""


def look_twice(interface: str, seconds: float) -> View:
    """What happens in so many seconds, after some looks by which the sampling finds its measure. Raises what `ask`
    raises."""
    for _ in range(_LOOKS):
        ask(interface, do="watch")
        time.sleep(_SLICE)
    before = ask(interface, do="watch")
    time.sleep(seconds)
    return view_of(before, ask(interface, do="watch"))


def watch(interface: str, seconds: float, sort: str) -> str:
    """Draw on the terminal until q, Ctrl-C or the firewall's end; return what is to be said then, if anything.

    Raises what `ask` raises at the first look.
    """
    console = Console(highlight=False, soft_wrap=False)
    before = ask(interface, do="watch")
    try:
        with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            _draw(interface, seconds, sort, before, console, live, pressed)
    except KeyboardInterrupt:
        pass
    except (NoFirewallError, NoSuchInterfaceError):
        return f"the firewall on {interface} has ended"
    except (OSError, ValueError) as error:
        return f"the firewall on {interface} answers no longer: {error}"
    return ""


def _draw(
    interface: str,
    seconds: float,
    sort: str,
    before: dict[str, Any],
    console: Console,
    live: Live,
    pressed: Any,
) -> None:
    view: View | None = None
    due = time.monotonic() + min(_FIRST, seconds)
    size = None
    while True:
        key = pressed(min(max(due - time.monotonic(), 0.0), _SLICE))
        if key == "q":
            return
        changed = key == "s" or console.size != size
        if key == "s":
            sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
        if time.monotonic() >= due:
            after = ask(interface, do="watch")
            view, before, changed = view_of(before, after), after, True
            due = time.monotonic() + seconds
        if view is not None and changed:
            size = console.size
            live.update(render(view, size.width, size.height, sort), refresh=True)


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits so many seconds for a key and returns it, "" if there is none."""
    import termios
    import tty

    if not sys.stdin.isatty():

        def none(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield none
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(seconds: float) -> str:
        if not select.select([terminal], [], [], seconds)[0]:
            return ""
        # Nothing to read, and yet something: the terminal is gone.
        return os.read(terminal, 64).decode(errors="replace")[:1].lower() or "q"

    # One key at a time and unseen; Ctrl-C is Ctrl-C still.
    tty.setcbreak(terminal)
    try:
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
