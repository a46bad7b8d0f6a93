"""pcapng's section header and interface description blocks, and pcap's file header: bytes to values and back.

These are rare and full of options, so they are read and written in Python; packets never come here. No file
and no window is known here: a block comes as bytes, and what is wrong with it is a `BlockError` at an offset
within the block.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from raceway.ports.pcap import formats


class BlockError(Exception):
    """A malformed block or header: `offset` from its first byte, what was found and what was expected."""

    def __init__(self, offset: int, found: str, expected: str) -> None:
        self.offset, self.found, self.expected = offset, found, expected
        super().__init__(f"byte {offset}: found {found}, expected {expected}")


@dataclass(frozen=True)
class FileHeader:
    """pcap's file header (draft-ietf-opsawg-pcap, section 4). `fraction`: nanoseconds in a unit of the
    fraction."""

    order: str
    fraction: int
    lengths_swapped: bool
    snaplen: int
    link_type: int


@dataclass(frozen=True)
class InterfaceDescription:
    """An interface description block (draft-ietf-opsawg-pcapng, section 4.2).

    resolution: the clock ticks `base ** exponent` times a second; offset: seconds to add to every timestamp.
    """

    link_type: int
    snaplen: int
    base: int = 10
    exponent: int = formats.RESOLUTION_DEFAULT
    offset: int = 0
    name: str = ""


def _hexadecimal(data: bytes) -> str:
    return data.hex(" ") or "nothing"


_STRANGERS = {
    b"\xa1\xb2\xcd\x34": "Alexey Kuznetzov's modified pcap",
    b"\x34\xcd\xb2\xa1": "Alexey Kuznetzov's modified pcap",
    b"\xa1\xe2\xcb\x12": "Navtel's pcap",
    b"\x12\xcb\xe2\xa1": "Navtel's pcap",
    b"\x1c\x00\x01\xac": "IXIA's pcap",
    b"\xac\x01\x00\x1c": "IXIA's pcap",
    b"\x1c\x00\x01\xab": "IXIA's pcap",
    b"\xab\x01\x00\x1c": "IXIA's pcap",
    b"snoo": "a Solaris snoop file",
    b"\x28\xb5\x2f\xfd": "zstandard-compressed data",
    b"\x04\x22\x4d\x18": "LZ4-compressed data",
    b"BZh9": "bzip2-compressed data",
    b"\xfd7zX": "xz-compressed data",
}
"""What else comes in capture files, so that the error can say it."""


def parse_file_header(data: bytes) -> FileHeader | None:
    """Read the first 24 bytes of a file; None if they begin a pcapng section instead."""
    magic = data[:4]
    if not data:
        raise BlockError(0, "an empty file", "a pcap or pcapng file")
    if magic == formats.SECTION_HEADER.to_bytes(4, "big"):
        return None
    if magic in _STRANGERS:
        raise BlockError(
            0, _STRANGERS[magic], "pcap, pcapng or gzip (convert it with tshark -r or decompress it)"
        )
    known = (formats.MAGIC_MICROSECONDS, formats.MAGIC_NANOSECONDS)
    if int.from_bytes(magic, "little") in known:
        order, number = "<", int.from_bytes(magic, "little")
    elif int.from_bytes(magic, "big") in known:
        order, number = ">", int.from_bytes(magic, "big")
    else:
        raise BlockError(0, f"the bytes {_hexadecimal(magic)}", "the magic of pcap, pcapng or gzip")
    if len(data) < formats.FILE_HEADER:
        found = f"the end of the file after {len(data)} bytes"
        raise BlockError(0, found, f"a file header of {formats.FILE_HEADER} bytes")
    major, minor, _zone, _figures, snaplen, network = struct.unpack_from(f"{order}HHiIII", data, 4)
    if major != formats.VERSION_MAJOR or minor > formats.VERSION_MINOR:
        raise BlockError(4, f"version {major}.{minor}", "a version from 2.0 to 2.4")
    # Versions before 2.3 have a record's two lengths the other way round, and 2.3 sometimes.
    return FileHeader(
        order=order,
        fraction=1 if number == formats.MAGIC_NANOSECONDS else 1000,
        lengths_swapped=minor < formats.VERSION_MINOR,
        snaplen=snaplen,
        link_type=network & formats.LINK_TYPE_MASK,
    )


def section_order(head: bytes) -> str:
    """Return the byte order of a section, "<" or ">", from the first 12 bytes of its header block."""
    for order in "<>":
        if struct.unpack_from(f"{order}I", head, 8)[0] == formats.BYTE_ORDER_MAGIC:
            return order
    raise BlockError(
        8, f"the bytes {_hexadecimal(head[8:12])}", "the byte-order magic 1a 2b 3c 4d or 4d 3c 2b 1a"
    )


def block_length(head: bytes, order: str, minimum: int) -> int:
    """Return a block's total length from its first 8 bytes, if it can be one."""
    total: int = struct.unpack_from(f"{order}I", head, 4)[0]
    if total % 4 or not minimum <= total <= formats.BLOCK_MAXIMUM:
        expected = f"a multiple of 4 from {minimum} to {formats.BLOCK_MAXIMUM:,}"
        raise BlockError(4, f"a block of {total:,} bytes", expected)
    return total


def _check_trailer(block: bytes, order: str) -> None:
    (trailer,) = struct.unpack_from(f"{order}I", block, len(block) - 4)
    if trailer != len(block):
        found = f"{trailer:,} as the length at a block's end"
        raise BlockError(len(block) - 4, found, f"{len(block):,} as at its beginning")


