#!/usr/bin/env python3
"""Make the small captures beside this file and their README.md, the same bytes at every run.

    python tests/data/captures/make.py            writes what is missing or differs
    python tests/data/captures/make.py --check    compares what lies here with what would be written

Scapy makes the frames (frames.py); the containers are written here, byte by byte, because which byte order,
resolution and block a file uses is what the tests are about.

Packet n of a file, from 0, has the time 1700000000.123456789 + 0.25 n seconds since 1970, cut down to a whole
number of the file's (or interface's) units.
"""

from __future__ import annotations

import argparse
import gzip
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import frames
from frames import Frame

HERE = Path(__file__).resolve().parent
START = Fraction(1_700_000_000_123_456_789, 10**9)  # seconds
STEP = Fraction(1, 4)
ETHERNET, RAW_IP = 1, 101  # LINKTYPE_ETHERNET, LINKTYPE_RAW


@dataclass(frozen=True)
class Capture:
    """One file: its contents and what the README says of it."""

    name: str
    contents: bytes
    packets: int
    container: str
    about: str


# --- containers ---------------------------------------------------------------------------------------------


def ticks(number: int, per_second: int) -> int:
    return int((START + STEP * number) * per_second)


def pcap(packets: Sequence[Frame], order: str = "<", nano: bool = False, link: int = ETHERNET,
         snap: int = 262144) -> bytes:  # fmt: skip
    """Classic pcap (draft-ietf-opsawg-pcap, sections 4 and 5)."""
    unit = 10**9 if nano else 10**6
    out = struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snap, link)
    for number, frame in enumerate(packets):
        seconds, fraction = divmod(ticks(number, unit), unit)
        out += struct.pack(order + "IIII", seconds, fraction, len(frame.kept), frame.length) + frame.kept
    return out


