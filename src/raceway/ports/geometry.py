"""How many rings a port has, how large they and their buffers are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from raceway.memory.region import BUFFER_SIZE, check_buffer_size, check_ring_size

LINKTYPE_ETHERNET = 1
RINGS_LIMIT = 64


@dataclass(frozen=True)
class Geometry:
    """How many rings a port has, how many slots each, and how large the buffers. None: the port's usual."""

    transmit_slots: int | None = None
    receive_slots: int | None = None
    transmit_rings: int | None = None
    receive_rings: int | None = None
    buffer_size: int | None = None
    extra_buffers: int = 0

    def settled(self, slots: int = 1024, rings: int = 1, buffer_size: int = BUFFER_SIZE) -> Geometry:
        """The same with nothing left open; ValueError for what cannot be."""
        chosen = Geometry(
            self.transmit_slots or slots,
            self.receive_slots or slots,
            rings if self.transmit_rings is None else self.transmit_rings,
            rings if self.receive_rings is None else self.receive_rings,
            self.buffer_size or buffer_size,
            self.extra_buffers,
        )
        check_ring_size(chosen.transmit_slots or 0)
        check_ring_size(chosen.receive_slots or 0)
        check_buffer_size(chosen.buffer_size or 0)
        for count in (chosen.transmit_rings or 0, chosen.receive_rings or 0):
            if not 0 <= count <= RINGS_LIMIT:
                raise ValueError(f"{count} rings: expected 0 to {RINGS_LIMIT}")
        if not 0 <= chosen.extra_buffers <= 1 << 20:
            raise ValueError(f"{chosen.extra_buffers} extra buffers: expected 0 to {1 << 20}")
        return chosen

    def mirrored(self) -> Geometry:
        """The same seen from the other end of a pipe."""
        return replace(
            self,
            transmit_slots=self.receive_slots,
            receive_slots=self.transmit_slots,
            transmit_rings=self.receive_rings,
            receive_rings=self.transmit_rings,
        )
