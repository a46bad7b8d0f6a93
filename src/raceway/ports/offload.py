"""What a network card would have done, done here: finish checksums, cut large packets. Data plane.

Two ends of a veth pair, or a bridge of virtual machines, never see a wire, so Linux leaves the last work of sending
to a card that does not exist: a packet arrives with a checksum of its pseudo-header only (CHECKSUM_PARTIAL), or as
64 KB of TCP or UDP that a card was to cut (GSO), or glued together on the way in (GRO). Whoever takes packets from
the kernel before its own stack does gets them so. Here they become what a wire would have carried:

`finish_checksum`
    for adapters that are told where the checksum is (struct virtio_net_hdr: csum_start, csum_offset).
`complete_checksum`
    for adapters that are told nothing (AF_XDP): it looks whether the checksum is one that was left unfinished.
`begin_segments`, `next_segment`
    cut a packet in the place where it lies. Each segment is contiguous and whole: the headers are moved up to stand
    before the next piece of payload, over payload that was delivered already. The memory must be the caller's::

        |headers|piece 1|piece 2|piece 3|         first segment: headers and piece 1
        |.......|headers|piece 2|piece 3|         second: the headers have moved up by one piece

Every offset is checked against the packet's length; what does not fit is answered with 0, and left as it is.

Not done: packets inside a tunnel (VXLAN, GRE, IP in IP) are not cut, and a checksum inside one is finished only where
its place is told.

Internet checksums are sums of 16-bit words with the carries added back in, whatever the byte order of the words
(RFC 1071, section 2 (B)): so all sums here are over words as the processor loads them.
"""

from __future__ import annotations

from typing import Any

from raceway.memory.access import (
    copy,
    load_be16,
    load_be32,
    load_u8,
    load_u16,
    load_u32,
    store_8,
    store_16,
    store_32,
    store_be16,
    store_be32,
)
from raceway.memory.jit import inner
from raceway.memory.layout import lines
from raceway.memory.structures import structure

OFFLOAD = lines(
    # The packet that is ready, an address and bytes; payload bytes behind it that are still to be cut.
    [("frame", "<i8"), ("length", "<i8"), ("left", "<i8"),
     # Bytes of headers, bytes of payload a segment; where the IP and the transport headers begin; IP protocol.
     ("header", "<i8"), ("size", "<i8"), ("network", "<i8"), ("transport", "<i8"), ("protocol", "<i8")],
    # TCP flags that only the last segment has; whether the transport has a checksum at all.
    [("closing", "<i8"), ("checksummed", "<i8")],
)  # fmt: skip
"""A packet that is being cut: `frame` and `length` are its next segment, `left` what follows."""
Offload = structure("Offload", OFFLOAD)

GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP = 0, 1, 4, 5
"""VIRTIO_NET_HDR_GSO_* of <linux/virtio_net.h>; GSO_ECN (0x80) may be added to TCP's."""
NEEDS_CHECKSUM = 1
"""VIRTIO_NET_HDR_F_NEEDS_CSUM."""

_TCP, _UDP, _ICMPV6 = 6, 17, 58
_IPV4, _IPV6 = 0x0800, 0x86DD
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
_SCTP_CHECKSUM = 8
"""Where SCTP has its checksum, and nothing else: TCP has it at 16, UDP and DCCP at 6, ICMPv6 at 2."""
_EXTENSIONS = 16


@inner
def _folded(total: int) -> int:
    """Add the carries of a sum below 2**48 back in: 16 bits, and 0 only for a sum of 0."""
    total = (total & 0xFFFFFFFF) + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@inner
def internet_sum(address: int, length: int) -> int:
    """The one's complement sum of `length` bytes as little-endian words, folded to 16 bits (RFC 1071)."""
    total = 0
    at = address
    end = address + (length & -16)
    while at < end:
        total += load_u32(at) + load_u32(at + 4) + load_u32(at + 8) + load_u32(at + 12)
        at += 16
    end = address + (length & -2)
    while at < end:
        total += load_u16(at)
        at += 2
    if length & 1:
        total += load_u8(at)
    return _folded(total)


@inner
def _swapped(value: int) -> int:
    """A 16-bit number as it lies in a packet."""
    return ((value & 0xFF) << 8) + ((value >> 8) & 0xFF)


@inner
def checksum(total: int) -> int:
    """The checksum that makes a sum complete. Never 0, which says "none" in UDP (RFC 768) and elsewhere is the same
    number as 0xffff."""
    value = ~_folded(total) & 0xFFFF
    return value if value != 0 else 0xFFFF


