"""Addresses as numbers that compare with text: `ip.source == "10.0.0.0/8"` means "belongs to".

An IPv4, IPv6 or MAC address is an `int` subclass whose `==` understands prefixes, written as text or as a
`Prefix`. Compiled code has the same values without the text: the checker turns every literal into a `Prefix` when the
function is decorated, and comparing with one is a mask and a comparison.

Text forms: RFC 4632 section 3.1 for IPv4 prefixes, RFC 4291 section 2.2 and 2.3 for IPv6, six hexadecimal bytes with
colons (or hyphens) for MAC addresses, and the same `/length` behind those.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, ClassVar, TypeVar

_WORD = (1 << 64) - 1
_A = TypeVar("_A", bound="Address")


def signed64(value: int) -> int:
    """The 64 low bits of `value` as a signed number, which is what compiled code holds."""
    value &= _WORD
    return value - ((value >> 63) << 64)


class Address(int):
    """Base of the addresses: an int of `bits` bits that compares with prefixes as "belongs to"."""

    bits: ClassVar[int] = 0
    family: ClassVar[str] = ""
    __slots__ = ()

    def __new__(cls: type[_A], value: int | str) -> _A:
        if isinstance(value, str):
            parsed = prefix(value)
            if parsed.family != cls.family or not parsed.is_address:
                raise ValueError(f"{value!r} is not a {_NAMES[cls.family]} address")
            return int.__new__(cls, parsed.value)
        return int.__new__(cls, int(value) & ((1 << cls.bits) - 1))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            other = prefix(other)
        if isinstance(other, Prefix):
            return self in other
        if isinstance(other, Address) and other.family != self.family:
            return False
        return int.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self}')"


class IPv4Address(Address):
    """An IPv4 address: 32 bits."""

    bits = 32
    family = "ipv4"
    __slots__ = ()

    def __str__(self) -> str:
        return str(ipaddress.IPv4Address(int(self)))

    __format__ = object.__format__


class IPv6Address(Address):
    """An IPv6 address: 128 bits; `high` and `low` are its halves as signed 64-bit numbers, as in compiled code."""

    bits = 128
    family = "ipv6"
    __slots__ = ()

    @property
    def high(self) -> int:
        """The first 8 bytes, signed."""
        return signed64(int(self) >> 64)

    @property
    def low(self) -> int:
        """The last 8 bytes, signed."""
        return signed64(int(self))

    def __str__(self) -> str:
        return str(ipaddress.IPv6Address(int(self)))

    __format__ = object.__format__


class MACAddress(Address):
    """An Ethernet address: 48 bits."""

    bits = 48
    family = "mac"
    __slots__ = ()

    def __str__(self) -> str:
        return ":".join(f"{byte:02x}" for byte in int(self).to_bytes(6, "big"))

    __format__ = object.__format__


_NAMES = {"ipv4": "IPv4", "ipv6": "IPv6", "mac": "MAC"}
_KINDS: dict[str, type[Address]] = {"ipv4": IPv4Address, "ipv6": IPv6Address, "mac": MACAddress}


class Prefix:
    """All addresses that begin with the same `length` bits. Made by `prefix`; never changes."""

    __slots__ = ("family", "length", "value")
    family: str
    value: int
    length: int

    def __init__(self, family: str, value: int, length: int) -> None:
        object.__setattr__(self, "family", family)
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "length", length)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a prefix does not change; make another")

    @property
    def bits(self) -> int:
        """Bits of an address of this family: 32, 48 or 128."""
        return _KINDS[self.family].bits

    @property
    def mask(self) -> int:
        """The number whose set bits are those that the prefix decides."""
        return ((1 << self.length) - 1) << (self.bits - self.length)

    @property
    def is_address(self) -> bool:
        """Whether this prefix holds one address only."""
        return self.length == self.bits

    @property
    def address(self) -> Address:
        """The first address of the prefix."""
        return _KINDS[self.family](self.value)

    def __contains__(self, address: object) -> bool:
        if isinstance(address, str):
            address = prefix(address)
        if isinstance(address, Prefix):
            inside = address.length >= self.length and address.value & self.mask == self.value
            return address.family == self.family and inside
        if not isinstance(address, Address):
            raise TypeError(f"{address!r} is not an address; only an address can belong to {self}")
        return address.family == self.family and int(address) & self.mask == self.value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Address):
            return other in self
        if isinstance(other, str):
            other = prefix(other)
        if not isinstance(other, Prefix):
            return NotImplemented
        return (self.family, self.value, self.length) == (other.family, other.value, other.length)

    def __hash__(self) -> int:
        # Equal to the address of which it is the only prefix, hence the same hash.
        return hash(self.value) if self.is_address else hash((self.family, self.value, self.length))

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{self} is one prefix; to compare with several put them in a tuple")

    def __str__(self) -> str:
        return str(self.address) if self.is_address else f"{self.address}/{self.length}"

    def __repr__(self) -> str:
        return f"raceway.prefix('{self}')"


_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}")
_LENGTH = re.compile(r"[0-9]{1,3}")


@lru_cache(maxsize=4096)
def prefix(text: str) -> Prefix:
    """Read an address or a prefix: "10.0.0.0/8", "10.1.2.3", "2001:db8::/32", "01:00:5e:00:00:00/25".

    Raises ValueError, with what is wrong, for anything else, and for bits set behind the prefix's length.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address or prefix is written as text, got {text!r}")
    written, slash, length_text = text.partition("/")
    family, value = _address(written, text)
    bits = _KINDS[family].bits
    length = bits
    if slash:
        if not _LENGTH.fullmatch(length_text) or int(length_text) > bits:
            raise ValueError(
                f"{text!r}: the prefix length must be a number from 0 to {bits}, got {length_text!r}"
            )
        length = int(length_text)
    made = Prefix(family, value, length)
    if value & ~made.mask:
        meant = Prefix(family, value & made.mask, length)
        raise ValueError(f"{text!r} has bits set behind its first {length}; did you mean '{meant}'?")
    return made


def _address(written: str, text: str) -> tuple[str, int]:
    family, kind = ("ipv6", AF_INET6) if ":" in written else ("ipv4", AF_INET)
    try:
        # Several times as fast as `ipaddress`, which says what is wrong with the others.
        return family, int.from_bytes(inet_pton(kind, written), "big")
    except (OSError, ValueError):
        pass
    if _MAC.fullmatch(written):
        return "mac", int(written.replace(":", "").replace("-", ""), 16)
    try:
        if ":" in written:
            if "%" in written:
                raise ValueError("a zone (%) is not part of an address in a packet")
            return "ipv6", int(ipaddress.IPv6Address(written))
        return "ipv4", int(ipaddress.IPv4Address(written))
    except ValueError as error:
        reason = str(error) if "zone" in str(error) else "neither an IPv4, IPv6 nor MAC address"
        raise ValueError(f"{text!r} is not an address or prefix: {reason}") from None
