"""Opening a network interface: an AF_XDP socket a queue, the XDP program that feeds them, and what came of it.

What can be had is tried from the best on, and said (`port.mode`):

    zero-copy    the device's DMA goes to the ring's buffers; the driver must have it
    copy         XDP in the driver, one copy into the ring
    generic      XDP behind the driver, one copy; any interface
"""

from __future__ import annotations

import errno
import time
import warnings
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from raceway.errors import InterfaceError, PortBusyError
from raceway.kernel.bpf.links import attach_xdp
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import MapKind, VerifierError
from raceway.kernel.capabilities import refused
from raceway.kernel.functions.chain import Chain
from raceway.kernel.interface import Interface, Network
from raceway.kernel.live import LiveFrames
from raceway.kernel.received import ReceivedFrames
from raceway.kernel.redirect import FRAME_LIMIT, redirect_to_sockets, tells_vlan_tags
from raceway.kernel.xsk import XdpModeError, XskSocket, power_of_two
from raceway.memory.region import Region
from raceway.memory.waiting import PACKETS, PYTHON
from raceway.ports.geometry import RINGS_LIMIT, Geometry
from raceway.ports.interface_watch import InterfaceWatch
from raceway.ports.nic.frames import frames_sync
from raceway.ports.nic.sync import nic_sync
from raceway.ports.port import Port, Watch

MODES = ("zero-copy", "copy", "generic")
NEEDED = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF")


@dataclass(frozen=True)
class NicOptions:
    """What `@xdp:` says. mode: one of MODES, "" for the best there is; transmit: "live", "socket", or "" for whatever
        wins; busy_poll: microseconds to drive the device from the port's own syncs, 0: not; queue: only this one;
    receive: "memory", "socket", or "" for the socket; apart: no program, and checksums that the sender left open stay
        so: somebody else's program leads to the port's rings by `NicPort.rings_map`."""

    mode: str = ""
    transmit: str = ""
    busy_poll: int = 0
    queue: int | None = None
    receive: str = ""
    apart: bool = False


