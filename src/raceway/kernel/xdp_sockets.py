"""Every AF_XDP socket's own counters: where packets end between the XDP program and a ring.

The kernel tells of all of them by sock_diag(7) (<linux/xdp_diag.h>) if it was built to (CONFIG_XDP_SOCKETS_DIAG), which
many are not. Then a socket of another process can still be copied out of it for a moment (pidfd_getfd(2), Linux 5.6;
takes what ptrace takes) and asked itself; queue and interface stay unknown.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raceway.kernel.netlink import NETLINK_SOCK_DIAG, NetlinkSocket, attributes
from raceway.kernel.processes import OpenFile, Process

AF_XDP = 44
_SOL_XDP, _XDP_STATISTICS = 283, 7
_SOCK_DIAG_BY_FAMILY = 20
_SO_NETNS_COOKIE = 71
_PIDFD_GETFD = 438

# XDP_SHOW_* and XDP_DIAG_* of <linux/xdp_diag.h>
_SHOW_INFO, _SHOW_UMEM, _SHOW_STATS = 1 << 0, 1 << 2, 1 << 4
_INFO, _UMEM, _STATS = 1, 5, 9
_MESSAGE = struct.Struct("=BBHI2I")
_UMEM_RECORD = struct.Struct("=QIIIIIIII")
_ZERO_COPY = 1

# In the order of struct xdp_diag_stats and of struct xdp_statistics; the names are the latter's.
_DIAG_ORDER = (
    "rx_dropped", "rx_invalid_descs", "rx_ring_full", "rx_fill_ring_empty_descs", "tx_invalid_descs",
    "tx_ring_empty_descs",
)  # fmt: skip
_OPTION_ORDER = (
    "rx_dropped", "rx_invalid_descs", "tx_invalid_descs", "rx_ring_full", "rx_fill_ring_empty_descs",
    "tx_ring_empty_descs",
)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True)
class XdpSocket:
    """An AF_XDP socket. inode: its number; process: who has it, None if that is not to be seen; index and queue: what
    it is bound to, 0 and -1 where that is not told; zero_copy: None likewise; statistics: struct xdp_statistics.
    """

    inode: int
    process: Process | None
    index: int
    queue: int
    zero_copy: bool | None
    statistics: Mapping[str, int]


def ask_kernel() -> list[XdpSocket] | None:
    """All AF_XDP sockets of the calling thread's network namespace, without their processes. None: it does not tell."""
    question = struct.pack(
        "=BBHII2I", AF_XDP, 0, 0, 0, _SHOW_INFO | _SHOW_UMEM | _SHOW_STATS, 0xFFFFFFFF, 0xFFFFFFFF
    )
    try:
        with NetlinkSocket(NETLINK_SOCK_DIAG) as asker:
            answers = asker.ask(_SOCK_DIAG_BY_FAMILY, question, dump=True)
    except OSError:
        return None
    return [found for found in map(parse, answers) if found is not None]


def parse(answer: bytes) -> XdpSocket | None:
    """One answer, struct xdp_diag_msg and its attributes; None for what is none."""
    if len(answer) < _MESSAGE.size or answer[0] != AF_XDP:
        return None
    inode = _MESSAGE.unpack_from(answer)[3]
    found = attributes(answer, _MESSAGE.size)
    info, umem, stats = found.get(_INFO, b""), found.get(_UMEM, b""), found.get(_STATS, b"")
    index, queue = struct.unpack_from("=II", info) if len(info) >= 8 else (0, -1)
    zero_copy = None
    if len(umem) >= _UMEM_RECORD.size:
        zero_copy = bool(_UMEM_RECORD.unpack_from(umem)[7] & _ZERO_COPY)
    numbers = struct.unpack_from("=6Q", stats) if len(stats) >= 48 else ()
    return XdpSocket(inode, None, index, queue, zero_copy, dict(zip(_DIAG_ORDER, numbers, strict=False)))


def xdp_sockets(files: Iterable[OpenFile]) -> tuple[list[XdpSocket], bool]:
    """The AF_XDP sockets of the calling thread's namespace, and whether these are all.

    files: descriptors of sockets, with their processes. Where the kernel tells of all sockets these say whose they are;
    where it does not, each of them is looked at, and only those are found.
    """
    candidates = {file.inode: file for file in files if file.target.startswith("socket:[")}
    told = ask_kernel()
    if told is not None:
        owned = [
            XdpSocket(
                each.inode,
                candidates[each.inode].process if each.inode in candidates else None,
                each.index,
                each.queue,
                each.zero_copy,
                each.statistics,
            )
            for each in told
        ]
        return owned, True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as here:
        looked_at = [_copied(file, _cookie(here)) for file in candidates.values()]
    return [each for each in looked_at if each is not None], False


def _copied(file: OpenFile, here: bytes) -> XdpSocket | None:
    """What a socket of another process says, if it is an AF_XDP socket of this namespace."""
    try:
        process = os.pidfd_open(file.process.pid)
    except OSError:
        return None
    try:
        descriptor = _libc.syscall(
            ctypes.c_long(_PIDFD_GETFD), ctypes.c_int(process), ctypes.c_int(file.number), ctypes.c_uint(0)
        )
    finally:
        os.close(process)
    if descriptor < 0:
        return None
    # Python would ask for the socket's own name, which this family has not, if it were not told what it is. The number
    # may stand for something else by now; whatever it is, it is asked what it is before anything else.
    try:
        copy = socket.socket(AF_XDP, socket.SOCK_RAW, 0, fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    with copy:
        try:
            if copy.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) != AF_XDP or _cookie(copy) != here:
                return None
            raw = copy.getsockopt(_SOL_XDP, _XDP_STATISTICS, 48)
        except OSError:
            return None
    numbers = struct.unpack(f"={len(raw) // 8}Q", raw)
    return XdpSocket(file.inode, file.process, 0, -1, None, dict(zip(_OPTION_ORDER, numbers, strict=False)))


def _cookie(made: socket.socket) -> bytes:
    """Which network namespace a socket belongs to, as a number that never comes again; b"" before Linux 5.14."""
    try:
        return made.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return b""
