"""The way between an interface and its own host, cut open: a TAP device and three programs at the traffic's hooks.

What the host sends on eth0 is read from the TAP device's descriptor; what is written to the descriptor has arrived on
eth0. eth0 itself (index 2 here) stays as it is: its address, its routes, its NIC's settings::

    host's stack                          rw2, the TAP device
      |     ^
      |     |      eth0's ingress <------ egress: GATE <----- ingress: TURN <----- write
      |     `------                         |    ^
      `-> eth0's egress: CAPTURE ---------- | ---'  ------------------------------> read
                                            `---> dropped: what the device's own protocols say

CAPTURE is eth0's first program for what goes out, so later ones do not see these packets; those for what comes in see
packets of both kinds as ever. AF_XDP, live XDP frames and packet sockets with PACKET_QDISC_BYPASS send on eth0 behind
that hook: so who reads the descriptor and sends on the NIC meets nothing twice.

TURN and GATE make one step out of two, and have to. An XDP program in generic mode on eth0 takes what arrives there
whoever it comes from, a program of ours that waits for the NIC's packets too, and everything would go round for ever;
but the kernel spares it what has once been redirected to an egress (skb_is_redirected in netif_receive_generic_xdp).
GATE knows a packet by the mark that CAPTURE and TURN put on it, two numbers drawn at random; what arrives has no mark.

The kernel segments, tags and makes checksums before a TAP device without offloads is read, so what is read is what
would be on the wire. Everything goes with its descriptors, so with the process, SIGKILL or not.
"""

from __future__ import annotations

import errno
import fcntl
import platform
import secrets
import struct
from types import TracebackType
from typing import Self

from raceway.errors import PermissionNeededError, PortBusyError, RacewayError
from raceway.kernel.bpf.assembler import R0, R1, R2, R6, Assembler
from raceway.kernel.bpf.links import Link, attach_tcx
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import REDIRECT_INGRESS, Helper, ProgramKind, TcxAction
from raceway.kernel.capabilities import refused
from raceway.kernel.interface import ARPHRD_ETHER, Interface, Network
from raceway.kernel.netlink import (
    NETLINK_ROUTE,
    NetlinkSocket,
    attribute,
    number_attribute,
    text_attribute,
)
from raceway.kernel.tap import MTU_HIGHEST, MTU_LOWEST, TapDevice

NEEDED = ("CAP_NET_ADMIN", "CAP_BPF")
QUEUE = 2048
"""Packets that wait in the device, each queue of it, until they are read. The kernel's own number, 500, is a dozen of
TCP's largest packets cut to size."""

# struct __sk_buff, <linux/bpf.h>
_MARK, _HASH = 8, 68

_IFINFOMSG = struct.Struct("=BxHiII")
_RTM_NEWLINK = 16
_IFF_NOARP = 0x80  # <linux/if.h>
_IFLA_MTU, _IFLA_TXQLEN, _IFLA_IFALIAS, _IFLA_AF_SPEC = 4, 13, 20, 26  # <linux/if_link.h>
_AF_INET6, _IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 10, 8, 1
_TUNSETSTEERINGEBPF = 0x800454E0  # <linux/if_tun.h>


def device_name(index: int, ring: int | None = None) -> str:
    """What the TAP device of an interface is called: "rw2", or "rw2.1" of one host ring. The name is the lock: who
    makes the device has the rings, and the kernel lets nobody make a second one."""
    return f"rw{index}" if ring is None else f"rw{index}.{ring}"


