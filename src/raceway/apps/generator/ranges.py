"""Addresses, ports, MAC addresses and their ranges, as netmap's pkt-gen writes them.

    10.0.0.1                              one address, port 1234
    10.0.0.1:53                           one address and port
    10.0.0.1-10.0.0.9                     a range of addresses
    10.0.0.1:1000-10.0.0.9:2000           of both; every port of the first address, then of the second, ...
    [2001:db8::1]:53-[2001:db8::9]:54     IPv6: brackets where a port follows
    02:00:00:00:00:01-02:00:00:00:00:ff   MAC addresses

A range written backwards means the same as forwards.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

DEFAULT_PORT = 1234
_MAC = re.compile(r"[0-9A-Fa-f]{1,2}(?:[:-][0-9A-Fa-f]{1,2}){5}")


@dataclass(frozen=True)
class AddressRange:
    """IP addresses `first` to `last` as numbers, each with ports `first_port` to `last_port`; version 4 or 6."""

    version: int
    first: int
    last: int
    first_port: int = DEFAULT_PORT
    last_port: int = DEFAULT_PORT

    @property
    def count(self) -> int:
        """How many pairs of address and port."""
        return (self.last - self.first + 1) * (self.last_port - self.first_port + 1)


@dataclass(frozen=True)
class MacRange:
    """MAC addresses `first` to `last` as 48-bit numbers."""

    first: int
    last: int


def address_range(text: str, version: int, option: str = "address") -> AddressRange:
    """Read `ADDRESS[:PORT][-ADDRESS[:PORT]]`; ValueError naming `option` and the word that is wrong."""
    words = text.split("-")
    if len(words) > 2:
        raise ValueError(f"{option} {text}: expected one address, or two with one dash between them")
    first, first_port = _address(words[0], version, option)
    last, last_port = _address(words[-1], version, option)
    first_port = DEFAULT_PORT if first_port is None else first_port
    # As in netmap's: a range whose end names no port has the one port.
    last_port = first_port if last_port is None else last_port
    if version == 6 and first >> 64 != last >> 64:
        raise ValueError(f"{option} {text}: both ends of a range must lie in the same /64")
    if abs(last - first) >= 1 << 63:
        raise ValueError(f"{option} {text}: expected a range of fewer than 2^63 addresses")
    return AddressRange(
        version, min(first, last), max(first, last), min(first_port, last_port), max(first_port, last_port)
    )


def _address(word: str, version: int, option: str) -> tuple[int, int | None]:
    host, port = word, None
    if version == 4:
        host, colon, port_word = word.partition(":")
        port = port_word if colon else None
    elif word.startswith("["):
        host, bracket, rest = word[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{option} {word}: expected [ADDRESS] or [ADDRESS]:PORT")
        port = rest[1:] if rest else None
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    try:
        address = int(kind(host))
    except ValueError:
        hint = ""
        if version == 4 and _is_address(word.strip("[]").partition("]")[0], 6):
            hint = "; -6 is for IPv6"
        elif version == 6 and _is_address(host.partition(":")[0], 4):
            hint = "; -4 is for IPv4"
        raise ValueError(f"{option} {word}: {host!r} is no IPv{version} address{hint}") from None
    if port is None:
        return address, None
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"{option} {word}: {port!r} is no port, expected 0 to 65535")
    return address, int(port)


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def mac_range(text: str, option: str = "MAC address") -> MacRange:
    """Read `MAC[-MAC]`, six bytes in hexadecimal with colons; ValueError naming `option` and the word."""
    words = text.split("-") if ":" in text else [text]
    if len(words) > 2:
        raise ValueError(f"{option} {text}: expected one MAC address, or two with one dash between them")
    ends = []
    for word in words:
        if not _MAC.fullmatch(word):
            raise ValueError(
                f"{option} {text}: {word!r} is no MAC address, expected six bytes as 02:00:00:00:00:01"
            )
        ends.append(int.from_bytes(bytes(int(byte, 16) for byte in re.split("[:-]", word)), "big"))
    return MacRange(min(ends), max(ends))
