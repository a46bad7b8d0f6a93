"""One piece of shared memory that holds rings and buffers: a memfd, mapped by every process that shares it.

A memfd has no name in any file system: when the last descriptor and mapping are gone, so is the memory, however
the processes ended. Its size is sealed, so nobody can cut it short under somebody else's feet (a SIGBUS). It is
made large and stays sparse: only what rings and buffers have been allocated from is backed by memory.

Allocation moves two marks in the header (`rings_next`, `buffers_next`) forward under a lock that dies with its
holder. What is allocated is not given back before the region ends: a port that comes and goes in a region of
its own costs nothing, in somebody else's its slots stay used.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from raceway.errors import RegionError
from raceway.memory.layout import (
    CACHE_LINE,
    HOLDING,
    HOLDINGS,
    HOLDINGS_LIMIT,
    METADATA,
    PAGE,
    REGION,
    REGION_MAGIC,
    RING,
    SLOT,
)
from raceway.memory.mapping import map_shared

BUFFER_SIZE = 2048
SMALLEST_BUFFER, LARGEST_BUFFER = 64, 65_536
SMALLEST_RING, LARGEST_RING = 2, 1 << 20

_RINGS_BYTES = 1 << 26
_SPARE_BUFFERS = 1 << 15
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_this_process = threading.Lock()

Array = np.ndarray[Any, np.dtype[Any]]


class Region:
    """A mapping of shared memory with a header, rings and equally large buffers.

    buffer_size: bytes, 64 to 65,536 and a multiple of 64.
    buffers: how many the region must have room for (more fit; memory is used as they are allocated).
    """

    def __init__(
        self, *, buffer_size: int = BUFFER_SIZE, buffers: int = 0, descriptor: int | None = None
    ) -> None:
        self.sharers: list[Callable[[], bool]] = []
        """Each says whether another process has the region now."""
        if descriptor is None:
            self.descriptor = self._create(check_buffer_size(buffer_size), buffers)
        else:
            self.descriptor = descriptor
            self._check_descriptor()
        size = os.fstat(self.descriptor).st_size
        self.memory: Array = map_shared(self.descriptor, size)
        self.base: int = self.memory.ctypes.data
        self.header = self.memory[: REGION.itemsize].view(REGION)[0]
        if descriptor is not None:
            self._check_header(size)
        self.buffer_size = int(self.header["buffer_size"])
        self.buffers_offset = int(self.header["buffers"])
        self.end_of_buffers = int(self.header["buffers_end"])

    @staticmethod
    def _create(buffer_size: int, buffers: int) -> int:
        room = buffers + 1 + _SPARE_BUFFERS
        start = PAGE + _RINGS_BYTES
        size = -(-(start + room * buffer_size) // PAGE) * PAGE
        descriptor = os.memfd_create("raceway-region", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        header = np.zeros(1, dtype=REGION)
        header[0] = (REGION_MAGIC, size, PAGE, start, start, buffer_size, 1, room, 0, 0)
        os.pwrite(descriptor, header.tobytes(), 0)
        return descriptor

    def _check_descriptor(self) -> None:
        try:
            seals = fcntl.fcntl(self.descriptor, fcntl.F_GET_SEALS)
        except OSError as error:
            raise RegionError("the other end's descriptor is not a region (no memfd)") from error
        if seals & _SEALS != _SEALS:
            raise RegionError("the other end's region could shrink under us (its size is not sealed)")
        if os.fstat(self.descriptor).st_size < PAGE:
            raise RegionError("the other end's region is shorter than its header")

    def _check_header(self, size: int) -> None:
        header = {name: int(self.header[name]) for name in REGION.names or ()}
        buffer_size = header["buffer_size"]
        if header["magic"] != REGION_MAGIC or header["size"] != size:
            raise RegionError(f"the other end's region has no valid header: {header}, {size} bytes long")
        if not SMALLEST_BUFFER <= buffer_size <= LARGEST_BUFFER or not (
            PAGE <= header["rings_next"] <= header["rings_end"] <= header["buffers"]
            and 1 <= header["buffers_next"] <= header["buffers_end"]
            and 0 <= header["holdings"] <= HOLDINGS_LIMIT
            and header["buffers"] + header["buffers_end"] * buffer_size <= size
        ):
            raise RegionError(f"the other end's region has an impossible header: {header}")

    @property
    def allocated_buffers(self) -> int:
        """How many buffers belong to some ring or inventory: their indexes are 1 to this number."""
        return int(self.header["buffers_next"]) - 1

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A POSIX record lock goes with its process, so SIGKILL leaves none. But it does not keep a process's own
        # threads apart, and one process may have the region twice: both ends of a pipe.
        with _this_process:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def allocate(self, size: int) -> int:
        """Take `size` bytes of the rings' part; return their offset, on a cache line of its own. Zeroed."""
        size = -(-size // CACHE_LINE) * CACHE_LINE
        with self._locked():
            offset = int(self.header["rings_next"])
            if offset + size > int(self.header["rings_end"]):
                raise RegionError(f"the region has no room left for another {size} bytes of rings")
            os.posix_fallocate(self.descriptor, offset, size)
            self.header["rings_next"] = offset + size
        return offset

    def allocate_buffers(self, count: int) -> int:
        """Take `count` buffers; return the first one's index, the others follow it."""
        with self._locked():
            first = int(self.header["buffers_next"])
            if first + count > self.end_of_buffers:
                free = self.end_of_buffers - first
                raise RegionError(
                    f"the region has {free} of its {self.end_of_buffers - 1} buffers left, not {count}"
                )
            if count:
                start = self.buffers_offset + first * self.buffer_size
                # Memory that is not there must be an error here, not a SIGBUS at the first packet.
                os.posix_fallocate(self.descriptor, start, count * self.buffer_size)
            self.header["buffers_next"] = first + count
        return first

    def _hold(self, offset: int, count: int, stride: int) -> None:
        """Note an array that holds buffer indexes."""
        with self._locked():
            number = int(self.header["holdings"])
            if number >= HOLDINGS_LIMIT:
                raise RegionError(
                    f"the region has {HOLDINGS_LIMIT} rings and inventories already, and no room for more"
                )
            self._holdings()[number] = (offset, count, stride)
            self.header["holdings"] = number + 1

    def _holdings(self) -> Array:
        return self.memory[HOLDINGS:PAGE].view(HOLDING)[:HOLDINGS_LIMIT]

    def inventory(self) -> list[Array]:
        """Every array of buffer indexes in the region, int32, writable, in the order in which they were made.

        Concatenated they are a permutation of 1 to `allocated_buffers`, unless somebody is in the middle of a swap.
        """
        views = []
        for offset, count, stride in self._holdings()[: int(self.header["holdings"])].tolist():
            raw = self.memory[offset : offset + count * stride]
            views.append(raw.view(np.int32)[:: stride // 4])
        return views

    def allocate_extra(self, count: int) -> Array:
        """Take `count` buffers that no ring holds; return the array that holds their indexes, int32, shape (count,).

        Swap an entry with a slot's `buffer` to keep a packet; an index never stands in two places.
        """
        offset = self.allocate(count * 4)
        extra = self.memory[offset : offset + count * 4].view(np.int32)
        first = self.allocate_buffers(count)
        extra[:] = np.arange(first, first + count)
        self._hold(offset, count, 4)
        return extra

    def replacement(self) -> int:
        """A buffer for a slot whose index was overwritten with nonsense.

        Alone with the region, it is the one that stands nowhere any more. While another process has it too, that
        one may be in the middle of a swap, and what stands nowhere at this moment may be in its hand: then it is a
        fresh one, and the overwritten index stays lost until the region ends.
        """
        if not any(sharer() for sharer in self.sharers):
            missing = self.missing_buffers()
            if missing:
                return missing[0]
        return self.allocate_buffers(1)

    def missing_buffers(self) -> list[int]:
        """Indexes that stand nowhere, as after a slot's index was overwritten."""
        held = np.concatenate([*self.inventory(), np.empty(0, np.int32)])
        return sorted(set(range(1, self.allocated_buffers + 1)) - set(held.tolist()))

    def allocate_ring(self, slot_count: int, *, number: int, transmit: bool, share: int | None = None) -> int:
        """Make a ring and return its offset. With `share`, the offset of another ring, it is the other end of
        that ring: the same slots and metadata, indexes of its own."""
        ring = self.allocate(RING.itemsize)
        if share is None:
            slots = self.allocate(slot_count * SLOT.itemsize)
            metadata = self.allocate(slot_count * METADATA.itemsize)
            array = self.memory[slots : slots + slot_count * SLOT.itemsize].view(SLOT)
            first = self.allocate_buffers(slot_count)
            array["buffer"] = np.arange(first, first + slot_count)
            self._hold(slots, slot_count, SLOT.itemsize)
        else:
            other = self.ring(share)
            slots, metadata = share + int(other["slots"]), share + int(other["metadata"])
        record = self.ring(ring)
        record["slot_count"] = slot_count
        record["slots"], record["metadata"] = slots - ring, metadata - ring
        record["buffers"], record["buffer_size"] = self.buffers_offset - ring, self.buffer_size
        record["number"], record["transmit"] = number, transmit
        record["magic"] = REGION_MAGIC
        return ring

    def post_card(self, offset: int, card: Any) -> None:
        """Put a card (`memory.directory`) that lies at this offset before those that are there."""
        with self._locked():
            card["next"] = self.header["cards"]
            self.header["cards"] = offset

    def ring(self, offset: int) -> Any:
        """The RING record at an offset, as a numpy structured scalar over the shared memory."""
        return self.memory[offset : offset + RING.itemsize].view(RING)[0]

    def buffer(self, index: int) -> memoryview:
        """Buffer `index` as writable bytes; IndexError if there is none such."""
        if not 1 <= index <= self.allocated_buffers:
            raise IndexError(
                f"buffer {index} is not one of this region's buffers 1 to {self.allocated_buffers}"
            )
        start = self.buffers_offset + index * self.buffer_size
        return memoryview(self.memory[start : start + self.buffer_size])  # type: ignore[arg-type]

    def close(self) -> None:
        """Give the descriptor back. The mapping goes when the last array over it does."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def check_buffer_size(size: int) -> int:
    """Return `size` if buffers can be that large, else raise ValueError."""
    if not SMALLEST_BUFFER <= size <= LARGEST_BUFFER or size % CACHE_LINE:
        raise ValueError(
            f"buffer size {size}: expected a multiple of {CACHE_LINE} from {SMALLEST_BUFFER} to {LARGEST_BUFFER} bytes"
        )
    return size


def check_ring_size(slots: int) -> int:
    """Return `slots` if a ring can have that many, else raise ValueError."""
    if not SMALLEST_RING <= slots <= LARGEST_RING:
        raise ValueError(f"ring of {slots} slots: expected {SMALLEST_RING} to {LARGEST_RING}")
    return slots
