"""Both directions of an interface through packet sockets. Data plane.

Receiving, packets are copied from the kernel's blocks into the slots' buffers, as they were on the wire: the VLAN tag
is put back, the checksum finished, a packet that was to be cut by a card is cut (`ports.offload`). All of that happens
where the packet lies, for a block is ours until it is given back, which is when its last packet was taken. What does
not fit into the ring stays in the block, a packet that is half cut as well, so a slow reader makes the kernel drop
and not us: it counts what it had no block for.

Transmitting, sendmmsg(2) takes packets straight from the slots' buffers and copies them. What it cannot take for now
stays where it is (`Kring.pending`); what it will never take is dropped by name::

        0      sent            head                tail         size-1
        +-------+---------------+-------------------+------------+
        |       | still to send |  user's, to fill  |            |       tail = sent - 1
        +-------+---------------+-------------------+------------+
"""

from __future__ import annotations

from raceway.kernel.packet_socket import MESSAGES, VECTORS, Message, Receiver, Sender, Vector
from raceway.memory.access import (
    _external,
    copy,
    errno,
    load_acquire32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    store_32,
    store_64,
    store_be16,
    store_release32,
)
from raceway.memory.jit import entry, inner
from raceway.memory.layout import METADATA_SIZE, MORE_FRAGMENTS, SLOT_SIZE, Kring, Metadata, Ring, Slot
from raceway.memory.ring import accept, distance, following, prologue
from raceway.memory.waiting import SOON
from raceway.ports.offload import (
    NEEDS_CHECKSUM,
    Offload,
    begin_segments,
    finish_checksum,
    next_segment,
)

sendmmsg = _external("sendmmsg", "i4", "i4", "p", "i4", "i4")

# Offsets in struct tpacket_block_desc and struct tpacket3_hdr (<linux/if_packet.h>).
_BLOCK_STATUS, _BLOCK_PACKETS, _BLOCK_FIRST = 8, 12, 16
_SECONDS, _NANOSECONDS, _SNAPPED, _LENGTH, _STATUS, _MAC, _VLAN, _VLAN_KIND = 4, 8, 12, 16, 20, 24, 32, 36
_USER, _VLAN_VALID, _VLAN_KIND_VALID = 1, 1 << 4, 1 << 6
_8021Q, _TAG = 0x8100, 4
_MESSAGE: int = Message.size
_VECTOR: int = Vector.size
# struct virtio_net_hdr lies right before the frame; GSO_ECN is no kind of its own.
_VIRTIO, _ECN = 10, 0x80

_DONTWAIT = 0x40
_EINTR, _EAGAIN, _ENOMEM, _ENOBUFS = 4, 11, 12, 105
_ENXIO, _ENODEV, _EINVAL, _EMSGSIZE, _ENETDOWN = 6, 19, 22, 90, 100
_CALLS = 64
"""System calls that one sync makes at most."""


@entry
def packet_sync(address: int) -> int:
    """txsync or rxsync of one ring."""
    kring = Kring(address)
    ring = Ring(kring.ring)
    count = prologue(kring, ring)
    if count < 0:
        return count
    accept(kring, count)
    if kring.transmit != 0:
        _transmit(kring, ring)
    else:
        _receive(kring, ring)
    return 0


# -- receiving -------------------------------------------------------------------------------------------------


