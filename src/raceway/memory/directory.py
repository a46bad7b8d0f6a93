"""Cards: what a region says of the ports that live in it, for whoever looks from another process.

Every port puts a card into its region when its rings are there, the newest first::

    header.cards -> | card | next -> | card | next -> 0
                      pid, name, mode, network namespace
                      offsets of its rings' records ...... whose counters the data plane keeps anyway
                      its drops by name, as the owner last wrote them

The owner writes its own card only, and takes it out of use by `open` = 0 when the port closes; a process that is killed
has no descriptors any more, and so its regions cannot be found and nothing stale is ever shown.

Who reads, reads somebody else's memory. `read_cards` never maps it but copies it out piece by piece with pread(2),
which gives short answers instead of SIGBUS; believes no offset, no count and no text; and looks at no more than
`CARDS_LIMIT` cards, so a list that bites its own tail ends too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raceway.memory.identity import network_namespace, printable, started
from raceway.memory.layout import CACHE_LINE, PAGE, REGION, REGION_MAGIC, RING
from raceway.memory.region import Region

CARD_MAGIC = 0x5241434543415244  # "RACECARD"
RINGS_ON_A_CARD, DROPS_ON_A_CARD, CARDS_LIMIT = 128, 16, 1024
REGION_NAME = "raceway-region"
"""The memfd's name: what /proc/PID/fd shows of a region."""

_DROP = np.dtype([("name", "S32"), ("count", "<i8")])
CARD = np.dtype(
    [
        ("magic", "<i8"),
        ("next", "<i8"),
        ("pid", "<i8"),
        ("started", "<i8"),
        ("open", "<i8"),
        ("network", "<i8"),
        ("refreshed", "<i8"),
        ("ring_count", "<i8"),
        ("name", "S128"),
        ("mode", "S128"),
        ("rings", "<i8", (RINGS_ON_A_CARD,)),
        ("drops", _DROP, (DROPS_ON_A_CARD,)),
    ]
)
"""pid: as the owner's own pid namespace numbers it; started: when that process began (field 22 of /proc/PID/stat);
network: inode of its network namespace; refreshed: when the drops were written, nanoseconds since 1970; rings: offsets
of RING records from the region's start. Texts are UTF-8, cut to size."""


class Card:
    """The owner's side: the card of one port."""

    def __init__(self, region: Region, name: str, rings: Iterable[int]) -> None:
        offset = region.allocate(CARD.itemsize)
        self._record: Any = region.memory[offset : offset + CARD.itemsize].view(CARD)[0]
        record = self._record
        record["magic"], record["name"] = CARD_MAGIC, _cut(name, 128)
        record["pid"], record["started"] = os.getpid(), started(Path("/proc/self"))
        record["network"] = network_namespace()
        self.rings(rings)
        record["open"] = 1
        region.post_card(offset, record)

    def rings(self, offsets: Iterable[int]) -> None:
        """Say which rings the port uses, by the offsets of their RING records."""
        known = list(offsets)[:RINGS_ON_A_CARD]
        self._record["rings"][: len(known)] = known
        self._record["ring_count"] = len(known)

    def refresh(self, mode: str, drops: Mapping[str, int]) -> None:
        """Write down how the port works, and what it has dropped by now."""
        record = self._record
        record["mode"] = _cut(mode, 128)
        table = record["drops"]
        for index, (name, count) in enumerate(list(drops.items())[:DROPS_ON_A_CARD]):
            table[index] = (_cut(name, 32), count)
        record["refreshed"] = time.time_ns()

    def close(self) -> None:
        """The port is closed: nobody is to see it any more."""
        self._record["open"] = 0


def _cut(text: str, size: int) -> bytes:
    """UTF-8 in at most `size` bytes; what is too long loses its middle, for names differ at their ends."""
    raw = text.encode(errors="replace")
    if len(raw) <= size:
        return raw
    half = (size - 3) // 2
    return raw[:half] + b"..." + raw[-half:]


# -- the reader's side -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RingCounters:
    """One ring of somebody's port. used: slots that are not the user's now: of a transmit ring those on their way out,
    of a receive ring those that wait for a packet."""

    number: int
    transmit: bool
    slots: int
    used: int
    packets: int
    bytes: int
    syncs: int
    errors: int


@dataclass(frozen=True)
class PortCard:
    """What a card says. offset: where in its region it lies, which tells two cards of one region apart."""

    offset: int
    pid: int
    started: int
    network: int
    name: str
    mode: str
    refreshed: int
    rings: tuple[RingCounters, ...]
    drops: Mapping[str, int]


def read_cards(descriptor: int) -> list[PortCard]:
    """The cards of the open ports in a region, newest first; [] for what is no region.

    descriptor: the region's memfd, open for reading. Nothing that the region holds is believed: cards and rings that
    lie outside, or are none, are left out.
    """
    size = os.fstat(descriptor).st_size
    header = _record(descriptor, 0, REGION)
    if header is None or int(header["magic"]) != REGION_MAGIC or int(header["size"]) != size:
        return []
    end = min(int(header["rings_next"]), size)
    cards: list[PortCard] = []
    offset, seen = int(header["cards"]), set[int]()
    while offset not in seen and len(seen) < CARDS_LIMIT and _within(offset, CARD.itemsize, end):
        seen.add(offset)
        record = _record(descriptor, offset, CARD)
        if record is None or int(record["magic"]) != CARD_MAGIC:
            break
        if record["open"]:
            cards.append(_card(descriptor, offset, record, end))
        offset = int(record["next"])
    return cards


def _card(descriptor: int, offset: int, record: Any, end: int) -> PortCard:
    count = min(max(int(record["ring_count"]), 0), RINGS_ON_A_CARD)
    rings = (_ring(descriptor, int(ring), end) for ring in dict.fromkeys(record["rings"][:count].tolist()))
    return PortCard(
        offset=offset,
        pid=int(record["pid"]),
        started=int(record["started"]),
        network=int(record["network"]),
        name=printable(record["name"]),
        mode=printable(record["mode"]),
        refreshed=int(record["refreshed"]),
        rings=tuple(ring for ring in rings if ring is not None),
        drops={printable(name): int(count) for name, count in record["drops"].tolist() if name and count},
    )


def _ring(descriptor: int, offset: int, end: int) -> RingCounters | None:
    record = _record(descriptor, offset, RING) if _within(offset, RING.itemsize, end) else None
    if record is None or int(record["magic"]) != REGION_MAGIC:
        return None
    slots = int(record["slot_count"])
    owned = (int(record["tail"]) - int(record["head"])) % slots if slots > 0 else 0
    return RingCounters(
        number=int(record["number"]),
        transmit=bool(record["transmit"]),
        slots=slots,
        used=max(slots - 1 - owned, 0),
        packets=int(record["packets"]),
        bytes=int(record["bytes"]),
        syncs=int(record["syncs"]),
        errors=int(record["errors"]),
    )


def _within(offset: int, size: int, end: int) -> bool:
    return offset % CACHE_LINE == 0 and PAGE <= offset <= end - size


def _record(descriptor: int, offset: int, kind: np.dtype[np.void]) -> Any:
    """A copy of a record, or None where the file is too short for it."""
    raw = os.pread(descriptor, kind.itemsize, offset)
    return np.frombuffer(raw, dtype=kind)[0] if len(raw) == kind.itemsize else None
