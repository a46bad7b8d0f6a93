"""A whole capture file in memory, as arrays: for tests, for measuring filters, and for people at a prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raceway.memory.access import copy, store_64
from raceway.memory.jit import entry
from raceway.memory.structures import allocate, structure
from raceway.ports.pcap.formats import LINK_NULL_EXPLICIT, RECORD_HEADER
from raceway.ports.pcap.parse import FOUND, SKIPPED, WAIT, next_record
from raceway.ports.pcap.reader import CaptureReader
from raceway.ports.pcap.records import Reader

_COLUMNS = 5
_LOAD = np.dtype([("reader", "<i8"), ("rows", "<i8"), ("count", "<i8"), ("data", "<i8"), ("used", "<i8")])
Load = structure("Load", _LOAD)


@entry
def load_packets(address: int) -> int:
    """Append all packets of a reader's window to arrays that have room for them; 1 if Python must serve the
    window."""
    load = Load(address)
    reader = Reader(load.reader)
    position = reader.window + reader.begin
    end = reader.window + reader.end
    count = 0
    used = load.used
    verdict = SKIPPED
    if reader.error != 0:
        return 0
    while verdict in (FOUND, SKIPPED):
        verdict, following, data, captured, wire, time, link_type = next_record(reader, position, end)
        if verdict == FOUND:
            if time < 0:
                reader.timestamps_unknown += 1
                time = 0
            row = load.rows + count * (8 * _COLUMNS)
            store_64(row, used)
            store_64(row + 8, captured)
            store_64(row + 16, wire)
            store_64(row + 24, time)
            store_64(row + 32, link_type)
            copy(load.data + used, data, captured)
            used += captured
            count += 1
        position = following
    reader.begin = position - reader.window
    reader.records += count
    load.count = count
    load.used = used
    if verdict == WAIT:
        return 1
    return 0


@dataclass(frozen=True)
class Capture:
    """The packets of a capture file, in file order. Iterating gives each as `bytes`.

    data: uint8, all packets one after the other. offsets, lengths: int64, where in `data` each lies.
    wire_lengths: int64, bytes on the wire before the capture cut it. timestamps: int64, nanoseconds since
    1970 (0: unknown). link_types: int64, LINKTYPE_ values.
    """

    path: str
    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    wire_lengths: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.int64]
    link_types: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> bytes:
        start = int(self.offsets[index])
        return self.data[start : start + int(self.lengths[index])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


def load_capture(path: str | os.PathLike[str], *, packets: int | None = None) -> Capture:
    """Read a capture file into memory.

    path: as for `CaptureReader`. packets: how many at most; None takes all, and memory for all.
    Raises OSError and CaptureFileError as `CaptureReader` does, the latter also for a malformed record.
    """
    with CaptureReader(path) as reader:
        rows, data = _load(reader, packets)
        return Capture(
            path=reader.path,
            data=data,
            offsets=rows[:, 0].copy(),
            lengths=rows[:, 1].copy(),
            wire_lengths=rows[:, 2].copy(),
            timestamps=rows[:, 3].copy(),
            link_types=np.where(rows[:, 4] == LINK_NULL_EXPLICIT, 0, rows[:, 4]),
        )


def _load(reader: CaptureReader, packets: int | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    record: Any = Reader(reader.record_address)
    array = allocate(Load)
    load: Any = Load(array.ctypes.data)
    load.reader = record.address
    found: list[npt.NDArray[np.int64]] = []
    # One allocation for most files: fresh memory costs more than parsing.
    data: npt.NDArray[np.uint8] = np.empty(reader.size_hint, dtype=np.uint8)
    scratch = np.empty((0, _COLUMNS), dtype=np.int64)
    total = 0
    again = 1
    while again and (packets is None or total < packets):
        reader.service()
        # A window of n bytes holds at most n bytes of packets, and no record is shorter than a pcap header.
        window = record.end - record.begin
        if load.used + window > len(data):
            larger = np.empty(max(2 * len(data), load.used + window), dtype=np.uint8)
            larger[: load.used] = data[: load.used]
            data = larger
        if window // RECORD_HEADER > len(scratch):
            scratch = np.empty((window // RECORD_HEADER, _COLUMNS), dtype=np.int64)
        load.rows, load.data, load.count = scratch.ctypes.data, data.ctypes.data, 0
        again = load_packets(load.address)
        found.append(scratch[: load.count].copy())
        total += load.count
    if reader.error is not None and (packets is None or total < packets):
        raise reader.error
    rows = np.concatenate(found) if found else np.empty((0, _COLUMNS), dtype=np.int64)
    rows = rows[:packets]
    used = int(rows[-1, 0] + rows[-1, 1]) if len(rows) else 0
    return rows, data[:used]