@inner
def _receive(kring: Kring, ring: Ring) -> None:
    """Fill free slots with what the kernel has handed over."""
    receiver = Receiver(kring.adapter)
    ready = Offload(receiver.offload)
    size = kring.slot_count
    free = size - 1 - distance(kring.head, kring.tail, size)
    blocks = receiver.block_count
    packets = 0
    octets = 0
    tail = kring.tail
    while free > 0:
        if ready.length == 0:
            if receiver.held == 0:
                # Bounded, though the kernel may fill blocks as quickly as we give them back.
                if blocks == 0 or not _take_block(receiver):
                    break
                blocks -= 1
            _next_frame(receiver, ready)
        if ready.length != 0:
            needed = 1
            if ready.length > kring.buffer_size:
                needed = (ready.length + kring.buffer_size - 1) // kring.buffer_size
            if needed >= size:
                receiver.too_long += 1
            elif needed > free:
                break
            else:
                tail = _deliver(kring, receiver, ready, tail)
                free -= needed
                packets += 1
                octets += ready.length
            if next_segment(ready) != 0:
                receiver.segments += 1
            else:
                ready.length = 0
        if receiver.packets == 0 and ready.length == 0:
            _give_block_back(receiver)
    ring.packets += packets
    ring.bytes += octets
    kring.tail = tail
    ring.tail = tail


@inner
def _take_block(receiver: Receiver) -> bool:
    """Begin with the next block, if the kernel has handed it over."""
    block = receiver.blocks + receiver.block * receiver.block_size
    if load_acquire32(block + _BLOCK_STATUS) & _USER == 0:
        return False
    receiver.held = 1
    receiver.packets = load_u32(block + _BLOCK_PACKETS)
    receiver.packet = block + load_u32(block + _BLOCK_FIRST)
    return True


@inner
def _give_block_back(receiver: Receiver) -> None:
    block = receiver.blocks + receiver.block * receiver.block_size
    store_release32(block + _BLOCK_STATUS, 0)
    receiver.block = following(receiver.block, receiver.block_count)
    receiver.held = 0


@inner
def _next_frame(receiver: Receiver, ready: Offload) -> None:
    """Take the next frame of the block and make it what a wire would have carried: its first or only packet is ready
    then, or nothing is if the frame had to be dropped."""
    if receiver.packets == 0:
        return
    header = receiver.packet
    receiver.packet = header + load_u32(header)
    receiver.packets -= 1
    receiver.taken += 1
    receiver.timestamp = load_u32(header + _SECONDS) * 1_000_000_000 + load_u32(header + _NANOSECONDS)
    frame = header + load_u16(header + _MAC)
    length = load_u32(header + _SNAPPED)
    if length != load_u32(header + _LENGTH):
        receiver.truncated += 1
        return
    flags = load_u8(frame - _VIRTIO)
    kind = load_u8(frame - _VIRTIO + 1) & ~_ECN
    size = load_u16(frame - _VIRTIO + 4)
    start = load_u16(frame - _VIRTIO + 6) if flags & NEEDS_CHECKSUM else 0
    offset = load_u16(frame - _VIRTIO + 8)
    status = load_u32(header + _STATUS)
    if status & _VLAN_VALID and length >= 12:
        # The addresses move down into the place of what has just been read, and the tag comes behind them.
        first = load_i64(frame)
        last = load_u32(frame + 8)
        frame -= _TAG
        length += _TAG
        store_64(frame, first)
        store_32(frame + 8, last)
        store_be16(frame + 12, load_u16(header + _VLAN_KIND) if status & _VLAN_KIND_VALID else _8021Q)
        store_be16(frame + 14, load_u32(header + _VLAN))
        if start != 0:
            start += _TAG
    if kind != 0:
        if begin_segments(ready, frame, length, kind, size, start) == 0:
            receiver.unsupported += 1
            return
        receiver.cut += 1
        receiver.segments += 1
        return
    if start != 0:
        if finish_checksum(frame, length, start, offset) == 0:
            receiver.unsupported += 1
            return
        receiver.finished += 1
    ready.frame = frame
    ready.length = length
    ready.left = 0


@inner
def _deliver(kring: Kring, receiver: Receiver, ready: Offload, tail: int) -> int:
    """Copy the packet that is ready into slots from `tail` on; the index behind them."""
    if kring.metadata_used != 0:
        metadata = Metadata(kring.metadata + tail * METADATA_SIZE)
        metadata.timestamp = receiver.timestamp
        metadata.wire_length = 0
        metadata.link_type = 0
        metadata.segment_size = 0
    size = kring.buffer_size
    source = ready.frame
    left = ready.length
    while True:
        slot = Slot(kring.slots + tail * SLOT_SIZE)
        part = left if left < size else size
        copy(kring.buffers + slot.buffer * size, source, part)
        slot.length = part
        slot.offset = 0
        source += part
        left -= part
        tail = following(tail, kring.slot_count)
        if left == 0:
            slot.flags = 0
            return tail
        slot.flags = MORE_FRAGMENTS


