"""Makes processes that can be killed, fast: everything is imported and compiled once, then forked.

Reads a pipe's end a line; forks a child that opens it and floods it until it is killed; prints the child's pid once
the child is at work. Children are nobody's but ours: the test kills them, and we reap them.
"""

from __future__ import annotations

import os
import signal
import sys

import raceway
from raceway.memory.layout import PortState  # noqa: F401  (loaded before the fork, as all the rest)

sys.path.insert(0, os.path.dirname(__file__))
import loops


def warm() -> None:
    """Compile everything that a child needs, with no thread left behind: a fork copies only one."""
    name = f"netmap:zygote{os.getpid()}"
    with raceway.open(name + "{1") as a, raceway.open(name + "}1") as b:
        a.sync()
        state, kept = loops.state_for(a, count=10)
        assert loops.flood(state.ctypes.data) == 0
        del kept
        b.sync()


def child(name: str, ready: int) -> None:
    port = raceway.open(name)
    state, kept = loops.state_for(port, count=1 << 60, random=os.getpid())
    os.write(ready, b"r")
    loops.flood(state.ctypes.data)
    del kept
    os._exit(0)


def main() -> None:
    warm()
    print("warm", flush=True)
    for line in sys.stdin:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.close(reader)
            child(line.strip(), writer)
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)


main()
