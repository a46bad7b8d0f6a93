"""Makes processes that attach packet functions to an interface, in chains that never stay as they are, and that can be
killed at any moment: everything is generated once, then forked.

For each line it reads it forks such a process, prints its pid, and "dead" when it is. Stands in a lab's host.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys

import raceway
from raceway.kernel.functions.loading import generated_for

INTERFACE = "veth0"
_PR_SET_PDEATHSIG = 1
SEEN = raceway.Counters(2)


@raceway.packet_function
def mortal_one(packet):
    SEEN[0] += 1
    return raceway.PASS


@raceway.packet_function
def mortal_two(packet):
    SEEN[1] += 1
    return raceway.DROP if packet.udp else raceway.PASS


def work(dice: random.Random) -> None:
    """Until somebody ends it."""
    chain = []
    while True:
        if len(chain) < dice.randrange(4):
            function = dice.choice([mortal_one, mortal_two])
            chain.append(raceway.attach(INTERFACE, function, position=dice.randrange(len(chain) + 1)))
        elif chain:
            chain.pop(dice.randrange(len(chain))).close()


def main() -> None:
    for function in (mortal_one, mortal_two):
        generated_for(function)
    print("warm", flush=True)
    for number, _ in enumerate(sys.stdin):
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            try:
                work(random.Random(number))
            finally:
                os._exit(1)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)


main()
