"""TAP devices: interfaces of the kernel's whose cable is a file descriptor (Documentation/networking/tuntap.rst).

What the host sends out on the device is read from a descriptor, one packet a read; what is written to one has arrived
on the device. A device may have several queues, a descriptor each; the kernel spreads flows over them, and sends a
flow's packets to the queue from which it last got packets of that flow.

    with TapDevice("rw%d", queues=2) as tap:          # in the calling thread's network namespace
        tap.set_mtu(9000)
        tap.bring_up()
        print(tap.name, tap.index, tap.descriptors)

A device that is made here goes with the last of its descriptors, SIGKILL or not. One that was there before (made with
`ip tuntap add dev NAME mode tap`) stays. Making one takes CAP_NET_ADMIN over the network namespace, which everybody
has in a namespace of his own (`unshare -Urn`); opening one that belongs to the user takes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

from raceway.errors import PortBusyError, RacewayError
from raceway.kernel.netlink import (
    NETLINK_ROUTE,
    NetlinkSocket,
    attributes,
    number,
    number_attribute,
    text,
    text_attribute,
)

_CLONE = "/dev/net/tun"
QUEUES_LIMIT = 256  # MAX_TAP_QUEUES of drivers/net/tun.c
MTU_LOWEST, MTU_HIGHEST = 68, 65_521  # ETH_MIN_MTU; 65,535 with the Ethernet header

# <linux/if_tun.h>
_TUNSETIFF, _TUNSETPERSIST, _TUNGETIFF = 0x400454CA, 0x400454CB, 0x800454D2
_TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454D0, 0x400454D8
_IFF_TAP, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x0100, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_TSO_ECN = 0x01, 0x02, 0x04, 0x08
_OFFLOADS = {_TUN_F_CSUM: "checksum", _TUN_F_TSO4: "tso4", _TUN_F_TSO6: "tso6", _TUN_F_TSO_ECN: "ecn"}
VNET_HEADER = 10  # struct virtio_net_hdr without num_buffers

_IFREQ = struct.Struct("=16sH22x")
_IFINFOMSG = struct.Struct("=BxHiII")
_LONGEST_NAME = 15
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_IFF_UP = 0x1

# <linux/if_link.h>
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_STATS64 = 3, 4, 18, 23
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_TUN_TYPE, _IFLA_TUN_PERSIST, _IFLA_TUN_MULTI_QUEUE = 3, 6, 7
_IFLA_TUN_NUM_QUEUES, _IFLA_TUN_NUM_DISABLED_QUEUES = 8, 9
_TX_DROPPED = struct.Struct("=56xQ")  # the eighth of struct rtnl_link_stats64


class TapGoneError(RacewayError):
    """The TAP device was deleted under its open descriptors."""


@dataclass(frozen=True)
class _Link:
    """What the kernel tells of a link, and of a TAP device besides."""

    name: str
    index: int
    mtu: int
    up: bool
    kind: str
    tun_type: int
    persistent: bool
    multi_queue: bool
    attached: int
    not_taken: int


class TapDevice:
    """An open TAP device of the network namespace in which the calling thread is.

    name: "" lets the kernel choose (tap0, tap1, ...), a pattern as "rw%d" its number. queues: descriptors, 1 to 256.
    offload: packets have a struct virtio_net_hdr before them, TCP segments come in pieces of up to 64 KB with their
    checksums to be completed, and may be written so. Else what is read is complete and no longer than the MTU.
    header: packets have the header, and what is read is complete all the same.

    Attributes: `name`, `index`, `mtu` (as of the last `refresh`), `descriptors` (non-blocking), `existed` (it was there
    before), `persistent`, `offloads` (what the kernel agreed to).

    Raises PortBusyError for a device that somebody has open, PermissionNeededError, ValueError for a name that cannot
    be one, RacewayError for an interface that is no TAP device or has too few queues.
    """

    def __init__(
        self, name: str = "", *, queues: int = 1, offload: bool = False, header: bool = False
    ) -> None:
        self.name = _checked_name(name)
        if not 1 <= queues <= QUEUES_LIMIT:
            raise ValueError(f"a TAP device of {queues} queues: expected 1 to {QUEUES_LIMIT}")
        self.descriptors: tuple[int, ...] = ()
        self.offloads: frozenset[str] = frozenset()
        self.offload, self.vnet_header = offload, offload or header
        self._not_taken_before = 0
        self._route = NetlinkSocket(NETLINK_ROUTE)
        try:
            before = self._link(name=name) if name and "%" not in name else None
            self.existed = before is not None
            self._open_queues(queues, before)
            link = self._own_link()
            self.index, self.mtu, self.persistent = link.index, link.mtu, link.persistent
            self._not_taken_before = link.not_taken if self.existed else 0
            if link.multi_queue and link.attached != queues:
                self._refuse_busy()
            self._agree_on_offloads(offload)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TAP device {self.name}: {len(self.descriptors)} queues>"

    def close(self) -> None:
        """Let go of every queue. May be called twice."""
        descriptors, self.descriptors = self.descriptors, ()
        for descriptor in descriptors:
            os.close(descriptor)
        self._route.close()

    # -- opening ---------------------------------------------------------------------------------------------

    def _open_queues(self, queues: int, before: _Link | None) -> None:
        multi_queue = queues > 1
        if before is not None:
            if before.kind != "tun" or before.tun_type != _IFF_TAP:
                what = "a TUN device, without Ethernet" if before.kind == "tun" else before.kind or "hardware"
                raise RacewayError(f"{self.name} is an interface already, but no TAP device: it is {what}")
            if before.attached or not before.persistent:
                # One that is not persistent is there because somebody has it open.
                self._refuse_busy()
            if queues > 1 and not before.multi_queue:
                raise RacewayError(
                    f"TAP device {self.name} was made with one queue, and {queues} were asked for; "
                    f"'ip tuntap add dev {self.name} mode tap multi_queue' makes one that can have more"
                )
            multi_queue = before.multi_queue
        flags = _IFF_TAP | _IFF_NO_PI
        flags |= _IFF_MULTI_QUEUE if multi_queue else 0
        flags |= _IFF_VNET_HDR if self.vnet_header else 0
        for _ in range(queues):
            descriptor = _open_clone()
            self.descriptors += (descriptor,)
            self._attach(descriptor, flags)

    def _attach(self, descriptor: int, flags: int) -> None:
        """Make the descriptor a queue of the device; the first one that is attached makes the device."""
        request = _IFREQ.pack(self.name.encode(), flags)
        try:
            answer = fcntl.ioctl(descriptor, _TUNSETIFF, request)
        except OSError as error:
            called = self.name or "(of any name)"
            if error.errno in (errno.EPERM, errno.EACCES):
                from raceway.kernel.capabilities import refused

                what = "opening" if self.existed else "creating"
                raise refused(f"{what} the TAP device {called}", ["CAP_NET_ADMIN"]) from None
            if error.errno == errno.EBUSY:
                self._refuse_busy()
            raise RacewayError(f"TAP device {called}: the kernel refused it: {error.strerror}") from None
        self.name = _name_in(answer)

    def _refuse_busy(self) -> NoReturn:
        raise PortBusyError(f"TAP device {self.name}", "another port or process has it open")

    def _agree_on_offloads(self, offload: bool) -> None:
        """Say what may be read from the device: the largest set that this kernel takes.

        Not UDP's segmentation: a datagram's boundaries mean something to who receives it, and cannot be told from the
        large packet afterwards.
        """
        descriptor = self.descriptors[0]
        if self.vnet_header:
            fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("=i", VNET_HEADER))
        everything = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6
        wanted = [everything | _TUN_F_TSO_ECN, everything, _TUN_F_CSUM | _TUN_F_TSO4, _TUN_F_CSUM]
        for bits in [*wanted, 0] if offload else [0]:
            try:
                fcntl.ioctl(descriptor, _TUNSETOFFLOAD, bits)
            except OSError as error:
                if error.errno != errno.EINVAL or not bits:
                    raise
            else:
                self.offloads = frozenset(word for bit, word in _OFFLOADS.items() if bits & bit)
                return

    # -- the device as a link --------------------------------------------------------------------------------

    def _link(self, *, name: str = "", index: int = 0) -> _Link | None:
        """What the namespace knows of a link by name or index; None if it has none such."""
        question = _IFINFOMSG.pack(0, 0, index, 0, 0)
        if name:
            question += text_attribute(_IFLA_IFNAME, name)
        try:
            answer = self._route.ask(_RTM_GETLINK, question)[0]
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        _, _, found_index, flags, _ = _IFINFOMSG.unpack_from(answer)
        found = attributes(answer, _IFINFOMSG.size)
        info = attributes(found.get(_IFLA_LINKINFO, b""))
        tun = attributes(info.get(_IFLA_INFO_DATA, b""))
        statistics = found.get(_IFLA_STATS64, b"").ljust(_TX_DROPPED.size, b"\0")
        return _Link(
            name=text(found.get(_IFLA_IFNAME)),
            index=found_index,
            mtu=number(found.get(_IFLA_MTU)),
            up=bool(flags & _IFF_UP),
            kind=text(info.get(_IFLA_INFO_KIND)),
            tun_type=number(tun.get(_IFLA_TUN_TYPE)),
            persistent=bool(number(tun.get(_IFLA_TUN_PERSIST))),
            multi_queue=bool(number(tun.get(_IFLA_TUN_MULTI_QUEUE))),
            attached=number(tun.get(_IFLA_TUN_NUM_QUEUES)) + number(tun.get(_IFLA_TUN_NUM_DISABLED_QUEUES)),
            not_taken=_TX_DROPPED.unpack_from(statistics)[0],
        )

    def _own_link(self) -> _Link:
        link = self._link(name=self.name)
        if link is None:
            raise TapGoneError(f"the TAP device {self.name} was deleted")
        return link

    def refresh(self) -> None:
        """Look what the device is called and its MTU is now. TapGoneError if it was deleted.

        A device that was moved to another network namespace goes on; changes of its MTU are not seen from here.
        """
        try:
            self.name = _name_in(fcntl.ioctl(self.descriptors[0], _TUNGETIFF, bytes(_IFREQ.size)))
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise
            raise TapGoneError(f"the TAP device {self.name} was deleted") from None
        link = self._link(index=self.index)
        if link is not None and link.name == self.name:
            self.mtu = link.mtu

    def not_taken(self) -> int:
        """Packets that the host had for this device since it was opened, and dropped because nobody read them in
        time (`tx_dropped` of its statistics)."""
        link = self._link(index=self.index) if self.descriptors else None
        return 0 if link is None or link.name != self.name else link.not_taken - self._not_taken_before

    def bring_up(self) -> None:
        """Let packets flow. PermissionNeededError if the device is down and this process may not change it."""
        if not self._own_link().up:
            self._change(f"bringing up the TAP device {self.name}", flags=_IFF_UP)

    def set_mtu(self, mtu: int) -> None:
        """Set the largest packet that the host sends on the device, bytes without the Ethernet header."""
        if not MTU_LOWEST <= mtu <= MTU_HIGHEST:
            raise ValueError(
                f"MTU {mtu} for the TAP device {self.name}: expected {MTU_LOWEST} to {MTU_HIGHEST}"
            )
        self._change(f"setting the MTU of the TAP device {self.name}", more=number_attribute(_IFLA_MTU, mtu))
        self.mtu = mtu

    def set_persistent(self, persistent: bool) -> None:
        """Let the device stay when its last descriptor is closed, or not."""
        fcntl.ioctl(self.descriptors[0], _TUNSETPERSIST, int(persistent))
        self.persistent = persistent

    def keep_queue(self, number: int) -> None:
        """Let go of every queue but one, so that every flow comes to that one."""
        for other, descriptor in enumerate(self.descriptors):
            if other != number:
                os.close(descriptor)
        self.descriptors = (self.descriptors[number],)

    def _change(self, what: str, *, flags: int = 0, more: bytes = b"") -> None:
        try:
            self._route.ask(_RTM_NEWLINK, _IFINFOMSG.pack(0, 0, self.index, flags, flags) + more)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES):
                raise RacewayError(f"{what}: {error.strerror}") from None
            from raceway.kernel.capabilities import refused

            raise refused(what, ["CAP_NET_ADMIN"]) from None


def _checked_name(name: str) -> str:
    """The name, if a device can have it (dev_valid_name of net/core/dev.c; dev_alloc_name for patterns)."""
    bad = not name.isascii() or any(character.isspace() or character in "/:\0" for character in name)
    if bad or len(name) > _LONGEST_NAME or name in (".", ".."):
        raise ValueError(
            f"{name!r} for a TAP device: expected 1 to {_LONGEST_NAME} characters, no space / or :"
        )
    if name.count("%") not in (0, 1) or ("%" in name and "%d" not in name):
        raise ValueError(
            f"{name!r} for a TAP device: expected one %d where the kernel puts a number, or no %"
        )
    return name


def _name_in(request: bytes) -> str:
    raw: bytes = _IFREQ.unpack(request)[0]
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def _open_clone() -> int:
    try:
        return os.open(_CLONE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hints = {
            errno.ENOENT: "the kernel has no TUN/TAP driver here (module tun; in a container, pass the device to it)",
            errno.ENODEV: "the kernel has no TUN/TAP driver (module tun)",
            errno.ENXIO: "the kernel has no TUN/TAP driver (module tun)",
            errno.EACCES: f"this user may not open it; 'sudo chmod 666 {_CLONE}' lets everyone (usual, and safe)",
            errno.EPERM: "the container's device rules forbid it",
        }
        if error.errno not in hints:
            raise
        raise RacewayError(f"{_CLONE}: {hints[error.errno]}") from None
