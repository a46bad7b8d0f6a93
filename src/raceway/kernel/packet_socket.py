"""Packet sockets: what arrives on an interface through a ring of blocks, and sending several packets a system call.

Control plane. AF_PACKET needs nothing but CAP_NET_RAW and any device (packet(7); Documentation/networking/
packet_mmap.rst). What it gives is a copy: the host's own stack gets every packet too.

Receiving is TPACKET_V3: the kernel puts packets, each as long as it is, one behind the other into a block, and hands
the block over when it is full or `RETIRE` milliseconds old. So a lone packet waits up to that long (and up to two of
the kernel's ticks before Linux 6.18, which keeps this time with a precise timer)::

    block    | status, packets, offset of the first | packet | packet | ... |
    packet   | header: next, time, lengths, status, VLAN tag | struct virtio_net_hdr | the frame |

Several receivers of one port share what arrives by a hash of each packet's flow (PACKET_FANOUT_HASH), so a flow stays
in one ring, in order. A receiver never hears what this host sends.

The kernel's struct virtio_net_hdr before each frame says which work was left to a card (`ports.offload` does it), and
the outermost VLAN tag, which the kernel takes out of every frame, stands in the packet's header.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import Any

import numpy as np

from raceway.errors import RacewayError
from raceway.memory.layout import lines
from raceway.memory.mapping import map_shared
from raceway.memory.structures import allocate, structure

# <linux/if_packet.h>
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_RX_RING, _PACKET_STATISTICS = 1, 5, 6
_PACKET_VERSION, _PACKET_VNET_HDR, _PACKET_FANOUT = 10, 15, 18
_PACKET_QDISC_BYPASS, _PACKET_IGNORE_OUTGOING = 20, 23
_TPACKET_V3 = 2
_PACKET_MR_PROMISC = 1
_FANOUT_HASH, _FANOUT_UNIQUEID, _FANOUT_IGNORE_OUTGOING = 0, 0x2000, 0x4000
_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_SNDBUFFORCE = 26, 32

RETIRE = 1
"""Milliseconds after which the kernel hands over a block that is not full."""
BLOCK_SIZE = 1 << 17
"""Bytes of a block: room for a packet of 64 KB that nobody has cut yet, and its headers."""
_MOST_BLOCKS, _FEWEST_BLOCKS, _SMALLEST_RING = 256, 32, 8
_BLOCKS_OF_A_PORT = 512
"""64 MiB for all receivers of a port. It is the number of blocks that counts: packets that come a millisecond apart
take one each, so a reader may pause for as many milliseconds as there are blocks."""

MESSAGES, VECTORS = 128, 1024
"""Packets and pieces that one sendmmsg(2) takes at most (the kernel's limits: UIO_MAXIOV, 1,024 both)."""
_SEND_BUFFER = 1 << 22

RECEIVER = lines(
    # Where the blocks are mapped; the block that is being read (its index, 0 or 1 for "held", packets left in it) and
    # the header of its next packet; address of the port's OFFLOAD record.
    [("blocks", "<i8"), ("block_size", "<i8"), ("block_count", "<i8"), ("block", "<i8"), ("held", "<i8"),
     ("packets", "<i8"), ("packet", "<i8"), ("offload", "<i8")],
    # When the frame at hand came. Conservation, in the kernel's packets and the port's:
    # taken - truncated - unsupported - cut + segments = packets of the ring + too_long.
    [("timestamp", "<i8"), ("taken", "<i8"), ("truncated", "<i8"), ("unsupported", "<i8"), ("cut", "<i8"),
     ("segments", "<i8"), ("too_long", "<i8"), ("finished", "<i8")],
)  # fmt: skip
"""What the data plane knows of a receiver, and counts: frames taken from blocks; of those shorter in the block than
they were, and with work left that nobody here can do; frames that were cut, and the segments that they became;
packets longer than the port's whole ring; checksums finished."""
Receiver = structure("Receiver", RECEIVER)

SENDER = lines(
    # `sent`: the slot up to which packets are with the kernel (or dropped). `skipping`: inside a packet that is too
    # long to be sent, 0 or 1.
    [("descriptor", "<i8"), ("messages", "<i8"), ("vectors", "<i8"), ("sent", "<i8"), ("skipping", "<i8"),
     ("calls", "<i8"), ("last_error", "<i8")],
    # Conservation: packets of the ring = packets + too_long + malformed + down + refused + what waits in the ring.
    [("packets", "<i8"), ("bytes", "<i8"), ("too_long", "<i8"), ("malformed", "<i8"), ("down", "<i8"),
     ("refused", "<i8")],
)  # fmt: skip
"""What the data plane knows of a sender, and counts: what the kernel took, and by name what it would not take."""
Sender = structure("Sender", SENDER)

IOVEC = np.dtype([("base", "<i8"), ("length", "<i8")])
"""struct iovec."""
Vector = structure("Vector", IOVEC)
MESSAGE = np.dtype(
    [("name", "<i8"), ("name_length", "<i8"), ("vectors", "<i8"), ("count", "<i8"), ("control", "<i8"),
     ("control_length", "<i8"), ("flags", "<i8"), ("sent", "<i8")]
)  # fmt: skip
"""struct mmsghdr on a 64-bit machine; its 32-bit fields stand in the lower halves."""
Message = structure("Message", MESSAGE)

# Classic BPF (Documentation/networking/filter.rst): struct sock_filter, code, jump if true, if false, value.
_PACKET_TYPE, _OUTGOING = 0xFFFFF000 + 4, 4
_HEAR_NOTHING = ((0x06, 0, 0, 0),)
_HEAR_ALL = ((0x06, 0, 0, 0x7FFFFFFF),)
_HEAR_OTHERS = (
    (0x20, 0, 0, _PACKET_TYPE),
    (0x15, 0, 1, _OUTGOING),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0x7FFFFFFF),
)