class PcapngSection:
    """The blocks of one pcapng section (draft-ietf-opsawg-pcapng, sections 3 and 4)."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.bytes = b""
        self.interfaces: list[tuple[int, int]] = []  # units in a second, offset in seconds
        self.block(0x0A0D0D0A, self.pack("IHHq", 0x1A2B3C4D, 1, 0, -1))

    def pack(self, layout: str, *values: int) -> bytes:
        return struct.pack(self.order + layout, *values)

    def block(self, kind: int, body: bytes) -> None:
        body += bytes(-len(body) % 4)
        length = self.pack("I", len(body) + 12)
        self.bytes += self.pack("I", kind) + length + body + length

    def options(self, *pairs: tuple[int, bytes]) -> bytes:
        written = (self.pack("HH", code, len(text)) + text + bytes(-len(text) % 4) for code, text in pairs)
        return b"".join(written) + (self.pack("HH", 0, 0) if pairs else b"")

    def interface(self, name: str, resolution: int | None, offset: int = 0, snap: int = 0) -> None:
        """`resolution` is if_tsresol: 10^-n, or 2^-n with the top bit; without it, microseconds."""
        options = [(2, name.encode())]
        if resolution is not None:
            options.append((9, bytes([resolution])))
        if offset:
            options.append((14, self.pack("q", offset)))
        power = resolution if resolution is not None else 6
        self.interfaces.append((2 ** (power & 0x7F) if power & 0x80 else 10**power, offset))
        self.block(1, self.pack("HHI", ETHERNET, 0, snap) + self.options(*options))

    def enhanced(self, number: int, interface: int, frame: Frame, *options: tuple[int, bytes]) -> None:
        unit, offset = self.interfaces[interface]
        time = ticks(number, unit) - offset * unit
        head = self.pack("IIIII", interface, time >> 32, time & 0xFFFFFFFF, len(frame.kept), frame.length)
        self.block(6, head + frame.kept + bytes(-len(frame.kept) % 4) + self.options(*options))

    def simple(self, frame: Frame) -> None:
        self.block(3, self.pack("I", frame.length) + frame.kept)

    def statistics(self, interface: int, received: int) -> None:
        unit, offset = self.interfaces[interface]
        time = ticks(received, unit) - offset * unit
        counters = self.options((4, self.pack("Q", received)), (5, self.pack("Q", 0)))
        self.block(5, self.pack("III", interface, time >> 32, time & 0xFFFFFFFF) + counters)


def two_interfaces(order: str, first: int | None, second: int) -> bytes:
    """The six packets, in turn on two interfaces of different resolution."""
    section = PcapngSection(order)
    section.interface("left", first)
    section.interface("right", second)
    for number, frame in enumerate(frames.six()):
        section.enhanced(number, number % 2, frame)
    section.statistics(0, 3)
    section.statistics(1, 3)
    return section.bytes


def every_block() -> bytes:
    """Packets 0 and 2 of the six, between them packet 5 in a simple packet block (no time, cut to 96 bytes);
    name resolution, custom and unknown blocks; comment, flags and unknown options.  tshark shows the custom
    block as a fourth frame.
    """
    left = PcapngSection("<")
    left.interface("offset", 9, offset=1_600_000_000, snap=96)
    packets = frames.six()
    comment, flags = (1, b"seen inbound"), (2, left.pack("I", 1))
    left.enhanced(0, 0, packets[0], comment, flags)
    name = bytes([192, 0, 2, 10]) + b"a.example\0"
    left.block(4, left.pack("HH", 1, len(name)) + name + bytes(-len(name) % 4) + left.pack("HH", 0, 0))
    left.block(0x0BAD, left.pack("I", 32473) + b"custom block")  # RFC 5612: an example enterprise number
    left.block(0x7FFF0001, b"a block of a kind that nobody has defined")
    left.simple(Frame(packets[5].kept[:96], packets[5].length))  # cut by the interface's snap length; no time
    right = PcapngSection(">")
    right.interface("second section", 6)
    right.enhanced(2, 0, packets[2], (0x8F01, b"unknown option"))
    right.statistics(0, 1)
    return left.bytes + right.bytes


# --- the files ----------------------------------------------------------------------------------------------


def captures() -> list[Capture]:
    """All files, in the README's order; what a file's packets are is said by the function that makes them."""
    made: list[Capture] = []

    def add(name: str, contents: bytes, packets: int, container: str, about: str) -> None:
        made.append(Capture(name, contents, packets, container, " ".join(about.split())))

    def plain(
        build: Callable[[], list[Frame]], container: str, snap: int = 262144, link: int = ETHERNET
    ) -> None:
        packets = build()
        name = build.__name__.replace("_", "-") + ".pcap"
        add(name, pcap(packets, snap=snap, link=link), len(packets), container, build.__doc__ or "")

    for order, short, long in (("<", "le", "little-endian"), (">", "be", "big-endian")):
        for nano, unit in ((False, "microseconds"), (True, "nanoseconds")):
            name = f"pcap-{short}-{'nsec' if nano else 'usec'}.pcap"
            add(name, pcap(frames.six(), order, nano), 6, f"pcap, {long}, {unit}", frames.six.__doc__ or "")
    left, right = two_interfaces("<", None, 9), two_interfaces(">", 3, 0x80 | 20)
    turns = "The same six, in turn on interfaces 0 and 1."
    add("pcapng-le.pcapng", left, 6, "pcapng, little-endian, no if_tsresol (microseconds) and 10^-9", turns)
    add("pcapng-be.pcapng", right, 6, "pcapng, big-endian, if_tsresol 10^-3 and 2^-20", turns)
    sections = "pcapng, a little-endian section (if_tsoffset), then a big-endian one"
    add("pcapng-blocks.pcapng", every_block(), 3, sections, every_block.__doc__ or "")
    packed = "The same as the file without `.gz`."
    add("pcap-le-usec.pcap.gz", gzip.compress(pcap(frames.six()), 9, mtime=0), 6, "gzip of pcap", packed)
    add("pcapng-le.pcapng.gz", gzip.compress(left, 9, mtime=0), 6, "gzip of pcapng", packed)
    for build in (
        frames.ipv6_extension_headers,
        frames.vlan_qinq,
        frames.arp,
        frames.icmp_errors,
        frames.ipv4_options_fragments,
        frames.tcp_options,
        frames.udp_zero_checksum,
        frames.zero_length_and_runts,
        frames.jumbo,
    ):
        plain(build, "pcap, little-endian, microseconds")
    plain(frames.snapped, "pcap, snap length 64", snap=64)
    plain(frames.raw_ip, "pcap, LINKTYPE_RAW (101)", link=RAW_IP)
    return made


README = """# Small captures for the tests

Made by `make.py` (packets: `frames.py`) together with this file; `make.py --check` compares. Addresses and
MACs are those reserved for documentation. Every checksum is right unless it says *odd*, and the link type is
Ethernet unless it says otherwise. Packet *n* of a file, from 0, has the time 1700000000.123456789 + 0.25 *n*
seconds since 1970, cut down to a whole number of the file's (or the interface's) units.

| file | packets | container | packets in it |
|---|---:|---|---|
"""


def readme(made: Sequence[Capture]) -> str:
    rows = (f"| {one.name} | {one.packets} | {one.container} | {one.about} |\n" for one in made)
    return README + "".join(rows)


def differs(path: Path, contents: bytes) -> bool:
    """Whether the file is missing or holds something else; zlibs may compress the same bytes differently."""
    if not path.exists():
        return True
    found = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(found) != gzip.decompress(contents)
    return found != contents


def main() -> None:
    arguments = argparse.ArgumentParser(description="Make the small captures for the tests.")
    arguments.add_argument("--check", action="store_true", help="write nothing, name what differs")
    check: bool = arguments.parse_args().check
    made = captures()
    files = {one.name: one.contents for one in made} | {"README.md": readme(made).encode()}
    wrong = [name for name, contents in files.items() if differs(HERE / name, contents)]
    if not check:
        for name in wrong:
            (HERE / name).write_bytes(files[name])
    done = "differ" if check else "written"
    print(f"{len(files)} files, {len(wrong)} {done}: {', '.join(wrong) or 'none'}")
    sys.exit(1 if check and wrong else 0)


if __name__ == "__main__":
    main()
