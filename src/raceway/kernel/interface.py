"""What the kernel knows of a network interface: queues, driver, offloads and counters, and whether it is still there.

    with Network() as network:                       # the calling thread's network namespace
        eth0 = network.interface("eth0")
        print(eth0.receive_queues, network.statistics("eth0"))

A `Network` holds sockets that were made in one namespace, and asks that one for ever, from whichever thread. Nothing
here reads /sys, which shows the devices of the namespace that it was mounted in. The functions of the same names
(`interface(name)`, ...) ask the calling thread's namespace once. Nothing needs privilege but `set_features`.
"""

from __future__ import annotations

import difflib
import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from raceway.errors import NoSuchInterfaceError
from raceway.kernel import ethtool, netdev
from raceway.kernel.capabilities import refused
from raceway.kernel.netlink import (
    NETLINK_GENERIC,
    NETLINK_ROUTE,
    NetlinkSocket,
    attributes,
    number,
    text,
    text_attribute,
)

_RTM_GETLINK = 18
_RTMGRP_LINK = 1
_IFINFOMSG = struct.Struct("=BxHiII")
_LONGEST_NAME = 15

# <linux/if_link.h>
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO = 1, 3, 4, 5, 18
_IFLA_STATS64, _IFLA_PROMISCUITY, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 23, 30, 31, 32
_IFLA_LINK_NETNSID, _IFLA_XDP, _IFLA_ALT_IFNAME = 37, 43, 53
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_TUN_NUM_QUEUES = 8
_IFLA_XDP_ATTACHED, _IFLA_XDP_PROG_ID = 2, 4
_IFLA_XDP_OF_MODE = {"driver": 5, "generic": 6, "hardware": 7}
_XDP_MODES = {1: "driver", 2: "generic", 3: "hardware"}

_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
ARPHRD_ETHER, ARPHRD_NONE, ARPHRD_LOOPBACK = 1, 0xFFFE, 772

_STATS64 = (
    "rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
    "multicast", "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors",
    "rx_fifo_errors", "rx_missed_errors", "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors",
    "tx_heartbeat_errors", "tx_window_errors", "rx_compressed", "tx_compressed", "rx_nohandler",
    "rx_otherhost_dropped",
)  # fmt: skip

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Interface:
    """An interface at the moment of asking.

    up: administratively; running: it has a carrier. kind: what sort of virtual device ("veth", "tun", ...; "" for
    hardware). receive_queues, transmit_queues: in use now; maximum_...: as many as there could be. mtu: bytes, of what
    Ethernet carries. hardware_type: ARPHRD_* (ARPHRD_ETHER: its packets are Ethernet frames). peer: the index of a
    veth's other end, in whichever namespace that is, else 0. promiscuous: whoever has asked for it.
    """

    name: str
    index: int
    mtu: int
    up: bool
    running: bool
    mac: str
    driver: str
    kind: str
    receive_queues: int
    transmit_queues: int
    maximum_receive_queues: int
    maximum_transmit_queues: int
    promiscuous: bool
    hardware_type: int
    peer: int = 0


@dataclass(frozen=True)
class XdpAttachment:
    """The XDP program on an interface: where it runs ("driver", "generic", "hardware") and its id (0: not told)."""

    mode: str
    program: int


