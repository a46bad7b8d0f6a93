"""Makes processes that open an interface and can be killed at any moment: everything is loaded once, then forked.

Reads what stands behind the interface's name a line; forks a child that opens it so, sends as fast as it can and gives
back what it receives; prints the child's pid at once, and "dead" when it is. Stands in a lab's host.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import raceway
from nic_loops import flood, stream, take

INTERFACE = "netmap:veth0"
_PR_SET_PDEATHSIG = 1


def work(suffix: str) -> None:
    """Until somebody ends it."""
    with raceway.open(INTERFACE + suffix) as port:
        sending = stream(port, transmit=True, count=1) if port.tx else None
        receiving = stream(port, transmit=False) if port.rx else None
        while True:
            if sending is not None:
                sending["count"] = 500
                flood(sending.ctypes.data)
            if receiving is not None:
                take(receiving.ctypes.data)
            port.service()


def main() -> None:
    # Compiled and loaded before the fork, with no thread left behind: a fork copies only one.
    with raceway.open(INTERFACE + "@xdp:tx=socket") as port:
        port.sync()
    flood.prepare()
    take.prepare()
    print("warm", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            try:
                work(line.strip())
            finally:
                os._exit(1)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)


main()
