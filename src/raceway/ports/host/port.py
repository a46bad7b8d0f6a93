"""Opening `eth0^`: the host rings of an interface.

What is received from a host ring is what the host sends on eth0, ARP and neighbour discovery included, and it goes
nowhere else: whoever opens the port is the host's wire. What is sent to one has arrived on eth0. Nothing else about
eth0 changes; what its NIC receives goes on to the host unless somebody opens `eth0` as well.

Packets from the host are whole, with their checksums and VLAN tags in them, and no longer than eth0's MTU: the kernel
cuts and completes them before they get here. Several host rings share the host's flows between them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from raceway.errors import InterfaceError, RacewayError
from raceway.kernel.host_path import HostPath
from raceway.kernel.interface import Interface, Network
from raceway.kernel.live import LiveFrames
from raceway.kernel.redirect import FRAME_LIMIT
from raceway.kernel.xsk import XdpModeError
from raceway.memory.region import Region
from raceway.memory.waiting import PYTHON
from raceway.ports.geometry import RINGS_LIMIT, Geometry
from raceway.ports.host.records import Host
from raceway.ports.host.sync import host_sync
from raceway.ports.interface_watch import InterfaceWatch
from raceway.ports.packet.port import PacketPort
from raceway.ports.port import Port, Watch
from raceway.ports.tap.joining import Joiner
from raceway.ports.tap.port import LOOK, TapPort

WAYS = ("live", "tap")
_ADDED = 18
"""Bytes of the longest frame beyond the MTU: an Ethernet header and a VLAN tag."""


@dataclass(frozen=True)
class HostOptions:
    """rings: ring pairs that share the flows; ring: open only this one of them, counted from 0; transmit: how packets
    go to the host, "live" (frames made by XDP), "tap" (a system call each), or "" for whatever wins; join: of one flow
    they go together (`ports.tap.joining`)."""

    rings: int = 1
    ring: int | None = None
    transmit: str = ""
    join: bool = False


class HostPort(TapPort):
    """The host rings of an interface of the calling thread's network namespace.

    receive: False opens no receive rings, and leaves what the host sends alone; transmit: False opens no transmit
    rings. interface: the facts about it; `port.tap`: the device that serves. Raises NoSuchInterfaceError,
    PortBusyError, PermissionNeededError, InterfaceError for one that is down, ValueError, RacewayError.
    """

    adapter = host_sync
    record = Host

    def __init__(
        self,
        name: str,
        device: str,
        geometry: Geometry | None = None,
        region: Region | None = None,
        options: HostOptions | None = None,
        *,
        receive: bool = True,
        transmit: bool = True,
    ) -> None:
        self.host_options = options or HostOptions()
        self.notes: list[str] = []
        # One for each transmit ring: a ring's packets keep their order, several rings use several processors.
        self._lives: list[LiveFrames] = []
        self._joiners: list[Joiner] = []
        self._watch: InterfaceWatch | None = None
        self._path: HostPath | None = None
        self._next_check = 0.0
        self._network = Network()
        try:
            self.interface: Interface = self._network.interface(device)
            self._check(name)
            self._watch = InterfaceWatch(name, self.interface.index, self.interface.name)
            of = self.host_options
            self._path = HostPath(self.interface, queues=of.rings, ring=of.ring, header=of.join)
            super().__init__(name, self._path.tap, geometry, region)
        except BaseException:
            self._let_go()
            raise
        try:
            if not receive or not transmit:
                self._keep_direction(transmit=transmit)
            if transmit and self.host_options.join:
                self._prepare_joining()
            if transmit and self.host_options.transmit != "tap":
                self._prepare_live()
            if receive:
                self._path.capture()
            self.refresh_card(now=True)
        except BaseException:
            self.close()
            raise

    def _check(self, name: str) -> None:
        options, called = self.host_options, self.interface.name
        if not 1 <= options.rings <= RINGS_LIMIT:
            raise ValueError(f"{name}: {options.rings} host rings: expected 1 to {RINGS_LIMIT}")
        if options.ring is not None and options.ring >= options.rings:
            raise ValueError(
                f"{name}: there is no host ring {options.ring}; {called} has {options.rings}, counted from 0; "
                "@conf:host-rings=N makes it N"
            )
        if not self.interface.up:
            raise InterfaceError(f"{name}: {called} is down; ip link set {called} up")

    def _prepare_live(self) -> None:
        """Live frames, where an array's frame has room for the interface's longest, and XDP lets them."""
        insist = self.host_options.transmit == "live"
        longest = self.interface.mtu + _ADDED
        if longest > FRAME_LIMIT:
            reason = f"frames of up to {longest} bytes, and a live frame has at most {FRAME_LIMIT}"
            if insist:
                raise XdpModeError(f"{self.name}: live frames cannot be had: {reason}")
            self.notes.append(f"live frames: {reason}")
            return
        # The first records are the transmit rings'.
        for record, _ in zip(self._records, self.tx, strict=False):
            live = LiveFrames(self.interface.index, longest=FRAME_LIMIT, inject=True, insist=insist)
            self._lives.append(live)
            live.record[0]["longest"] = live.needed = longest
            if insist and (reason := live.obstacle()):
                raise XdpModeError(f"{self.name}: live frames cannot be had: {reason}")
            record["live"] = live.address
            live.record[0]["unwanted"] = int(self.host_options.join)

    def _prepare_joining(self) -> None:
        """Let packets of a flow go together; live frames then only serve those that do not."""
        for record, ring in zip(self._records, self.tx, strict=False):
            joiner = Joiner(ring.size)
            self._joiners.append(joiner)
            record["join"] = joiner.address

    # -- while it is open ----------------------------------------------------------------------------------

    def service(self) -> None:
        """Look after the interface and the device."""
        if self._watch is not None and self._watch.news():
            self._take_news()
        super().service()
        for live in self._lives:
            if live.refusal and self.host_options.transmit == "live":
                raise XdpModeError(f"{self.name}: live frames cannot be had: {live.refusal}")
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + LOOK
        if self._network.state(self.tap.index, self.tap.name) == "down":
            device = self.tap.name
            raise InterfaceError(
                f"{self.name}: {device}, the device that serves the host rings, is down; ip link set {device} up"
            )

    def _take_news(self) -> None:
        """The interface may be another than it was: perhaps its MTU."""
        found = self._network.interface(self.interface.index)
        if found.mtu == self.interface.mtu or self._path is None:
            return
        self.interface = found
        self._path.follow(found.mtu)
        self._tell_mtu()

    def _tell_mtu(self) -> None:
        super()._tell_mtu()
        longest = self.interface.mtu + _ADDED
        for record in self._records:
            record["limit"] = longest
        for live in self._lives:
            if live.needed == longest:
                continue
            live.record[0]["longest"] = min(longest, FRAME_LIMIT)
            live.needed = longest
            live.reconsider()
            if self.host_options.transmit == "live":
                live.refusal = live.obstacle()

    def check_source(self, source: Port) -> None:
        """AF_PACKET sees everything that arrives on the interface, so also what is sent to its host here."""
        if isinstance(source, PacketPort) and source.index == self.interface.index:
            called = self.interface.name
            raise RacewayError(
                f"{self.name}: {source.name} reads {called} by AF_PACKET, which would get every packet that is sent to "
                "the host once more, without end; between a NIC and its host there must be AF_XDP "
                f"(raceway doctor {called} says what keeps it from being had)"
            )

    def descriptors(self) -> list[Watch]:
        watches = super().descriptors()
        if self._watch is not None and not self.closed:
            watches.append(Watch(self._watch.fileno(), PYTHON))
        return watches

    def drops(self) -> dict[str, int]:
        """Packets that ended here, by name.

        Towards the host: `too_long` (more than the interface's MTU), `invalid` (no Ethernet frame), `down` (the device
        is), `lost` (live frames that the kernel refused in the middle of a stream), `no_memory`, `refused`. From it:
        `host_queue_full`, what it sent and nobody read in time, and `too_long` (more than the ring holds).
        """
        found = super().drops()
        if full := found.pop("not_taken", 0):
            found["host_queue_full"] = full
        if empty := sum(int(record["empty"]) for record in self._records):
            found["invalid"] = found.get("invalid", 0) + empty
        if lost := sum(live.lost for live in self._lives):
            found["lost"] = lost
        return found

    @property
    def live(self) -> int:
        """The address of the LIVE record of the first transmit ring; 0 if it has no live frames."""
        return self._lives[0].address if self._lives else 0

    @property
    def joined(self) -> tuple[int, int]:
        """Packets that went together with others, and how many those were for the host's stack."""
        records = [one.record[0] for one in self._joiners]
        return sum(int(one["packets"]) for one in records), sum(int(one["joined"]) for one in records)

    @property
    def waiting(self) -> int:
        """Packets that were handed over as live frames and have not gone yet."""
        return sum(live.waiting for live in self._lives)

    @property
    def transmits_by(self) -> str:
        """How packets go to the host at this moment: "live" if those of any ring do, or "tap"."""
        return "live" if any(live.running or live.record[0]["insist"] for live in self._lives) else "tap"

    @property
    def description(self) -> str:
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{self.mode}{notes}"

    def _in_words(self) -> str:
        options, device = self.host_options, self.tap.name
        if options.ring is not None:
            return f"host ring {options.ring} of {options.rings}, through {device}"
        return f"host rings through {device}, {options.rings} ring pair{'s' * (options.rings > 1)}"

    def flush(self) -> None:
        """Push until the host has everything, at most a second."""
        self._check_open()
        self._push()

    def _push(self) -> None:
        deadline = time.monotonic() + 1
        for ring in self.tx:
            while ring._kring["pending"] or ring.head != ring._kring["head"]:
                if self.adapter(ring.address) < 0 or time.monotonic() > deadline:
                    break
        while any(live.waiting for live in self._lives) and time.monotonic() < deadline:
            time.sleep(0.0001)

    # -- the end -------------------------------------------------------------------------------------------

    def _close(self) -> None:
        # First what the host sends: from now on nobody reads it here.
        if self._path is not None:
            self._path.release()
        try:
            if self._watch is not None and self._watch.state == "up":
                self._push()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for live in self._lives:
            live.close()
        for part in (self._path, self._watch, self._network):
            if part is not None:
                part.close()
