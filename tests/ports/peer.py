"""The second process of the tests of pipes: reads a command a line, answers a line."""

from __future__ import annotations

import sys

import raceway


def main() -> None:
    port = None
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        if verb == "open":
            port = raceway.open(rest)
            # Compiled now, so that nothing is being compiled when the test begins to kill.
            port.sync()
            answer = "opened"
        elif verb == "send":
            port.send([rest.encode()])
            answer = "sent"
        elif verb == "echo":
            count = 0
            while count < int(rest):
                batch = port.receive(20)
                port.send(batch.to_bytes())
                count += len(batch)
            answer = f"echoed {count}"
        elif verb == "close":
            port.close()
            answer = "closed"
        print(answer, flush=True)


main()
