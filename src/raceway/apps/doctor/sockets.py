"""An AF_XDP socket of the least size, opened to see whether it can be, and closed again."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

AF_XDP, _SOL_XDP = 44, 283
_RX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING = 2, 4, 5, 6
COPY, ZERO_COPY, FRAGMENTS = 2, 4, 16
"""Flags of a bind: XDP_COPY, XDP_ZEROCOPY, XDP_USE_SG."""

_CHUNK, _CHUNKS = 2048, 16
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def with_memory() -> Iterator[socket.socket]:
    """A socket that has packet memory of its own, 32 KiB. OSError."""
    with (
        socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as made,
        mmap.mmap(-1, _CHUNK * _CHUNKS) as memory,
    ):
        # ctypes lets go of the mapping with this object: it could not be closed before.
        start = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(start)
        del start
        made.setsockopt(_SOL_XDP, _UMEM_REG, struct.pack("=QQIIII", address, len(memory), _CHUNK, 0, 0, 0))
        yield made


def bound(index: int, queue: int, flags: int) -> None:
    """Open a socket, bind it to a queue that nobody sends packets to it from, and close it. OSError."""
    with with_memory() as made:
        for ring in (_FILL_RING, _COMPLETION_RING, _RX_RING):
            made.setsockopt(_SOL_XDP, ring, _CHUNKS)
        # struct sockaddr_xdp, of which Python's socket module does not know.
        address = struct.pack("=HHIII", AF_XDP, flags, index, queue, 0)
        if _libc.bind(made.fileno(), address, len(address)) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
