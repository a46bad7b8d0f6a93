"""A small web server and who asks it, for the goodput under a flood: one connection a request, as curl does.

    python web.py serve PORT                       until it is killed; says `serving`
    python web.py ask ADDRESS PORT SECONDS         sixteen clients at once; prints how many pages they got in that time

Nothing of raceway is in it. A page is made and compressed anew for each request, as pages mostly are, so that the
server's processor is short, which has to end the flood as well, and not the clients'. A request that takes longer than
two seconds is given up, and not counted.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
import zlib

_CLIENTS = 16
_PATIENCE = 2.0
_HEAD = b"HTTP/1.0 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n"
_TEXT = b"".join(b"<li>%d: %d</li>" % (n, n * n * 7919 % 100_003) for n in range(300))


def page() -> bytes:
    """Make the page."""
    body = zlib.compress(_TEXT)
    return _HEAD % len(body) + body


def serve(port: int) -> None:
    """Answer each request with one page, one after the other."""
    with socket.create_server(("", port), backlog=512) as listener:
        print("serving", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                # A client whose request was lost is not to keep the others waiting.
                connection.settimeout(0.05)
                if connection.recv(1024):
                    connection.sendall(page())


def ask(address: str, port: int, seconds: float) -> int:
    """Ask again and again for so long; return the number of whole pages."""
    end = time.monotonic() + seconds
    pages = [0] * _CLIENTS
    whole = len(page())

    def client(number: int) -> None:
        while time.monotonic() < end:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((address, port), timeout=_PATIENCE) as one,
            ):
                one.sendall(b"GET / HTTP/1.0\r\n\r\n")
                found = 0
                while piece := one.recv(4096):
                    found += len(piece)
                pages[number] += found == whole and time.monotonic() < end

    threads = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(pages)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(ask(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
