"""What the kernel leaves to the hardware of a NIC and this port does instead: checksums; and how packets are cut.

Data plane. The header before a packet is struct virtio_net_hdr (virtio 1.2, 5.1.6; little-endian here)::

    0 flags   1 gso_type   2 hdr_len   4 gso_size   6 csum_start   8 csum_offset

Read with NEEDS_CSUM set, the field at csum_start + csum_offset holds the sum of the pseudo-header, and the checksum
over everything from csum_start on is still to be made. Written with NEEDS_CSUM and a gso_type, the kernel, or the NIC
behind it, cuts the packet into segments of gso_size bytes of payload when and if it leaves the machine.

Unlike in `ports.offload`, a packet may lie in several buffers, its checksum's two bytes in two of them, and parts of
odd length may be before others.
"""

from __future__ import annotations

from raceway.memory.access import copy, load_be16, load_u8, load_u16, store_8, store_16
from raceway.memory.jit import inner
from raceway.memory.layout import SLOT_SIZE, Kring, Slot
from raceway.memory.ring import following
from raceway.ports.offload import checksum, internet_sum, pseudo_header
from raceway.ports.tap.records import HEADERS, VNET_HEADER, VNET_ROOM, Tap

NEEDS_CSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_ECN = 1, 4, 0x80

_VLAN, _QINQ, _IPV4, _IPV6 = 0x8100, 0x88A8, 0x0800, 0x86DD
_TCP, _HOP_BY_HOP, _DESTINATION_OPTIONS = 6, 0, 60
_SYN, _RST, _URG, _CWR = 0x02, 0x04, 0x20, 0x80
_TCP_CHECKSUM = 16
_SMALLEST_SEGMENT = 48  # TCP_MIN_GSO_SIZE of <net/tcp.h>


@inner
def _folded(total: int) -> int:
    """The 16-bit sum of a sum below 2^48."""
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@inner
def _swapped(word: int) -> int:
    return (word >> 8) | ((word & 0xFF) << 8)


@inner
def chain_sum(kring: Kring, index: int, slots: int, start: int) -> int:
    """The sum over the packet in `slots` slots from `index` on, from its byte `start` to its end."""
    total: int = 0
    odd = 0
    for _ in range(slots):
        slot = Slot(kring.slots + index * SLOT_SIZE)
        if start >= slot.length:
            start -= slot.length
        else:
            part = slot.length - start
            piece = internet_sum(kring.buffers + slot.buffer * kring.buffer_size + slot.offset + start, part)
            total += _swapped(piece) if odd else piece
            odd ^= part & 1
            start = 0
        index = following(index, kring.slot_count)
    return _folded(total)


@inner
def _store_byte(kring: Kring, index: int, slots: int, position: int, value: int) -> None:
    """Store byte number `position` of the packet in `slots` slots from `index` on."""
    for _ in range(slots):
        slot = Slot(kring.slots + index * SLOT_SIZE)
        if position < slot.length:
            store_8(kring.buffers + slot.buffer * kring.buffer_size + slot.offset + position, value)
            return
        position -= slot.length
        index = following(index, kring.slot_count)


@inner
def complete_checksum(kring: Kring, tap: Tap, index: int, slots: int, length: int) -> None:
    """Do what the header that was read with this packet leaves to be done."""
    header = tap.headers + VNET_ROOM - VNET_HEADER
    if load_u8(header) & NEEDS_CSUM == 0:
        return
    start = load_u16(header + 6)
    place = start + load_u16(header + 8)
    if place + 2 > length:
        return
    finished = checksum(chain_sum(kring, index, slots, start))
    _store_byte(kring, index, slots, place, finished & 0xFF)
    _store_byte(kring, index, slots, place + 1, finished >> 8)
    tap.completed += 1


@inner
def segment_size(tap: Tap) -> int:
    """Bytes of payload a segment of the packet that was read with this header; 0 if it is none to be cut."""
    header = tap.headers + VNET_ROOM - VNET_HEADER
    kind = load_u8(header + 1) & ~GSO_ECN
    size: int = load_u16(header + 4)
    return size if kind in (GSO_TCPV4, GSO_TCPV6) else 0


@inner
def will_be_cut(tap: Tap) -> int:
    """Non-zero if the header asks for a packet to be cut."""
    kind: int = load_u8(tap.headers + VNET_ROOM - VNET_HEADER + 1)
    return kind


