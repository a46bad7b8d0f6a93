"""Opening an interface through packet sockets: the way that always goes, when AF_XDP does not.

What is different from AF_XDP, and is said in `PacketPort.notes`: the host's own stack gets everything that arrives as
well, every packet is copied once more, and a lone packet waits up to a millisecond.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

from raceway.errors import InterfaceError, RacewayError
from raceway.kernel.interface import ARPHRD_ETHER, ARPHRD_LOOPBACK, Interface, LinkWatch, interface
from raceway.kernel.packet_socket import PacketReceiver, PacketSender, open_receivers, open_senders
from raceway.memory.region import Region
from raceway.memory.structures import allocate
from raceway.memory.waiting import PACKETS, PYTHON
from raceway.ports.geometry import RINGS_LIMIT, Geometry
from raceway.ports.offload import Offload
from raceway.ports.packet.sync import packet_sync
from raceway.ports.port import Port, Watch

NOTE = "AF_PACKET (TPACKET_V3): copies, one for the host's own stack too; a lone packet waits up to 1 ms"
_LOOK_INTERVAL = 0.02
"""Seconds between two looks at the interface's fate."""
_LAST_WORDS = 0.1
"""Seconds that closing waits for the device to take what it was given."""


class PacketPort(Port):
    """A network interface through packet sockets, one a ring.

    device: the interface's name in the calling thread's network namespace; queues: ring pairs unless the geometry says
    how many (None: one for each of the interface's queues, but no more than there are processors); receive, transmit:
    open only one direction; promiscuous: let the device accept frames for any address; outgoing: receive what the host
    sends as well.

    notes: what is to be known of this way, in sentences. Raises NoSuchInterfaceError, PermissionNeededError
    (CAP_NET_RAW), RacewayError for an interface that is down or has no Ethernet frames, ValueError for impossible
    numbers.
    """

    adapter = packet_sync

    def __init__(
        self,
        name: str,
        device: str,
        geometry: Geometry,
        region: Region | None = None,
        *,
        queues: int | None = None,
        receive: bool = True,
        transmit: bool = True,
        promiscuous: bool = False,
        outgoing: bool = False,
    ) -> None:
        facts = interface(device)
        if queues is None:
            there = max(facts.receive_queues, facts.transmit_queues)
            queues = max(min(there, os.cpu_count() or 1, RINGS_LIMIT), 1)
        wanted = replace(
            geometry,
            transmit_rings=_count(geometry.transmit_rings, queues) if transmit else 0,
            receive_rings=_count(geometry.receive_rings, queues) if receive else 0,
        )
        if not (wanted.transmit_rings or wanted.receive_rings):
            raise ValueError(f"{name}: no rings asked for; expected at least one, to send or to receive")
        super().__init__(name, wanted, region)
        self.mode = "packet"
        self.notes = [NOTE]
        self.device, self.index = facts.name, facts.index
        self.promiscuous = promiscuous
        self._watch: LinkWatch | None = None
        self._receivers: list[PacketReceiver] = []
        self._senders: list[PacketSender] = []
        self._muted: list[PacketReceiver] = []
        self._offloads = allocate(Offload, max(wanted.receive_rings or 0, 1))
        self._trouble = ""
        self._next_look = 0.0
        self._unsent = 0
        self._connected = False
        try:
            self._check(facts)
            self._watch = LinkWatch()
            self._receivers = open_receivers(self.device, self.geometry.receive_rings or 0, outgoing=outgoing)
            self._senders = open_senders(self.device, self.geometry.transmit_rings or 0)
            self._make_rings()
            self._connect()
            # It may have changed between the first question and the watch.
            self._look(alarmed=True)
            self.service()
        except BaseException:
            self.close()
            raise

    @property
    def description(self) -> str:
        queues = max(len(self.tx), len(self.rx))
        return f"AF_PACKET (TPACKET_V3), {queues} queue{'s' * (queues != 1)}; the host keeps its packets"

    def _check(self, facts: Interface) -> None:
        if facts.hardware_type not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
            raise RacewayError(
                f"{self.name}: {facts.name} does not carry Ethernet frames (hardware type {facts.hardware_type})"
            )
        if not facts.up:
            raise RacewayError(
                f"{self.name}: {facts.name} is down; to bring it up: sudo ip link set {facts.name} up"
            )

    def _connect(self) -> None:
        """Give each ring its socket, and begin to listen."""
        for ring, sender in zip(self.tx, self._senders, strict=True):
            ring._kring["adapter"] = sender.record.ctypes.data
        for number, (ring, receiver) in enumerate(zip(self.rx, self._receivers, strict=True)):
            receiver.record["offload"] = self._offloads[number : number + 1].ctypes.data
            ring._kring["adapter"] = receiver.record.ctypes.data
        if self.promiscuous and self._receivers:
            self._receivers[0].be_promiscuous()
        for receiver in self._receivers:
            receiver.listen()
        self._connected = True

    def _keep(self, number: int) -> None:
        super()._keep(number)
        for other, receiver in enumerate(self._receivers):
            if other != number:
                receiver.mute()
                self._muted.append(receiver)
        for other, sender in enumerate(self._senders):
            if other != number:
                sender.close()
        self._receivers = self._receivers[number : number + 1]
        self._senders = self._senders[number : number + 1]

    def _keep_direction(self, *, transmit: bool) -> None:
        super()._keep_direction(transmit=transmit)
        if transmit:
            for receiver in self._receivers + self._muted:
                receiver.close()
            self._receivers, self._muted = [], []
        else:
            for sender in self._senders:
                sender.close()
            self._senders = []

    def service(self) -> None:
        """Look what has become of the interface. RacewayError as long as it is down, gone or renamed."""
        alarmed = any(ring._kring["attention"] for ring in self.tx)
        now = time.monotonic()
        if alarmed or now >= self._next_look:
            self._next_look = now + _LOOK_INTERVAL
            self._look(alarmed=alarmed)
        if self._trouble:
            raise InterfaceError(f"{self.name}: the interface {self.device} is {self._trouble}")

    def _look(self, *, alarmed: bool) -> None:
        assert self._watch is not None
        if not (self._watch.changed() or alarmed or self._trouble):
            return
        state = self._watch.state(self.index, self.device)
        self._trouble = "" if state == "up" else state
        for ring in self.tx:
            ring._kring["attention"] = 0
        for receiver in self._receivers:
            receiver.clear_error()

    def descriptors(self) -> list[Watch]:
        watches = [Watch(receiver.fileno(), PACKETS) for receiver in self._receivers]
        if self._watch is not None:
            watches.append(Watch(self._watch.fileno(), PYTHON))
        return watches

    def _always_ready(self) -> bool:
        return False

    def statistics(self) -> dict[str, int]:
        """Beyond the counters of the rings: what the kernel put into blocks (`kernel_packets`) and dropped for want of
        one (`kernel_drops`), frames taken from blocks, frames cut and the segments that they became, checksums
        finished, packets and bytes that the kernel took to send, and in how many calls."""
        with self._lock:
            kernel = [receiver.statistics() for receiver in self._receivers]
        counted = {
            "kernel_packets": sum(packets for packets, _ in kernel),
            "kernel_drops": sum(drops for _, drops in kernel),
        }
        for name in ("taken", "cut", "segments", "finished"):
            counted[name] = sum(int(receiver.record[name][0]) for receiver in self._receivers)
        for name, field in (("sent", "packets"), ("sent_bytes", "bytes"), ("calls", "calls")):
            counted[name] = sum(int(sender.record[field][0]) for sender in self._senders)
        return counted

    def drops(self) -> dict[str, int]:
        """Packets that ended here, by name.

        Arriving: `socket` the kernel had no free block, because nobody read; `truncated` longer than a block;
        `unsupported_offload` left for a card to finish in a way that is not known here; `too_long_for_ring` more
        slots than the ring has. Sending: `too_long` for the device, or in more than 1,024 pieces; `malformed` shorter
        than its header; `down` the interface was down; `refused` for another reason; `unsent` the device had not taken
        them when the port was closed.
        """
        counted = {"socket": self.statistics()["kernel_drops"]}
        for name, field in (
            ("truncated", "truncated"),
            ("unsupported_offload", "unsupported"),
            ("too_long_for_ring", "too_long"),
        ):
            counted[name] = sum(int(receiver.record[field][0]) for receiver in self._receivers)
        for name in ("too_long", "malformed", "down", "refused"):
            counted[name] = sum(int(sender.record[name][0]) for sender in self._senders)
        counted["unsent"] = self._unsent
        return {name: count for name, count in counted.items() if count}

    def flush(self) -> None:
        """Let the device take what was put into the transmit rings, for at most a second."""
        super().flush()
        self._push(1.0)

    def _push(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for ring in self.tx:
            while self.adapter(ring.address) == 0 and ring._kring["pending"] and time.monotonic() < deadline:
                time.sleep(0.0005)
            if ring._kring["error"]:
                ring.repair_and_raise()

    def _close(self) -> None:
        try:
            if self._connected:
                self._push(_LAST_WORDS)
                self._unsent = sum(
                    ring.packets - _settled(sender)
                    for ring, sender in zip(self.tx, self._senders, strict=True)
                )
        finally:
            for end in (*self._senders, *self._receivers, *self._muted):
                end.close()
            if self._watch is not None:
                self._watch.close()


def _count(rings: int | None, queues: int) -> int:
    return queues if rings is None else rings


def _settled(sender: PacketSender) -> int:
    """Packets of which it is known what has become."""
    names = ("packets", "too_long", "malformed", "down", "refused")
    return sum(int(sender.record[name][0]) for name in names)
