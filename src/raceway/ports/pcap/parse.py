"""Records of a capture file in a window of bytes: where the next packet is, and what is known of it.

Data plane: addresses and signed 64-bit numbers, nothing else. No length in a file is believed before it has
been held against what the window holds, so any bytes at all end in a record, a wait for more, or a named
error.

Every parser returns the same seven numbers: a verdict, the next record's address, and the packet's address,
captured length, length on the wire, time (nanoseconds since 1970, below 0 where they cannot hold it) and link
type.
"""

from __future__ import annotations

from raceway.memory.access import load_be16, load_be32, load_u16, load_u32
from raceway.memory.jit import inner
from raceway.ports.pcap.formats import (
    BLOCK_LENGTH,
    BLOCK_MAXIMUM,
    BLOCK_MINIMUM,
    BLOCK_TOO_SHORT,
    BLOCK_TRAILER,
    CAPTURED_BEYOND_BLOCK,
    CAPTURED_MAXIMUM,
    CAPTURED_TOO_LONG,
    ENHANCED_PACKET,
    INTERFACE_DESCRIPTION,
    NANOSECONDS,
    PACKET,
    PACKET_MINIMUM,
    PCAP,
    RECORD_HEADER,
    SECTION_HEADER,
    SIMPLE_MINIMUM,
    SIMPLE_PACKET,
    TIMESTAMP_MAXIMUM,
    TRUNCATED,
    UNKNOWN_INTERFACE,
)
from raceway.ports.pcap.records import (
    CLOCK_BINARY,
    CLOCK_DIVIDE,
    CLOCK_MULTIPLY,
    INTERFACE,
    Interface,
    Reader,
)

FOUND, SKIPPED, WAIT, ENDED = 1, 2, 3, 4
"""Verdicts: a packet; a block without one; Python must refill the window or read the block here; no more."""

_INTERFACE_SIZE = INTERFACE.itemsize
_SECONDS_MAXIMUM = TIMESTAMP_MAXIMUM // NANOSECONDS
_WIRE_MAXIMUM = (1 << 31) - 1


@inner
def _number(address: int, swapped: int) -> int:
    if swapped != 0:
        number: int = load_be32(address)
    else:
        number = load_u32(address)
    return number


@inner
def _fail(reader: Reader, code: int, position: int, value: int, expected: int) -> None:
    reader.error = code
    reader.error_offset = reader.base + position - reader.window
    reader.error_value = value
    reader.error_expected = expected


@inner
def pcap_record(reader: Reader, position: int, end: int) -> tuple[int, int, int, int, int, int, int]:
    """Parse one pcap record (draft-ietf-opsawg-pcap, section 5)."""
    left = end - position
    needed = RECORD_HEADER
    verdict = WAIT
    data = position + RECORD_HEADER
    captured, wire, time = 0, 0, 0
    if left >= RECORD_HEADER:
        swapped = reader.swapped
        captured = _number(position + 8, swapped)
        wire = _number(position + 12, swapped)
        if reader.lengths_swapped != 0 and captured > wire:
            captured, wire = wire, captured
        needed += captured
        if captured > CAPTURED_MAXIMUM:
            _fail(reader, CAPTURED_TOO_LONG, position + 8, captured, CAPTURED_MAXIMUM)
            verdict = ENDED
        elif left >= needed:
            # Two 32-bit numbers: at most 2^32 * 10^9 + 2^32 * 10^3, which 63 bits hold.
            time = _number(position, swapped) * NANOSECONDS + _number(position + 4, swapped) * reader.fraction
            verdict = FOUND
    reader.needed = needed
    return verdict, position + needed, data, captured, wire, time, reader.link_type


@inner
def nanoseconds(interface: Interface, high: int, low: int) -> int:
    """Turn a 64-bit pcapng timestamp into nanoseconds since 1970, exactly, rounding down; -1 if none can hold
    it.

    No step leaves signed 64 bits, so the unsigned timestamp stays in two halves.
    """
    clock = interface.clock
    time = -1
    if clock == CLOCK_MULTIPLY:
        if high < 1 << 31:
            ticks = (high << 32) | low
            if ticks <= interface.limit:
                time = ticks * interface.factor
    elif clock == CLOCK_DIVIDE:
        # Half the timestamp fits; the bit that was shifted out comes back with the remainder.
        half = (high << 31) | (low >> 1)
        divisor = interface.factor
        time = half // divisor * 2
        if half % divisor * 2 + (low & 1) >= divisor:
            time += 1
    elif clock == CLOCK_BINARY:
        bits = interface.factor
        fraction = (((high & 0x7FFFFFFF) << 32) | low) & interface.mask
        seconds = _SECONDS_MAXIMUM
        if bits > 0:
            seconds = ((high << 31) | (low >> 1)) >> (bits - 1)
        elif high < 1 << 31:
            seconds = (high << 32) | low
        if seconds < _SECONDS_MAXIMUM:
            if bits > 32:
                # fraction * 10^9 / 2^bits in two steps: the upper 32 bits, then what the lower ones carry.
                rest = bits - 32
                carried = ((fraction & ((1 << rest) - 1)) * NANOSECONDS) >> rest
                time = seconds * NANOSECONDS + (((fraction >> rest) * NANOSECONDS + carried) >> 32)
            else:
                time = seconds * NANOSECONDS + ((fraction * NANOSECONDS) >> bits)
    if time >= 0:
        offset = interface.offset
        if offset > TIMESTAMP_MAXIMUM - time:
            return -1
        time += offset
    return time


