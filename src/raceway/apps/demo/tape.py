"""A recording in memory whose clock goes on: played again and again, each time later than the time before.

Token buckets judge by the packets' own time, so a recording that began again at its first second would find them as
the last packet left them, for ever. Control plane; only for the recording that ships with the package (pcapng, one
section, little-endian, nanoseconds); what is no such file is refused.
"""

from __future__ import annotations

import gzip
import mmap
import os
import struct

import numpy as np

from raceway.memory.region import Region
from raceway.ports.geometry import Geometry
from raceway.ports.pcap.port import CapturePort

_SECTION = bytes.fromhex("0a0d0d0a"), bytes.fromhex("4d3c2b1a")
_ENHANCED_PACKET = 6
_REST = 1_000_000_000
"""Nanoseconds between the last packet and the first of the next time: buckets fill up again."""


class Tape(CapturePort):
    """A capture port whose `rewind` puts the clock forward. ValueError for a file of another kind."""

    def __init__(self, path: str, geometry: Geometry, region: Region | None = None) -> None:
        with gzip.open(path) as file:
            data = file.read()
        places = _time_places(path, data)
        self._descriptor = os.memfd_create("raceway-demo-tape", os.MFD_CLOEXEC)
        try:
            os.write(self._descriptor, data)
            self._map = mmap.mmap(self._descriptor, len(data))
        except BaseException:
            os.close(self._descriptor)
            raise
        self._words, self._high = np.frombuffer(self._map, dtype="<u4", count=len(data) // 4), places // 4
        times = self._times()
        self.packets = len(times)
        self.nanoseconds = int(times[-1] - times[0])
        super().__init__(f"pcap:{path}", f"/proc/self/fd/{self._descriptor}", geometry, region, write=False)

    def _times(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        high, low = self._words[self._high].astype(np.int64), self._words[self._high + 1].astype(np.int64)
        return (high << 32) | low

    def rewind(self) -> None:
        """Play it once more, later by its own length and a second."""
        times = self._times() + self.nanoseconds + _REST
        self._words[self._high] = times >> 32
        self._words[self._high + 1] = times & 0xFFFFFFFF
        super().rewind()

    def _close(self) -> None:
        super()._close()
        os.close(self._descriptor)


def _time_places(path: str, data: bytes) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Offsets of the upper half of each packet's timestamp (draft-ietf-opsawg-pcapng, 4.3)."""
    if data[:4] != _SECTION[0] or data[8:12] != _SECTION[1]:
        raise ValueError(f"{path}: expected a little-endian pcapng file")
    places = []
    at = 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if length < 12 or length % 4 or at + length > len(data):
            raise ValueError(f"{path}: a block of {length} bytes at offset {at}")
        if kind == _ENHANCED_PACKET:
            places.append(at + 12)
        at += length
    if not places:
        raise ValueError(f"{path}: expected packets, found none")
    return np.array(places, dtype=np.int64)