# -- transmitting ----------------------------------------------------------------------------------------------


@inner
def _transmit(kring: Kring, ring: Ring) -> None:
    """Hand the kernel what was given to send, as far as it takes it now."""
    sender = Sender(kring.adapter)
    kring.pending = 0
    kring.attention = 0
    calls = 0
    while True:
        count = _gather(kring, sender)
        if count == 0:
            break
        if calls == _CALLS:
            kring.pending = SOON
            break
        calls += 1
        sender.calls += 1
        done = sendmmsg(sender.descriptor, sender.messages, count, _DONTWAIT)
        if done > 0:
            _advance(kring, sender, done, 1)
            continue
        code = errno()
        sender.last_error = code
        if code in (_EAGAIN, _ENOBUFS, _ENOMEM, _EINTR):
            # No room in the socket or in the device's queue, or no carrier: time heals it.
            kring.pending = 1
            break
        if code == _EMSGSIZE:
            sender.too_long += 1
        elif code == _EINVAL:
            sender.malformed += 1
        elif code in (_ENETDOWN, _ENXIO, _ENODEV):
            sender.down += 1
            kring.attention = 1
        else:
            sender.refused += 1
        kring.dropped += 1
        _advance(kring, sender, 1, 0)
    tail = sender.sent - 1 if sender.sent > 0 else kring.slot_count - 1
    kring.tail = tail
    ring.tail = tail


@inner
def _gather(kring: Kring, sender: Sender) -> int:
    """Describe the next packets as messages, one a packet and one piece a slot; how many. A packet whose last slot was
    not handed over yet waits for it; one that can never be complete, or has more pieces than the kernel takes, is
    dropped."""
    count = 0
    pieces = 0
    index = sender.sent
    while index != kring.head and count < MESSAGES:
        slots = 0
        complete = False
        after = index
        while after != kring.head and not complete:
            complete = Slot(kring.slots + after * SLOT_SIZE).flags & MORE_FRAGMENTS == 0
            after = following(after, kring.slot_count)
            slots += 1
        if sender.skipping != 0 or slots > VECTORS or (not complete and slots == kring.slot_count - 1):
            if count != 0:
                # It is the next call's first, so that what `sent` says is true.
                break
            if complete:
                sender.too_long += 1
                kring.dropped += 1
            sender.skipping = 0 if complete else 1
            sender.sent = after
            index = after
            continue
        if not complete or pieces + slots > VECTORS:
            break
        message = Message(sender.messages + count * _MESSAGE)
        message.vectors = sender.vectors + pieces * _VECTOR
        message.count = slots
        while index != after:
            slot = Slot(kring.slots + index * SLOT_SIZE)
            vector = Vector(sender.vectors + pieces * _VECTOR)
            vector.base = kring.buffers + slot.buffer * kring.buffer_size + slot.offset
            vector.length = slot.length
            pieces += 1
            index = following(index, kring.slot_count)
        count += 1
    return count


@inner
def _advance(kring: Kring, sender: Sender, count: int, counted: int) -> None:
    """The first `count` messages are done with; `counted`: 1 if the kernel took them."""
    pieces = 0
    for number in range(count):
        pieces += Message(sender.messages + number * _MESSAGE).count
    if counted != 0:
        octets = 0
        for piece in range(pieces):
            octets += Vector(sender.vectors + piece * _VECTOR).length
        sender.packets += count
        sender.bytes += octets
    sent = sender.sent + pieces
    sender.sent = sent - kring.slot_count if sent >= kring.slot_count else sent
