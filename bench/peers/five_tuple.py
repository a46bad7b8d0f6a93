"""The question put to each packet, as a Python function and in pcap-filter's language."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Match: TypeAlias = Callable[[int, int, int, int, int, int], bool]
"""(IP version, protocol number, source, destination, source port, destination port) to verdict. Addresses are
integers in network order; ports are -1 where the packet has none."""

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_ANY = -2  # no port, and not the "none" of a packet without ports
_LARGEST_PORT = 65535


@dataclass(frozen=True)
class FiveTuple:
    """What a packet must be; None means anything. `any_` fields ask for the source or the destination.

    For example FiveTuple(protocol="tcp", any_port=80, any_network="10.0.0.0/8") is pcap-filter's
    `tcp and port 80 and net 10.0.0.0/8`. Networks are given as `ipaddress.ip_network` reads them, a single
    address included.
    """

    protocol: str | None = None
    source_network: str | None = None
    destination_network: str | None = None
    any_network: str | None = None
    source_port: int | None = None
    destination_port: int | None = None
    any_port: int | None = None

    def __post_init__(self) -> None:
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r}: expected one of {', '.join(PROTOCOLS)} or None")
        for network in (self.source_network, self.destination_network, self.any_network):
            if network is not None:
                ipaddress.ip_network(network)
        for port in (self.source_port, self.destination_port, self.any_port):
            if port is not None and not 0 <= port <= _LARGEST_PORT:
                raise ValueError(f"port {port}: expected 0 to {_LARGEST_PORT}")

    def expression(self) -> str:
        """The same question as a pcap-filter expression."""
        parts = [self.protocol or "(ip or ip6)"]
        for keyword, network in (
            ("src net", self.source_network),
            ("dst net", self.destination_network),
            ("net", self.any_network),
        ):
            if network is not None:
                parts.append(f"{keyword} {ipaddress.ip_network(network)}")
        for keyword, port in (
            ("src port", self.source_port),
            ("dst port", self.destination_port),
            ("port", self.any_port),
        ):
            if port is not None:
                parts.append(f"{keyword} {port}")
        return " and ".join(parts)

    def matcher(self) -> Match:
        """The test as one function with everything looked up beforehand."""
        number = PROTOCOLS[self.protocol] if self.protocol is not None else None
        from_network, to_network = _prefix(self.source_network), _prefix(self.destination_network)
        network = _prefix(self.any_network)
        from_port, to_port, port = (
            _ANY if value is None else value
            for value in (self.source_port, self.destination_port, self.any_port)
        )

        def match(
            version: int, protocol: int, source: int, destination: int, sent_from: int, sent_to: int
        ) -> bool:
            return (
                (number is None or protocol == number)
                and port in (_ANY, sent_from, sent_to)
                and from_port in (_ANY, sent_from)
                and to_port in (_ANY, sent_to)
                and (
                    network is None
                    or _inside(network, version, source)
                    or _inside(network, version, destination)
                )
                and (from_network is None or _inside(from_network, version, source))
                and (to_network is None or _inside(to_network, version, destination))
            )

        return match


def _prefix(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    network = ipaddress.ip_network(text)
    return network.version, int(network.netmask), int(network.network_address)


def _inside(prefix: tuple[int, int, int], version: int, address: int) -> bool:
    return prefix[0] == version and address & prefix[1] == prefix[2]