class _PacketSocket:
    """A packet socket of the calling thread's network namespace. PermissionNeededError without CAP_NET_RAW."""

    def __init__(self, device: str) -> None:
        self.device = device
        try:
            # Protocol 0: it hears nothing until it is bound with one.
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except PermissionError as error:
            from raceway.kernel.capabilities import refused

            raise refused(f"opening a packet socket for {device}", ["CAP_NET_RAW"]) from error

    def fileno(self) -> int:
        return self.socket.fileno()

    def _set(self, option: int, value: int) -> None:
        self.socket.setsockopt(_SOL_PACKET, option, value)

    def clear_error(self) -> int:
        """The socket's pending error (errno, 0: none), which is gone then: until that, every poll returns at once."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """May be called twice."""
        self.socket.close()


class PacketReceiver(_PacketSocket):
    """A ring of blocks that the kernel fills with what arrives on an interface. `record` is its RECEIVER record.

    It hears nothing before `listen`. blocks: how many it should have; it gets fewer where memory is short. outgoing:
    hear what the host sends on the interface too.
    """

    def __init__(self, device: str, blocks: int, *, outgoing: bool = False) -> None:
        super().__init__(device)
        self.outgoing = outgoing
        self.record = allocate(Receiver)
        self._memory: Any = None
        self._kernel_packets = self._kernel_drops = 0
        try:
            self._set(_PACKET_VERSION, _TPACKET_V3)
            self._set(_PACKET_VNET_HDR, 1)
            blocks = self._make_ring(blocks)
            self._memory = map_shared(self.socket.fileno(), blocks * BLOCK_SIZE)
            self._hear(_HEAR_NOTHING)
            try:
                # The filter does the same; this spares the host's own sending the making of copies (Linux 4.20).
                self._set(_PACKET_IGNORE_OUTGOING, int(not outgoing))
            except OSError:
                pass
            self.socket.bind((device, _ETH_P_ALL))
        except BaseException:
            self.close()
            raise
        self.record["blocks"] = self._memory.ctypes.data
        self.record["block_size"], self.record["block_count"] = BLOCK_SIZE, blocks

    def _make_ring(self, blocks: int) -> int:
        frame = 2048
        while True:
            # struct tpacket_req3; V3 does not care about frames, but they must fill the blocks exactly.
            frames = BLOCK_SIZE // frame * blocks
            request = struct.pack("=7I", BLOCK_SIZE, blocks, frame, frames, RETIRE, 0, 0)
            try:
                self.socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
                return blocks
            except OSError as error:
                if error.errno != errno.ENOMEM or blocks // 2 < _SMALLEST_RING:
                    raise
                blocks //= 2

    def _hear(self, program: tuple[tuple[int, int, int, int], ...]) -> None:
        raw = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
        request = struct.pack("@HP", len(program), ctypes.addressof(raw))
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, request)

    def join(self, group: int | None) -> int:
        """Share what arrives with the other receivers of a group; None makes a new one. Returns its number."""
        kind = _FANOUT_HASH | (0 if self.outgoing else _FANOUT_IGNORE_OUTGOING)
        if group is None:
            kind, group = kind | _FANOUT_UNIQUEID, 0
        self._set(_PACKET_FANOUT, group | kind << 16)
        return self.socket.getsockopt(_SOL_PACKET, _PACKET_FANOUT) & 0xFFFF

    def listen(self) -> None:
        """Hear what arrives from now on."""
        self._hear(_HEAR_ALL if self.outgoing else _HEAR_OTHERS)

    def mute(self) -> None:
        """Hear nothing any more, but keep the place in the group: the other receivers get no more than before."""
        self._hear(_HEAR_NOTHING)

    def be_promiscuous(self) -> None:
        """Let the device accept frames for any address, until this socket closes."""
        request = struct.pack("=iHH8s", socket.if_nametoindex(self.device), _PACKET_MR_PROMISC, 0, b"")
        self.socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)

    def statistics(self) -> tuple[int, int]:
        """The kernel's own counters since the socket was made: packets put into blocks, and packets dropped because no
        block was free (or because it could not describe them)."""
        if self.socket.fileno() >= 0:
            # Reading sets them to 0, and `tp_packets` has the dropped ones in it.
            raw = self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)
            packets, drops, _ = struct.unpack("=3I", raw)
            self._kernel_packets += packets - drops
            self._kernel_drops += drops
        return self._kernel_packets, self._kernel_drops

    def close(self) -> None:
        if self.socket.fileno() >= 0 and self._memory is not None:
            self.statistics()
        # The mapping keeps the socket alive, so it goes first.
        self._memory = None
        super().close()


class PacketSender(_PacketSocket):
    """A packet socket that only sends, past the queueing discipline. `record` is its SENDER record."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.record = allocate(Sender)
        self._messages = np.zeros(MESSAGES, dtype=MESSAGE)
        self._vectors = np.zeros(VECTORS, dtype=IOVEC)
        try:
            try:
                self._set(_PACKET_QDISC_BYPASS, 1)
            except OSError:
                pass  # Before Linux 3.14: through the queue.
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
            except PermissionError:
                # As far as net.core.wmem_max goes.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self.socket.bind((device, 0))
        except BaseException:
            self.close()
            raise
        self.record["descriptor"] = self.socket.fileno()
        self.record["messages"] = self._messages.ctypes.data
        self.record["vectors"] = self._vectors.ctypes.data