@inner
def gather(kring: Kring, index: int, slots: int, destination: int, limit: int) -> int:
    """Copy the first `limit` bytes of a packet in `slots` slots together; how many there were."""
    done: int = 0
    for _ in range(slots):
        slot = Slot(kring.slots + index * SLOT_SIZE)
        part = min(limit - done, slot.length)
        copy(destination + done, kring.buffers + slot.buffer * kring.buffer_size + slot.offset, part)
        done += part
        index = following(index, kring.slot_count)
    return done


@inner
def _ethernet(packet: int) -> int:
    """Where the network header begins, behind at most two VLAN tags."""
    start = 14
    for _ in range(2):
        kind = load_be16(packet + start - 2)
        if kind in (_VLAN, _QINQ):
            start += 4
    return start


@inner
def _tcp_of_ipv4(packet: int, start: int, length: int) -> int:
    """Where TCP begins behind the IPv4 header at `start` (RFC 791, 3.1); 0 unless it is whole and all of the rest."""
    size = (load_u8(packet + start) & 15) * 4
    unfragmented = load_be16(packet + start + 6) & 0x3FFF == 0
    whole = load_be16(packet + start + 2) == length - start
    if load_u8(packet + start) >> 4 != 4 or size < 20 or not (unfragmented and whole):
        return 0
    return start + size if load_u8(packet + start + 9) == _TCP else 0


@inner
def _tcp_of_ipv6(packet: int, start: int, length: int) -> int:
    """The same for IPv6 (RFC 8200, 3 and 4), with options but without a routing or a fragment header."""
    if load_u8(packet + start) >> 4 != 6 or load_be16(packet + start + 4) + 40 != length - start:
        return 0
    kind = load_u8(packet + start + 6)
    at = start + 40
    for _ in range(4):
        if kind not in (_HOP_BY_HOP, _DESTINATION_OPTIONS) or at + 8 > HEADERS:
            break
        kind = load_u8(packet + at)
        at += (load_u8(packet + at + 1) + 1) * 8
    return at if kind == _TCP else 0


@inner
def prepare_segments(kring: Kring, tap: Tap, index: int, slots: int, length: int, told: int) -> int:
    """Ask in the header for the packet to be cut, if it is TCP and longer than the device's MTU, or than segments of
    `told` bytes. How many bytes of headers, to be sent in the place of the packet's own, lie at `tap.headers`; 0 if
    the packet is to be sent as it is.

    Who cuts a packet makes new checksums, so a packet whose own is wrong is never cut: else it would become right.
    """
    packet = tap.headers + VNET_ROOM
    here = gather(kring, index, slots, packet, HEADERS)
    start = _ethernet(packet)
    if here < start + 40:
        return 0
    kind = load_be16(packet + start - 2)
    tcp: int = 0
    if kind == _IPV4:
        tcp = _tcp_of_ipv4(packet, start, length)
    elif kind == _IPV6 and here >= start + 60:
        tcp = _tcp_of_ipv6(packet, start, length)
    if tcp == 0 or tcp + 20 > here:
        return 0
    payload: int = tcp + (load_u8(packet + tcp + 12) >> 4) * 4
    flags = load_u8(packet + tcp + 13)
    if payload < tcp + 20 or payload > here or flags & (_SYN | _RST | _URG):
        return 0
    size = tap.mtu - (payload - start)
    if _SMALLEST_SEGMENT <= told < size:
        size = told
    if size < _SMALLEST_SEGMENT or length - payload <= size:
        return 0
    pseudo = pseudo_header(packet, start, _TCP, length - tcp)
    if _folded(pseudo + chain_sum(kring, index, slots, tcp)) != 0xFFFF:
        return 0
    store_16(packet + tcp + _TCP_CHECKSUM, pseudo)
    header = packet - VNET_HEADER
    store_8(header, NEEDS_CSUM)
    store_8(header + 1, (GSO_TCPV4 if kind == _IPV4 else GSO_TCPV6) | (GSO_ECN if flags & _CWR else 0))
    store_16(header + 2, payload)
    store_16(header + 4, size)
    store_16(header + 6, tcp)
    store_16(header + 8, _TCP_CHECKSUM)
    return payload
