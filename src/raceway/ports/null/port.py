"""Opening `null:`."""

from __future__ import annotations

import numpy as np

from raceway.memory.region import Region
from raceway.ports.geometry import Geometry
from raceway.ports.null.sync import LENGTH, null_sync
from raceway.ports.port import Port

# Ethernet broadcast from a locally administered address, IPv4, UDP to the discard port (RFC 863) with 18 bytes.
_FRAME = bytes.fromhex(
    "ffffffffffff 020000000001 0800"
    "4500002e 00000000 4011 7ebd 0a000001 0a000002"
    "00090009 001a 0000"
).ljust(LENGTH, b"\0")  # fmt: skip


class NullPort(Port):
    """Swallows everything sent, supplies a 60-byte frame for ever."""

    adapter = null_sync

    def __init__(self, name: str, geometry: Geometry, region: Region | None = None) -> None:
        super().__init__(name, geometry, region)
        self._frame = np.zeros(64, dtype=np.uint8)
        self._frame[:LENGTH] = np.frombuffer(_FRAME, dtype=np.uint8)
        try:
            self._make_rings()
        except BaseException:
            self.close()
            raise
        for krings in (self._transmit_krings, self._receive_krings):
            krings["adapter"] = self._frame.ctypes.data
