"""A ring of one's own, capture files made by hand, and other people's tools to compare with.

Nothing here uses the package's own knowledge of the formats: files are packed with `struct` from the drafts, so
that reader and writer cannot agree on a mistake.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raceway.memory.jit import INTERPRETED
from raceway.memory.layout import METADATA, MORE_FRAGMENTS, SLOT, Kring, Ring
from raceway.memory.structures import allocate
from raceway.ports.pcap.reader import CaptureReader
from raceway.ports.pcap.sync import receive_sync, transmit_sync
from raceway.ports.pcap.writer import CaptureWriter

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
OWN = Path(__file__).parents[1] / "data" / "captures"
GUARD = 0xA5
UNKNOWN_TO_WIRESHARK = {281, 284}
"""Link types (two of Ethernet switches' tags) at which Wireshark 4.0's editcap gives up."""


def captures() -> list[Any]:
    """Every real capture there is, as pytest parameters; a skipped one with a reason where the shared are absent."""
    folders = [OWN, SHARED / "captures", SHARED / "pcap-filter"]
    found = [path for folder in folders for path in sorted(folder.glob("*.pcap*"))]
    parameters = [pytest.param(path, id=path.name) for path in found]
    if not (SHARED / "captures").exists():
        reason = "the shared captures are not on this machine"
        parameters.append(pytest.param(None, id="shared", marks=pytest.mark.skip(reason)))
    return parameters


def _compiled(function: Callable[[int], int]) -> Callable[[int], int]:
    if INTERPRETED:
        return function
    import numba

    made: Callable[[int], int] = numba.njit("int64(int64)", nogil=True, error_model="numpy", _nrt=False)(
        function
    )
    return made


def _sync(address: int) -> int:
    kring = Kring(address)
    ring = Ring(kring.ring)
    count = ring.head - kring.head
    if count < 0:
        count += kring.slot_count
    if kring.transmit != 0:
        transmit_sync(kring, ring, count)
    else:
        receive_sync(kring, ring, count)
    return 0


_entry: list[Callable[[int], int]] = []


@dataclass(frozen=True)
class Packet:
    data: bytes
    time: int = 0
    wire: int = 0
    link_type: int = 0


class HandRing:
    """One ring with its slots, metadata and buffers, which lie between guards that nobody may touch."""

    def __init__(
        self,
        adapter: int,
        *,
        transmit: bool,
        slot_count: int = 64,
        buffer_size: int = 2048,
        metadata: bool = True,
    ) -> None:
        self.size, self.buffer_size = slot_count, buffer_size
        self.slots = np.zeros(slot_count, SLOT)
        # Other buffers than the slot's own number, so that mixing the two up shows.
        self.slots["buffer"] = np.arange(slot_count)[::-1] + 1
        self.metadata = np.zeros(slot_count, METADATA)
        self._memory = np.full((slot_count + 2) * buffer_size + 256, GUARD, np.uint8)
        self._buffers = self._memory.ctypes.data + 128
        self._keep = allocate(Ring), allocate(Kring)
        self.ring: Any = Ring(self._keep[0].ctypes.data)
        self.kring: Any = Kring(self._keep[1].ctypes.data)
        kring = self.kring
        kring.ring, kring.slots = self.ring.address, self.slots.ctypes.data
        kring.metadata, kring.buffers = self.metadata.ctypes.data, self._buffers
        kring.buffer_size, kring.slot_count = buffer_size, slot_count
        kring.transmit, kring.adapter = int(transmit), adapter
        kring.metadata_used = int(metadata)
        if transmit:
            kring.tail = self.ring.tail = slot_count - 1

    def sync(self) -> None:
        if not _entry:
            _entry.append(_compiled(_sync))
        _entry[0](self.kring.address)
        used = self._memory
        first, last = 128 + self.buffer_size, 128 + (self.size + 1) * self.buffer_size
        assert (used[:first] == GUARD).all(), "something before the buffers was overwritten"
        assert (used[last:] == GUARD).all(), "something behind the buffers was overwritten"

    def buffer(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        start = 128 + int(self.slots["buffer"][index]) * self.buffer_size
        return self._memory[start : start + self.buffer_size]

    def owned(self) -> int:
        return int((self.ring.tail - self.ring.head) % self.size)

    def take(self, most: int = 1 << 30) -> list[Packet]:
        """As a user: read up to `most` packets of `[head, tail)` and move head behind them."""
        found: list[Packet] = []
        while self.ring.head != self.ring.tail and len(found) < most:
            row = self.metadata[self.ring.head]
            data = b""
            more = True
            while more:
                assert self.ring.head != self.ring.tail, "a chain was cut at tail"
                slot = self.slots[self.ring.head]
                assert slot["offset"] == 0
                assert 0 <= slot["length"] <= self.buffer_size
                data += self.buffer(self.ring.head)[: slot["length"]].tobytes()
                more = bool(slot["flags"] & MORE_FRAGMENTS)
                assert slot["flags"] in (0, MORE_FRAGMENTS)
                if more:
                    assert slot["length"] == self.buffer_size
                self.ring.head = (self.ring.head + 1) % self.size
            found.append(Packet(data, int(row["timestamp"]), int(row["wire_length"]), int(row["link_type"])))
        return found

    def put(self, packet: Packet, *, offset: int = 0, piece: int = 0, complete: bool = True) -> bool:
        """As a user: fill slots with a packet in pieces and move head behind them; False if there is no room."""
        piece = piece or self.buffer_size - offset
        pieces = [packet.data[at : at + piece] for at in range(0, len(packet.data), piece)] or [b""]
        if len(pieces) > self.owned():
            return False
        self.metadata[self.ring.head] = (packet.time, packet.wire, packet.link_type, 0, 0)
        for number, part in enumerate(pieces):
            slot = self.slots[self.ring.head]
            self.buffer(self.ring.head)[offset : offset + len(part)] = np.frombuffer(part, np.uint8)
            slot["length"], slot["offset"] = len(part), offset
            slot["flags"] = MORE_FRAGMENTS if number < len(pieces) - 1 or not complete else 0
            self.ring.head = (self.ring.head + 1) % self.size
        return True


def drain(
    reader: CaptureReader, ring: HandRing | None = None, *, most: Callable[[], int] = lambda: 1 << 30
) -> list[Packet]:
    """Read a file through a ring to its end, as a loop would; `most` packets between two syncs."""
    ring = ring or HandRing(reader.record_address, transmit=False)
    found: list[Packet] = []
    idle = 0
    while not (ring.kring.ended and ring.ring.head == ring.ring.tail):
        ring.sync()
        assert ring.kring.head == ring.ring.head
        got = ring.take(most())
        found += got
        if ring.kring.attention:
            reader.service()
        idle = 0 if got or ring.kring.attention else idle + 1
        assert idle < 1000, "neither packets, nor attention, nor an end"
    assert ring.ring.packets == len(found)
    assert ring.ring.bytes == sum(len(packet.data) for packet in found)
    assert reader.records == len(found) + sum(reader.drops().values()), "a packet was lost in silence"
    assert ring.kring.dropped == sum(reader.drops().values())
    return found


def read_file(path: Path | str, *, window: int = 4 << 20, **ring: int) -> list[Packet]:
    with CaptureReader(path, window=window) as reader:
        found = drain(reader, HandRing(reader.record_address, transmit=False, **ring))
        if reader.error is not None:
            raise reader.error
        return found


def serve(writer: CaptureWriter, ring: HandRing) -> None:
    """Sync a transmit ring until the writer wants nothing more."""
    ring.sync()
    while ring.kring.attention:
        writer.service()
        ring.sync()
    assert ring.ring.tail == (ring.kring.head - 1) % ring.size


def feed(
    writer: CaptureWriter, packets: Iterable[Packet], ring: HandRing | None = None, **how: int
) -> HandRing:
    """Write packets through a ring, syncing when it is full and at the end."""
    ring = ring or HandRing(writer.record_address, transmit=True)
    for packet in packets:
        if not ring.put(packet, **how):
            serve(writer, ring)
            assert ring.put(packet, **how), "no room in an empty ring"
    serve(writer, ring)
    return ring


# Files, packed by hand


def pcap_file(
    packets: Iterable[Packet], *, order: str = "<", nano: bool = False, link_type: int = 1, minor: int = 4
) -> bytes:
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    made = struct.pack(f"{order}IHHiIII", magic, 2, minor, 0, 0, 65535, link_type)
    for packet in packets:
        seconds, rest = divmod(packet.time, 10**9)
        fraction = rest if nano else rest // 1000
        lengths = len(packet.data), packet.wire or len(packet.data)
        made += struct.pack(f"{order}IIII", seconds, fraction, *lengths) + packet.data
    return made


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    total = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + total + body + total


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(
    order: str = "<", length: int = -1, options: bytes = b"", version: tuple[int, int] = (1, 0)
) -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, *version, length) + options, order)


def interface(order: str = "<", link_type: int = 1, snaplen: int = 0, options: bytes = b"") -> bytes:
    return block(1, struct.pack(f"{order}HHI", link_type, 0, snaplen) + options, order)


def resolution(value: int, order: str = "<") -> bytes:
    return option(9, bytes([value]), order)


def enhanced(packet: Packet, ticks: int, number: int = 0, order: str = "<", options: bytes = b"") -> bytes:
    lengths = len(packet.data), packet.wire or len(packet.data)
    head = struct.pack(f"{order}IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, *lengths)
    return block(6, head + packet.data + bytes(-len(packet.data) % 4) + options, order)


def obsolete(packet: Packet, ticks: int, number: int = 0, order: str = "<") -> bytes:
    lengths = len(packet.data), packet.wire or len(packet.data)
    head = struct.pack(f"{order}HHIIII", number, 3, ticks >> 32, ticks & 0xFFFFFFFF, *lengths)
    return block(2, head + packet.data, order)


def simple(data: bytes, wire: int = 0, order: str = "<") -> bytes:
    return block(3, struct.pack(f"{order}I", wire or len(data)) + data, order)


# Other people's tools


def tool(*command: str | Path, **options: Any) -> str:
    """Run one of Wireshark's tools, which must succeed and complain of nothing; return its output."""
    name = str(command[0])
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    complaints = [line for line in done.stderr.splitlines() if line and "Running as user" not in line]
    assert done.returncode == 0, (command, done.stderr)
    assert not complaints, (command, complaints)
    return done.stdout


def nanosecond_pcap(path: Path, scratch: Path) -> list[Packet]:
    """What Wireshark's editcap makes of a file of one link type: its packets, by way of a pcap with nanoseconds."""
    data = path.read_bytes()
    order, field = ("<", slice(20, 22)) if data[2:4] == b"\xb2\xa1" else (">", slice(22, 24))
    restored = struct.unpack(f"{order}H", data[field])[0]
    if restored in UNKNOWN_TO_WIRESHARK and path.suffix == ".pcap":
        # The same file of another link type: one of those that are nobody's.
        path = scratch.with_suffix(".relabelled")
        path.write_bytes(data[: field.start] + struct.pack(f"{order}H", 147) + data[field.stop :])
    else:
        restored = 0
    if path.name == "pcapng-blocks.pcapng":
        # To Wireshark a custom block is a record, which no pcap can hold.
        tool("tshark", "-r", path, "-Y", "eth", "-F", "nsecpcap", "-w", scratch)
    else:
        tool("editcap", "-F", "nsecpcap", path, scratch)
    data = scratch.read_bytes()
    magic, *_, link_type = struct.unpack_from("<IHHiIII", data)
    assert magic == 0xA1B23C4D
    found = []
    at = 24
    while at < len(data):
        seconds, fraction, captured, wire = struct.unpack_from("<IIII", data, at)
        at += 16
        link = restored or link_type & 0xFFFF
        found.append(Packet(data[at : at + captured], seconds * 10**9 + fraction, wire, link))
        at += captured
    return found


def tshark_rows(path: Path) -> list[tuple[int, int, int]]:
    """Time in nanoseconds, length on the wire and captured length of each packet, as tshark sees them."""
    fields = ["frame.time_epoch", "frame.len", "frame.cap_len"]
    chosen = [word for field in fields for word in ("-e", field)]
    rows = []
    for line in tool("tshark", "-n", "-r", path, "-T", "fields", *chosen).splitlines():
        time, wire, captured = line.split("\t")
        time = time or "0"
        seconds, _, fraction = time.partition(".")
        rows.append((int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9]), int(wire), int(captured)))
    return rows