class Network:
    """One network namespace, seen through sockets made in it: that in which the calling thread is now."""

    def __init__(self) -> None:
        self._route = NetlinkSocket(NETLINK_ROUTE)
        try:
            self._plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        except BaseException:
            self._route.close()
            raise
        self._generic: NetlinkSocket | None = None
        # The generic socket would be made later, and then perhaps by a thread that is somewhere else.
        try:
            self._generic = NetlinkSocket(NETLINK_GENERIC)
        except OSError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        self._route.close()
        self._plain.close()
        if self._generic is not None:
            self._generic.close()

    # -- links ---------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Every interface of the namespace, by index."""
        found = self._route.ask(_RTM_GETLINK, _IFINFOMSG.pack(0, 0, 0, 0, 0), dump=True)
        return [text(attributes(answer, _IFINFOMSG.size).get(_IFLA_IFNAME)) for answer in found]

    def _link(self, wanted: str | int) -> bytes:
        """The RTM_NEWLINK message of an interface by name or index. NoSuchInterfaceError."""
        body = _IFINFOMSG.pack(0, 0, wanted if isinstance(wanted, int) else 0, 0, 0)
        if isinstance(wanted, str):
            if not wanted or "\0" in wanted or len(wanted.encode()) > 127:
                raise NoSuchInterfaceError(wanted, "the name of an interface has 1 to 15 bytes")
            long = len(wanted.encode()) > _LONGEST_NAME
            body += text_attribute(_IFLA_ALT_IFNAME if long else _IFLA_IFNAME, wanted)
        try:
            return self._route.ask(_RTM_GETLINK, body)[0]
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EINVAL, errno.ERANGE):
                raise
        raise self._missing(wanted)

    def _missing(self, wanted: str | int) -> NoSuchInterfaceError:
        names = self.names()
        near = difflib.get_close_matches(str(wanted), names, n=3, cutoff=0.5)
        if near:
            return NoSuchInterfaceError(wanted, f"did you mean {' or '.join(near)}?")
        some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return NoSuchInterfaceError(wanted, f"this network namespace has {some or 'none'}")

    def interface(self, name: str | int) -> Interface:
        """The facts about an interface by its name (or another of its names, or index). NoSuchInterfaceError."""
        answer = self._link(name)
        _, hardware, index, flags, _ = _IFINFOMSG.unpack_from(answer)
        found = attributes(answer, _IFINFOMSG.size)
        info = attributes(found.get(_IFLA_LINKINFO, b""))
        kind, called = text(info.get(_IFLA_INFO_KIND)), text(found[_IFLA_IFNAME])
        channels = self._channels(called, index, kind, found, attributes(info.get(_IFLA_INFO_DATA, b"")))
        return Interface(
            name=called,
            index=index,
            mtu=number(found.get(_IFLA_MTU)),
            up=bool(flags & _IFF_UP),
            running=bool(flags & _IFF_LOWER_UP),
            mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
            driver=self._driver(called),
            kind=kind,
            receive_queues=channels.receive,
            transmit_queues=channels.transmit,
            maximum_receive_queues=channels.maximum_receive,
            maximum_transmit_queues=channels.maximum_transmit,
            promiscuous=number(found.get(_IFLA_PROMISCUITY)) > 0,
            hardware_type=hardware,
            peer=number(found.get(_IFLA_LINK)) if kind == "veth" else 0,
        )

    def _driver(self, name: str) -> str:
        try:
            return ethtool.driver(self._plain, name).name
        except OSError:
            return ""

    def _channels(
        self, name: str, index: int, kind: str, link: dict[int, bytes], info: dict[int, bytes]
    ) -> ethtool.Channels:
        """The real numbers of queues: from the driver; else from what knows its own; else as many as were made."""
        made_rx, made_tx = number(link.get(_IFLA_NUM_RX_QUEUES), 1), number(link.get(_IFLA_NUM_TX_QUEUES), 1)
        try:
            told = ethtool.channels(self._plain, name)
            if told.receive and told.transmit:
                return told
        except OSError:
            pass
        if kind == "tun":
            attached = max(number(info.get(_IFLA_TUN_NUM_QUEUES)), 1)
            return ethtool.Channels(attached, attached, made_rx, made_tx)
        receive, transmit = (0, 0) if self._generic is None else netdev.queues(self._generic, index)
        return ethtool.Channels(receive or made_rx, transmit or made_tx, made_rx, made_tx)

    def link_counters(self, name: str | int) -> dict[str, int]:
        """What the interface has counted since it was made: packets, bytes, errors, drops (IFLA_STATS64)."""
        raw = attributes(self._link(name), _IFINFOMSG.size).get(_IFLA_STATS64, b"")
        count = min(len(raw) // 8, len(_STATS64))
        return dict(zip(_STATS64, struct.unpack_from(f"={count}Q", raw), strict=False))

    def state(self, index: int, name: str) -> str:
        """What has become of the interface that had this index and name: "up", "down", "gone" or "renamed to X".

        "gone" too if it has moved to another namespace. "up" is what the administrator has set; a cable that is out
        (or a veth whose other end is down) is no reason to close anything.
        """
        try:
            answer = self._link(index)
        except NoSuchInterfaceError:
            return "gone"
        called = text(attributes(answer, _IFINFOMSG.size).get(_IFLA_IFNAME))
        if called != name:
            return f"renamed to {called}"
        return "up" if _IFINFOMSG.unpack_from(answer)[3] & _IFF_UP else "down"

    # -- XDP -----------------------------------------------------------------------------------------------

    def xdp_attached(self, name: str | int) -> tuple[XdpAttachment, ...]:
        """The XDP programs on an interface: none, one, or one a mode."""
        xdp = attributes(attributes(self._link(name), _IFINFOMSG.size).get(_IFLA_XDP, b""))
        how = number(xdp.get(_IFLA_XDP_ATTACHED))
        if how in _XDP_MODES:
            return (XdpAttachment(_XDP_MODES[how], number(xdp.get(_IFLA_XDP_PROG_ID))),)
        # XDP_ATTACHED_MULTI: an id a mode.
        found = ((mode, xdp.get(kind)) for mode, kind in _IFLA_XDP_OF_MODE.items())
        return tuple(XdpAttachment(mode, number(value)) for mode, value in found if value is not None)

    def xdp_features(self, name: str | int) -> tuple[frozenset[str], int] | None:
        """What the driver can do for XDP by its own word, and the most fragments of a packet that zero-copy takes: the
        words of `netdev.xdp_features`. None: the kernel has no such question (before Linux 6.3)."""
        return None if self._generic is None else netdev.xdp_features(self._generic, self._index(name))

    def xdp_metadata(self, name: str | int) -> frozenset[str]:
        """What XDP programs can ask the driver about a packet: timestamp, hash, vlan-tag."""
        return frozenset() if self._generic is None else netdev.xdp_metadata(self._generic, self._index(name))

    def _index(self, name: str | int) -> int:
        return name if isinstance(name, int) else int(_IFINFOMSG.unpack_from(self._link(name))[2])

    # -- the driver's answers ------------------------------------------------------------------------------

    def driver(self, name: str) -> ethtool.Driver | None:
        """Who drives it; None if the device has no driver that says so."""
        return self._asked(name, ethtool.driver)

    def statistics(self, name: str) -> dict[str, int]:
        """The driver's own counters by name."""
        return self._asked(name, ethtool.statistics) or {}

    def ring_sizes(self, name: str) -> ethtool.RingSizes | None:
        """The device's own descriptor rings; None if it does not tell."""
        return self._asked(name, ethtool.ring_sizes)

    def receive_table(self, name: str) -> list[int]:
        """Which receive queue each value of the flow hash goes to (RSS); [] if the device has no such table."""
        return self._asked(name, ethtool.receive_table) or []

    def features(self, name: str) -> dict[str, bool]:
        """Which offloads are on, by the kernel's names for them."""
        return self._asked(name, ethtool.features) or {}

    def feature_states(self, name: str) -> dict[str, tuple[bool, bool]]:
        """For each offload whether it is on, and whether it can be changed."""
        return self._asked(name, ethtool.feature_states) or {}

    def set_features(self, name: str, wanted: dict[str, bool]) -> dict[str, bool]:
        """Switch offloads; returns those that changed with their values from before, which undoes it if given back.

        What the device cannot do stays as it was: compare with `features`. PermissionNeededError: CAP_NET_ADMIN.
        """
        try:
            return ethtool.set_features(self._plain, name, wanted)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise self._missing(name) from None
            if error.errno in (errno.EPERM, errno.EACCES):
                raise refused(f"switching offloads of {name}", ["CAP_NET_ADMIN"]) from None
            raise

    def _asked(self, name: str, question: Callable[[socket.socket, str], _Answer]) -> _Answer | None:
        try:
            return question(self._plain, name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise self._missing(name) from None
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return None
            raise


class LinkWatch:
    """Tells when something about the namespace's interfaces has changed: a descriptor to sleep on, and then to ask.

    Made in the namespace of the calling thread, and of that one for ever::

        watch = LinkWatch()
        ... poll(watch.fileno(), POLLIN) ...
        if watch.changed() and watch.state(index, "eth0") != "up": ...
    """

    def __init__(self) -> None:
        self._news = NetlinkSocket(NETLINK_ROUTE, _RTMGRP_LINK)
        try:
            self._network = Network()
        except BaseException:
            self._news.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        self._news.close()
        self._network.close()

    def fileno(self) -> int:
        """Readable while something has changed since `changed` was last called."""
        return self._news.socket.fileno()

    def changed(self) -> bool:
        """True if an interface of the namespace has come, gone or changed since the last call. Never waits."""
        return self._news.heard()

    def state(self, index: int, name: str) -> str:
        """ "up", "down", "gone" or "renamed to X": `Network.state`."""
        return self._network.state(index, name)


# -- once, in the calling thread's namespace -------------------------------------------------------------------


def interface(name: str | int) -> Interface:
    """The facts about an interface of the calling thread's network namespace. NoSuchInterfaceError."""
    with Network() as network:
        return network.interface(name)


def features(name: str) -> dict[str, bool]:
    """`Network.features` in the calling thread's namespace."""
    with Network() as network:
        return network.features(name)


def set_features(name: str, wanted: dict[str, bool]) -> dict[str, bool]:
    """`Network.set_features` in the calling thread's namespace."""
    with Network() as network:
        return network.set_features(name, wanted)


def statistics(name: str) -> dict[str, int]:
    """`Network.statistics` in the calling thread's namespace."""
    with Network() as network:
        return network.statistics(name)


def link_counters(name: str) -> dict[str, int]:
    """`Network.link_counters` in the calling thread's namespace."""
    with Network() as network:
        return network.link_counters(name)


def xdp_attached(name: str) -> tuple[XdpAttachment, ...]:
    """`Network.xdp_attached` in the calling thread's namespace."""
    with Network() as network:
        return network.xdp_attached(name)
