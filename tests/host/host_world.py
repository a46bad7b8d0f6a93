"""What tests of host rings share: two hosts joined by a veth pair, `a` whose host rings are opened and `b`, the world
outside; frames between them by hand; and what the kernel says about its interfaces, to see that nothing changed.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import raceway
from frame_check import TCP, UDP, checksum, pseudo_header
from labs import until as until
from raceway.apps.lab import Lab
from raceway.kernel.bpf.system import AttachType, Command, bpf
from raceway.kernel.interface import Network
from raceway.ports.port import Port

RACEWAY = [sys.executable, "-m", "raceway"]
KIND = b"\x88\xb5"
"""The EtherType of a local experiment (IEEE 802)."""
SO_RCVBUFFORCE = 33


def open_at(lab: Lab, suffix: str = "^", host: str = "a", **options: Any) -> Any:
    """A port of a host's interface: `suffix` is what stands behind its name."""
    with lab.inside(host):
        return raceway.open(f"netmap:{lab.interface(host)}{suffix}", **options)


def device(lab: Lab, host: str = "a") -> str:
    """What the TAP device of the host rings is called."""
    return f"rw{lab.index(host)}"


def mac(lab: Lab, host: str) -> bytes:
    return bytes.fromhex(lab.mac(host).replace(":", ""))


def frame(lab: Lab, number: int, length: int = 60, *, to: bytes | None = None) -> bytes:
    """A frame from b to a with its number in it, of a protocol that no host speaks."""
    rest = (number * 2654435761 & 0xFFFFFFFF).to_bytes(4, "big") * (length // 4)
    return ((mac(lab, "a") if to is None else to) + mac(lab, "b") + KIND + number.to_bytes(8, "big") + rest)[
        :length
    ]


def addresses(lab: Lab, version: int, source: str = "b", target: str = "a") -> bytes:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return b"".join(socket.inet_pton(family, lab.address(host, version)) for host in (source, target))


def datagram(
    lab: Lab, payload: bytes, version: int = 4, *, port: int = 2000, source: int = 1000, damage: int = 0,
    tag: bytes = b"",
) -> bytes:  # fmt: skip
    """A whole frame with UDP from b to a; `damage`: added to the checksum."""
    both = addresses(lab, version)
    transport = struct.pack("!HHHH", source, port, 8 + len(payload), 0) + payload
    total = checksum(pseudo_header(both, UDP, len(transport)) + transport) or 0xFFFF
    transport = transport[:6] + ((total + damage) & 0xFFFF).to_bytes(2, "big") + payload
    if version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0x4000, 64, UDP, 0) + both
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    else:
        head = struct.pack("!IHBB", 0x60000000, len(transport), UDP, 64) + both
    kind = b"\x08\0" if version == 4 else b"\x86\xdd"
    return mac(lab, "a") + mac(lab, "b") + tag + kind + head + transport


@contextmanager
def udp_socket(lab: Lab, host: str = "a", version: int = 4, port: int = 2000) -> Iterator[socket.socket]:
    """A bound UDP socket at a host, with room for everything that a test sends."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with lab.inside(host):
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((lab.address(host, version), port))
    with made:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        made.settimeout(5)
        yield made


@contextmanager
def raw_socket(lab: Lab, host: str, interface: str = "") -> Iterator[socket.socket]:
    """An AF_PACKET socket on a host's interface."""
    with lab.inside(host):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((interface or lab.interface(host), 3))
    with made:
        made.settimeout(5)
        yield made


def heard(raw: socket.socket, count: int, kind: bytes = KIND) -> list[tuple[int, bytes]]:
    """Packet type and frame of the next `count` frames of this EtherType that arrive; fewer if no more come."""
    found: list[tuple[int, bytes]] = []
    try:
        while len(found) < count:
            packet, address = raw.recvfrom(70000)
            if address[2] != socket.PACKET_OUTGOING and packet[12:14] == kind:
                found.append((address[2], packet))
    except TimeoutError:
        pass
    return found


def collect(port: Port, count: int, wanted: Callable[[bytes], bool], seconds: float = 20) -> list[bytes]:
    """The next `count` frames that are wanted, or as many as come in time."""
    found: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += [one for one in port.receive(0.2).to_bytes() if wanted(one)]
    return found


def is_experiment(one: bytes) -> bool:
    return one[12:14] == KIND


