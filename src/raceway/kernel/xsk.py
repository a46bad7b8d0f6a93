"""AF_XDP sockets: one queue of an interface as four rings in shared memory (Documentation/networking/af_xdp.rst).

Control plane. A socket's rings are mapped here and described by an XSK record, which the data plane works on. The
packets' memory (UMEM) is the buffers of a raceway region, registered once: all sockets of a process over one region
share it (XDP_SHARED_UMEM), so a buffer that one queue has filled another one sends. Where two devices cannot share,
because one of them has zero-copy and the other has not, the same memory is registered a second time.

Who owns a buffer is where its index stands: in a slot of the user's, or in one of these rings::

    receive   slots given back -> fill ring -> kernel -> rx ring -> slots with packets
    transmit  slots handed over -> tx ring -> kernel -> completion ring -> free slots
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import time
import weakref
from typing import Any

import numpy as np

from raceway.errors import RacewayError
from raceway.memory.layout import lines
from raceway.memory.mapping import map_shared
from raceway.memory.region import Region
from raceway.memory.structures import structure

AF_XDP, SOL_XDP = 44, 283
XDP_MMAP_OFFSETS, XDP_RX_RING, XDP_TX_RING, XDP_UMEM_REG, XDP_FILL_RING, XDP_COMPLETION_RING = (
    1,
    2,
    3,
    4,
    5,
    6,
)
XDP_STATISTICS, XDP_OPTIONS, XDP_MAX_TX_SKB_BUDGET = 7, 8, 9
XDP_SHARED_UMEM, XDP_COPY, XDP_ZEROCOPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG = 1, 2, 4, 8, 16
_PATIENCE = 0.5
"""Seconds to wait for a queue that is being given back."""
_OFFSETS = {"rx": 0, "tx": 0x80000000, "fill": 0x100000000, "completion": 0x180000000}
SO_PREFER_BUSY_POLL, SO_BUSY_POLL, SO_BUSY_POLL_BUDGET = 69, 46, 70

_RING_FIELDS = [
    ("producer", "<i8"),
    ("consumer", "<i8"),
    ("entries", "<i8"),
    ("mask", "<i8"),
    ("flags", "<i8"),
]


def _ring(name: str) -> list[tuple[str, str]]:
    """Fields of one of the four rings: addresses of its two indexes, its entries and its flags; size - 1; and up to
    where this side has got (`_at`), which counts without end as the kernel's 32-bit indexes do."""
    return [(f"{name}_{field}", code) for field, code in _RING_FIELDS] + [(f"{name}_at", "<i8")]


XSK = lines(
    [("descriptor", "<i8"), ("shift", "<i8"), ("busy", "<i8"), ("longest", "<i8"), ("chains", "<i8"),
     ("finish", "<i8"), ("live", "<i8"), ("spares", "<i8")],
    _ring("rx"),
    _ring("fill"),
    _ring("tx"),
    _ring("completion"),
    # What this end has dropped, and how often it went to the kernel; `spare` counts buffers of dropped packets that
    # wait, in the array at `spares`, to go back into free slots.
    [("spare", "<i8"), ("too_long", "<i8"), ("empty", "<i8"), ("kicks", "<i8"), ("finished", "<i8"),
     ("window", "<i8"), ("window_packets", "<i8"), ("busy_windows", "<i8")],
    [("scratch", "<i8"), ("scratch_2", "<i8")],
)  # fmt: skip
"""What the data plane knows of a socket. shift: log2 of the buffer size; busy: whether to drive the device's NAPI
from here; longest: bytes of the longest frame that the device sends; chains: whether a frame may take several
buffers; finish: whether checksums may arrive unfinished; live: address of a LIVE record, 0 if there is none."""
Xsk = structure("Xsk", XSK)

_libc = ctypes.CDLL(None, use_errno=True)


class XdpModeError(RacewayError):
    """The mode that was insisted on cannot be had on this interface."""


_umems: weakref.WeakKeyDictionary[Region, list[weakref.ref[XskSocket]]] = weakref.WeakKeyDictionary()


