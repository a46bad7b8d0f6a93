"""The demo's other process: sends the recording into the pipe's end {1, as it is told on standard input.

    python -m raceway.apps.demo.sender PIPE FILE

A line `pace 3` sends the recording once, three times as fast as it was; `top 0.5` sends it again and again at
top speed for half a second. Each is answered by one line of JSON: packets, bytes, seconds. The process ends with
standard input, and at once when whoever holds the pipe's other end is gone.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raceway.ports.port import Port


class _Enough(Exception):
    """The time that was given for top speed is over."""


def play(tape_file: str, target: Port, words: list[str]) -> dict[str, float]:
    """Do what one line asks for; what was sent."""
    from raceway.apps.demo.tape import Tape
    from raceway.apps.forwarder.forwarder import Pace
    from raceway.apps.replay import Replay
    from raceway.memory.timers import precise_timers
    from raceway.ports.geometry import Geometry

    how, number = words[0], float(words[1])
    # A ring as large as the pipe's: then a buffer comes back only after the other end has read it.
    with Tape(tape_file, Geometry(receive_slots=target.tx[0].size), target.region) as tape, precise_timers():
        top = how == "top"
        replay = Replay(tape, target, Pace() if top else Pace(speed=number), loops=0 if top else 1)
        began = time.monotonic()

        def look(_: Replay) -> None:
            if target.tx[0].ended or (top and time.monotonic() - began >= number):
                raise _Enough

        try:
            replay.run(look)
        except _Enough:
            pass
        return {
            "packets": replay.packets,
            "bytes": replay.bytes,
            "seconds": time.monotonic() - began,
            "loops": replay.done_loops,
        }


def main(pipe: str, file: str) -> None:
    """Read commands until there are no more."""
    if not Path(file).is_file():
        raise SystemExit(f"{file}: no such file")
    # While the other process compiles, this one loads what it will need.
    import numba  # noqa: F401

    from raceway.ports.opening import open as open_port

    target: Port | None = None
    try:
        for line in sys.stdin:
            if target is None:
                target = open_port(pipe)
                target.carry_metadata()
            print(json.dumps(play(file, target, line.split())), flush=True)
            if target.tx[0].ended:
                return
    except BrokenPipeError:
        # Nobody is left to tell.
        sys.stderr.close()
    finally:
        if target is not None:
            target.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
    # The process ends now; nobody needs its garbage found.
    gc.freeze()
