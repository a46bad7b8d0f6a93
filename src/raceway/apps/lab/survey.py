"""What there is of a lab, asked of the kernel at the moment of asking: nothing about a lab is kept anywhere else."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from raceway.apps.lab import processes
from raceway.apps.lab.build import COMPLETE
from raceway.apps.lab.names import Found, namespace_name
from raceway.apps.lab.plan import HUB, ROUTER, Shape
from raceway.kernel import ethtool, namespaces

_LOOPBACK = 1


@dataclass(frozen=True, slots=True)
class InterfaceSeen:
    """An interface as it is. peer: host and interface at the other end of a veth or below a VLAN, None if elsewhere.

    state: "up" (it is, and so is the other end), "no carrier" (it is, the other end is not) or "down".
    """

    name: str
    index: int
    kind: str
    state: str
    mtu: int
    transmit_queues: int
    receive_queues: int
    mac: str
    addresses: tuple[str, ...]
    peer: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class HostSeen:
    """A host as it is. namespace: its name for `ip netns`; made: False if its namespace never came to be."""

    name: str
    namespace: str
    made: bool
    interfaces: tuple[InterfaceSeen, ...]
    processes: tuple[processes.Process, ...]


@dataclass(frozen=True, slots=True)
class LabSeen:
    """A lab as it is. complete: False if whoever made it was stopped half-way, or is still at it; then the shape is
    "unknown"."""

    name: str
    shape: str
    complete: bool
    hosts: tuple[HostSeen, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def survey(lab: Found) -> LabSeen:
    """Look at everything in a lab. PermissionNeededError without CAP_SYS_ADMIN; OSError."""
    with ExitStack() as stack:
        spaces: dict[str, int] = {}
        for host in lab.hosts:
            if namespaces.is_namespace(lab.path(host)):
                spaces[host] = os.open(lab.path(host), os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, spaces[host])
        identities = {host: namespaces.identity(space) for host, space in spaces.items()}
        running = processes.inside(set(identities.values()))
        raw, marked = namespaces.in_thread(lambda: _look(spaces))
    owners = {(host, link["index"]): link["name"] for host, links in raw.items() for link in links}
    hosts = tuple(
        HostSeen(
            name=host,
            namespace=namespace_name(lab.name, host),
            made=host in spaces,
            interfaces=tuple(_interface(link, owners) for link in raw.get(host, ())),
            processes=tuple(running[identities[host]]) if host in spaces else (),
        )
        for host in lab.hosts
    )
    complete = marked and all(host.made for host in hosts)
    # Of a half-made one the hub may be what is missing.
    return LabSeen(lab.name, _shape(lab.hosts) if complete else "unknown", complete, hosts)


def _shape(hosts: tuple[str, ...]) -> str:
    return Shape.STAR if HUB in hosts else Shape.ROUTER if ROUTER in hosts else Shape.LINE


def _look(spaces: Mapping[str, int]) -> tuple[dict[str, list[dict[str, Any]]], bool]:
    """The interfaces of each host, and whether the mark of a complete lab is there."""
    from pyroute2.iproute import IPRoute  # type: ignore[import-untyped, unused-ignore]

    found: dict[str, list[dict[str, Any]]] = {}
    marked = False
    for host, space in spaces.items():
        namespaces.enter(space)
        with IPRoute() as route:
            # The other namespaces of the lab by the number that this one has for them.
            numbers = {route.get_netnsid(fd=other)["nsid"]: name for name, other in spaces.items()}
            addresses: dict[int, list[str]] = {}
            for address in route.addr("dump"):
                text = address.get("local") or address.get("address")
                # Everybody has a link-local address, and nobody asks for it.
                if not text.startswith("fe80:"):
                    addresses.setdefault(address["index"], []).append(f"{text}/{address['prefixlen']}")
            links = []
            for link in route.link("dump"):
                if link["index"] == _LOOPBACK:
                    marked |= link.get("ifalias") == COMPLETE
                else:
                    links.append(_raw(link, host, numbers, addresses))
            found[host] = links
    return found, marked


def _raw(
    link: Any, host: str, numbers: Mapping[int, str], addresses: Mapping[int, list[str]]
) -> dict[str, Any]:
    name = link.get("ifname")
    other = link.get("link")
    where = link.get("link_netnsid")
    up = link["flags"] & 0x1  # IFF_UP
    running = link.get("operstate") in ("UP", "UNKNOWN")
    transmit, receive = _queues(name, link.get("num_tx_queues"), link.get("num_rx_queues"))
    return {
        "name": name,
        "index": link["index"],
        "kind": link.get(("linkinfo", "kind")) or "other",
        "state": "down" if not up else "up" if running else "no carrier",
        "mtu": link.get("mtu"),
        "transmit_queues": transmit,
        "receive_queues": receive,
        "mac": link.get("address"),
        "addresses": tuple(addresses.get(link["index"], ())),
        # Without a number the other one is in the same namespace.
        "other": (host if where is None else numbers.get(where, ""), other) if other else None,
    }


def _interface(link: dict[str, Any], owners: Mapping[tuple[str, int], str]) -> InterfaceSeen:
    other = link.pop("other")
    peer = (other[0], owners[other]) if other in owners else None
    return InterfaceSeen(**link, peer=peer)


def _queues(name: str, transmit: int, receive: int) -> tuple[int, int]:
    """Those in use, which `ethtool -L` can change; as many as there are of a device that does not say."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            channels = ethtool.channels(asker, name)
    except OSError:
        return transmit, receive
    return channels.transmit or transmit, channels.receive or receive
