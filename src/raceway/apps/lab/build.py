"""Carries out the plan of a lab: namespaces, veth pairs, addresses, routes.

A veth pair is made with each end in its namespace from the start, so that no interface of a lab is ever anywhere
else: whoever is killed while building leaves namespaces, and their names are all that must be removed. The last thing
that is done to a lab is a mark that it is complete: an alias on the loopback interface of its first host.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raceway.apps.lab.names import LabError, every_lab, namespace_path
from raceway.apps.lab.plan import End, Link, Plan
from raceway.kernel import ethtool, namespaces
from raceway.kernel.capabilities import refused

COMPLETE = "raceway lab: complete"
_LOOPBACK = 1  # Its index in every namespace: <linux/net_namespace.h>, LOOPBACK_IFINDEX
_IFA_F_NODAD, _IFA_F_TENTATIVE = 0x02, 0x40  # <linux/if_addr.h>
_PATIENCE, _PAUSE = 5.0, 0.001
_OFFLOAD_WORDS = ("checksum", "scatter-gather", "segmentation", "gso", "gro", "vlan")
_NEVER_ON = ("rx-gro-list", "rx-udp-gro-forwarding")  # They change what arrives; nobody means them by "on".


def build(plan: Plan, spaces: dict[str, int], name: str | None = None) -> None:
    """Make the lab. Its namespaces' descriptors are put into `spaces` by host, each as soon as it is there.

    name: to be known by; None leaves the namespaces without names. On any error nothing is left: neither names nor
    descriptors. LabError if there is such a lab already; PermissionNeededError if a capability is missing.
    """
    if name is not None:
        _refuse_a_second(name)
    # In a thread of its own, for it goes from namespace to namespace, and where it comes from may be out of reach.
    try:
        namespaces.in_thread(lambda: _build(plan, spaces, name))
    except BaseException:
        undo(spaces, name)
        raise


def undo(spaces: dict[str, int], name: str | None) -> None:
    """Remove the namespaces that `build` made: of this lab, and of no other that has the name by now."""
    for host in list(spaces):
        descriptor = spaces.pop(host)
        try:
            if name is not None and _is_still(namespace_path(name, host), descriptor):
                namespaces.take_name(namespace_path(name, host))
        finally:
            os.close(descriptor)


def _is_still(path: str, descriptor: int) -> bool:
    try:
        return namespaces.identity(path) == namespaces.identity(descriptor)
    except FileNotFoundError:
        return False


def _refuse_a_second(name: str) -> None:
    for lab in every_lab():
        if lab.name == name:
            raise LabError(
                f"lab {name!r} is there already, with {', '.join(lab.hosts)}; look at it: raceway lab show {name}; "
                f"remove it: raceway lab down {name}"
            )
        for host in lab.hosts:
            # A name given here would be seen by no one outside.
            if _is_here(lab.path(host)):
                raise LabError(f"this is host {host!r} of lab {lab.name!r}; make another lab from outside")


def _is_here(path: str) -> bool:
    try:
        return namespaces.identity(path) == namespaces.identity()
    except FileNotFoundError:
        return False


def _build(plan: Plan, spaces: dict[str, int], name: str | None) -> None:
    for host in plan.hosts:
        namespaces.leave_for_new()
        descriptor = namespaces.current()
        if name is not None:
            try:
                namespaces.give_name(namespace_path(name, host))
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, FileExistsError):
                    raise LabError(f"lab {name!r}: someone else is making it at this moment") from error
                raise
        spaces[host] = descriptor
        _settings(plan, host)
    for host in plan.hosts:
        namespaces.enter(spaces[host])
        with _netlink() as route:
            for link in plan.links:
                if link.first.host == host:
                    _make_pair(route, plan, link, spaces[link.second.host])
    for host in plan.hosts:
        namespaces.enter(spaces[host])
        with _netlink() as route:
            _configure(route, plan, host)
    deadline = time.monotonic() + _PATIENCE
    for host in plan.hosts:
        namespaces.enter(spaces[host])
        with _netlink() as route:
            _wait_until_usable(route, host, deadline)
    namespaces.enter(spaces[plan.hosts[0]])
    with _netlink() as route:
        route.link("set", index=_LOOPBACK, ifalias=COMPLETE)


def _netlink() -> Any:
    """A route socket of the thread's namespace. pyroute2 takes a quarter of a second to import: only when needed."""
    from pyroute2.iproute import IPRoute  # type: ignore[import-untyped, unused-ignore]

    return IPRoute()


