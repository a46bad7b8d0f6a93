"""The templates that packets are copied from, and the sums that their checksums begin with. Control plane."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raceway.apps.generator.options import HEADERS, MARK_SIZE, NUMBERED, Options
from raceway.apps.generator.ranges import AddressRange, MacRange
from raceway.apps.generator.records import MAGIC_PING, MAGIC_SEQUENCE, Frame, Side, Sums
from raceway.memory.structures import allocate

Array = np.ndarray[Any, np.dtype[Any]]

_LINE = 64
_TEXT = b"raceway pkt-gen "
_UDP = 17
_HOPS = 64


@dataclass(frozen=True)
class Frames:
    """frames: FRAME records. sides: two SIDE records, source and destination. sums: a SUMS record for each size.

    data: uint8, the bytes that the frames' addresses point into. longest: bytes of the longest frame.
    """

    data: Array
    frames: Array
    sides: Array
    sums: Array
    longest: int
    varied: bool
    link_types: frozenset[int] = frozenset((1,))


def made(options: Options) -> Frames:
    """One template for all packets: Ethernet, IPv4 or IPv6, UDP and a payload of text.

    With random sizes, ranges or sequence numbers (`varied`), each packet's own part is stored over its copy.
    """
    frame = template(options, options.sizes[1] - 1)
    data = np.zeros(-(-len(frame) // _LINE) * _LINE, dtype=np.uint8)
    data[: len(frame)] = np.frombuffer(frame, dtype=np.uint8)
    frames = allocate(Frame)
    frames["start"], frames["length"] = data.ctypes.data, len(frame)
    varied = options.varied or options.function in NUMBERED
    return Frames(data, frames, _sides(options), _sums(frame, options), len(frame), varied)


def from_file(path: Path) -> Frames:
    """Every packet of a capture file, in its order. OSError, CaptureFileError; ValueError if it has none."""
    from raceway.ports.pcap.capture import load_capture

    capture = load_capture(path)
    if not len(capture):
        raise ValueError(f"-P {path}: the file has no packets")
    # Frames are copied in whole lines, so the last one must be followed by readable bytes.
    data = np.concatenate([capture.data, np.zeros(_LINE, dtype=np.uint8)])
    frames = allocate(Frame, len(capture))
    frames["start"] = capture.offsets + data.ctypes.data
    frames["length"] = capture.lengths
    kinds = frozenset(np.unique(capture.link_types).tolist())
    return Frames(data, frames, allocate(Side, 2), allocate(Sums), int(capture.lengths.max()), False, kinds)


def template(options: Options, size: int) -> bytes:
    """A frame of `size` bytes with the first address, port and MAC address of each range, checksums filled in."""
    source, destination = options.source, options.destination
    length = size - HEADERS[options.version]
    payload = bytearray((_TEXT * (length // len(_TEXT) + 1))[:length])
    if options.function in NUMBERED:
        magic = MAGIC_PING if options.function == "ping" else MAGIC_SEQUENCE
        payload[:MARK_SIZE] = magic.to_bytes(4, "big") + bytes(MARK_SIZE - 4)
    ethernet = options.destination_mac.first.to_bytes(6, "big") + options.source_mac.first.to_bytes(6, "big")
    datagram = length + 8
    width = 4 if options.version == 4 else 16
    addresses = source.first.to_bytes(width, "big") + destination.first.to_bytes(width, "big")
    ports = source.first_port.to_bytes(2, "big") + destination.first_port.to_bytes(2, "big")
    udp = ports + datagram.to_bytes(2, "big") + bytes(2)
    # RFC 768's pseudo-header, or RFC 8200's (8.1): as sums they are the same.
    pseudo = addresses + datagram.to_bytes(4, "big") + _UDP.to_bytes(4, "big")
    checksum = ~folded(word_sum(pseudo + udp + payload)) & 0xFFFF or 0xFFFF
    udp = udp[:6] + checksum.to_bytes(2, "big")
    if options.version == 4:
        # RFC 791, 3.1: version 4, 5 words, low delay; identification 0 and "don't fragment".
        ip = (
            b"\x45\x10"
            + (datagram + 20).to_bytes(2, "big")
            + b"\0\0\x40\0"
            + bytes([_HOPS, _UDP, 0, 0])
            + addresses
        )
        ip = ip[:10] + (~folded(word_sum(ip)) & 0xFFFF).to_bytes(2, "big") + ip[12:]
        return ethernet + b"\x08\0" + ip + udp + payload
    # RFC 8200, 3.
    ip = b"\x60\0\0\0" + datagram.to_bytes(2, "big") + bytes([_UDP, _HOPS]) + addresses
    return ethernet + b"\x86\xdd" + ip + udp + payload


def word_sum(data: bytes | bytearray) -> int:
    """The sum of the 16-bit words of `data`, an odd byte at its end padded with zero (RFC 1071)."""
    return int(np.frombuffer(bytes(data) + bytes(len(data) % 2), dtype=">u2").sum(dtype=np.int64))


def folded(total: int) -> int:
    """A sum with its carries added back in: 16 bits."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _sums(frame: bytes, options: Options) -> Array:
    """For each size: the sums over what packets of that size have in common, folded to 16 bits."""
    smallest, end = options.sizes
    sizes = np.arange(smallest, end, dtype=np.int64)
    headers = HEADERS[options.version]
    datagram = sizes - headers + 8
    payload = np.frombuffer(frame[headers:], dtype=np.uint8).astype(np.int64)
    # Even bytes are the upper halves of words; an odd last one is, with its padding, a word as well.
    payload[::2] <<= 8
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(payload)])
    udp = running[sizes - headers] + 2 * datagram + _UDP
    ip = np.zeros(len(sizes), dtype=np.int64)
    if options.version == 4:
        ip += word_sum(frame[14:24]) - int.from_bytes(frame[16:18], "big") + datagram + 20
    else:
        # The first half of each address is the same in all packets.
        udp += word_sum(frame[22:30]) + word_sum(frame[38:46])
    sums = allocate(Sums, len(sizes))
    for name, total in (("ip", ip), ("udp", udp)):
        for _ in range(3):
            total = (total & 0xFFFF) + (total >> 16)
        sums[name] = total
    return sums


def _sides(options: Options) -> Array:
    sides = allocate(Side, 2)
    _fill_side(sides[0], options.source, options.source_mac, options.random_source)
    _fill_side(sides[1], options.destination, options.destination_mac, options.random_destination)
    four = options.version == 4
    # Where in the frame: the last 4 or 8 bytes of the address, the port, the MAC address.
    sides["at"] = (26, 30) if four else (30, 46)
    sides["port_at"] = (34, 36) if four else (54, 56)
    sides["mac_at"] = (6, 0)
    return sides


def _fill_side(side: Any, addresses: AddressRange, macs: MacRange, random: bool) -> None:
    low = addresses.first & ((1 << 64) - 1)
    # Records hold signed numbers; the bits are the same.
    side["first"] = low - (1 << 64) if low >> 63 else low
    side["span"] = addresses.last - addresses.first
    side["port"] = side["port_first"] = addresses.first_port
    side["port_last"] = addresses.last_port
    side["mac"], side["mac_span"] = macs.first, macs.last - macs.first
    side["random"] = random
