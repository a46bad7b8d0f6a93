"""How the two ends of a pipe find each other, with no server, no file and nothing left behind.

Three names in the abstract socket namespace, all of which vanish with the process that holds them, SIGKILL or not::

    raceway/UID/x/1/{   held by who has end "{" open: a second opener of that end finds it taken (EBUSY)
    raceway/UID/x/1/}   the same for end "}"
    raceway/UID/x/1/    held while an end is being opened, so that two that open at once do so one after the other

The first end makes the region and listens on its name; a thread answers the one caller it will have. The second
connects to the first's name, proves to be of the same user, and receives the region and both bells as file
descriptors (SCM_RIGHTS). From then on that connection carries nothing: it is there to break. When an end dies
the kernel closes its side and the other's becomes readable, which is the end of the stream. An end whose peer
is gone stops listening, so whoever opens the other end next starts a new pipe.

Abstract names belong to a network namespace: both ends must be opened in the same one.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raceway.errors import PortBusyError, RacewayError

PATIENCE = 5.0
"""Seconds to wait for an end that is just being opened, or one that has not answered yet."""

_OTHER = {"{": "}", "}": "{"}
_GREETING_LIMIT = 4096


@dataclass
class Joined:
    """What the second end gets from the first: its greeting and descriptors (region, first's bell, second's bell)."""

    connection: socket.socket
    greeting: dict[str, int | list[int]]
    descriptors: list[int]


@dataclass
class Meeting:
    """One end's hold on its name, and its connection to the other end once there is one."""

    name: str
    base: str
    end: str
    own: socket.socket = field(init=False)
    connection: socket.socket | None = None
    on_connect: Callable[[], None] | None = None
    met: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self.own.bind(_address(self.base, self.end))
        except OSError as error:
            self.own.close()
            if error.errno == errno.EADDRINUSE:
                raise PortBusyError(
                    self.name, f"this end of the pipe is open already{self._holder()}"
                ) from None
            raise

    def _holder(self) -> str:
        """Who holds the name, if it answers (it does while it waits for its other end)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(_address(self.base, self.end))
                credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            except OSError:
                return ""
        return f", in process {struct.unpack('3i', credentials)[0]}"

    def join(self) -> Joined | None:
        """Connect to the other end if it is there and waiting; None if this end is the first."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(PATIENCE)
        try:
            connection.connect(_address(self.base, _OTHER[self.end]))
        except (ConnectionRefusedError, FileNotFoundError):
            connection.close()
            return None
        try:
            _check_user(connection)
            connection.sendall(b"join")
            greeting, descriptors, _, _ = socket.recv_fds(connection, _GREETING_LIMIT, 3)
        except TimeoutError:
            connection.close()
            raise RacewayError(
                f"{self.name}: the other end is open but did not answer for {PATIENCE:g} s"
            ) from None
        except OSError:
            connection.close()
            return None
        if not greeting or len(descriptors) != 3:
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()
            return None
        connection.setblocking(False)
        self.connection = connection
        self.met.set()
        return Joined(connection, json.loads(greeting), descriptors)

    def wait(self, greeting: dict[str, int | list[int]], descriptors: list[int]) -> None:
        """Listen for the other end, and give it this greeting and these descriptors when it comes."""
        self.own.listen(4)
        message = json.dumps(greeting).encode()
        self._thread = threading.Thread(
            target=self._answer, args=(message, descriptors), name=f"raceway {self.name}", daemon=True
        )
        self._thread.start()

    def _answer(self, message: bytes, descriptors: list[int]) -> None:
        while True:
            try:
                connection, _ = self.own.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE)
            try:
                _check_user(connection)
                # Who only wants to know whether the name is taken says nothing and hangs up.
                joined = connection.recv(4) == b"join"
                with self._lock:
                    if not joined or self.own.fileno() < 0:
                        connection.close()
                        continue
                    # Known here before it can be used there, so that both agree on who is connected; and never
                    # with a timeout, because whoever asks `peer_is_gone` must not wait for the answer.
                    connection.setblocking(False)
                    self.connection = connection
                    socket.send_fds(connection, [message], descriptors)
                    self.own.shutdown(socket.SHUT_RD)
                    if self.on_connect is not None:
                        self.on_connect()
                    self.met.set()
                return
            except (OSError, RacewayError):
                self.connection = None
                connection.close()

    def peer_is_gone(self) -> bool:
        """True once the other end was there and has closed or died."""
        connection = self.connection
        if connection is None:
            return False
        try:
            return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Let go of the name and the connection: the other end sees the end of the stream."""
        with self._lock:
            try:
                self.own.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.own.close()
            if self.connection is not None:
                self.connection.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)


@contextmanager
def opening(name: str, base: str) -> Iterator[None]:
    """Hold the pipe's middle name while an end is opened: at most PATIENCE seconds are spent waiting for it."""
    deadline = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as turn:
        while True:
            try:
                turn.bind(_address(base, ""))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                if time.monotonic() > deadline:
                    raise RacewayError(
                        f"{name}: another process has been opening this pipe for {PATIENCE:g} s"
                    ) from None
                time.sleep(0.001)
        yield


def _address(base: str, end: str) -> bytes:
    return b"\0raceway/%d/" % os.geteuid() + base.encode() + b"/" + end.encode()


def _check_user(connection: socket.socket) -> None:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user = struct.unpack("3i", credentials)[1]
    if user != os.geteuid():
        raise RacewayError(f"the other end belongs to user {user}")