def _settings(plan: Plan, host: str) -> None:
    """What interfaces that come into this namespace will find."""
    quiet = not any(end.addresses for end in plan.ends(host))
    settings: dict[str, int] = {}
    if os.path.isdir("/proc/sys/net/ipv6"):
        settings |= {
            # Without detection of duplicates (RFC 4862 section 5.4) addresses can be used at once.
            "ipv6/conf/default/accept_dad": 0,
            "ipv6/conf/default/dad_transmits": 0,
            # There is no router to solicit or to believe: what is sent in a lab is what its user sends.
            "ipv6/conf/default/router_solicitations": 0,
            "ipv6/conf/default/accept_ra": 0,
            # In the middle not even a link-local address: nobody is there to speak.
            "ipv6/conf/default/disable_ipv6": int(quiet or not plan.ipv6),
        }
    elif plan.ipv6:
        raise LabError("this kernel has no IPv6: make the lab without (--no-ipv6)")
    if host in plan.forwarders:
        settings["ipv4/ip_forward"] = 1
        if plan.ipv6:
            settings |= {"ipv6/conf/all/forwarding": 1, "ipv6/conf/default/forwarding": 1}
    for key, value in settings.items():
        with open(f"/proc/sys/net/{key}", "w") as setting:
            setting.write(str(value))


def _make_pair(route: Any, plan: Plan, link: Link, other_space: int) -> None:
    here, there = link.ends
    # In netlink's own words, for pyroute2's shorter ones leave out the index of the other end.
    other = {
        "index": there.index,
        "attrs": [
            ("IFLA_IFNAME", there.interface),
            ("IFLA_NET_NS_FD", other_space),
            ("IFLA_ADDRESS", there.mac),
            ("IFLA_MTU", plan.mtu),
            ("IFLA_NUM_TX_QUEUES", plan.queues),
            ("IFLA_NUM_RX_QUEUES", plan.queues),
        ],
    }
    veth = {
        "attrs": [
            ("IFLA_INFO_KIND", "veth"),
            ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", other)]}),
        ]
    }
    with _explained(f"making {here.interface} of {here.host} and {there.interface} of {there.host}"):
        route.link(
            "add",
            index=here.index,
            ifname=here.interface,
            address=here.mac,
            mtu=plan.mtu,
            num_tx_queues=plan.queues,
            num_rx_queues=plan.queues,
            IFLA_LINKINFO=veth,
        )


def _configure(route: Any, plan: Plan, host: str) -> None:
    with _explained(f"setting up {host}"):
        route.link("set", index=_LOOPBACK, state="up")
        for end in plan.ends(host):
            if plan.offloads is not None:
                _set_offloads(end, plan.offloads)
            index = end.index
            if end.addressed != end.interface:
                route.link("set", index=end.index, state="up")
                # Few labs want it, and it brings with it all that loads programs.
                from raceway.apps.lab.vlan import add_vlan

                index = add_vlan(route, end, plan.vlan, plan.mtu)
            for address in end.addresses:
                bare, _, length = address.partition("/")
                flags = _IFA_F_NODAD if ":" in bare else 0
                route.addr("add", index=index, address=bare, prefixlen=int(length), flags=flags)
            route.link("set", index=index, state="up")
        for gateway in plan.gateways.get(host, ()):
            route.route("add", dst="default", gateway=gateway)


def _wait_until_usable(route: Any, host: str, deadline: float) -> None:
    """That a link is up and an address is valid the kernel finds out a moment later, in threads of its own.

    Until then it drops, in silence, what is sent: the first packet of every test would now and then be lost.
    """
    while True:
        waiting = [
            link.get("ifname")
            for link in route.link("dump")
            if link["index"] != _LOOPBACK and link.get("operstate") != "UP"
        ] + [
            address.get("address")
            for address in route.addr("dump", family=socket.AF_INET6)
            if (address.get("flags") or 0) & _IFA_F_TENTATIVE
        ]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise LabError(f"at host {host!r}, {', '.join(waiting)} did not come up in {_PATIENCE:g} s")
        time.sleep(_PAUSE)


def _set_offloads(end: End, on: bool) -> None:
    """Everything that an interface can do instead of the stack: checksums, segments, VLAN tags beside the frame."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        wanted = {
            key: on
            for key, (_, changeable) in ethtool.feature_states(asker, end.interface).items()
            if changeable and any(word in key for word in _OFFLOAD_WORDS) and not (on and key in _NEVER_ON)
        }
        ethtool.set_features(asker, end.interface, wanted)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn netlink's error into one that says what was asked."""
    from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped, unused-ignore]

    try:
        yield
    except NetlinkError as error:
        number = error.code
        if number in (errno.EPERM, errno.EACCES):
            raise refused(what, ["CAP_NET_ADMIN"]) from error
        hint = " (is this kernel built without veth?)" if number == errno.EOPNOTSUPP else ""
        raise OSError(number, f"{what}: {os.strerror(number)}{hint}") from error
