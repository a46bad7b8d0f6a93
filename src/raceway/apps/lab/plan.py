"""What a lab is to be: its hosts, the links between them and every address, as pure data.

    line, 2 hosts      a ── b
    line, 3 hosts      a ── m ── b            m, or m1, m2, ...: they pass nothing on by themselves
    star, 3 hosts      a ──┐
                       b ── hub               the hub passes nothing on by itself either
                       c ──┘
    router, 2 hosts    a ── router ── b       the router forwards, each host has a subnet of its own

In a line and a star all hosts are in one subnet, and those in the middle have no addresses at all: what joins the
others there (a bridge, a switch, a firewall) is what the lab is for. Everything is the same each time, from the MAC
addresses (locally administered: RFC 9542 section 2.1) to the interfaces' indexes, so that a test or a tutorial can
say them. Addresses are of 10.0.0.0/8 (RFC 1918) and of fd00::/64 and its neighbours (RFC 4193).
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

LEAVES = string.ascii_lowercase
HUB, ROUTER = "hub", "router"
DEFAULT_MTU = 1500

_FIRST_INDEX = 100
"""Above the interfaces that a kernel puts into every new namespace (sit0, tunl0, ...)."""


class Shape(StrEnum):
    """How the hosts are joined."""

    LINE = "line"
    STAR = "star"
    ROUTER = "router"


DEFAULT_HOSTS = {Shape.LINE: 2, Shape.STAR: 3, Shape.ROUTER: 2}


@dataclass(frozen=True, slots=True)
class End:
    """One end of a veth pair, and the addresses of its host there ("10.0.0.1/24"), none for a host in the middle.

    addressed: the interface that has the addresses: this one, or the VLAN interface upon it.
    """

    host: str
    interface: str
    addressed: str
    index: int
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair."""

    first: End
    second: End

    @property
    def ends(self) -> tuple[End, End]:
        """Both."""
        return self.first, self.second


@dataclass(frozen=True, slots=True)
class Plan:
    """A lab to be. offloads: True all on, False all off, None as the kernel has them; vlan: 0 for none.

    gateways: of hosts that have a default route, where it goes, an address a family; forwarders: hosts that route.
    """

    shape: Shape
    hosts: tuple[str, ...]
    links: tuple[Link, ...]
    gateways: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forwarders: frozenset[str] = frozenset()
    queues: int = 1
    mtu: int = DEFAULT_MTU
    ipv6: bool = True
    offloads: bool | None = None
    vlan: int = 0

    def ends(self, host: str) -> tuple[End, ...]:
        """The ends of links at a host; ValueError if there is no such host."""
        if host not in self.hosts:
            raise ValueError(f"host {host!r}: expected one of {', '.join(self.hosts)}")
        return tuple(end for link in self.links for end in link.ends if end.host == host)

    def end(self, host: str, towards: str | None = None) -> End:
        """The one end at a host, or the one whose other end is at host `towards`."""
        found = self.ends(host)
        if towards is not None:
            self.ends(towards)
            found = tuple(end for end in found if self.peer(end).host == towards)
            if not found:
                raise ValueError(f"host {host!r} has no link towards {towards!r}")
        if len(found) > 1:
            others = ", ".join(self.peer(end).host for end in found)
            raise ValueError(f"host {host!r} has {len(found)} interfaces: say towards which of {others}")
        return found[0]

    def peer(self, end: End) -> End:
        """The other end of the link."""
        for link in self.links:
            if end in link.ends:
                return link.second if end == link.first else link.first
        raise ValueError(f"{end.host} {end.interface} is not of this lab")


