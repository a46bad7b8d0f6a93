"""What the tests of TAP ports share: a network namespace of their own, and a little Ethernet and IP by hand."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raceway
from raceway.kernel import namespaces
from raceway.kernel.interface import Network

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip (iproute2)"
)


@pytest.fixture
def cables():
    """Takes ports whose device is one end of a cable (`tap.far` is the other), and closes both ends after the test."""
    ports: list[Any] = []

    def keep(port: Any) -> Any:
        ports.append(port)
        return port

    yield keep
    for port in ports:
        port.tap.far.close()
        port.close()


class Space:
    """A network namespace without a name, which ends with this object and what was opened in it."""

    def __init__(self, *, ipv6: bool = False) -> None:
        self.descriptor = namespaces.anonymous()
        self.ports: list[raceway.Port] = []
        with self.inside():
            # Else every device that comes up says a few words of its own accord.
            for name in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("0" if ipv6 else "1")
            Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
            Path("/proc/sys/net/ipv6/conf/default/router_solicitations").write_text("0")
            self.network = Network()
        self.ip("link set lo up")

    def inside(self) -> Any:
        return namespaces.inside(self.descriptor)

    def ip(self, words: str) -> str:
        with self.inside():
            return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout

    def open(self, name: str, **wishes: Any) -> Any:
        with self.inside():
            port = raceway.open(name, **wishes)
        self.ports.append(port)
        return port

    def socket(self, *arguments: int) -> socket.socket:
        with self.inside():
            made = socket.socket(*arguments)
        made.settimeout(20)
        return made

    def sysctl(self, path: str, value: str) -> None:
        with self.inside():
            Path("/proc/sys/net", path).write_text(value)

    def there(self, name: str) -> bool:
        return name in self.network.names()

    def end(self) -> None:
        for port in self.ports:
            port.close()
        self.network.close()
        os.close(self.descriptor)


def eventually(truth: Callable[[], Any], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not truth():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class Background:
    """Calls `step` in a thread again and again until the block ends; what it raises is raised there."""

    def __init__(self, step: Callable[[], Any]) -> None:
        self.step, self.error, self._stop = step, None, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.step()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error


def ones_sum(data: bytes) -> int:
    """RFC 1071, with numpy's help."""
    import numpy as np

    words = np.frombuffer(data + b"\0" * (len(data) % 2), dtype=">u2")
    total = int(words.sum(dtype=np.uint64))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def is_sound(frame: bytes) -> bool:
    """Whether every length and checksum of an ARP, IPv4 or IPv6 packet with TCP, UDP or ICMP over it is right."""
    kind, start = int.from_bytes(frame[12:14]), 14
    if kind == 0x0806:
        return len(frame) >= 42
    if kind == 0x0800:
        size = (frame[start] & 15) * 4
        end = start + int.from_bytes(frame[start + 2 : start + 4])
        protocol, addresses = frame[start + 9], frame[start + 12 : start + 20]
        if ones_sum(frame[start : start + size]) != 0xFFFF:
            return False
    elif kind == 0x86DD:
        size, end = 40, start + 40 + int.from_bytes(frame[start + 4 : start + 6])
        protocol, addresses = frame[start + 6], frame[start + 8 : start + 40]
        if protocol == 0:  # hop-by-hop options, as multicast listener reports have them
            protocol, size = frame[start + 40], 48 + frame[start + 41] * 8
    else:
        return False
    transport = frame[start + size : end]
    if end != len(frame):
        return False
    pseudo = b"" if protocol == 1 else addresses + struct.pack(">II", len(transport), protocol)
    return ones_sum(pseudo + transport) == 0xFFFF


def respond(port: raceway.Port, mac: bytes, address: bytes) -> None:
    """Answer one batch of ARP requests and ICMP echo requests for `address` as the host with `mac` would."""
    answers = []
    for frame in port.receive(timeout=0.05).to_bytes():
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1" and frame[38:42] == address:
            body = frame[14:20] + b"\0\2" + mac + address + frame[22:32]
            answers.append(frame[6:12] + mac + b"\x08\x06" + body)
        elif frame[12:14] == b"\x08\0" and frame[23] == 1 and frame[34] == 8:
            echo = b"\0\0\0\0" + frame[38:]
            echo = b"\0\0" + (0xFFFF - ones_sum(echo)).to_bytes(2) + echo[4:]
            answers.append(frame[6:12] + mac + frame[12:26] + frame[30:34] + frame[26:30] + echo)
    port.send(answers)
