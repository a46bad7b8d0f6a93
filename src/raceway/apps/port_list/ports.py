"""Which ports are open in which processes: from the regions that can be seen in /proc, and the cards in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from raceway.kernel.processes import OpenFile, Process
from raceway.memory.directory import REGION_NAME, PortCard, read_cards
from raceway.ports.names import PortKind, PortNameError, parse

_TARGET = f"/memfd:{REGION_NAME}"


def is_region(target: str) -> bool:
    """Whether a descriptor with this target may be a region's. Whether it is one, `open_ports` finds out."""
    return target.startswith(_TARGET)


@dataclass(frozen=True)
class OpenPort:
    """A port that some process has open now. region: the memory's number, the same for ports that share one."""

    card: PortCard
    process: Process
    region: int

    @property
    def tx_packets(self) -> int:
        """Packets handed over for transmission."""
        return self._sum(transmit=True, field="packets")

    @property
    def tx_bytes(self) -> int:
        """Bytes of those."""
        return self._sum(transmit=True, field="bytes")

    @property
    def rx_packets(self) -> int:
        """Packets that have arrived."""
        return self._sum(transmit=False, field="packets")

    @property
    def rx_bytes(self) -> int:
        """Bytes of those."""
        return self._sum(transmit=False, field="bytes")

    def _sum(self, *, transmit: bool, field: str) -> int:
        return sum(getattr(ring, field) for ring in self.card.rings if ring.transmit == transmit)


def open_ports(files: Iterable[OpenFile]) -> list[OpenPort]:
    """The ports behind these descriptors, by the owner's process and name.

    A card counts if the process that it names has the region open: of a killed process nothing is left but perhaps
    its card in a region that its peer still has, which is nobody's.
    """
    memory = _mount_of_memory()
    regions: dict[int, list[OpenFile]] = {}
    for file in files:
        # What calls itself a region may be a file of that name that somebody has made: a pipe to wait on for ever,
        # a file system that never answers. Its mount tells, before anything is opened.
        if is_region(file.target) and file.info.get("mnt_id") == memory:
            regions.setdefault(file.inode, []).append(file)
    found = []
    for inode, holders in regions.items():
        owners = {
            (owner.inner_pids[-1], owner.started): owner for owner in (file.process for file in holders)
        }
        for card in _cards(holders):
            owner = owners.get((card.pid, card.started))
            if owner is not None:
                found.append(OpenPort(card, owner, inode))
    return sorted(found, key=lambda port: (port.process.pid, port.region, port.card.offset))


def interface_of(name: str) -> str:
    """The interface that a port of this name stands on; "" for other ports, and for names that are none."""
    try:
        parsed = parse(name)
    except PortNameError:
        return ""
    on_interface = parsed.kind == PortKind.NETMAP and parsed.pipe is None
    return parsed.port if on_interface or parsed.kind == PortKind.TAP else ""


def _cards(holders: list[OpenFile]) -> list[PortCard]:
    """What is written in a region, by whichever of its holders lets it be opened."""
    for file in holders:
        try:
            descriptor = file.process.open_again(file.number, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return read_cards(descriptor)
        finally:
            os.close(descriptor)
    return []


def _mount_of_memory() -> str:
    """The number of the kernel's own mount that every memfd lies on."""
    descriptor = os.memfd_create("raceway-look", os.MFD_CLOEXEC)
    try:
        return OpenFile(Process(os.getpid()), descriptor, "").info.get("mnt_id", "")
    finally:
        os.close(descriptor)