@inner
def pseudo_header(packet: int, network: int, protocol: int, length: int) -> int:
    """Sum of the pseudo-header of a transport of `length` bytes (RFC 9293, 3.1; RFC 768; RFC 8200, 8.1), folded."""
    total = _swapped(protocol) + _swapped(length) + _swapped(length >> 16)
    if load_u8(packet + network) >> 4 == 4:
        total += internet_sum(packet + network + 12, 8)
    else:
        total += internet_sum(packet + network + 8, 32)
    return _folded(total)


@inner
def _crc32c(address: int, length: int) -> int:
    """SCTP's checksum (RFC 9260, appendix A): CRC32c, bits reflected."""
    value = 0xFFFFFFFF
    for index in range(length):
        value ^= load_u8(address + index)
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 * (value & 1))
    return value ^ 0xFFFFFFFF


@inner
def finish_checksum(packet: int, length: int, start: int, offset: int) -> int:
    """Finish a checksum that the sender left to a card: sum everything from `start` on, where the sum of the
    pseudo-header stands at `start + offset` already. 1, or 0 if that place is not in the packet."""
    if start < 0 or offset < 0:
        return 0
    if offset == _SCTP_CHECKSUM:
        if start + offset + 4 > length:
            return 0
        store_32(packet + start + offset, 0)
        store_32(packet + start + offset, _crc32c(packet + start, length - start))
        return 1
    if start + offset + 2 > length:
        return 0
    store_16(packet + start + offset, checksum(internet_sum(packet + start, length - start)))
    return 1


@inner
def complete_checksum(packet: int, length: int) -> int:
    """Finish the checksum of TCP, UDP or ICMPv6 if it is an unfinished one; 1 if it was.

    Unfinished is one that is the sum of the pseudo-header alone. Should that be the right checksum by chance (once in
    65,536 packets), then finishing it gives the same number again, so nothing that was right becomes wrong; and a
    packet that was spoilt on its way stays wrong. Costs the sum of the pseudo-header for a packet that is complete.
    """
    network, transport, protocol, end = locate(packet, length)
    if transport == 0:
        return 0
    if protocol == _TCP:
        offset = 16
    elif protocol == _UDP:
        offset = 6
    elif protocol == _ICMPV6 and load_u8(packet + network) >> 4 == 6:
        offset = 2
    else:
        return 0
    if transport + offset + 2 > end:
        return 0
    if load_u16(packet + transport + offset) != pseudo_header(packet, network, protocol, end - transport):
        return 0
    return finish_checksum(packet, end, transport, offset)


@inner
def locate(packet: int, length: int) -> tuple[int, int, int, int]:
    """Where a frame has its IP and transport headers, its IP protocol, and where IP says that it ends (a short frame
    is padded behind that). All 0 if this is not a whole IP datagram, or its pseudo-header is not the one that stands
    in it: a routing header that is not used up (RFC 8200, 8.1)."""
    if length < 14:
        return 0, 0, 0, 0
    kind = load_be16(packet + 12)
    network = 14
    # Tags of IEEE 802.1Q and 802.1ad, as many as there are.
    while (kind == 0x8100 or kind == 0x88A8) and network + 4 <= length:
        kind = load_be16(packet + network + 2)
        network += 4
    if kind == _IPV4 and network + 20 <= length:
        first = load_u8(packet + network)
        transport = network + (first & 15) * 4
        total = load_be16(packet + network + 2)
        # A GSO packet of more than 65,535 bytes ("BIG TCP") has 0 here.
        end = network + total if total != 0 else length
        if first >> 4 != 4 or transport < network + 20 or transport > end or end > length:
            return 0, 0, 0, 0
        if load_be16(packet + network + 6) & 0x3FFF:
            return 0, 0, 0, 0
        return network, transport, load_u8(packet + network + 9), end
    if kind == _IPV6 and network + 40 <= length:
        payload = load_be16(packet + network + 4)
        end = network + 40 + payload if payload != 0 else length
        if load_u8(packet + network) >> 4 != 6 or end > length:
            return 0, 0, 0, 0
        protocol = load_u8(packet + network + 6)
        transport = network + 40
        for _ in range(_EXTENSIONS):
            if (
                protocol != _HOP_BY_HOP
                and protocol != _ROUTING
                and protocol != _DESTINATION
                and protocol != _AUTHENTICATION
            ):
                break
            if transport + 8 > end:
                return 0, 0, 0, 0
            if protocol == _ROUTING and load_u8(packet + transport + 3) != 0:
                return 0, 0, 0, 0
            units = load_u8(packet + transport + 1)
            # RFC 8200, 4.3, and RFC 4302, 2.2: in units of 8 bytes without the first, and of 4 without the first two.
            skipped = (units + 2) * 4 if protocol == _AUTHENTICATION else (units + 1) * 8
            protocol = load_u8(packet + transport)
            transport += skipped
        if protocol == _FRAGMENT or transport > end:
            return 0, 0, 0, 0
        return network, transport, protocol, end
    return 0, 0, 0, 0