class XskSocket:
    """One AF_XDP socket, bound to one queue.

    index, queue: interface and queue; receive, transmit: slots of the port's rings, 0 for none; zero_copy, busy_poll:
    whether to ask for that. Raises OSError (EOPNOTSUPP: no zero-copy here; EBUSY: the queue has a socket already;
    EPERM) and RacewayError. `record` is its XSK record.
    """

    def __init__(
        self,
        region: Region,
        index: int,
        queue: int,
        *,
        receive: int,
        transmit: int,
        zero_copy: bool,
        busy_poll: int = 0,
    ) -> None:
        if region.buffer_size not in (2048, 4096):
            # Chunks of the kernel's aligned mode are powers of two from 2,048 to a page.
            raise ValueError(f"buffers of {region.buffer_size} bytes: a network interface takes 2048 or 4096")
        self.region, self.index, self.queue = region, index, queue
        self.zero_copy = zero_copy
        self.receives = receive > 0
        self.chains = True
        self._maps: dict[str, Any] = {}
        self._statistics: dict[str, int] = {}
        self.record = np.zeros(1, dtype=XSK)
        self.socket = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            sizes = {
                "rx": power_of_two(receive), "fill": power_of_two(max(receive, 2)),
                "tx": power_of_two(transmit), "completion": power_of_two(max(transmit, 2)),
            }  # fmt: skip
            self._bind(sizes, zero_copy)
            if busy_poll:
                self._prefer_busy_poll(busy_poll)
            self._map_rings(sizes)
        except BaseException:
            self.close()
            raise
        self.zero_copy = bool(struct.unpack("I", self.socket.getsockopt(SOL_XDP, XDP_OPTIONS, 4))[0] & 1)
        record = self.record[0]
        record["descriptor"] = self.socket.fileno()
        record["shift"] = region.buffer_size.bit_length() - 1
        record["busy"] = int(busy_poll > 0)
        record["chains"] = int(self.chains)
        self._spares = np.zeros(max(transmit, 1), dtype=np.int64)
        record["spares"] = self._spares.ctypes.data

    def _bind(self, sizes: dict[str, int], zero_copy: bool) -> None:
        """Set the rings up and bind; with the first registration of the region's memory if it can be shared."""
        flags = XDP_USE_NEED_WAKEUP | (XDP_ZEROCOPY if zero_copy else XDP_COPY)
        for reference in _umems.setdefault(self.region, []):
            owner = reference()
            if owner is None or owner.socket.fileno() < 0 or owner.zero_copy != zero_copy:
                continue
            self._make_rings(sizes)
            try:
                bind(self.socket, XDP_SHARED_UMEM, self.index, self.queue, owner.socket.fileno())
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                # Not with that socket: register the same memory once more, with a fresh socket.
                self.socket.close()
                self.socket = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
                continue
            self.chains = owner.chains
            _umems[self.region].append(weakref.ref(self))
            return
        self._register()
        self._make_rings(sizes)
        try:
            bind(self.socket, flags | XDP_USE_SG, self.index, self.queue)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            # A kernel before 6.6, or a driver that has zero-copy for single buffers only.
            self.chains = False
            bind(self.socket, flags, self.index, self.queue)
        _umems[self.region].append(weakref.ref(self))

    def _register(self) -> None:
        region = self.region
        request = struct.pack(
            "=QQIIII", region.base + region.buffers_offset, region.end_of_buffers * region.buffer_size,
            region.buffer_size, 0, 0, 0,
        )  # fmt: skip
        try:
            self.socket.setsockopt(SOL_XDP, XDP_UMEM_REG, request)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                size = region.end_of_buffers * region.buffer_size
                raise RacewayError(
                    f"{size:,} bytes of packet buffers cannot be locked in memory: the limit (ulimit -l) is lower. "
                    f"Raise it (ulimit -l unlimited), or grant CAP_IPC_LOCK"
                ) from error
            raise

    def _make_rings(self, sizes: dict[str, int]) -> None:
        for option, name in (
            (XDP_FILL_RING, "fill"), (XDP_COMPLETION_RING, "completion"), (XDP_RX_RING, "rx"), (XDP_TX_RING, "tx"),
        ):  # fmt: skip
            if sizes[name]:
                self.socket.setsockopt(SOL_XDP, option, sizes[name])

    def _map_rings(self, sizes: dict[str, int]) -> None:
        raw = self.socket.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, 128)
        offsets = struct.unpack(f"={len(raw) // 8}Q", raw)
        for number, name in enumerate(("rx", "tx", "fill", "completion")):
            size = sizes[name]
            if not size:
                continue
            producer, consumer, entries, flags = offsets[number * 4 : number * 4 + 4]
            length = entries + size * (16 if name in ("rx", "tx") else 8)
            memory = map_shared(self.socket.fileno(), length, _OFFSETS[name])
            self._maps[name] = memory
            base = memory.ctypes.data
            record = self.record[0]
            for field, offset in (
                ("producer", producer),
                ("consumer", consumer),
                ("entries", entries),
                ("flags", flags),
            ):
                record[f"{name}_{field}"] = base + offset
            record[f"{name}_mask"] = size - 1

    def _prefer_busy_poll(self, microseconds: int) -> None:
        """Let this socket's syncs drive the device (Documentation/networking/napi.rst, "Busy polling")."""
        self.socket.setsockopt(socket.SOL_SOCKET, SO_PREFER_BUSY_POLL, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_BUSY_POLL, microseconds)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_BUSY_POLL_BUDGET, 64)

    def fill(self, buffers: np.ndarray[Any, np.dtype[np.int32]]) -> None:
        """Give the kernel buffers to receive into: at the beginning, all that the port's ring has."""
        record, memory = self.record[0], self._maps["fill"]
        base = memory.ctypes.data
        entries = memory[int(record["fill_entries"]) - base :].view(np.uint64)
        entries[: len(buffers)] = buffers.astype(np.uint64) << np.uint64(record["shift"])
        record["fill_at"] = len(buffers)
        producer = int(record["fill_producer"]) - base
        memory[producer : producer + 4].view(np.uint32)[0] = len(buffers)

    @property
    def waiting(self) -> int:
        """Descriptors in the rx ring."""
        memory = self._maps.get("rx")
        if memory is None:
            return 0
        at = int(self.record[0]["rx_producer"]) - memory.ctypes.data
        return (int(memory[at : at + 4].view(np.uint32)[0]) - int(self.record[0]["rx_at"])) & 0xFFFFFFFF

    def statistics(self) -> dict[str, int]:
        """The kernel's own counters (struct xdp_statistics); of a closed socket, what they were."""
        if self.socket.fileno() < 0:
            return self._statistics
        raw = self.socket.getsockopt(SOL_XDP, XDP_STATISTICS, 48)
        names = (
            "rx_dropped", "rx_invalid_descs", "tx_invalid_descs", "rx_ring_full", "rx_fill_ring_empty_descs",
            "tx_ring_empty_descs",
        )  # fmt: skip
        return dict(zip(names, struct.unpack(f"={len(raw) // 8}Q", raw), strict=False))

    def close(self) -> None:
        """Give the queue back. What the rings held is nobody's any more. May be called twice."""
        try:
            self._statistics = self.statistics()
        except OSError:
            pass  # Never bound.
        self.socket.close()
        self._maps.clear()


def bind(descriptor: socket.socket, flags: int, index: int, queue: int, shared: int = 0) -> None:
    """bind(2) to a struct sockaddr_xdp, of which Python's socket module does not know."""
    address = struct.pack("=HHIII", AF_XDP, flags, index, queue, shared)
    deadline = time.monotonic() + _PATIENCE
    while _libc.bind(descriptor.fileno(), address, len(address)) < 0:
        code = ctypes.get_errno()
        # Who has just closed a queue's socket, or was killed, still has the queue until a kernel thread gives it back.
        if code != errno.EBUSY or time.monotonic() > deadline:
            raise OSError(code, os.strerror(code))
        time.sleep(0.001)


def power_of_two(slots: int) -> int:
    """The least power of two that is not smaller; the kernel's rings have no other sizes."""
    return 1 << (slots - 1).bit_length() if slots else 0