def ip(lab: Lab, host: str, words: str) -> str:
    """Run ip(8) at a host; its output."""
    done = lab.run(host, ["ip", *words.split()], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {words}: {done.stderr}"
    return str(done.stdout)


def protocol_counters(lab: Lab, host: str = "a") -> dict[str, int]:
    """The host's own counters of IP, IPv6, UDP, ...: "IpInReceives" and so on."""
    with lab.inside(host):
        words = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()]
        found = {
            names[0][:-1] + name: int(value)
            for names, values in zip(words[::2], words[1::2], strict=True)
            for name, value in zip(names[1:], values[1:], strict=True)
        }
        six = Path("/proc/thread-self/net/snmp6")
        if six.exists():
            found |= {name: int(value) for name, value in map(str.split, six.read_text().splitlines())}
        return found


def link_counters(lab: Lab, name: str, host: str = "a") -> dict[str, int]:
    with lab.inside(host), Network() as network:
        return network.link_counters(name)


class _Query:
    """PROG_QUERY's attributes for an interface: how many programs there are, and the first of them."""

    def __init__(self, index: int, direction: int) -> None:
        import ctypes

        class Attributes(ctypes.Structure):
            _fields_ = [
                ("target_ifindex", ctypes.c_uint32), ("attach_type", ctypes.c_uint32),
                ("query_flags", ctypes.c_uint32), ("attach_flags", ctypes.c_uint32),
                ("prog_ids", ctypes.c_uint64), ("count", ctypes.c_uint32), ("pad", ctypes.c_uint32),
                ("prog_attach_flags", ctypes.c_uint64), ("link_ids", ctypes.c_uint64),
                ("link_attach_flags", ctypes.c_uint64), ("revision", ctypes.c_uint64),
            ]  # fmt: skip

        self.attributes = Attributes(target_ifindex=index, attach_type=direction)
        bpf(Command.PROG_QUERY, self.attributes)

    @property
    def count(self) -> int:
        return int(self.attributes.count)


def programs(lab: Lab, host: str = "a") -> dict[str, int]:
    """How many tcx programs and XDP programs are attached to a host's interface."""
    index = lab.index(host)
    with lab.inside(host), Network() as network:
        return {
            "ingress": _Query(index, AttachType.TCX_INGRESS).count,
            "egress": _Query(index, AttachType.TCX_EGRESS).count,
            "xdp": len(network.xdp_attached(index)),
        }


def nature(lab: Lab, host: str = "a") -> dict[str, Any]:
    """All that can be said of a host's interfaces but for their counters: to be the same before and after."""
    shown = json.loads(ip(lab, host, "-j -d link show"))
    keys = ("ifname", "flags", "mtu", "address", "txqlen", "promiscuity", "allmulti", "num_tx_queues",
            "num_rx_queues", "qdisc", "inet6_addr_gen_mode")  # fmt: skip
    addresses = json.loads(ip(lab, host, "-j address show"))
    with lab.inside(host), Network() as network:
        features = network.features(lab.interface(host))
    return {
        "links": [{key: link.get(key) for key in keys} for link in shown],
        "addresses": [(each["ifname"], [info["local"] for info in each["addr_info"]]) for each in addresses],
        "features": features,
        "programs": programs(lab, host),
    }


@contextmanager
def bridge(
    lab: Lab, *names: str, host: str = "a", more: tuple[str, ...] = (), seconds: float = 120
) -> Iterator[subprocess.Popen[str]]:
    """`raceway bridge` at a host, once it runs; what is said later can be read from its stdout."""
    pair = names or (f"netmap:{lab.interface(host)}", f"netmap:{lab.interface(host)}^")
    command = [*RACEWAY, "bridge", "-i", pair[0], "-i", pair[1], *more]
    child = lab.popen(host, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = ""
        deadline = time.monotonic() + seconds
        while "raceway bridge:" not in said:
            line = child.stdout.readline()
            said += line
            assert line, f"the bridge ended: {said}"
            assert time.monotonic() < deadline, said
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate(timeout=30)


def tcp_segment(one: bytes) -> bool:
    at = 14 if one[12:14] in (b"\x08\0", b"\x86\xdd") else 18
    version = one[at] >> 4
    return (version == 4 and one[at + 9] == TCP) or (version == 6 and one[at + 6] == TCP)