class HostPath:
    """The host's side of an interface of the calling thread's network namespace, open until `close`.

    queues: of the device; a flow stays with one of them. ring: take only this one of `queues` shares of the flows, by a
    device with one queue, and leave the others as they are. header: struct virtio_net_hdr before every packet.
    `tap` is the device: what is written to it arrives at once, what the host sends comes only after `capture`.
    Raises PortBusyError, PermissionNeededError, RacewayError.
    """

    def __init__(
        self, interface: Interface, *, queues: int = 1, ring: int | None = None, header: bool = False
    ) -> None:
        if interface.hardware_type != ARPHRD_ETHER:
            raise RacewayError(f"{interface.name} carries no Ethernet, and host rings hold Ethernet frames")
        self.interface = interface
        self._queues, self._ring, self._header = queues, ring, header
        self._captured, self._turned = secrets.randbits(30) * 2 + 1, secrets.randbits(29) * 2 + 2
        self._links: list[Link] = []
        self._capture: Link | None = None
        self._route = NetlinkSocket(NETLINK_ROUTE)
        self._tap: TapDevice | None = None
        try:
            _refuse_a_second(interface, ring)
            self._tap = self._make_device()
            self._open()
        except PermissionNeededError as error:
            self.close()
            raise refused(f"opening the host rings of {interface.name}", NEEDED) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def tap(self) -> TapDevice:
        """The device: its descriptors are the host rings."""
        if self._tap is None:
            raise ValueError(f"the host rings of {self.interface.name} are closed")
        return self._tap

    def capture(self) -> None:
        """From now on what the host sends comes to the device. To be called when somebody reads it."""
        share = None if self._ring is None or self._queues == 1 else (self._ring, self._queues)
        program = _capture(self.tap.index, self._captured, share, spread=self._queues > 1)
        self._capture = self._attach(program, "raceway_host", self.interface.index, "egress", first=True)

    def release(self) -> None:
        """Let the host's packets go their own way again. May be called twice."""
        if self._capture is not None:
            self._capture.close()

    def close(self) -> None:
        """Undo everything. May be called twice."""
        # First what sends packets to a device that nobody reads any more.
        self.release()
        for link in reversed(self._links):
            link.close()
        self._links.clear()
        if self._tap is not None:
            self._tap.close()
        self._route.close()

    def follow(self, mtu: int) -> None:
        """Let the device have the MTU that eth0 has now."""
        self._set(number_attribute(_IFLA_MTU, min(max(mtu, MTU_LOWEST), MTU_HIGHEST)))
        self.tap.refresh()

    # -- opening -------------------------------------------------------------------------------------------

    def _make_device(self) -> TapDevice:
        name = device_name(self.interface.index, self._ring)
        queues = self._queues if self._ring is None else 1
        tap = TapDevice(name, queues=queues, header=self._header)
        if tap.existed:
            tap.close()
            raise _busy(self.interface, name)
        return tap

    def _open(self) -> None:
        tap, index = self.tap, self.interface.index
        what = "host rings" if self._ring is None else f"host ring {self._ring}"
        alias = text_attribute(_IFLA_IFALIAS, f"raceway {what} of {self.interface.name}")
        self._set(alias + number_attribute(_IFLA_TXQLEN, QUEUE), _IFF_NOARP)
        self.follow(self.interface.mtu)
        try:
            # No address of its own, so nothing to say for IPv6; GATE drops what is said all the same.
            mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, struct.pack("=B", _ADDR_GEN_MODE_NONE))
            self._set(attribute(_IFLA_AF_SPEC, attribute(_AF_INET6, mode)))
        except OSError:
            pass  # A kernel without IPv6.
        if len(tap.descriptors) > 1:
            self._keep_flows_together()
        gate, turn = _gate(index, self._captured, self._turned), _turn(tap.index, self._turned)
        self._links.append(self._attach(gate, "raceway_gate", tap.index, "egress"))
        self._links.append(self._attach(turn, "raceway_turn", tap.index, "ingress"))
        tap.bring_up()

    def _attach(self, code: Assembler, name: str, index: int, direction: str, first: bool = False) -> Link:
        with Program(ProgramKind.SCHED_CLS, code.assemble(), name=name) as program:
            try:
                return attach_tcx(program, index, direction, first=first)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise RacewayError(
                    f"host rings take a kernel with tcx, Linux 6.6 or later (this is {platform.release()})"
                ) from error

    def _keep_flows_together(self) -> None:
        """Let a packet's flow hash choose its queue. By itself a TAP device moves a flow to another queue whenever
        something of it is written to that, and its packets overtake each other."""
        code = Assembler().load(R0, R1, _HASH, 4).exit()
        with Program(ProgramKind.SOCKET_FILTER, code.assemble(), name="raceway_steer") as program:
            request = struct.pack("=i", program.fd)
            fcntl.ioctl(self.tap.descriptors[0], _TUNSETSTEERINGEBPF, request)

    def _set(self, more: bytes, flags: int = 0) -> None:
        self._route.ask(_RTM_NEWLINK, _IFINFOMSG.pack(0, 0, self.tap.index, flags, flags) + more)


def _refuse_a_second(interface: Interface, ring: int | None) -> None:
    """PortBusyError if somebody has any of the rings that are wanted: one by one they exclude all of them together."""
    everything = device_name(interface.index)
    with Network() as network:
        for name in network.names():
            if name in (everything, device_name(interface.index, ring)) or (
                ring is None and name.startswith(f"{everything}.")
            ):
                raise _busy(interface, name)


def _busy(interface: Interface, device: str) -> PortBusyError:
    return PortBusyError(
        f"{interface.name}^",
        f"its host rings are open already ({device} is their device); raceway ports says in which process",
    )


# -- the programs ----------------------------------------------------------------------------------------------


def _capture(device: int, mark: int, share: tuple[int, int] | None, *, spread: bool) -> Assembler:
    """At eth0's egress: what the host sends goes to the TAP device. share: only flows whose hash is number k of n.
    spread: see to it that there is a hash."""
    code = Assembler().mov(R6, R1)
    if spread:
        code.call(Helper.GET_HASH_RECALC)
    if share is not None:
        code.alu("%", R0, share[1], wide=False).jump_if("!=", R0, share[0], "not ours", wide=False)
    code.mov(R2, mark).store(R6, _MARK, R2, 4)
    code.mov(R1, device).mov(R2, 0).call(Helper.REDIRECT).exit()
    if share is not None:
        code.label("not ours").mov(R0, TcxAction.NEXT).exit()
    return code


def _turn(device: int, mark: int) -> Assembler:
    """At the TAP device's ingress: what was written to it leaves by it again, marked, and meets GATE."""
    code = Assembler().mov(R2, mark).store(R1, _MARK, R2, 4)
    return code.mov(R1, device).mov(R2, 0).call(Helper.REDIRECT).exit()


def _gate(index: int, captured: int, turned: int) -> Assembler:
    """At the TAP device's egress: captured packets to who reads the descriptor, turned ones to eth0, others nowhere."""
    code = Assembler().load(R2, R1, _MARK, 4)
    code.jump_if("==", R2, captured, "read").jump_if("==", R2, turned, "arrive")
    code.mov(R0, TcxAction.DROP).exit()
    code.label("read").mov(R0, TcxAction.NEXT).exit()
    code.label("arrive").mov(R2, 0).store(R1, _MARK, R2, 4)
    return code.mov(R1, index).mov(R2, REDIRECT_INGRESS).call(Helper.REDIRECT).exit()
