"""Batch kernels: what a loop calls with the address of a `Batch`. Here the interface, and the interpreted one.

A kernel decides about `count` packets and writes one byte of verdict for each. A packet whose function fails is
ABORTED, and the batch's counters say why: `out_of_bounds`, `arithmetic`, `bad_verdict`, `other_error`.
"""

from __future__ import annotations

import ctypes
import itertools
from typing import TYPE_CHECKING, Any, Protocol

from raceway.compile.packet import Packet, in_buffer
from raceway.memory.jit import interpreted_batches

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction
    from raceway.compile.pcap_filter.expression import Expression

# Far below every address that machine code can have.
_numbers = itertools.count(1)


class Kernel(Protocol):
    """What a loop needs of a compiled packet function."""

    moves_head: bool
    """Whether packets may lie elsewhere in their buffers afterwards, and be longer or shorter."""
    address: int
    """To hand to `memory.access.call_batch`: machine code `int64 kernel(int64 batch)`, or a number for it."""

    def __call__(self, batch: int, /) -> int:
        """Decide about the packets of the `Batch` at an address; return how many there were."""


class InterpretedKernel:
    """Runs the function as it is written, packet by packet. `call_batch` finds it only where all is interpreted."""

    def __init__(self, function: PacketFunction | Expression) -> None:
        self.function = function
        self.moves_head = True
        self.address = next(_numbers)
        interpreted_batches[self.address] = self

    def __call__(self, batch_address: int, /) -> int:
        from raceway.memory.layout import Batch

        batch = Batch(batch_address)
        count: int = batch.count
        verdicts = _memory(batch.verdicts, count)
        for index in range(count):
            at = (batch.first + index) % batch.slot_count
            packet = self._packet(batch, at)
            verdict, reason = self.function.run(packet)
            self._put_back(batch, at, packet)
            verdicts[index] = verdict
            if reason:
                setattr(batch, reason, getattr(batch, reason) + 1)
        return count

    def _packet(self, batch: Any, at: int) -> Packet:
        from raceway.memory.layout import Metadata, Slot

        slot = Slot(batch.slots + at * Slot.size)
        time = batch.now
        if batch.metadata:
            time = Metadata(batch.metadata + at * Metadata.size).timestamp or time
        size = max(batch.buffer_size, slot.offset + slot.length)
        buffer = _memory(batch.buffers + slot.buffer * batch.buffer_size, size)
        return in_buffer(buffer, slot.offset, slot.length, time=time, port=batch.port, ring=batch.ring)

    @staticmethod
    def _put_back(batch: Any, at: int, packet: Packet) -> None:
        """Say where the packet is now and how long, for the function may have moved its head."""
        from raceway.memory.layout import Metadata, Slot

        slot = Slot(batch.slots + at * Slot.size)
        slot.offset, slot.length = packet._begin, len(packet)
        if batch.metadata:
            metadata = Metadata(batch.metadata + at * Metadata.size)
            if metadata.wire_length:
                metadata.wire_length -= packet._start


def _memory(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_uint8 * size).from_address(address)).cast("B")
