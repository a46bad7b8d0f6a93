"""Two hosts of a lab, `near` and `far`, whose interface a packet port opens; nobody else says a word there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from frame_check import ADDRESSES
from labs import until as until
from raceway.apps.lab import Lab
from raceway.kernel.interface import Interface, Network
from raceway.ports.geometry import Geometry
from raceway.ports.packet.port import PacketPort

HOSTS = {"near": "a", "far": "b"}
DEVICE = "veth0"


class Pair:
    """`near` and `far`, each in a namespace of its own, joined by a veth pair of this MTU."""

    def __init__(self, mtu: int = 1500) -> None:
        self.lab = Lab(ipv6=False, mtu=mtu)

    def inside(self, name: str) -> Any:
        return self.lab.inside(HOSTS[name])

    def open(self, name: str, geometry: Geometry | None = None, **options: Any) -> PacketPort:
        with self.inside(name):
            return PacketPort(f"netmap:{name}", DEVICE, geometry or Geometry(), **{"queues": 1} | options)

    def ip(self, name: str, command: str) -> str:
        """Run ip(8) at one of the two; its output."""
        done = self.lab.run(HOSTS[name], ["ip", *command.split()], capture_output=True, text=True)
        assert done.returncode == 0, f"ip {command}: {done.stderr}"
        return str(done.stdout)

    def interface(self, name: str) -> Interface:
        with self.inside(name), Network() as network:
            return network.interface(DEVICE)

    def counters(self, name: str) -> dict[str, int]:
        with self.inside(name), Network() as network:
            return network.link_counters(DEVICE)

    def sockets(self, name: str) -> int:
        """Packet sockets that are open there."""
        done = self.lab.run(
            HOSTS[name], ["cat", "/proc/net/packet"], capture_output=True, text=True, check=True
        )
        return len(done.stdout.splitlines()) - 1

    def settle(self, name: str) -> None:
        """Wait until the kernel has noticed that the other end is up again."""
        assert until(lambda: self.interface(name).running)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    with made.lab:
        yield made


@pytest.fixture
def jumbo_pair() -> Iterator[Pair]:
    made = Pair(mtu=9000)
    with made.lab:
        yield made


def collect(port: PacketPort, count: int, seconds: float = 10) -> list[bytes]:
    """The next `count` packets; fewer if they do not come."""
    found: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += port.receive(0.1).to_bytes()
    return found


def frame(number: int, length: int = 60) -> bytes:
    """An Ethernet frame of a local experiment (IEEE 802, 88b5) with its number in it."""
    return (ADDRESSES + b"\x88\xb5" + number.to_bytes(8, "big")).ljust(length, b"\xa5")[:length]


def number_of(packet: bytes) -> int:
    return int.from_bytes(packet[14:22], "big")


def numbers(packets: list[bytes]) -> list[int]:
    return [number_of(packet) for packet in packets]
