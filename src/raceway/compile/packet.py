"""The interpreted packet: every attribute that compiled code has, over any buffer of bytes.

The header views are made from the table in `headers`; where they start is found by `locate`, setters are those of
`checksums`. What is written here is only what differs between the worlds: loads, stores and the bounds check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from raceway.compile import checksums, five_tuple, head, headers, locate
from raceway.compile.addresses import Address, IPv4Address, IPv6Address, MACAddress, Prefix, prefix, signed64
from raceway.compile.headers import MAXIMUM_PACKET, Field, Header

_WORD = (1 << 64) - 1
_blank = object.__new__


class Packet:
    """A packet: bytes from the Ethernet header on, and what is known of it.

    data: a writable buffer (a ring's memoryview, a bytearray, an array of bytes), used where it is; bytes are
    copied. time: nanoseconds since 1970. port, ring: where it came in. A load or store that is not wholly inside
    the first 65,535 bytes of the packet raises IndexError. A packet that grows lies in memory of its own from then on:
    `data`, or bytes(packet), is what it is now.
    """

    __slots__ = ("_begin", "_buffer", "_length", "_start", "data", "port", "ring", "time")

    def __init__(self, data: Any, *, time: int = 0, port: int = 0, ring: int = 0) -> None:
        view = memoryview(bytearray(data) if isinstance(data, bytes) else data)
        if view.readonly:
            view = memoryview(bytearray(view))
        self.data = view if view.format == "B" and view.ndim == 1 else view.cast("B")
        self._length = len(self.data)
        self._start = 0
        self._begin = 0
        self._buffer: memoryview | None = None
        self.time = time
        self.port = port
        self.ring = ring

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True

    def __bytes__(self) -> bytes:
        return self.data.tobytes()

    def __eq__(self, other: object) -> bool:
        return bytes(self) == bytes(other) if isinstance(other, Packet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or offset + size > self._length or offset + size > MAXIMUM_PACKET:
            where = "a header that this packet does not have" if offset < -1000 else f"offset {offset}"
            raise IndexError(f"{size} byte{'s' * (size > 1)} at {where}: the packet has {self._length}")

    def load8(self, offset: int) -> int:
        """Return the byte at an offset."""
        self._check(offset, 1)
        value: int = self.data[offset]
        return value

    def load16(self, offset: int) -> int:
        """Return 2 bytes, big-endian."""
        self._check(offset, 2)
        return int.from_bytes(self.data[offset : offset + 2], "big")

    def load32(self, offset: int) -> int:
        """Return 4 bytes, big-endian."""
        self._check(offset, 4)
        return int.from_bytes(self.data[offset : offset + 4], "big")

    def load64(self, offset: int) -> int:
        """Return 8 bytes, big-endian, as a signed number."""
        self._check(offset, 8)
        return int.from_bytes(self.data[offset : offset + 8], "big", signed=True)

    def load16_little(self, offset: int) -> int:
        """Return 2 bytes, little-endian."""
        self._check(offset, 2)
        return int.from_bytes(self.data[offset : offset + 2], "little")

    def load32_little(self, offset: int) -> int:
        """Return 4 bytes, little-endian."""
        self._check(offset, 4)
        return int.from_bytes(self.data[offset : offset + 4], "little")

    def load64_little(self, offset: int) -> int:
        """Return 8 bytes, little-endian, as a signed number."""
        self._check(offset, 8)
        return int.from_bytes(self.data[offset : offset + 8], "little", signed=True)

    def _store(self, offset: int, size: int, value: int, order: Any) -> None:
        self._check(offset, size)
        self.data[offset : offset + size] = (int(value) & ((1 << size * 8) - 1)).to_bytes(size, order)

    def store8(self, offset: int, value: int) -> None:
        """Store the low byte of a value."""
        self._store(offset, 1, value, "big")

    def store16(self, offset: int, value: int) -> None:
        """Store the low 2 bytes of a value, big-endian."""
        self._store(offset, 2, value, "big")

    def store32(self, offset: int, value: int) -> None:
        """Store the low 4 bytes of a value, big-endian."""
        self._store(offset, 4, value, "big")

    def store64(self, offset: int, value: int) -> None:
        """Store the low 8 bytes of a value, big-endian."""
        self._store(offset, 8, value, "big")

    def store16_little(self, offset: int, value: int) -> None:
        """Store the low 2 bytes of a value, little-endian."""
        self._store(offset, 2, value, "little")

    def store32_little(self, offset: int, value: int) -> None:
        """Store the low 4 bytes of a value, little-endian."""
        self._store(offset, 4, value, "little")

    def store64_little(self, offset: int, value: int) -> None:
        """Store the low 8 bytes of a value, little-endian."""
        self._store(offset, 8, value, "little")

    def grow_head(self, size: int) -> bool:
        """Put `size` zero bytes before the first one and return True.

        False, and nothing changed, if size is negative, if the packet would be more than 128 bytes longer at its head
        than it came, if fewer than 14 bytes would be there, or if its buffer has no room.
        """
        return head.grow(self, size)

    def shrink_head(self, size: int) -> bool:
        """Take the first `size` bytes off and return True.

        False, and nothing changed, if size is negative or fewer than 14 bytes would be left.
        """
        return head.shrink(self, size)

    def _move(self, by: int) -> bool:
        """Move the first byte; False if there is no room. `head` has looked at the limits."""
        length = self._length - by
        if self._buffer is not None:
            begin = self._begin + by
            if begin < 0:
                # As a native function does it: up, if there is room behind the packet.
                at = self._begin - begin
                if at + self._length > len(self._buffer):
                    return False
                self._buffer[at : at + self._length] = bytes(self.data)
                begin = 0
            self._begin = begin
            self.data = self._buffer[begin : begin + length]
        elif by < 0:
            self.data = memoryview(bytearray(-by) + self.data)
        else:
            self.data = self.data[by:]
        self._length = length
        self._start += by
        return True

    @property
    def five_tuple(self) -> five_tuple.FiveTuple:
        """Protocol, addresses and ports; all zeros, and false, without IP."""
        return five_tuple.of_packet(self)

    def __repr__(self) -> str:
        return f"<Packet of {self._length} bytes: {describe(self)}>"


def in_buffer(
    buffer: memoryview, offset: int, length: int, time: int = 0, port: int = 0, ring: int = 0
) -> Packet:
    """Return the packet that lies in a ring's buffer, bytes that may be written, and has the room of it to grow."""
    # Without Packet's own questions, which here have one answer and cost more than all the rest.
    packet = _blank(Packet)
    packet.data = data = buffer[offset : offset + length]
    packet._length = len(data)
    packet._start = 0
    packet._begin = offset
    packet._buffer = buffer
    packet.time = time
    packet.port = port
    packet.ring = ring
    return packet


def describe(packet: Packet) -> str:
    """Say in a few words what a packet is."""
    flow = packet.five_tuple
    number = packet.protocol  # type: ignore[attr-defined]
    if flow:
        names = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
        name = names.get(number, f"protocol {number}")
        if flow.source_port or flow.destination_port:
            return f"{name} {flow.source} port {flow.source_port} > {flow.destination} port {flow.destination_port}"
        return f"{name} {flow.source} > {flow.destination}"
    ethernet = packet.ethernet  # type: ignore[attr-defined]
    if not ethernet:
        return "no Ethernet header"
    what = "ARP" if packet.arp else f"EtherType {packet.ethertype:#06x}"  # type: ignore[attr-defined]
    return f"{what} {ethernet.source} > {ethernet.destination}"


class HeaderView:
    """A header of a packet: true if it is there; its fields are attributes. It stays with its bytes when the packet's
    head moves."""

    __slots__ = ("_place", "packet")
    header: ClassVar[Header]

    def __init__(self, packet: Packet, offset: int) -> None:
        object.__setattr__(self, "packet", packet)
        object.__setattr__(self, "_place", offset + packet._start)

    _place: int
    """Where the header starts, by the packet's first byte as it came."""
    packet: Packet

    @property
    def offset(self) -> int:
        """Where the header starts in the packet; negative if it is not there."""
        return self._place - self.packet._start

    def __bool__(self) -> bool:
        return self.offset >= 0

    def __setattr__(self, name: str, value: Any) -> None:
        known = self.header.by_name.get(name)
        if known is None or not known.writable:
            state = "cannot be set" if known or name in ("offset", "packet", "inner") else "does not exist"
            raise AttributeError(f"packet.{self.header.name}.{name} {state}")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        if not self:
            return f"<no {self.header.name} header>"
        parts = []
        for one in self.header.fields:
            if one.kind != "flag":
                parts.append(f"{one.name}={getattr(self, one.name)}")
            elif getattr(self, one.name):
                parts.append(one.name)
        return f"<{self.header.name} {' '.join(parts)}>"


def _reader(one: Field) -> Callable[[HeaderView], Any]:
    at, size, shift, mask = one.container
    if one.kind == "mac":
        return lambda view: MACAddress(
            view.packet.load16(view.offset + at) << 32 | view.packet.load32(view.offset + at + 2)
        )
    if one.kind == "ipv6":
        return lambda view: IPv6Address(
            (view.packet.load64(view.offset + at) & _WORD) << 64
            | view.packet.load64(view.offset + at + 8) & _WORD
        )
    if one.kind == "ipv4":
        return lambda view: IPv4Address(view.packet.load32(view.offset + at))
    if one.kind == "flag":
        return lambda view: bool(checksums.load(view.packet, view.offset + at, size) >> shift & mask)
    scale = one.scale
    return lambda view: (checksums.load(view.packet, view.offset + at, size) >> shift & mask) << scale


def _number(one: Field, value: Any) -> int:
    """Turn what is assigned to a field into a number, refusing what compiled code refuses."""
    if isinstance(value, str):
        value = prefix(value)
    if isinstance(value, Prefix):
        if not value.is_address:
            raise ValueError(f"{value} is a prefix; a field takes one address")
        value = value.address
    if not isinstance(value, int):
        raise TypeError(f"field {one.name} takes a number, got {value!r}")
    address_kind = value.family if isinstance(value, Address) else ""
    if address_kind and one.kind in ("ipv4", "ipv6", "mac") and one.kind != address_kind:
        raise TypeError(f"field {one.name} takes an {one.kind} address, got {value!r}")
    if one.kind == "ipv6" and not address_kind:
        raise TypeError(f"field {one.name} takes an IPv6 address, got the number {value}")
    return int(bool(value)) if one.kind == "flag" else int(value)


def _writer(header: Header, one: Field) -> Callable[[HeaderView, Any], None]:
    at, size, shift, mask = one.container
    if one.kind == "mac":
        return lambda view, value: checksums.set_mac(view.packet, view.offset, at, _number(one, value))
    if one.kind == "ipv6":

        def set_ipv6(view: HeaderView, value: Any) -> None:
            number = _number(one, value)
            checksums.set_ipv6_address(view.packet, view.offset, at, signed64(number >> 64), signed64(number))

        return set_ipv6
    if one.keeps == headers.IP_ADDRESS:
        return lambda view, value: checksums.set_ipv4_address(
            view.packet, view.offset, at, _number(one, value)
        )
    if one.keeps in (headers.TRANSPORT, headers.TRANSPORT_LENGTH):
        rest = (
            checksums.CHECKSUM_AT[header.name],
            int(header.name == "udp"),
            int(one.keeps != headers.TRANSPORT),
        )
        return lambda view, value: checksums.set_transport_field(
            view.packet, view.offset, at, size, shift, mask, _number(one, value), *rest
        )
    setter = checksums.set_ip_header if one.keeps == headers.IP_HEADER else checksums.set_plain
    return lambda view, value: setter(view.packet, view.offset, at, size, shift, mask, _number(one, value))


def _make_view(header: Header) -> type[HeaderView]:
    body: dict[str, Any] = {
        "__slots__": (),
        "header": header,
        "__doc__": f"{header.meaning} {header.standard}.",
    }
    for one in header.fields:
        body[one.name] = property(
            _reader(one), _writer(header, one) if one.writable else None, None, one.meaning
        )
    if header.name == "vlan":
        body["inner"] = property(
            lambda view: type(view)(view.packet, locate.inner_vlan(view.packet, view.offset)), None, None,
            "The tag behind this one.",
        )  # fmt: skip
    return type(f"{header.name.capitalize()}View", (HeaderView,), body)


VIEWS: dict[str, type[HeaderView]] = {name: _make_view(header) for name, header in headers.HEADERS.items()}


def _locating(view: type[HeaderView], find: Callable[[Packet], int]) -> property:
    return property(lambda packet: view(packet, find(packet)), None, None, view.__doc__)


for _name, _view in VIEWS.items():
    setattr(Packet, _name, _locating(_view, getattr(locate, _name)))
for _name, (_meaning, _) in headers.FACTS.items():
    setattr(Packet, _name, property(getattr(locate, _name), None, None, _meaning))