def check_section(block: bytes, order: str) -> None:
    """Check a whole section header block (section 4.1). Its length field only helps to skip, so it is not
    used."""
    _check_trailer(block, order)
    major, minor, length = struct.unpack_from(f"{order}HHq", block, 12)
    if major != 1 or minor not in (0, 2):
        raise BlockError(12, f"pcapng version {major}.{minor}", "1.0 or 1.2")
    if length < -1 or (length > 0 and length % 4):
        raise BlockError(16, f"a section of {length:,} bytes", "a multiple of 4, or -1 for unknown")
    _options(block, 24, order)


def parse_interface(block: bytes, order: str) -> InterfaceDescription:
    """Read a whole interface description block (section 4.2)."""
    _check_trailer(block, order)
    link_type, _reserved, snaplen = struct.unpack_from(f"{order}HHI", block, 8)
    base, exponent, offset, name = 10, formats.RESOLUTION_DEFAULT, 0, ""
    seen = set()
    for at, code, value in _options(block, 16, order):
        # Options that may stand only once: the first counts.
        if code in seen:
            continue
        seen.add(code)
        if code == formats.INTERFACE_RESOLUTION:
            if len(value) != 1:
                raise BlockError(at, f"an if_tsresol of {len(value)} bytes", "1 byte")
            base, exponent = (2, value[0] & 0x7F) if value[0] & 0x80 else (10, value[0])
            finest = formats.RESOLUTION_BINARY_MAXIMUM if base == 2 else formats.RESOLUTION_DECIMAL_MAXIMUM
            if exponent > finest:
                raise BlockError(
                    at, f"an if_tsresol of {base}^-{exponent} s", f"at finest {base}^-{finest} s"
                )
        elif code == formats.INTERFACE_OFFSET:
            if len(value) != 8:
                raise BlockError(at, f"an if_tsoffset of {len(value)} bytes", "8 bytes")
            (offset,) = struct.unpack(f"{order}q", value)
        elif code == formats.INTERFACE_NAME:
            name = value.decode("utf-8", "replace")
    return InterfaceDescription(link_type, snaplen, base, exponent, offset, name)


def _options(block: bytes, start: int, order: str) -> list[tuple[int, int, bytes]]:
    """List a block's options (section 3.5) as (offset, code, value), having checked every length."""
    stop = len(block) - 4
    found = []
    at = start
    while at < stop:
        # The block is a multiple of 4 long and so is each option, so 4 bytes are there.
        code, length = struct.unpack_from(f"{order}HH", block, at)
        if code == formats.OPTION_END:
            break
        if at + 4 + length > stop:
            room = stop - at - 4
            raise BlockError(at + 2, f"an option of {length:,} bytes", f"at most {room:,} in this block")
        found.append((at, code, block[at + 4 : at + 4 + length]))
        at += 4 + (length + 3) // 4 * 4
    return found


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes, options: dict[int, bytes]) -> bytes:
    if options:
        body += b"".join(_option(code, value) for code, value in options.items()) + _option(
            formats.OPTION_END, b""
        )
    total = struct.pack("<I", formats.BLOCK_MINIMUM + len(body))
    return struct.pack("<I", kind) + total + body + total


def build_file_header(link_type: int, snaplen: int, *, nanosecond: bool) -> bytes:
    """Return pcap's file header, little-endian."""
    magic = formats.MAGIC_NANOSECONDS if nanosecond else formats.MAGIC_MICROSECONDS
    version = (formats.VERSION_MAJOR, formats.VERSION_MINOR)
    return struct.pack("<IHHiIII", magic, *version, 0, 0, snaplen, link_type)


def build_section(application: str, comment: str = "") -> bytes:
    """Return a section header block, little-endian, its section's length unknown."""
    options = {formats.OPTION_COMMENT: comment.encode()} if comment else {}
    options[formats.SECTION_APPLICATION] = application.encode()
    body = struct.pack("<IHHq", formats.BYTE_ORDER_MAGIC, 1, 0, -1)
    return _block(formats.SECTION_HEADER, body, options)


def build_interface(link_type: int, snaplen: int, *, exponent: int, name: str = "") -> bytes:
    """Return an interface description block, little-endian, whose clock ticks 10^exponent times a second."""
    options = {formats.INTERFACE_NAME: name.encode()} if name else {}
    options[formats.INTERFACE_RESOLUTION] = bytes([exponent])
    return _block(formats.INTERFACE_DESCRIPTION, struct.pack("<HHI", link_type, 0, snaplen), options)


def build_packet(interface: int, time: int, data: bytes, length: int, comment: bytes = b"") -> bytes:
    """Return an enhanced packet block (section 4.3), little-endian. time: in the interface's units, since 1970;
    length: of the packet on the wire."""
    options = _comment(comment) if comment else b""
    padding = -len(data) % 4
    total = formats.PACKET_MINIMUM + len(data) + padding + len(options)
    high, low = time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF
    head = _PACKET.pack(formats.ENHANCED_PACKET, total, interface, high, low, len(data), length)
    return b"".join((head, data, bytes(padding), options, total.to_bytes(4, "little")))


@lru_cache(maxsize=64)
def _comment(text: bytes) -> bytes:
    """Options of which a comment is the only one."""
    return _option(formats.OPTION_COMMENT, text) + _option(formats.OPTION_END, b"")


_PACKET = struct.Struct("<7I")
