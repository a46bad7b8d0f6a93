"""What tests of network interfaces share: ports in labs, frames with numbers, the peer's own counters, patience.

Never opens an interface outside a lab. `a` and `b` are the two hosts of a line, joined by a veth pair whose ends are
called veth0; nobody says a word there by himself (no IPv6, no ARP unless somebody asks).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import raceway
from frame_check import ADDRESSES
from labs import until as until
from raceway.apps.forwarder.forwarder import Forwarder
from raceway.apps.lab import Lab
from raceway.kernel.interface import Network
from raceway.ports.port import Port

KIND = b"\x88\xb5"
"""The EtherType of a local experiment (IEEE 802)."""
SO_RCVBUFFORCE = 33


def open_at(lab: Lab, host: str, suffix: str = "", towards: str | None = None, **options: Any) -> Port:
    """The port of a host's interface: `suffix` is what stands behind its name, as "/t" or "@xdp:mode=copy"."""
    with lab.inside(host):
        return raceway.open(f"netmap:{lab.interface(host, towards)}{suffix}", **options)


def frame(number: int, length: int = 60) -> bytes:
    """A frame with its number in it, and after that bytes that are no other frame's."""
    rest = (number * 2654435761 & 0xFFFFFFFF).to_bytes(4, "big") * (length // 4)
    return (ADDRESSES + KIND + number.to_bytes(8, "big") + rest)[:length]


def numbers(frames: list[bytes]) -> list[int]:
    """The numbers of frames that are of this world."""
    return [int.from_bytes(one[14:22], "big") for one in frames if one[12:14] == KIND]


def collect(port: Port, count: int, seconds: float = 20, kind: bytes = KIND) -> list[bytes]:
    """The next `count` frames of this EtherType (b"": any), or as many as come in time."""
    found: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += [one for one in port.receive(0.2).to_bytes() if not kind or one[12:14] == kind]
    return found


def forwarded(forwarder: Forwarder, sink: Port, count: int, seconds: float = 20) -> list[bytes]:
    """Let a forwarder work until `count` frames have come out, and those."""
    found: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        forwarder.step(1_000_000)
        found += sink.receive(0).to_bytes()
    return found


def told(port: Port) -> str:
    """All that a sender can say of what became of its frames, for a failed test's message."""
    live = getattr(port, "_live", None)
    words = [f"{port.counters()}, {port.link_counters()}"]  # type: ignore[attr-defined]
    if live is not None:
        words.append(
            f"live: state {live.record[0]['state']}, {live.sent} taken, {live.waiting} wait, {live.lost} lost, "
            f"refusal {live.refusal!r}, {live.obstacle()!r}"
        )
    return "; ".join(words)


@contextmanager
def raw_socket(lab: Lab, host: str, towards: str | None = None) -> Iterator[socket.socket]:
    """The host's own way to send and receive whole frames, an AF_PACKET socket on its interface."""
    with lab.inside(host):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with raw:
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        with lab.inside(host):
            raw.bind((lab.interface(host, towards), 3))
        raw.settimeout(5)
        yield raw


def heard(raw: socket.socket, count: int, kind: bytes = KIND) -> list[bytes]:
    """The next `count` frames of this EtherType that arrive at a raw socket; those that its host sent do not count."""
    found: list[bytes] = []
    try:
        while len(found) < count:
            packet, address = raw.recvfrom(70000)
            if address[2] != socket.PACKET_OUTGOING and packet[12:14] == kind:
                found.append(packet)
    except TimeoutError:
        pass
    return found


def ip(lab: Lab, host: str, words: str) -> str:
    """Run ip(8) at a host; its output."""
    done = lab.run(host, ["ip", *words.split()], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {words}: {done.stderr}"
    return str(done.stdout)


def ethtool(lab: Lab, host: str, words: str) -> str:
    """Run ethtool(8) at a host; its output."""
    done = lab.run(host, ["ethtool", *words.split()], capture_output=True, text=True)
    assert done.returncode == 0, f"ethtool {words}: {done.stderr}"
    return str(done.stdout)


def link_counters(lab: Lab, host: str, towards: str | None = None) -> dict[str, int]:
    """What the kernel has counted at a host's interface."""
    with lab.inside(host), Network() as network:
        return network.link_counters(lab.interface(host, towards))


def attached(lab: Lab, host: str, towards: str | None = None) -> list[str]:
    """The modes in which XDP programs are attached to a host's interface."""
    with lab.inside(host), Network() as network:
        return [one.mode for one in network.xdp_attached(lab.interface(host, towards))]


def features(lab: Lab, host: str) -> dict[str, bool]:
    """A host's offloads."""
    with lab.inside(host), Network() as network:
        return network.features(lab.interface(host))
