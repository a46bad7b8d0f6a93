"""What is asked of the generator, checked as far as it can be without a port. Imports neither numpy nor numba."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from raceway.apps.generator.ranges import AddressRange, MacRange, address_range, mac_range

FUNCTIONS = ("tx", "rx", "ping", "pong", "txseq", "rxseq")
SENDING = ("tx", "txseq", "ping")
NUMBERED = ("txseq", "ping")
ONE_THREAD = ("txseq", "rxseq", "ping", "pong")

LARGEST_SIZE = 65_536
LARGEST_BURST = 1 << 20
LARGEST_RATE = 1_000_000_000
MARK_SIZE = 12
"""Bytes at the start of a UDP payload that txseq and ping need: 4 of magic and 8 of sequence number, network order."""
HEADERS = {4: 14 + 20 + 8, 6: 14 + 40 + 8}
"""Bytes of Ethernet, IP and UDP headers."""

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_ADDRESSES = {4: ("10.0.0.1", "10.1.0.1"), 6: ("2001:db8::1", "2001:db8::2")}
_SOURCE_MAC, _BROADCAST = "02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff"


def number(text: str, option: str, most: int) -> int:
    """Read a number of 0 to `most` with k, M or G for thousands, millions, thousand millions; ValueError if none."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kKmMgG]?)", text.strip())
    if match is None:
        raise ValueError(f"{option} {text}: expected a number, with k, M or G behind it if you like")
    value = (
        round(float(match[1]) * _SUFFIXES[match[2].lower()]) if "." in match[1] or match[2] else int(match[1])
    )
    if value > most:
        raise ValueError(f"{option} {text}: expected at most {most:,}")
    return value


def size_range(sizes: list[int], function: str, version: int) -> tuple[int, int]:
    """The smallest size and the one after the largest, from what -l was given (nothing, one size or two).

    One size is the size of every packet. Two are a random size for each, at least the smaller and, as with
    netmap's pkt-gen, less than the larger. Without -l: 60 bytes, or the least that holds the headers.
    """
    least = HEADERS[version] + (MARK_SIZE if function in NUMBERED else 0)
    if len(sizes) > 2:
        raise ValueError(
            f"-l was given {len(sizes)} times: expected one size, or two for random sizes between"
        )
    for size in sizes:
        if not least <= size <= LARGEST_SIZE:
            headers = f"Ethernet, IPv{version} and UDP headers" + (
                " and a sequence number" if function in NUMBERED else ""
            )
            raise ValueError(f"-l {size}: expected {least} ({headers}) to {LARGEST_SIZE} bytes")
    if not sizes:
        return max(60, least), max(60, least) + 1
    smallest, largest = min(sizes), max(sizes)
    return smallest, max(largest, smallest + 1)


def ring_numbers(text: str) -> tuple[int, int, int, int]:
    """tx slots, rx slots, tx rings, rx rings from `-C`; 0 is the port's usual. One slots number, and one rings
    number, stand for both directions."""
    words = text.split(",")
    if len(words) > 4 or not all(re.fullmatch("[0-9]*", word) for word in words):
        raise ValueError(
            f"-C {text}: expected TX_SLOTS[,RX_SLOTS[,TX_RINGS[,RX_RINGS]]], numbers with commas between"
        )
    values = [int(word or "0") for word in words]
    slots = values[1] if len(values) > 1 else values[0]
    transmit_rings = values[2] if len(values) > 2 else 0
    return values[0], slots, transmit_rings, values[3] if len(values) > 3 else transmit_rings


