"""The numbers of the two capture file formats, and the error that a broken file gives.

pcap (draft-ietf-opsawg-pcap) is a header and then records. pcapng (draft-ietf-opsawg-pcapng) is blocks, each
of which carries its length at both ends::

    pcap    | magic version zone sigfigs snaplen link | seconds fraction captured wire | bytes | ...
              4     2+2     4    4       4       4      4       4        4        4

    pcapng  | type total | body, padded to 4 | total | type total | ...
              4    4                           4

Every number is in the byte order of the machine that wrote it; the magic tells which, in pcapng once a
section.
"""

from __future__ import annotations

# pcap, section 4: the first four bytes, as the writer's own 32-bit number.
MAGIC_MICROSECONDS = 0xA1B2C3D4
MAGIC_NANOSECONDS = 0xA1B23C4D
FILE_HEADER = 24
RECORD_HEADER = 16
VERSION_MAJOR, VERSION_MINOR = 2, 4
LINK_TYPE_MASK = 0xFFFF
"""Bits of pcap's last header word that hold the link type; the others tell of a frame check sequence."""

# pcapng, sections 4.1 to 4.4 and appendix A.
SECTION_HEADER = 0x0A0D0D0A
BYTE_ORDER_MAGIC = 0x1A2B3C4D
INTERFACE_DESCRIPTION = 1
PACKET = 2
SIMPLE_PACKET = 3
ENHANCED_PACKET = 6
BLOCK_MINIMUM = 12
SECTION_MINIMUM = 28
INTERFACE_MINIMUM = 20
SIMPLE_MINIMUM = 16
PACKET_MINIMUM = 32
BLOCK_MAXIMUM = 16 << 20
"""Longest block that is believed: libpcap's limit too, and far above what any packet needs."""
INTERFACES_MAXIMUM = 65_536
"""Most interfaces that one section may describe."""

# Options, sections 3.5, 4.1 and 4.2.
OPTION_END, OPTION_COMMENT = 0, 1
SECTION_APPLICATION = 4
INTERFACE_NAME, INTERFACE_RESOLUTION, INTERFACE_OFFSET = 2, 9, 14
RESOLUTION_DEFAULT = 6
RESOLUTION_DECIMAL_MAXIMUM, RESOLUTION_BINARY_MAXIMUM = 19, 63
"""Finest resolutions of which a 64-bit timestamp can hold a second: 10^-19 and 2^-63."""

CAPTURED_MAXIMUM = 262_144
"""Longest packet that is believed, whatever a file gives as its snaplen: libpcap's MAXIMUM_SNAPLEN."""

NANOSECONDS = 1_000_000_000
TIMESTAMP_MAXIMUM = (1 << 63) - 1
"""Latest time that signed nanoseconds since 1970 can hold: in the year 2262."""

LINK_NULL, LINK_ETHERNET = 0, 1
LINK_NULL_EXPLICIT = 0x10000
"""LINKTYPE_NULL (BSD's loopback, number 0) in a packet's metadata and in a ring, where 0 says "not known"."""

PCAP, PCAPNG = 1, 2
FORMAT_NAMES = {PCAP: "pcap", PCAPNG: "pcapng"}

# Why a reader stopped; the record's `error`. Zero is none.
TRUNCATED, CAPTURED_TOO_LONG, BLOCK_LENGTH, BLOCK_TRAILER = 1, 2, 3, 4
BLOCK_TOO_SHORT, CAPTURED_BEYOND_BLOCK, UNKNOWN_INTERFACE, NOT_IN_SECTION = 5, 6, 7, 8
HELD_BY_READER = 9
"""The reader itself has the exception: a source that failed, or a malformed section or interface block."""


class CaptureFileError(ValueError):
    """A capture file that is not what its format says.

    path: the file, as it was named. offset: the byte at which it went wrong, from the start of the file, or
    of the decompressed data if `decompressed`. found, expected: what is there, and what should be.
    """

    def __init__(
        self, path: str, offset: int, found: str, expected: str, *, decompressed: bool = False
    ) -> None:
        self.path, self.offset, self.found, self.expected = path, offset, found, expected
        self.decompressed = decompressed
        where = f"byte {offset:,} of the decompressed data" if decompressed else f"byte {offset:,}"
        super().__init__(f"{path}: {where}: found {found}, expected {expected}")


def malformed(code: int, value: int, expected: int) -> tuple[str, str]:
    """Return what was found and what was expected, in words, for an error code of the data plane."""
    if code == TRUNCATED:
        return f"the end of the file after {value:,} bytes of a record", f"{expected:,} bytes"
    if code == CAPTURED_TOO_LONG:
        return f"a packet of {value:,} bytes", f"at most {expected:,}"
    if code == BLOCK_LENGTH:
        return f"a block of {value:,} bytes", f"a multiple of 4 from {BLOCK_MINIMUM} to {expected:,}"
    if code == BLOCK_TRAILER:
        return f"{value:,} as the length at a block's end", f"{expected:,} as at its beginning"
    if code == BLOCK_TOO_SHORT:
        return f"a block of {value:,} bytes", f"at least {expected:,} for its type"
    if code == CAPTURED_BEYOND_BLOCK:
        return f"a packet of {value:,} bytes", f"at most {expected:,} in this block"
    if code == UNKNOWN_INTERFACE:
        known = f"one of the {expected:,} described" if expected else "one described before it"
        return f"a packet of interface {value:,}", known
    return f"a block of type {value}", "a section header"
