"""Everything that `raceway ports` knows at one moment, and what of it could not be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raceway.apps.port_list.interfaces import (
    Interfaces,
    UsedInterface,
    is_link,
    is_namespace,
    used_interfaces,
)
from raceway.apps.port_list.ports import OpenPort, interface_of, is_region, open_ports
from raceway.kernel.processes import survey
from raceway.memory.identity import network_namespace


@dataclass(frozen=True)
class Listing:
    """Open ports, used interfaces; hidden: processes that could not be looked into; here: the caller's own network
    namespace's inode."""

    ports: tuple[OpenPort, ...]
    interfaces: Interfaces
    hidden: int
    here: int

    def network(self, identity: int) -> str:
        """What to call a network namespace: "" for the caller's own."""
        if identity in (self.here, 0):
            return ""
        return self.interfaces.names.get(identity) or f"net:[{identity}]"

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Namespaces are inodes, as in the links of /proc/PID/ns/net."""
        return {
            "tool": "ports",
            "network": self.here,
            "ports": [_port_dict(port) for port in self.ports],
            "interfaces": [_interface_dict(interface) for interface in self.interfaces.used],
            "other_interfaces": self.interfaces.others,
            "network_names": {str(inode): name for inode, name in self.interfaces.names.items()},
            "unseen": {"processes": self.hidden, "networks": self.interfaces.closed},
        }


def look() -> Listing:
    """Look around, once. Takes no privilege; with more of it more is seen."""
    seen = survey(lambda target: is_region(target) or is_link(target) or is_namespace(target))
    ports = open_ports(seen.files)
    opened: dict[int, set[str]] = {}
    for port in ports:
        opened.setdefault(port.card.network, set()).add(interface_of(port.card.name))
    opened.pop(0, None)
    interfaces = used_interfaces(seen.files, opened, [port.process for port in ports])
    return Listing(tuple(ports), interfaces, seen.hidden, network_namespace())


def _port_dict(port: OpenPort) -> dict[str, Any]:
    return {
        "name": port.card.name,
        "mode": port.card.mode,
        "pid": port.process.pid,
        "user": port.process.user,
        "command": port.process.command,
        "network": port.card.network,
        "region": port.region,
        "tx_packets": port.tx_packets,
        "tx_bytes": port.tx_bytes,
        "rx_packets": port.rx_packets,
        "rx_bytes": port.rx_bytes,
        "drops": dict(port.card.drops),
        "drops_at": port.card.refreshed / 1e9,
        "rings": [vars(ring) for ring in port.card.rings],
    }


def _interface_dict(interface: UsedInterface) -> dict[str, Any]:
    return {
        "name": interface.name,
        "index": interface.index,
        "network": interface.network,
        "driver": interface.driver,
        "up": interface.up,
        "receive_queues": interface.receive_queues,
        "transmit_queues": interface.transmit_queues,
        "counters": dict(interface.counters),
        "programs": [
            {
                "where": each.where,
                "program": each.program,
                "name": each.name,
                "pids": [process.pid for process in each.holders],
            }
            for each in interface.attachments
        ],
    }