@inner
def begin_segments(state: Any, frame: int, length: int, kind: int, size: int, start: int) -> int:
    """Begin to cut a packet into segments of `size` bytes of payload; the first one is ready then.

    kind: GSO_TCP4, GSO_TCP6 or GSO_UDP; start: where the transport header is by the word of who sent the packet
    (csum_start), or 0. Returns 0, with nothing changed, for a packet that this cannot cut: not what `kind` says, a
    tunnel, a fragment, headers that are not all there.
    """
    network, transport, protocol, end = locate(frame, length)
    if transport == 0 or size <= 0 or (start != 0 and start != transport):
        return 0
    version = load_u8(frame + network) >> 4
    closing = 0
    checksummed = 1
    if (kind == GSO_TCP4 and version == 4) or (kind == GSO_TCP6 and version == 6):
        if protocol != _TCP or transport + 20 > end:
            return 0
        header = transport + (load_u8(frame + transport + 12) >> 4) * 4
        if header < transport + 20 or header > end:
            return 0
        closing = load_u8(frame + transport + 13) & (_FIN | _PSH)
    elif kind == GSO_UDP:
        header = transport + 8
        if protocol != _UDP or header > end:
            return 0
        if load_u16(frame + transport + 6) == 0:
            checksummed = 0
    else:
        return 0
    if version == 6 and _is_jumbogram(frame + network, end - network):
        # RFC 2675, as the kernel marks IPv6 packets of more than 65,535 bytes: of no use in a segment.
        protocol_behind = load_u8(frame + network + 40)
        _move_up(frame + 8, frame, network + 40)
        frame += 8
        store_8(frame + network + 6, protocol_behind)
        transport -= 8
        header -= 8
        end -= 8
    state.frame = frame
    state.header = header
    state.size = size
    state.network = network
    state.transport = transport
    state.protocol = protocol
    state.closing = closing
    state.checksummed = checksummed
    state.left = end - header
    _write_segment(state)
    return 1


@inner
def _is_jumbogram(network: int, length: int) -> bool:
    """Whether an IPv6 header is followed by a hop-by-hop header with nothing but the jumbo payload option."""
    return (
        length >= 48
        and load_u8(network + 6) == _HOP_BY_HOP
        and load_u8(network + 41) == 0
        and load_u8(network + 42) == 0xC2
    )


@inner
def next_segment(state: Any) -> int:
    """Make the next segment ready; 0 if the last one was."""
    if state.left == 0:
        return 0
    frame = state.frame + state.size
    _move_up(frame, state.frame, state.header)
    state.frame = frame
    if state.protocol == _TCP:
        at = frame + state.transport
        store_be32(at + 4, (load_be32(at + 4) + state.size) & 0xFFFFFFFF)
        # RFC 3168, 6.1.2: only the first packet after the window was reduced says so.
        store_8(at + 13, load_u8(at + 13) & ~_CWR)
    if load_u8(frame + state.network) >> 4 == 4:
        at = frame + state.network + 4
        store_be16(at, (load_be16(at) + 1) & 0xFFFF)
    _write_segment(state)
    return 1


@inner
def _write_segment(state: Any) -> None:
    """Give the headers at the frame's start the lengths, flags and checksums of a segment."""
    frame = state.frame
    piece = state.size if state.left > state.size else state.left
    state.left -= piece
    length = state.header + piece
    state.length = length
    network = frame + state.network
    transport = frame + state.transport
    if load_u8(network) >> 4 == 4:
        store_be16(network + 2, length - state.network)
        store_16(network + 10, 0)
        store_16(network + 10, ~internet_sum(network, state.transport - state.network) & 0xFFFF)
    else:
        store_be16(network + 4, length - state.network - 40)
    if state.protocol == _TCP:
        place = transport + 16
        flags = load_u8(transport + 13) & ~(_FIN | _PSH)
        store_8(transport + 13, flags | state.closing if state.left == 0 else flags)
    else:
        place = transport + 6
        store_be16(transport + 4, length - state.transport)
    if state.checksummed != 0:
        covered = length - state.transport
        store_16(place, 0)
        total = pseudo_header(frame, state.network, state.protocol, covered) + internet_sum(
            transport, covered
        )
        store_16(place, checksum(total))


@inner
def _move_up(destination: int, source: int, length: int) -> None:
    """Copy to a higher address; the two may overlap."""
    if destination - source >= length:
        copy(destination, source, length)
        return
    at = length
    while at > 0:
        at -= 1
        store_8(destination + at, load_u8(source + at))
