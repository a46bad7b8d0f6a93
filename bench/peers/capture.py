"""Reads a capture file whole into memory: the list of frames that the Python parsers are then timed on.

Classic pcap in both byte orders and both time resolutions, and pcapng (draft-ietf-opsawg-pcapng, sections 3
and 4) with one link type. Only the bytes matter here, so time stamps are passed over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from .measurement import PeerUnavailable

_SECTION_HEADER, _INTERFACE, _SIMPLE_PACKET, _ENHANCED_PACKET = 0x0A0D0D0A, 1, 3, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D


@dataclass(frozen=True)
class Capture:
    """Frames as captured, and the link type (LINKTYPE_ value) that all of them have."""

    link_type: int
    frames: list[bytes]


def read_capture(path: Path) -> Capture:
    """Loads the file. Raises PeerUnavailable if it is not a capture, is cut short or holds no frame."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PeerUnavailable(f"cannot read the capture: {error}") from error
    try:
        magic = struct.unpack_from("<I", data)[0]
        capture = _read_pcapng(data) if magic == _SECTION_HEADER else _read_pcap(data)
    except struct.error as error:
        raise PeerUnavailable(f"{path.name} is cut short or not a capture: {error}") from error
    except ValueError as error:
        raise PeerUnavailable(f"{path.name}: {error}") from error
    if not capture.frames:
        raise PeerUnavailable(f"{path.name} holds no frame")
    return capture


def _piece(data: bytes, start: int, length: int) -> bytes:
    if start + length > len(data):
        raise ValueError(
            f"a frame of {length} bytes at offset {start} ends beyond the file's {len(data)} bytes"
        )
    return data[start : start + length]


def _read_pcap(data: bytes) -> Capture:
    for order in "<>":
        magic = struct.unpack_from(order + "I", data)[0]
        if magic in (0xA1B2C3D4, 0xA1B23C4D):  # microseconds, nanoseconds
            break
    else:
        raise ValueError("not a pcap or pcapng file")
    link_type = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF  # above it: FCS length and flags
    frames, offset = [], 24
    while offset < len(data):
        length = struct.unpack_from(order + "8xI4x", data, offset)[0]
        frames.append(_piece(data, offset + 16, length))
        offset += 16 + length
    return Capture(link_type, frames)


def _read_pcapng(data: bytes) -> Capture:
    frames: list[bytes] = []
    link_types: set[int] = set()
    order, offset, snap_length = "<", 0, 0
    while offset < len(data):
        kind = struct.unpack_from(order + "I", data, offset)[0]
        if kind == _SECTION_HEADER:
            order = "<" if struct.unpack_from("<I", data, offset + 8)[0] == _BYTE_ORDER_MAGIC else ">"
        total = struct.unpack_from(order + "I", data, offset + 4)[0]
        if total < 12 or total % 4:
            raise ValueError(
                f"a block of {total} bytes at offset {offset}; expected a multiple of 4, 12 or more"
            )
        if kind == _INTERFACE:
            link_type, snap_length = struct.unpack_from(order + "H2xI", data, offset + 8)
            link_types.add(link_type)
        elif kind == _ENHANCED_PACKET:
            frames.append(_piece(data, offset + 28, struct.unpack_from(order + "I", data, offset + 20)[0]))
        elif kind == _SIMPLE_PACKET:  # its captured length is not written down (section 4.4)
            original = struct.unpack_from(order + "I", data, offset + 8)[0]
            frames.append(_piece(data, offset + 12, min(original, snap_length or original, total - 16)))
        offset += total
    if len(link_types) != 1:
        raise ValueError(
            f"expected interfaces of one link type, found {sorted(link_types) or 'no interface'}"
        )
    return Capture(link_types.pop(), frames)