@inner
def pcapng_block(reader: Reader, position: int, end: int) -> tuple[int, int, int, int, int, int, int]:
    """Parse one pcapng block (draft-ietf-opsawg-pcapng, sections 3.1, 4.3, 4.4 and A.1)."""
    left = end - position
    swapped = reader.swapped
    kind = 0
    reader.needed = BLOCK_MINIMUM
    if left >= BLOCK_MINIMUM:
        kind = _number(position, swapped)
    if left < BLOCK_MINIMUM or kind in (SECTION_HEADER, INTERFACE_DESCRIPTION):
        # The latter are rare, full of options, and one has a byte order of its own: Python's.
        return WAIT, position, 0, 0, 0, 0, 0
    total = _number(position + 4, swapped)
    following = position + total
    # What is wrong with the block, if anything: one code, where, and the two numbers of the message.
    code, at, value, expected = 0, position + 4, total, BLOCK_MAXIMUM
    if total < BLOCK_MINIMUM or total & 3 != 0 or total > BLOCK_MAXIMUM:
        code = BLOCK_LENGTH
    elif left < total:
        reader.needed = total
        return WAIT, position, 0, 0, 0, 0, 0
    elif _number(following - 4, swapped) != total:
        code, at, value, expected = BLOCK_TRAILER, following - 4, _number(following - 4, swapped), total

    number, captured, wire, link_type, time = 0, 0, 0, 0, 0
    data = position + 28
    lengths = position + 20
    minimum = PACKET_MINIMUM
    if kind == SIMPLE_PACKET:
        data = position + 12
        lengths = position + 8
        minimum = SIMPLE_MINIMUM
    elif kind not in (ENHANCED_PACKET, PACKET) and code == 0:
        return SKIPPED, following, 0, 0, 0, 0, 0
    if code == 0 and total < minimum:
        code, expected = BLOCK_TOO_SHORT, minimum
    if code == 0:
        captured = _number(lengths, swapped)
        wire = captured
        if kind == ENHANCED_PACKET:
            number = _number(position + 8, swapped)
        elif kind == PACKET:
            # Sixteen bits, and sixteen more of how many packets were lost before it.
            number = load_be16(position + 8) if swapped != 0 else load_u16(position + 8)
        if number >= reader.interface_count:
            code, at, value, expected = UNKNOWN_INTERFACE, position + 8, number, reader.interface_count
        else:
            interface = Interface(reader.interfaces + number * _INTERFACE_SIZE)
            link_type = interface.link_type
            if kind != SIMPLE_PACKET:
                wire = _number(position + 24, swapped)
                time = nanoseconds(
                    interface, _number(position + 12, swapped), _number(position + 16, swapped)
                )
            elif 0 < interface.snaplen < captured:
                # Its captured length is not written down: the wire's, or the interface's snaplen if less.
                captured = interface.snaplen
            if captured > CAPTURED_MAXIMUM:
                code, at, value, expected = CAPTURED_TOO_LONG, lengths, captured, CAPTURED_MAXIMUM
            elif captured > total - minimum:
                code, at, value, expected = CAPTURED_BEYOND_BLOCK, lengths, captured, total - minimum
    verdict = FOUND
    if code != 0:
        _fail(reader, code, at, value, expected)
        verdict = ENDED
    return verdict, following, data, captured, wire, time, link_type


@inner
def next_record(reader: Reader, position: int, end: int) -> tuple[int, int, int, int, int, int, int]:
    """Parse the record at `position`, of which the window holds bytes up to `end`."""
    if reader.format == PCAP:
        verdict, following, data, captured, wire, time, link_type = pcap_record(reader, position, end)
    else:
        verdict, following, data, captured, wire, time, link_type = pcapng_block(reader, position, end)
    left = end - position
    if verdict == WAIT and reader.final != 0 and left < reader.needed:
        # There is no more to wait for: the end, or a record that was cut off.
        verdict = ENDED
        if left > 0:
            _fail(reader, TRUNCATED, position, left, reader.needed)
    if verdict in (ENDED, WAIT):
        following = position
    # A slot's metadata have 31 bits for it.
    wire = min(wire, _WIRE_MAXIMUM)
    return verdict, following, data, captured, wire, time, link_type
