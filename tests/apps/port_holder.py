"""A process that has ports open and does what it is told, a line of standard input at a time; each is answered.

python port_holder.py NAME...
send PORT COUNT | receive PORT COUNT | close PORT | refresh PORT | fork          PORT: its place in the arguments
"""

from __future__ import annotations

import os
import signal
import sys

import raceway


def main() -> None:
    ports = [raceway.open(name) for name in sys.argv[1:]]
    children = []
    print("ready", flush=True)
    for line in sys.stdin:
        word, *numbers = line.split()
        port = ports[int(numbers[0])] if numbers else ports[0]
        if word == "send":
            assert port.send([bytes(60)] * int(numbers[1]), timeout=10) == int(numbers[1])
        elif word == "receive":
            # By netmap's own way, by which exactly so many slots are given back.
            ring = port.rx[0]
            while ring.space < int(numbers[1]):
                assert port.wait(10)
            ring.advance(int(numbers[1]))
            ring.sync()
        elif word == "refresh":
            port.service()
            port.refresh_card(now=True)
        elif word == "close":
            port.close()
        elif word == "fork":
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
        print("done", flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


main()
