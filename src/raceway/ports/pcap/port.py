"""Opening `pcap:FILE`: the file is read, unless the opener says that it is to be written.

A name alone never makes a file: a slip of the pen in a name would fill the disk from `null:`.
"""

from __future__ import annotations

import time
from dataclasses import replace

from raceway.memory.region import Region
from raceway.ports.geometry import LINKTYPE_ETHERNET, Geometry
from raceway.ports.pcap.formats import LINK_NULL_EXPLICIT
from raceway.ports.pcap.reader import CaptureReader
from raceway.ports.pcap.sync import capture_sync
from raceway.ports.pcap.writer import CaptureWriter
from raceway.ports.port import Port

FLUSH_INTERVAL = 200_000_000
"""Nanoseconds after which a file that is being written shows what it was given, full window or not."""


class CapturePort(Port):
    """A capture file as a port with one ring: a receive ring if it is read, a transmit ring if it is written.

    Packets come with their recorded time, their length on the wire and their link type, and keep them on the
    way to another capture file.
    """

    adapter = capture_sync

    def __init__(
        self,
        name: str,
        path: str,
        geometry: Geometry,
        region: Region | None = None,
        write: bool = False,
    ) -> None:
        super().__init__(name, geometry, region)
        self.path = path
        self.reader: CaptureReader | None = None
        self.writer: CaptureWriter | None = None
        self._flushed = 0
        try:
            if write:
                self.writer = CaptureWriter(path)
                rings = (1, 0)
            else:
                self.reader = CaptureReader(path)
                rings = (0, 1)
                self.link_type = LINKTYPE_ETHERNET if self.reader.link_type is None else self.reader.link_type
            self.geometry = replace(self.geometry, transmit_rings=rings[0], receive_rings=rings[1])
            self._make_rings()
        except BaseException:
            self.close()
            raise
        file = self.writer or self.reader
        assert file is not None
        for ring in self.rings:
            ring._kring["metadata_used"] = 1
            ring._kring["adapter"] = file.record_address
        self._say_link_type(self.link_type)

    def _say_link_type(self, link_type: int) -> None:
        self.link_type = link_type
        for ring in self.rings:
            # 0 stands for "not known" in a ring, so LINKTYPE_NULL, which is 0 too, has another number there.
            ring._record["link_type"] = link_type or LINK_NULL_EXPLICIT

    def be_of_link_type(self, link_type: int) -> None:
        """Write a file of this LINKTYPE_ value. Only before the first packet."""
        if self.writer is None or link_type == self.link_type:
            return
        self.writer.be_of_link_type(link_type)
        self._say_link_type(link_type)

    def service(self) -> None:
        """Read on, or write out; raise what is wrong with the file once every packet before it was taken."""
        if self.writer is not None:
            now = time.time_ns()
            self.writer.now = now
            wanted = any(ring._kring["attention"] for ring in self.tx)
            if wanted or now - self._flushed > FLUSH_INTERVAL:
                self.writer.service()
                self._flushed = now
            return
        if self.reader is None or not self.rx:
            return
        ring = self.rx[0]
        if ring._kring["attention"]:
            self.reader.service()
        if ring.ended and ring.head == ring.tail and self.reader.error is not None:
            raise self.reader.error

    def rewind(self) -> None:
        """Read the file from its beginning again; OSError where it has none (standard input)."""
        if self.reader is None:
            raise ValueError(f"{self.name}: this file is being written")
        self.reader.rewind()
        for ring in self.rx:
            ring._kring["ended"] = 0

    def drops(self) -> dict[str, int]:
        file = self.writer or self.reader
        return {} if file is None else {name: count for name, count in file.drops().items() if count}

    def flush(self) -> None:
        """Write out every whole packet that was put into the ring."""
        super().flush()
        self._write_out()

    def _write_out(self) -> None:
        if self.writer is None or not self.tx:
            return
        ring = self.tx[0]
        while ring._kring["head"] != ring.head:
            before = int(ring._kring["head"])
            if self.adapter(ring.address) < 0:
                ring.repair_and_raise()
            # The adapter stops when its window is full, or when an interface of another link type is wanted.
            stopped = bool(ring._kring["attention"])
            self.writer.service()
            if not stopped and before == int(ring._kring["head"]):
                break
        self.writer.service()

    def _close(self) -> None:
        try:
            self._write_out()
        finally:
            self._close_files()

    def _close_files(self) -> None:
        for file in (self.writer, self.reader):
            if file is not None:
                file.close()
