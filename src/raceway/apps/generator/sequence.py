"""What the numbers of a stream of packets tell: loss, reordering, duplicates. Data plane.

The stream's numbers run from the lowest to the highest that were seen, and behind the highest lies a window of
WINDOW numbers of which it is known which came::

    lowest        next - WINDOW                 next
    |  settled    |<-------- window ----------->|
                   1 1 1 0 1 1 ... 1 1 0 0 1 1 1
                         ^ missing so far

    at or after `next`       in order; numbers that it jumps over are missing so far
    in the window, missing   reordered: it came after one with a higher number (RFC 4737, section 3.3)
    in the window, seen      a duplicate (RFC 5560)
    before the window        stale: too late to tell a duplicate from a late first copy

lost = next - lowest - in order - reordered, so a late packet is lost only until it comes, or for ever if it comes
stale. A number below `lowest` in the window was sent before the first that came: it is reordered, and is
the lowest from now on. Packets = in order + reordered + duplicates + stale + foreign (those without a number).
"""

from __future__ import annotations

from raceway.apps.generator.records import MAGIC_SEQUENCE, MARK_SIZE, Track
from raceway.memory.access import load_be16, load_be32, load_be64, load_u8, load_u32, store_32
from raceway.memory.jit import inner

WINDOW = 65_536
"""Numbers; a power of two. One bit each, in words of 32."""


@inner
def mark_offset(packet: int, length: int) -> int:
    """Where the payload of UDP over IPv4 without options, or over IPv6, begins; -1 for other frames, or if it is
    shorter than a mark."""
    if length < 42 + MARK_SIZE:
        return -1
    kind = load_be16(packet + 12)
    if kind == 0x0800 and load_u8(packet + 14) == 0x45 and load_u8(packet + 23) == 17:
        return 42
    if kind == 0x86DD and load_u8(packet + 20) == 17 and length >= 62 + MARK_SIZE:
        return 62
    return -1


@inner
def follow(track: Track, packet: int, length: int) -> int:
    """Note the number of a packet of `length` bytes in its first slot; 0 if it has none (the packet is foreign)."""
    at = mark_offset(packet, length)
    if at < 0 or load_be32(packet + at) != MAGIC_SEQUENCE:
        return 0
    number = load_be64(packet + at + 4)
    # No sender gets as far as 2**62.
    if number < 0 or number >> 62 != 0:
        return 0
    note(track.address, number)
    return 1


@inner
def note(track: int, number: int) -> None:
    """Note a number, 0 to 2**62 - 1, in the TRACK record at this address."""
    record = Track(track)
    bit = 1 << (number & 31)
    word = record.window + (number & (WINDOW - 1)) // 32 * 4
    if record.seen == 0:
        record.seen = 1
        record.lowest = number
        record.next = number
    gap = number - record.next
    if gap >= 0:
        if gap != 0:
            forget(record.window, record.next, gap)
        record.next = number + 1
        record.in_order += 1
        store_32(word, load_u32(word) | bit)
    elif gap < -WINDOW:
        record.stale += 1
    elif load_u32(word) & bit:
        record.duplicates += 1
    else:
        record.reordered += 1
        store_32(word, load_u32(word) | bit)
        if number < record.lowest:
            record.lowest = number


@inner
def forget(window: int, first: int, count: int) -> None:
    """Clear the bits of `count` numbers from `first` on, which are in the window now and were not seen."""
    if count >= WINDOW:
        for index in range(WINDOW // 32):
            store_32(window + 4 * index, 0)
        return
    for number in range(first, first + count):
        word = window + (number & (WINDOW - 1)) // 32 * 4
        store_32(word, load_u32(word) & ~(1 << (number & 31)))