@dataclass(frozen=True)
class Options:
    """Everything that `raceway pkt-gen` can be told. `read` makes one from a command line's words.

    sizes: smallest frame in bytes without check sequence, and one more than the largest. rate: packets a second
    of all threads together, 0 for no limit. wait: seconds before the start; None: until the other end is open.
    """

    port: str
    function: str = "rx"
    count: int = 0
    sizes: tuple[int, int] = (60, 61)
    burst: int = 512
    rate: int = 0
    source: AddressRange = field(default_factory=lambda: address_range(_ADDRESSES[4][0], 4))
    destination: AddressRange = field(default_factory=lambda: address_range(_ADDRESSES[4][1], 4))
    source_mac: MacRange = field(default_factory=lambda: mac_range(_SOURCE_MAC))
    destination_mac: MacRange = field(default_factory=lambda: mac_range(_BROADCAST))
    random_source: bool = False
    random_destination: bool = False
    file: Path | None = None
    wait: float | None = None
    threads: int = 1
    cpus: int = 0
    affinity: int | None = None
    dump: bool = False
    stop_when_quiet: bool = False
    rings: tuple[int, int, int, int] = (0, 0, 0, 0)
    expression: str = ""

    @property
    def version(self) -> int:
        """4 or 6, the IP version of the frames."""
        return self.source.version

    @property
    def varied(self) -> bool:
        """True if packets differ in size, addresses or ports."""
        macs = (self.source_mac, self.destination_mac)
        return (
            self.sizes[1] - self.sizes[0] > 1
            or self.random_source
            or self.random_destination
            or self.source.count > 1
            or self.destination.count > 1
            or any(mac.last > mac.first for mac in macs)
        )

    @property
    def sends(self) -> bool:
        """True if the function makes packets of its own."""
        return self.function in SENDING


def read(
    port: str,
    function: str = "rx",
    *,
    count: str = "0",
    sizes: list[int] | None = None,
    burst: int = 0,
    rate: str = "0",
    source: str | None = None,
    destination: str | None = None,
    source_mac: str | None = None,
    destination_mac: str | None = None,
    version: int = 4,
    random_source: bool = False,
    random_destination: bool = False,
    file: Path | None = None,
    wait: float | None = None,
    threads: int = 1,
    cpus: int = 0,
    affinity: int | None = None,
    dump: bool = False,
    stop_when_quiet: bool = False,
    rings: str = "",
    expression: str = "",
) -> Options:
    """Check a command line's words and numbers; ValueError that names the option, the value and what was expected."""
    if function not in FUNCTIONS:
        raise ValueError(f"-f {function}: expected one of {', '.join(FUNCTIONS)}")
    if file is not None:
        given: dict[str, object] = {
            "-l": sizes,
            "-s": source,
            "-d": destination,
            "-S": source_mac,
            "-D": destination_mac,
        }
        given |= {"-z": random_source, "-Z": random_destination}
        extra = ", ".join(option for option, value in given.items() if value)
        if extra:
            raise ValueError(f"-P {file}: a file's packets are sent as they are; expected no {extra}")
        if function != "tx":
            raise ValueError(f"-P {file}: only -f tx sends a file's packets, not {function}")
    if not 0 <= burst <= LARGEST_BURST:
        raise ValueError(f"-b {burst}: expected 1 to {LARGEST_BURST:,} packets at a time")
    if threads < 1:
        raise ValueError(f"-p {threads}: expected 1 thread or more")
    if threads > 1 and function in ONE_THREAD:
        raise ValueError(f"-p {threads}: {function} follows one stream and needs one thread, expected -p 1")
    if expression.strip() and (function != "rx" or dump):
        what = "-X prints all that comes (raceway dump takes an expression)" if dump else f"not {function}"
        raise ValueError(f"--filter {expression}: only -f rx counts by an expression, {what}")
    if wait is not None and not 0 <= wait <= 86_400:
        raise ValueError(f"-w {wait:g}: expected 0 to 86400 seconds")
    options = Options(
        port=port,
        function=function,
        count=number(count, "-n", (1 << 62) - 1),
        sizes=size_range(sizes or [], function, version),
        burst=burst or 512,
        rate=number(rate, "-R", LARGEST_RATE),
        source=address_range(source or _ADDRESSES[version][0], version, "-s"),
        destination=address_range(destination or _ADDRESSES[version][1], version, "-d"),
        source_mac=mac_range(source_mac or _SOURCE_MAC, "-S"),
        destination_mac=mac_range(destination_mac or _BROADCAST, "-D"),
        random_source=random_source,
        random_destination=random_destination,
        file=file,
        wait=wait,
        threads=threads,
        cpus=cpus,
        affinity=affinity,
        dump=dump,
        stop_when_quiet=stop_when_quiet,
        rings=ring_numbers(rings),
        expression=expression,
    )
    if function == "ping" and options.varied:
        raise ValueError(
            "ping sends packets that differ in nothing but their number: expected no ranges, no -z, no -Z, one -l"
        )
    return options
