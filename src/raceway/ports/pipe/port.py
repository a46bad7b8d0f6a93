"""Opening an end of a pipe."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from raceway.errors import RegionError
from raceway.memory import barriers
from raceway.memory.layout import METADATA, REGION_MAGIC, RING
from raceway.memory.region import Region
from raceway.memory.waiting import PYTHON
from raceway.ports.geometry import RINGS_LIMIT, Geometry
from raceway.ports.pipe.rendezvous import Joined, Meeting, opening
from raceway.ports.pipe.sync import pipe_sync
from raceway.ports.port import Port, Watch


class PipePort(Port):
    """One end of a pipe. Whichever end is opened first decides the geometry and makes the region."""

    adapter = pipe_sync

    def __init__(
        self,
        name: str,
        base: str,
        identifier: str,
        end: str,
        geometry: Geometry,
        region: Region | None = None,
    ) -> None:
        super().__init__(name, geometry, region)
        self._peer_bell = -1
        self._gone = False
        self._meeting: Meeting | None = None
        pipe = f"{base}/{identifier}"
        try:
            with opening(name, pipe):
                self._meeting = Meeting(name, pipe, end)
                joined = self._meeting.join()
                if joined is None:
                    self._be_first(self._meeting)
                else:
                    self._be_second(joined, geometry)
            self.region.sharers.append(self._sharer())
        except BaseException:
            self.close()
            raise

    def _be_first(self, meeting: Meeting) -> None:
        """Make the region, both ends' rings in it, and wait for the other end in the background."""
        self._make_region()
        geometry, region = self.geometry, self.region
        mine_out, theirs_in = self._both_ends(
            geometry.transmit_rings or 0, geometry.transmit_slots or 0, outward=True
        )
        mine_in, theirs_out = self._both_ends(
            geometry.receive_rings or 0, geometry.receive_slots or 0, outward=False
        )
        for offset in theirs_out:
            region.ring(offset)["tail"] = int(region.ring(offset)["slot_count"]) - 1
        self._attach(mine_out, mine_in)
        self._connect(theirs_in, theirs_out)
        self._peer_bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._set_bells()
        # Written from the other end's point of view.
        greeting: dict[str, int | list[int]] = {
            "transmit": theirs_out, "receive": theirs_in, "peer_transmit": mine_out, "peer_receive": mine_in,
        }  # fmt: skip
        meeting.on_connect = self._watch_all
        meeting.wait(greeting, [region.descriptor, self._bell, self._peer_bell])

    def _both_ends(self, count: int, slots: int, *, outward: bool) -> tuple[list[int], list[int]]:
        mine, theirs = [], []
        for number in range(count):
            ring = self.region.allocate_ring(slots, number=number, transmit=outward)
            mine.append(ring)
            theirs.append(self.region.allocate_ring(slots, number=number, transmit=not outward, share=ring))
        return mine, theirs

    def _be_second(self, joined: Joined, asked: Geometry) -> None:
        """Map the first end's region, whichever was wished for, and take the rings made for this end in it."""
        shared, peer_bell, own_bell = joined.descriptors
        os.close(self._bell)
        self._bell, self._peer_bell = own_bell, peer_bell
        self._own_region = True
        self.region = Region(descriptor=shared)
        offsets = {key: self._check_offsets(value) for key, value in joined.greeting.items()}
        out, into = offsets["transmit"], offsets["receive"]
        self.geometry = replace(
            self.geometry,
            transmit_rings=len(out),
            receive_rings=len(into),
            transmit_slots=self._slots(out),
            receive_slots=self._slots(into),
            buffer_size=self.region.buffer_size,
        )
        for field in ("transmit_rings", "receive_rings", "transmit_slots", "receive_slots", "buffer_size"):
            wanted, got = getattr(asked, field), getattr(self.geometry, field)
            if wanted is not None and wanted != got:
                raise ValueError(
                    f"{self.name}: {field.replace('_', ' ')} {wanted} asked for, "
                    f"but the end opened first has chosen {got}"
                )
        self._attach(out, into)
        self._connect(offsets["peer_receive"], offsets["peer_transmit"])
        self._set_bells()

    def _slots(self, offsets: list[int]) -> int:
        return int(self.region.ring(offsets[0])["slot_count"]) if offsets else 2

    def _check_offsets(self, value: Any) -> list[int]:
        """Rings must be rings, inside the region, whoever says so."""
        end = int(self.region.header["rings_next"])
        if not isinstance(value, list) or len(value) > RINGS_LIMIT:
            raise RegionError(f"{self.name}: the other end's greeting lists no rings: {value!r:.80}")
        for offset in value:
            if not isinstance(offset, int) or offset % 64 or not 0 < offset <= end - RING.itemsize:
                raise RegionError(
                    f"{self.name}: the other end names a ring at {offset!r:.80}, outside the region"
                )
            ring = self.region.ring(offset)
            count, slots = int(ring["slot_count"]), offset + int(ring["slots"])
            metadata = offset + int(ring["metadata"])
            inside = count >= 2 and all(
                0 < start <= end - count * METADATA.itemsize for start in (slots, metadata)
            )
            if int(ring["magic"]) != REGION_MAGIC or not inside:
                raise RegionError(f"{self.name}: the other end names a ring at {offset}, where there is none")
        return value

    def _connect(self, peers_of_transmit: list[int], peers_of_receive: list[int]) -> None:
        """Tell each Kring where the other end's RING record of the same slots is."""
        base = self.region.base
        for krings, peers in (
            (self._transmit_krings, peers_of_transmit),
            (self._receive_krings, peers_of_receive),
        ):
            for kring, offset in zip(krings, peers, strict=False):
                kring["peer"] = base + offset

    def _set_bells(self) -> None:
        for ring in self.rings:
            ring._record["barrier"] = barriers.register()
        for krings in (self._transmit_krings, self._receive_krings):
            krings["bell"] = self._peer_bell

    def _sharer(self) -> Callable[[], bool]:
        """Says for the region, which may outlive this port, whether this port's peer has it too."""
        reference = weakref.ref(self)

        def shared() -> bool:
            port = reference()
            return port is not None and not port.closed and port.connected

        return shared

    @property
    def connected(self) -> bool:
        """True once the other end has been opened, and until it is gone."""
        return self._meeting is not None and self._meeting.connection is not None and not self._gone

    def wait_for_peer(self, timeout: float | None = None) -> bool:
        self._check_open()
        assert self._meeting is not None
        # A peer that has come and gone is not waited for again: the stream has ended.
        return self._gone or self._meeting.met.wait(timeout)

    def service(self) -> None:
        if not self._gone and self._meeting is not None and self._meeting.peer_is_gone():
            self._gone = True
            for krings in (self._transmit_krings, self._receive_krings):
                krings["ended"] = 1

    def descriptors(self) -> list[Watch]:
        connection = self._meeting.connection if self._meeting is not None else None
        return [] if connection is None or self._gone else [Watch(connection.fileno(), PYTHON)]

    def drops(self) -> dict[str, int]:
        """`peer_gone`: packets that this end published and the other, gone, has not taken."""
        if not self._gone:
            return {}
        left = sum(ring.untaken for ring in self.tx)
        return {"peer_gone": left} if left else {}

    def _always_ready(self) -> bool:
        return False

    def _close(self) -> None:
        if self._meeting is not None:
            self._meeting.close()
            # It would keep this port, and the region, until cycles are collected.
            self._meeting.on_connect = None
        if self._peer_bell >= 0:
            os.close(self._peer_bell)
