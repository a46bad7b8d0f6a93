"""Towards the host, packets of a flow that come together cross together, as after a NIC's GRO. Data plane.

    ring    a1 b1 a2 c1 b2 a3 b3                       what one sync has been handed
    write   [a1 a2 a3] [b1 b2 b3] [c1]                 a system call each, and a walk through the host's stack

A joined packet is the first one's headers and everybody's payload, and says of what size the pieces were
(struct virtio_net_hdr: GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4); the kernel cuts it again where it has to: for a UDP socket
that did not ask for UDP_GRO, and for a link. `ports.tap.flows` says what may be joined.

Packets of one flow keep their order, and none waits for the next sync. What nothing is known of (fragments, extension
headers, tunnels, ...) might belong to any flow: everything before it goes first. A packet that stays alone goes as it
is, checksum, padding and all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raceway.memory.access import (
    copy,
    errno,
    load_i32,
    load_u8,
    store_8,
    store_16,
    store_32,
    store_be16,
    writev,
)
from raceway.memory.jit import inner
from raceway.memory.layout import SLOT_SIZE, Kring, Ring, Slot
from raceway.memory.ring import following
from raceway.memory.structures import allocate
from raceway.ports.offload import internet_sum, pseudo_header
from raceway.ports.tap.flows import (
    JOINABLE,
    SEGMENTS,
    TCP,
    UNKNOWN,
    begin,
    continues,
    extend,
    look,
    same_flow,
)
from raceway.ports.tap.offload import GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM
from raceway.ports.tap.records import (
    FLOW,
    FLOW_SIZE,
    FLOWS,
    SEEN,
    VNET_HEADER,
    VNET_ROOM,
    Flow,
    Joining,
    Seen,
    Tap,
)
from raceway.ports.tap.sync import count_drop, finish, packet_of, put_piece, send_packet

_EINTR, _EAGAIN, _EINVAL, _EBADFD, _EMSGSIZE, _ENOBUFS = 4, 11, 22, 77, 90, 105
_GSO_UDP_L4 = 5
_SMALL = 256
"""Bytes of payload up to which copying it here is cheaper than one more piece for the kernel."""
_TRIES = 16
"""Writes of one packet that the kernel has no room for at the moment, until it is dropped: others have gone before it,
so that it cannot wait in the ring."""


class Joiner:
    """What a transmit ring of `slots` slots needs to join packets. record: a JOINING record."""

    def __init__(self, slots: int) -> None:
        self.record: Any = allocate(Joining)
        self._kept: tuple[np.ndarray[Any, Any], ...] = (
            np.zeros(FLOWS, dtype=FLOW),
            np.zeros(slots, dtype=np.int32),
            np.zeros(slots, dtype=np.int32),
            np.zeros(1, dtype=SEEN),
            np.zeros(SEGMENTS * _SMALL, dtype=np.uint8),
        )
        for name, array in zip(("flows", "order", "next", "seen", "gathered"), self._kept, strict=True):
            self.record[name] = array.ctypes.data

    @property
    def address(self) -> int:
        """Of the record."""
        address: int = self.record.ctypes.data
        return address


@inner
def join_transmit(kring: Kring, ring: Ring, tap: Tap, join: Joining, count: int) -> None:
    """Write the packets of the `count` slots from the Kring's head on; a chain whose end has not come yet stays."""
    seen = Seen(join.seen)
    index = kring.head
    left = count
    kring.pending = 0
    join.begun = 0
    join.calls = 0
    while left > 0:
        slots, length = packet_of(kring, index, left)
        if slots == 1 and tap.skipping == 0 and (tap.limit == 0 or length <= tap.limit):
            slot = Slot(kring.slots + index * SLOT_SIZE)
            _take(kring, tap, join, seen, index, look(seen, _start(kring, slot), length))
        else:
            _flush(kring, tap, join)
            if slots == 0:
                if left < kring.slot_count - 1:
                    break
                # It fills the ring and goes on: it can never be complete, and goes with all slots up to its end.
                slots = left
                length = -1
            if tap.skipping == 0:
                _deliver(kring, tap, join, index, slots, length)
            tap.skipping = 1 if length < 0 else 0
        for _ in range(slots):
            index = following(index, kring.slot_count)
        left -= slots
    _flush(kring, tap, join)
    finish(kring, ring, index, count, left)


@inner
def _start(kring: Kring, slot: Slot) -> int:
    """Where a slot's bytes begin."""
    address: int = kring.buffers + slot.buffer * kring.buffer_size + slot.offset
    return address


@inner
def _take(kring: Kring, tap: Tap, join: Joining, seen: Seen, index: int, what: int) -> None:
    """Let one packet wait for others of its flow, behind those that wait already."""
    if what == UNKNOWN:
        _flush(kring, tap, join)
        _deliver(kring, tap, join, index, 1, 0)
        return
    flow = Flow(join.flows + seen.bucket * FLOW_SIZE)
    if flow.count != 0:
        if what == JOINABLE and same_flow(flow, seen) and continues(flow, seen):
            store_32(join.next + 4 * flow.last, index)
            extend(flow, seen, index)
            return
        _write(kring, tap, join, flow)
    begin(flow, seen, index, what)
    store_32(join.order + 4 * join.begun, seen.bucket)
    join.begun += 1