def open_receivers(device: str, count: int, *, outgoing: bool = False) -> list[PacketReceiver]:
    """Make `count` receivers that share what arrives on an interface, which must be up. They do not listen yet.

    RacewayError if there is no memory for their blocks, or the interface has gone down or away.
    """
    blocks = min(max(_BLOCKS_OF_A_PORT // max(count, 1), _FEWEST_BLOCKS), _MOST_BLOCKS)
    receivers: list[PacketReceiver] = []
    try:
        for _ in range(count):
            receivers.append(PacketReceiver(device, blocks, outgoing=outgoing))  # noqa: PERF401 (what was made before an error is closed)
        if count > 1:
            group = None
            for receiver in receivers:
                group = receiver.join(group)
    except OSError as error:
        for receiver in receivers:
            receiver.close()
        if isinstance(error, RacewayError):
            raise
        raise _explained(device, error) from error
    return receivers


def open_senders(device: str, count: int) -> list[PacketSender]:
    """Make `count` senders for an interface. RacewayError if it has gone away."""
    senders: list[PacketSender] = []
    try:
        for _ in range(count):
            senders.append(PacketSender(device))  # noqa: PERF401 (what was made before an error is closed)
    except OSError as error:
        for sender in senders:
            sender.close()
        if isinstance(error, RacewayError):
            raise
        raise _explained(device, error) from error
    return senders


def _explained(device: str, error: OSError) -> RacewayError:
    if error.errno == errno.ENOMEM:
        size = _SMALLEST_RING * BLOCK_SIZE
        return RacewayError(f"{device}: the kernel has no {size:,} bytes of memory for a receive ring")
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return RacewayError(f"{device}: the interface is gone")
    if error.errno in (errno.ENETDOWN, errno.EINVAL):
        # EINVAL is PACKET_FANOUT's word for a socket whose interface is down.
        return RacewayError(f"{device}: the interface is down")
    return RacewayError(f"{device}: a packet socket cannot be had: {os.strerror(error.errno or 0)}")