def make_plan(
    shape: Shape | str = Shape.LINE,
    hosts: int | None = None,
    *,
    queues: int = 1,
    mtu: int = DEFAULT_MTU,
    ipv6: bool = True,
    offloads: bool | None = None,
    vlan: int = 0,
) -> Plan:
    """The plan of a lab; ValueError for what cannot be, with what was expected.

    hosts: of a line all of them (default 2), of a star those around the hub (3), of a router those around it (2).
    queues: transmit and receive queues of every interface; mtu: bytes.
    """
    if shape not in list(Shape):
        raise ValueError(f"shape {str(shape)!r}: expected {', '.join(Shape)}")
    shape = Shape(shape)
    count = DEFAULT_HOSTS[shape] if hosts is None else hosts
    least = 2 if shape == Shape.LINE else 1
    _expect("hosts", count, least, len(LEAVES), f" in a {shape}")
    _expect("queues", queues, 1, 4096)
    _expect("mtu", mtu, 68, 65535, " (RFC 791)")
    _expect("vlan", vlan, 0, 4094, " (IEEE 802.1Q)")
    if ipv6 and mtu < 1280:
        raise ValueError(
            f"mtu {mtu}: IPv6 needs at least 1280 (RFC 8200 section 5); expected that or no IPv6 (--no-ipv6)"
        )
    draw = _Drawing(ipv6, vlan)
    if shape == Shape.LINE:
        names, links = _line(draw, count)
    else:
        names, links = _around(draw, count, shape)
    routed = shape == Shape.ROUTER
    return Plan(
        shape, names, links,
        gateways={link.first.host: _bare(link.second.addresses) for link in links} if routed else {},
        forwarders=frozenset({ROUTER} if routed else ()),
        queues=queues, mtu=mtu, ipv6=ipv6, offloads=offloads, vlan=vlan,
    )  # fmt: skip


def _expect(what: str, value: int, least: int, most: int, where: str = "") -> None:
    if not least <= value <= most:
        raise ValueError(f"{what} {value}: expected {least} to {most}{where}")


class _Drawing:
    """Gives each end its index and MAC address, counting on."""

    def __init__(self, ipv6: bool, vlan: int) -> None:
        self._ipv6, self._vlan, self._ends = ipv6, vlan, 0

    def end(self, host: str, interface: str, *, number: int = 0, subnet: int = 0) -> End:
        """number: the last part of the addresses, 0 for none."""
        self._ends += 1
        addresses = []
        if number:
            addresses.append(f"10.0.{subnet}.{number}/24")
            if self._ipv6:
                network = f"fd00:0:0:{subnet}" if subnet else "fd00:"
                addresses.append(f"{network}:{':' if subnet else ''}{number:x}/64")
        return End(
            host, interface,
            addressed=f"{interface}.{self._vlan}" if self._vlan and number else interface,
            # No two interfaces of a lab have the same index. The kernel takes a veth whose peer, in another
            # namespace, has the same for one without a peer, and may take a second to see that it is up.
            index=_FIRST_INDEX + self._ends,
            mac=f"02:00:00:00:00:{self._ends:02x}",
            addresses=tuple(addresses),
        )  # fmt: skip


def _line(draw: _Drawing, count: int) -> tuple[tuple[str, ...], tuple[Link, ...]]:
    middle = ["m"] if count == 3 else [f"m{number}" for number in range(1, count - 1)]
    names = ("a", *middle, "b")
    links = []
    for left, right in itertools.pairwise(names):
        first = draw.end(left, "veth0", number=1) if left == "a" else draw.end(left, "right")
        second = draw.end(right, "veth0", number=2) if right == "b" else draw.end(right, "left")
        links.append(Link(first, second))
    return names, tuple(links)


def _around(draw: _Drawing, count: int, shape: Shape) -> tuple[tuple[str, ...], tuple[Link, ...]]:
    routed = shape == Shape.ROUTER
    centre = ROUTER if routed else HUB
    links = []
    for number, host in enumerate(LEAVES[:count], 1):
        subnet = number if routed else 0
        first = draw.end(host, "veth0", number=number, subnet=subnet)
        second = draw.end(centre, f"to_{host}", number=254 if routed else 0, subnet=subnet)
        links.append(Link(first, second))
    return (*LEAVES[:count], centre), tuple(links)


def _bare(addresses: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(address.split("/")[0] for address in addresses)