class NicPort(Port):
    """A network interface, a ring pair for each of its queues.

    mode: what was got, one of MODES; notes: what was tried before, and why it could not be had; functions: the packet
    functions that decide, in the kernel, what of it the rings get (`raceway.attach(port, function)`): while there are
    none, they get everything.
    """

    adapter = nic_sync
    _opened = False

    def __init__(
        self,
        name: str,
        device: str,
        geometry: Geometry,
        region: Region | None = None,
        options: NicOptions | None = None,
    ) -> None:
        self.options = options or NicOptions()
        self.mode = ""
        self.notes: list[str] = []
        self.sockets: list[XskSocket] = []
        self._live: LiveFrames | None = None
        self._frames: ReceivedFrames | None = None
        self._bells: list[int] = []
        self._link: Any = None
        self.functions: Chain | None = None
        self._map: Map | None = None
        self._watch: InterfaceWatch | None = None
        self._network = Network()
        try:
            self.interface: Interface = self._network.interface(device)
            queues = self._queues(name, geometry)
            super().__init__(
                name,
                replace(
                    geometry,
                    receive_rings=self._count(
                        name, geometry.receive_rings, queues, self.interface.receive_queues
                    ),
                    transmit_rings=self._count(
                        name, geometry.transmit_rings, queues, self.interface.transmit_queues
                    ),
                ),
                region,
            )
        except BaseException:
            self._network.close()
            raise
        try:
            self._watch = InterfaceWatch(name, self.interface.index, self.interface.name)
            self._make_rings()
            self._open(queues)
            self._opened = True
        except BaseException:
            self.close()
            raise

    def _queues(self, name: str, geometry: Geometry) -> list[int]:
        there = max(self.interface.receive_queues, self.interface.transmit_queues)
        if self.options.queue is None:
            return list(range(there))
        if self.options.queue >= there:
            raise ValueError(
                f"{name}: {self.interface.name} has no queue {self.options.queue}; it has {there}, counted from 0"
            )
        return [self.options.queue]

    def _count(self, name: str, wanted: int | None, queues: list[int], there: int) -> int:
        """How many rings: as many as there are queues, or none if none are wanted."""
        count = len([queue for queue in queues if queue < there])
        if wanted not in (None, 0, count):
            raise ValueError(
                f"{name}: {wanted} rings: {self.interface.name} has {there} queues, and each of those is a ring pair; "
                f"expected {count} or none given, or {self.interface.name}-N for queue N alone"
            )
        if count > RINGS_LIMIT and wanted != 0:
            raise ValueError(
                f"{name}: {self.interface.name} has {count} queues, and a port at most {RINGS_LIMIT} ring pairs; "
                f"expected {self.interface.name}-N for queue N alone, or fewer queues (ethtool -L)"
            )
        return 0 if wanted == 0 else count

    def _open(self, queues: list[int]) -> None:
        if not self.interface.up:
            raise InterfaceError(
                f"{self.name}: {self.interface.name} is down; ip link set {self.interface.name} up"
            )
        try:
            self._attach_program()
            self._open_sockets(queues)
        except PermissionError as error:
            raise refused(f"{self.name}: AF_XDP on {self.interface.name}", NEEDED) from error
        if self.options.transmit != "socket":
            self._prepare_live()
        self._connect(queues)

    # -- from the best mode to the worst ---------------------------------------------------------------------

    def _attach_program(self) -> None:
        """XDP in the driver if it has that, else behind it. A port that only transmits needs no program."""
        self._in_driver = True
        if not self.geometry.receive_rings:
            return
        if self.options.receive == "memory":
            self._attach_frames()
            return
        there = max(self.interface.receive_queues, 1)
        self._map = Map(MapKind.XSKMAP, value_size=4, entries=there, name="raceway_sockets")
        if self.options.apart:
            return
        wanted = self.options.mode
        for how in ("driver", "generic"):
            if (wanted == "generic" and how == "driver") or (
                wanted in ("zero-copy", "copy") and how == "generic"
            ):
                continue
            try:
                program, untagged = self._program(in_driver=how == "driver")
                try:
                    self._link = attach_xdp(program, self.interface.index, how)
                except BaseException:
                    program.close()
                    raise
            except (PortBusyError, PermissionError):
                raise
            except OSError as error:
                reason = _attach_reason(error, self.interface)
                if how == "generic" or wanted:
                    raise XdpModeError(f"{self.name}: XDP in {how} mode cannot be had: {reason}") from error
                self.notes.append(f"XDP in the driver: {reason}")
                continue
            self.functions = Chain(self._link, how, self._map, program)
            self._in_driver = how == "driver"
            if untagged and self._network.features(self.interface.name).get("rx-vlan-hw-parse"):
                self.notes.append(f"VLAN tags that are kept beside the packets are lost: {untagged}")
            return

    def _attach_frames(self) -> None:
        """A program that copies frames into memory of ours, in the driver."""
        longest = _longest(self.interface.mtu)
        if longest > FRAME_LIMIT or (self.geometry.buffer_size or 0) < FRAME_LIMIT:
            raise XdpModeError(
                f"{self.name}: frames in memory cannot be had: the interface has frames of up to {longest} bytes, "
                f"and they have at most {FRAME_LIMIT}"
            )
        frames = max(power_of_two(self.geometry.receive_slots or 0), 64)
        device = self.interface.index if tells_vlan_tags(self.interface.index) else 0
        self._frames = ReceivedFrames(max(self.interface.receive_queues, 1), frames, device=device)
        try:
            self._link = attach_xdp(self._frames.program, self.interface.index, "driver")
        except (PortBusyError, PermissionError):
            raise
        except OSError as error:
            reason = _attach_reason(error, self.interface)
            raise XdpModeError(f"{self.name}: frames in memory cannot be had: {reason}") from error

    def _program(self, *, in_driver: bool) -> tuple[Program, str]:
        """The program that feeds the sockets: one that puts VLAN tags back into the packets, which a sender's kernel
        or a card may keep beside them; or why it does not."""
        assert self._map is not None
        reason = "XDP behind the driver does not see them"
        if in_driver:
            reason = f"the driver {self.interface.driver or self.interface.kind} does not tell XDP of them"
            if tells_vlan_tags(self.interface.index):
                try:
                    return redirect_to_sockets(self._map, device=self.interface.index), ""
                except PermissionError:
                    raise
                except (OSError, VerifierError) as error:
                    reason = str(error)
        return redirect_to_sockets(self._map), reason

    def _open_sockets(self, queues: list[int]) -> None:
        wanted = self.options.mode
        attempts = [True, False] if self._in_driver else [False]
        if wanted in ("copy", "generic") or self._frames is not None:
            attempts = [False]
        elif wanted == "zero-copy":
            attempts = [True]
        for zero_copy in attempts:
            try:
                if zero_copy and self._cannot("zero-copy"):
                    # To try takes as long as all the rest: the memory is registered for each attempt.
                    raise OSError(errno.EOPNOTSUPP, "the driver says so")
                for queue in queues:
                    if self._frames is not None and queue >= self.interface.transmit_queues * bool(
                        self.geometry.transmit_rings
                    ):
                        continue
                    self.sockets.append(self._socket(queue, zero_copy))
            except OSError as error:
                for opened in self.sockets:
                    opened.close()
                self.sockets.clear()
                if isinstance(error, (PortBusyError, PermissionError)) or error.errno == errno.EPERM:
                    raise
                if not zero_copy or error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP):
                    raise OSError(error.errno, f"{self.name}: AF_XDP socket: {error.strerror}") from error
                reason = f"the driver {self.interface.driver or self.interface.kind} has none"
                if wanted:
                    raise XdpModeError(f"{self.name}: zero-copy cannot be had: {reason}") from error
                self.notes.append(f"zero-copy: {reason}")
                continue
            self.mode = "zero-copy" if zero_copy else "copy" if self._in_driver else "generic"
            return

    def _cannot(self, feature: str) -> bool:
        """Whether the driver says that it has no such thing (`Network.xdp_features`)."""
        told = self._network.xdp_features(self.interface.index)
        return told is not None and feature not in told[0]

    def _socket(self, queue: int, zero_copy: bool) -> XskSocket:
        geometry = self.geometry
        receive = (
            geometry.receive_slots or 0
            if geometry.receive_rings and queue < self.interface.receive_queues and self._frames is None
            else 0
        )
        transmit = (
            geometry.transmit_slots or 0
            if geometry.transmit_rings and queue < self.interface.transmit_queues
            else 0
        )
        try:
            return XskSocket(
                self.region, self.interface.index, queue, receive=receive, transmit=transmit,
                zero_copy=zero_copy, busy_poll=self.options.busy_poll,
            )  # fmt: skip
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise PortBusyError(
                    self.name,
                    f"queue {queue} of {self.interface.name} has an AF_XDP socket already; raceway ports says whose",
                ) from error
            raise

    def _prepare_live(self) -> None:
        """Live frames, where an array's frame has room for the interface's longest."""
        if not self.geometry.transmit_rings:
            return
        longest = _longest(self.interface.mtu)
        if longest > FRAME_LIMIT:
            reason = f"frames of up to {longest} bytes, and a live frame has at most {FRAME_LIMIT}"
            if self.options.transmit == "live":
                raise XdpModeError(f"{self.name}: live frames cannot be had: {reason}")
            self.notes.append(f"live frames: {reason}")
            return
        if self.mode == "zero-copy" and not self.options.transmit:
            return
        self._live = LiveFrames(self.interface.index, longest=longest, insist=self.options.transmit == "live")

    def _connect(self, queues: list[int]) -> None:
        """Let every Kring know its socket's rings; give the kernel the receive rings' buffers; let packets come."""
        rx = tx = 0
        if self._frames is not None:
            self._connect_frames(queues)
        for socket in self.sockets:
            queue, record = socket.queue, socket.record
            record["longest"] = _longest(self.interface.mtu)
            # Only what never was on a wire comes with unfinished checksums.
            record["finish"] = int(self.mode != "zero-copy" and not self.options.apart)
            if self._live is not None and tx == 0:
                # One array, one producer: the other rings may have threads of their own.
                record["live"] = self._live.address
            if socket.receives:
                self._receive_krings[rx]["adapter"] = record.ctypes.data
                socket.fill(self.rx[rx].slots["buffer"])
                assert self._map is not None
                self._map.update(queue, socket.socket.fileno())
                rx += 1
            if self.geometry.transmit_rings and queue < self.interface.transmit_queues:
                self._transmit_krings[tx]["adapter"] = record.ctypes.data
                tx += 1
        if not self.sockets:
            return
        # Buffers stand in the kernel's rings now as well, so a lost one cannot be told from one that is there.
        itself = weakref.ref(self)
        self.region.sharers.append(lambda: (port := itself()) is not None and not port.closed)

    def _connect_frames(self, queues: list[int]) -> None:
        """Let every receive ring's Kring know its queue's frames; let them come."""
        assert self._frames is not None
        for number, queue in enumerate(queue for queue in queues if queue < self.interface.receive_queues):
            kring = self._receive_krings[number]
            self.rx[number].adapter, kring["sync"] = frames_sync, frames_sync.pointer
            kring["adapter"] = self._frames.records[queue : queue + 1].ctypes.data
            kring["alarm"] = self._frames.alarm(queue)
            self._bells.append(self._frames.bells[queue])
            self._frames.take(queue)

    # -- while it is open ----------------------------------------------------------------------------------

    @property
    def rings_map(self) -> Map:
        """By queue, where a program's REDIRECT finds the receive rings."""
        if self._map is None:
            raise ValueError(f"{self.name} has no receive rings that a program could lead to")
        return self._map

    @property
    def unread(self) -> int:
        """Packets that have come and were not given back yet; of one in several buffers each counts."""
        found = sum(ring.space for ring in self.rx)
        return found + sum(socket.waiting for socket in self.sockets if socket.receives)

    def service(self) -> None:
        """Look after the interface; push on what the kernel had no room for."""
        if self._watch is not None and self._watch.news():
            self._take_news()
        live = self._live
        if live is not None and live.refusal and self.options.transmit == "live":
            raise XdpModeError(f"{self.name}: live frames cannot be had: {live.refusal}")

    def _take_news(self) -> None:
        """The interface is another than it was: perhaps its MTU."""
        self.interface = self._network.interface(self.interface.index)
        longest = _longest(self.interface.mtu)
        for socket in self.sockets:
            socket.record["longest"] = longest
        if self._live is not None:
            self._live.needed = longest
            self._live.reconsider()

    def descriptors(self) -> list[Watch]:
        watches = [Watch(socket.socket.fileno(), PACKETS) for socket in self.sockets if socket.receives]
        watches += [Watch(bell, PACKETS) for bell in self._bells]
        if self._watch is not None:
            watches.append(Watch(self._watch.fileno(), PYTHON))
        return watches

    def drops(self) -> dict[str, int]:
        """`too_long`: more than the interface's MTU; `empty`: less than an Ethernet header, or with an empty part;
        `ring_full`, `no_buffer`, `bad_frame`: the kernel had a packet for a ring that was full, for which the ring had
        no buffer, or that did not fit; `refused`: descriptors that the kernel would not send; `lost`: live frames that
        the device did not take, as a veth's other end stopped wanting them."""
        found: dict[str, int] = {}
        if self._live is not None and self._live.lost:
            found["lost"] = self._live.lost
        if self._frames is not None:
            found |= {name: count for name, count in self._frames.dropped().items() if count}
        for socket in self.sockets:
            kernel = socket.statistics()
            for name, count in (
                ("too_long", int(socket.record[0]["too_long"])),
                ("empty", int(socket.record[0]["empty"])),
                ("ring_full", kernel.get("rx_ring_full", 0)),
                ("no_buffer", kernel.get("rx_fill_ring_empty_descs", 0)),
                # The kernel counts those without a buffer twice.
                ("bad_frame", kernel.get("rx_dropped", 0) - kernel.get("rx_fill_ring_empty_descs", 0)),
                ("refused", kernel.get("tx_invalid_descs", 0)),
            ):
                if count:
                    found[name] = found.get(name, 0) + count
        return found

    @property
    def description(self) -> str:
        queues = max(len(self.tx), len(self.rx))
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        way = ", frames in memory" if self._frames is not None else ""
        return f"AF_XDP, {self.mode} mode{way}, {queues} queue{'s' * (queues != 1)}{notes}"

    @property
    def transmits_by(self) -> str:
        """How frames leave at this moment: "live" or "socket"."""
        return (
            "live"
            if self._live is not None and (self._live.running or self.options.transmit == "live")
            else "socket"
        )

    def link_counters(self) -> dict[str, int]:
        """The interface's own counters."""
        return self._network.link_counters(self.interface.index)

    def send(self, packets: Iterable[Any], timeout: float | None = None, ring: int | None = None) -> int:
        """As every port's; and if the kernel does not take all at once, goes on pushing, `timeout` seconds at most."""
        deadline = None if timeout is None else time.monotonic() + timeout
        sent = super().send(packets, timeout, ring)
        used = self.tx[ring or 0]
        while used._kring["pending"] and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.0001)
            self.service()
            used.sync()
        return sent

    def flush(self) -> None:
        """Push until the kernel has everything, at most a second."""
        self._check_open()
        self._push()

    def _push(self) -> None:
        deadline = time.monotonic() + 1
        for ring in self.tx:
            while ring._kring["pending"] or ring.head != ring._kring["head"]:
                if self.adapter(ring.address) < 0 or time.monotonic() > deadline:
                    break
        while self._live is not None and self._live.waiting and time.monotonic() < deadline:
            time.sleep(0.0001)

    def _always_ready(self) -> bool:
        return False

    def __del__(self) -> None:
        # The threads of live frames would go on for ever, and the interface would stay taken.
        if self._opened and not self.closed:
            self.close()
            warnings.warn(f"{self.name} was not closed", ResourceWarning, source=self, stacklevel=1)

    def _close(self) -> None:
        try:
            if self.sockets and self._watch is not None and self._watch.state == "up":
                self._push()
        finally:
            if self._live is not None:
                self._live.close()
            alone = self.functions.alone if self.functions else None
            parts = (self._link, alone, self._frames, self._map, *self.sockets, self._watch, self._network)
            for part in parts:
                if part is not None:
                    part.close()


def _longest(mtu: int) -> int:
    """Bytes of the longest frame: an Ethernet header and a VLAN tag more than the MTU."""
    return mtu + 18


def _attach_reason(error: OSError, found: Interface) -> str:
    reasons = {
        errno.EOPNOTSUPP: f"the driver {found.driver or found.kind or 'of this interface'} has none",
        errno.ERANGE: f"an MTU is too large for XDP in the driver (here {found.mtu})",
        errno.ENOSPC: "the other end of the veth pair has more transmit queues than this end has receive queues",
    }
    return reasons.get(error.errno or 0, f"{error.strerror}")
