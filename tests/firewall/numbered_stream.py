"""A stream of numbered UDP packets to port 10, and as many to port 9 that no rules let through; and who receives it.

    numbered_stream.py send ADDRESS PACKETS_A_SECOND      until its standard input ends; prints how many of each it sent
    numbered_stream.py receive ADDRESS                    until its standard input ends and nothing comes any more

The receiver prints as JSON: `found`, how many numbers came; `lost`, those that did not below the highest; `twice`;
`unordered`; `forbidden`: packets at port 9; `first_forbidden`: the number after which the first of those came, or -1.
No part of raceway is used: it runs on a plain interpreter, which starts quickly.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

WANTED, FORBIDDEN = 10, 9
_ROOM, _QUIET, _BEAT = 1 << 27, 0.4, 0.001
_FORCE = 33  # SO_RCVBUFFORCE


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


def _asked_to_end() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def send(address: str, rate: int) -> int:
    """Send in small bursts, a thousand a second at most; return how many of each kind."""
    burst = max(1, int(rate * _BEAT))
    number = 0
    with _socket(address) as one:
        following = time.monotonic()
        while not _asked_to_end():
            for _ in range(burst):
                one.sendto(number.to_bytes(8, "big"), (address, WANTED))
                one.sendto(number.to_bytes(8, "big"), (address, FORBIDDEN))
                number += 1
            if number == burst:
                print("sending", flush=True)
            following = max(following + _BEAT, time.monotonic() - 1)
            time.sleep(max(0.0, following - time.monotonic()))
    return number


def receive(address: str) -> dict[str, int]:
    """Receive until there is nothing more, and say what came."""
    wanted, forbidden = _socket(address), _socket(address)
    for one, port in ((wanted, WANTED), (forbidden, FORBIDDEN)):
        one.setsockopt(socket.SOL_SOCKET, _FORCE, _ROOM)
        one.bind((address, port))
        one.setblocking(False)
    print("ready", flush=True)
    seen = bytearray()
    said = {"found": 0, "twice": 0, "unordered": 0, "forbidden": 0, "first_forbidden": -1}
    highest, ending, last = -1, False, time.monotonic()
    while not ending or time.monotonic() - last < _QUIET:
        ready, _, _ = select.select([wanted, forbidden], [], [], 0.05)
        ending = ending or _asked_to_end()
        for one in ready:
            for _ in range(256):
                try:
                    number = int.from_bytes(one.recv(64), "big")
                except BlockingIOError:
                    break
                last = time.monotonic()
                if one is forbidden:
                    said["forbidden"] += 1
                    if said["first_forbidden"] < 0:
                        said["first_forbidden"] = number
                    continue
                if number >= len(seen):
                    seen.extend(bytes(number + 65536 - len(seen)))
                said["found"] += 1
                said["twice"] += seen[number]
                said["unordered"] += number < highest
                seen[number] = 1
                highest = max(highest, number)
    said["lost"] = highest + 1 - sum(seen)
    wanted.close()
    forbidden.close()
    return said


if __name__ == "__main__":
    print(send(sys.argv[2], int(sys.argv[3])) if sys.argv[1] == "send" else json.dumps(receive(sys.argv[2])))