@inner
def _flush(kring: Kring, tap: Tap, join: Joining) -> None:
    """Write everything that waits, in the order of its first packets."""
    for number in range(join.begun):
        flow = Flow(join.flows + load_i32(join.order + 4 * number) * FLOW_SIZE)
        if flow.count != 0:
            _write(kring, tap, join, flow)
    join.begun = 0


@inner
def _deliver(kring: Kring, tap: Tap, join: Joining, index: int, slots: int, length: int) -> None:
    """Write one packet as it is, or count why not. length: -1 for one without an end."""
    code = _EMSGSIZE
    if length >= 0 and (tap.limit == 0 or length <= tap.limit):
        for _ in range(_TRIES):
            code = send_packet(kring, tap, index, slots, length)
            if code not in (_EAGAIN, _EINTR, _ENOBUFS):
                break
        join.calls += 1
    if code != 0:
        _failed(kring, tap, code, 1)


@inner
def _failed(kring: Kring, tap: Tap, code: int, count: int) -> None:
    if code == _EBADFD:
        tap.error = code
        kring.attention = 1
    for _ in range(count):
        count_drop(kring, tap, code)


@inner
def _write(kring: Kring, tap: Tap, join: Joining, flow: Flow) -> None:
    """Write a flow's packets that wait, as one if they may be one."""
    count = flow.count
    flow.count = 0
    refused = join.no_tcp if flow.protocol == TCP else join.no_udp
    code = _EINVAL
    if count > 1 and refused == 0:
        pieces = _compose(kring, tap, join, flow, count)
        for _ in range(_TRIES):
            code = 0 if writev(tap.descriptor, tap.iovecs, pieces) >= 0 else errno()
            if code not in (_EAGAIN, _EINTR, _ENOBUFS):
                break
        join.calls += 1
        if code == 0:
            join.joined += 1
            join.packets += count
            return
        if code == _EINVAL and flow.protocol == TCP:
            join.no_tcp = 1
        elif code == _EINVAL:
            join.no_udp = 1
    if code != _EINVAL:
        _failed(kring, tap, code, count)
        return
    index = flow.first
    for number in range(count):
        _deliver(kring, tap, join, index, 1, 0)
        if number + 1 < count:
            index = load_i32(join.next + 4 * index)


@inner
def _compose(kring: Kring, tap: Tap, join: Joining, flow: Flow, count: int) -> int:
    """Prepare a joined packet: its headers, and where the payload of all lies; how many pieces that makes."""
    packet = tap.headers + VNET_ROOM
    copy(packet, flow.packet, flow.payload)
    network = packet + flow.network
    transport = packet + flow.transport
    length = flow.payload - flow.transport + flow.total
    if flow.six == 0:
        store_be16(network + 2, flow.transport - flow.network + length)
        store_16(network + 10, 0)
        store_16(network + 10, ~internet_sum(network, 20) & 0xFFFF)
        kind = GSO_TCPV4
    else:
        store_be16(network + 4, length)
        kind = GSO_TCPV6
    if flow.protocol == TCP:
        field = 16
        store_8(transport + 13, load_u8(transport + 13) | flow.ending)
    else:
        kind = _GSO_UDP_L4
        field = 6
        store_be16(transport + 4, length)
    # What is left open for whoever cuts it, or finishes it in one piece: the pseudo-header's sum (virtio 1.2, 5.1.6).
    store_16(transport + field, pseudo_header(packet, flow.network, flow.protocol, length))
    header = packet - VNET_HEADER
    store_8(header, NEEDS_CSUM)
    store_8(header + 1, kind)
    store_16(header + 2, flow.payload)
    store_16(header + 4, flow.length)
    store_16(header + 6, flow.transport)
    store_16(header + 8, field)
    put_piece(tap, 0, header, VNET_HEADER + flow.payload)
    return _payload(kring, tap, join, flow)


@inner
def _payload(kring: Kring, tap: Tap, join: Joining, flow: Flow) -> int:
    """Say where everybody's payload lies, or put it together; how many pieces that and the headers make."""
    small = flow.length <= _SMALL
    into = join.gathered
    left = flow.total
    index = flow.first
    pieces = 1
    while True:
        part = min(left, flow.length)
        start = _start(kring, Slot(kring.slots + index * SLOT_SIZE)) + flow.payload
        if small:
            copy(into, start, part)
            into += part
        else:
            put_piece(tap, pieces, start, part)
            pieces += 1
        left -= part
        if left == 0:
            break
        index = load_i32(join.next + 4 * index)
    if small:
        put_piece(tap, 1, join.gathered, flow.total)
        return 2
    return pieces
