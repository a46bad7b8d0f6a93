"""The compiled packet: numba types for packets and header views, and how loads and stores become instructions.

A compiled packet is a value of five words: where its bytes start and end, and what the loop handed in. A load is::

    if offset > 65535 - size (unsigned): return OUT_OF_BOUNDS
    if data + offset + size > end:       return OUT_OF_BOUNDS
    value = *(data + offset)

The two tests are the primitives "far" and "over", for each target has its own form of the second: the
kernel's verifier wants to see a bounded offset added to the packet's pointer, then a comparison with the end. There
is no other memory access to a packet anywhere.

In a function that moves the packet's head (`head`) those words change, also for who called it: there the packet is a
pointer to a record of them on the stack, of the type MOVING, and whatever looks at it takes the five words from there
first (`current`). Views of it know their place by the packet's first byte as it came.

Only imported when something is compiled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_getattr_generic, lower_setattr_generic
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, infer_global
from numba.extending import lower_builtin, models, register_model

from raceway.compile import checksums, head, headers, locate, lowering_addresses, primitives, twins
from raceway.compile.headers import Field
from raceway.compile.lowering_addresses import (
    FIVE_TUPLE,
    IPV6,
    SCALARS,
    WORDS,
    address_number,
    build,
    ipv6_halves,
)

_i8, _i64 = ir.IntType(8), ir.IntType(64)


class PacketType(types.Type):
    """The type of a packet in compiled code."""

    def __init__(self, name: str = "packet") -> None:
        super().__init__(name=name)


class MovingPacketType(PacketType):
    """The type of a packet whose head may move: a pointer to its record."""

    def __init__(self) -> None:
        super().__init__(name="moving packet")


PACKET, MOVING = PacketType(), MovingPacketType()
_bytes = _i8.as_pointer()
_RECORD = ("data", "end", *headers.GIVEN, "start", "first", "last")
"""The words of PACKET; by how many bytes the first one has moved; what the primitive `move` was given."""
_record = ir.LiteralStructType(
    [_bytes if name in ("data", "end", "first", "last") else _i64 for name in _RECORD]
)


@register_model(MovingPacketType)
class _MovingPacketModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _record.as_pointer())


def _word(builder: Any, record: Any, name: str) -> Any:
    """The place of one word of a moving packet's record."""
    return cgutils.gep_inbounds(builder, record, 0, _RECORD.index(name))


def moving(builder: Any, **words: Any) -> Any:
    """Emit the record of a packet whose head may move, on the stack; return the pointer to it."""
    record = cgutils.alloca_once(builder, _record)
    for name, value in {**words, "start": ir.Constant(_i64, 0)}.items():
        builder.store(value, _word(builder, record, name))
    return record


def word(builder: Any, record: Any, name: str) -> Any:
    """Emit a load of one word of a moving packet's record."""
    return builder.load(_word(builder, record, name))


def current(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Emit the packet of five words that a value is now."""
    if kind == PACKET:
        return value
    words = [word(builder, value, name) for name in ("data", "end", *headers.GIVEN)]
    return build(context, builder, PACKET, words)


@register_model(PacketType)
class _PacketModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        members = [("data", types.voidptr), ("end", types.voidptr)]
        members += [(name, types.int64) for name in headers.GIVEN]
        super().__init__(manager, kind, members)


class ViewType(types.Type):
    """The type of a header view. `offset` counts from the packet's first byte; where that may move, from where it was
    when the packet came."""

    def __init__(self, header: headers.Header, packet: PacketType) -> None:
        self.header, self.packet = header, packet
        super().__init__(name=f"{packet.name}.{header.name}")


VIEWS = {
    packet: {name: ViewType(header, packet) for name, header in headers.HEADERS.items()}
    for packet in (PACKET, MOVING)
}


@register_model(ViewType)
class _ViewModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, [("packet", kind.packet), ("offset", types.int64)])


# Loads and stores.


def pointer(context: Any, builder: Any, packet: Any, offset: Any, size: int) -> Any:
    """Emit the bounds check of `size` bytes at `offset`; return the pointer to them."""
    value = cgutils.create_struct_proxy(PACKET)(context, builder, value=packet)
    offset = primitives.emit(builder, "offset", offset)
    length = ir.Constant(_i64, size)
    with builder.if_then(primitives.emit(builder, "far", offset, length), likely=False):
        twins.fail(builder, twins.OUT_OF_BOUNDS)
    place = primitives.emit(builder, "place", value.data, offset, length)
    with builder.if_then(
        primitives.emit(builder, "over", value.data, value.end, offset, length, place), likely=False
    ):
        twins.fail(builder, twins.OUT_OF_BOUNDS)
    return place


def load(context: Any, builder: Any, packet: Any, offset: Any, size: int, *, little: bool = False) -> Any:
    """Emit a load of `size` bytes as a number of 64 bits; only 8 bytes can be negative."""
    place = pointer(context, builder, packet, offset, size)
    value = builder.load(builder.bitcast(place, ir.IntType(size * 8).as_pointer()), align=1)
    if size > 1 and not little:
        value = builder.bswap(value)
    return value if size == 8 else builder.zext(value, _i64)


def store(
    context: Any, builder: Any, packet: Any, offset: Any, size: int, value: Any, *, little: bool = False
) -> None:
    """Emit a store of the low `size` bytes of a number."""
    place = pointer(context, builder, packet, offset, size)
    if size < 8:
        value = builder.trunc(value, ir.IntType(size * 8))
    if size > 1 and not little:
        value = builder.bswap(value)
    builder.store(value, builder.bitcast(place, ir.IntType(size * 8).as_pointer()), align=1)


def _register_access(name: str, size: int) -> type[AbstractTemplate]:
    key, little, stores = f"packet.{name}", name.endswith("_little"), name.startswith("store")

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            wanted = 2 if stores else 1
            if kws or len(args) != wanted or not all(is_number(one) for one in args):
                return None
            result = types.none if stores else types.int64
            return signature(result, *[types.int64] * wanted, recvr=self.this)

    Template.key = key

    if stores:

        @lower_builtin(key, PacketType, types.int64, types.int64)
        def lower_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            packet = current(context, builder, sig.args[0], args[0])
            store(context, builder, packet, args[1], size, args[2], little=little)
            return context.get_dummy_value()

    else:

        @lower_builtin(key, PacketType, types.int64)
        def lower_load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            packet = current(context, builder, sig.args[0], args[0])
            return load(context, builder, packet, args[1], size, little=little)

    return Template


def is_number(kind: Any) -> bool:
    """Tell whether a type is an integer, a truth value or an address that is one."""
    return isinstance(kind, types.Integer | types.Boolean) or kind in SCALARS.values()


_ACCESSES = {**headers.LOADS, **headers.STORES, **headers.LITTLE}
_METHODS = {name: _register_access(name, size) for name, size in _ACCESSES.items()}


@infer_global(len)
class _Length(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], PacketType) and not kws:
            return signature(types.int64, *args)
        return None


@lower_builtin(len, PacketType)
def _length(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    packet = current(context, builder, sig.args[0], args[0])
    value = cgutils.create_struct_proxy(PACKET)(context, builder, value=packet)
    return primitives.emit(builder, "length", value.data, value.end)


# Moving the head.


def _register_move(name: str) -> type[AbstractTemplate]:
    key = f"packet.{name}"

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if kws or len(args) != 1 or not is_number(args[0]):
                return None
            if name in head.FUNCTIONS:
                twins.signature(self.context, head.FUNCTIONS[name], (MOVING, types.int64))
            return signature(types.boolean, types.int64, recvr=self.this)

    Template.key = key

    @lower_builtin(key, MovingPacketType, types.int64)
    def lower_move(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if name in head.FUNCTIONS:
            return twins.call(context, builder, head.FUNCTIONS[name], (MOVING, types.int64), args)
        return _move(builder, *args)

    return Template


def _move(builder: Any, record: Any, by: Any) -> Any:
    data, end, first, last = (word(builder, record, name) for name in ("data", "end", "first", "last"))
    moved = primitives.emit(builder, "move", data, end, first, last, by)
    builder.store(primitives.emit(builder, "data", data, first, by, moved), _word(builder, record, "data"))
    builder.store(primitives.emit(builder, "end", end, first, moved), _word(builder, record, "end"))
    done = builder.icmp_signed(">=", moved, ir.Constant(_i64, 0))
    start = builder.add(word(builder, record, "start"), builder.select(done, by, ir.Constant(_i64, 0)))
    builder.store(start, _word(builder, record, "start"))
    return done


_MOVES = {name: _register_move(name) for name in (*head.METHODS, "_move")}


# Attributes of a packet.


@infer_getattr
class _PacketAttributes(AttributeTemplate):
    key = PacketType

    def generic_resolve(self, kind: Any, name: str) -> Any:
        if name in _METHODS:
            return types.BoundFunction(_METHODS[name], kind)
        if kind == MOVING and name in _MOVES:
            return types.BoundFunction(_MOVES[name], kind)
        if kind == MOVING and name == "_start":
            return types.int64
        if name in headers.HEADERS:
            twins.signature(self.context, getattr(locate, name), (PACKET,))
            return VIEWS[kind][name]
        if name in headers.FACTS:
            twins.signature(self.context, getattr(locate, name), (PACKET,))
            return types.boolean if headers.FACTS[name][1] else types.int64
        if name == "five_tuple":
            return FIVE_TUPLE
        return types.int64 if name in headers.GIVEN else None


@lower_getattr_generic(PacketType)
def _packet_attribute(context: Any, builder: Any, kind: Any, given: Any, name: str) -> Any:
    if name == "_start":
        return word(builder, given, "start")
    value = current(context, builder, kind, given)
    if name in headers.GIVEN:
        return getattr(cgutils.create_struct_proxy(PACKET)(context, builder, value=value), name)
    if name == "five_tuple":
        place = cgutils.alloca_once(builder, ir.ArrayType(_i64, 5))
        words = builder.bitcast(place, _i64.as_pointer())
        twins.call(context, builder, locate.five_tuple, (PACKET, WORDS), (value, words))
        loaded = [builder.load(builder.gep(words, [ir.Constant(_i64, index)])) for index in range(5)]
        return build(context, builder, FIVE_TUPLE, loaded)
    found = twins.call(context, builder, getattr(locate, name), (PACKET,), (value,))
    if name in headers.FACTS:
        return found
    return build(context, builder, VIEWS[kind][name], [given, _kept(builder, kind, given, found)])


def _kept(builder: Any, kind: Any, packet: Any, offset: Any) -> Any:
    """Emit the place that a view keeps of an offset."""
    return builder.add(offset, word(builder, packet, "start")) if kind == MOVING else offset


def _place(context: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, Any]:
    """Emit a view's packet of five words, and its offset in that now."""
    view = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    if kind.packet == PACKET:
        return view.packet, view.offset
    offset = builder.sub(view.offset, word(builder, view.packet, "start"))
    return current(context, builder, MOVING, view.packet), offset


# Attributes of a view.


@infer_getattr
class _ViewAttributes(AttributeTemplate):
    key = ViewType

    def generic_resolve(self, kind: Any, name: str) -> Any:
        if name == "offset":
            return types.int64
        if name == "packet":
            return kind.packet
        if name == "inner" and kind.header is headers.VLAN:
            twins.signature(self.context, locate.inner_vlan, (PACKET, types.int64))
            return kind
        one = kind.header.by_name.get(name)
        return None if one is None else lowering_addresses.OF_KIND[one.kind]


def _at(builder: Any, offset: Any, at: int) -> Any:
    return builder.add(offset, ir.Constant(_i64, at)) if at else offset


@lower_getattr_generic(ViewType)
def _view_attribute(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    view = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    if name == "packet":
        return view.packet
    packet, offset = _place(context, builder, kind, value)
    if name == "offset":
        return offset
    if name == "inner":
        found = twins.call(context, builder, locate.inner_vlan, (PACKET, types.int64), (packet, offset))
        return build(context, builder, kind, [view.packet, _kept(builder, kind.packet, view.packet, found)])
    return _read(context, builder, packet, offset, kind.header.by_name[name])


def _read(context: Any, builder: Any, packet: Any, offset: Any, one: Field) -> Any:
    at, size, shift, mask = one.container

    def word(more: int, bytes_: int) -> Any:
        return load(context, builder, packet, _at(builder, offset, at + more), bytes_)

    if one.kind == "mac":
        return builder.or_(builder.shl(word(0, 2), ir.Constant(_i64, 32)), word(2, 4))
    if one.kind == "ipv6":
        return build(context, builder, IPV6, [word(0, 8), word(8, 8)])
    found = word(0, size)
    if shift:
        found = builder.lshr(found, ir.Constant(_i64, shift))
    if one.bits < size * 8:
        found = builder.and_(found, ir.Constant(_i64, mask))
    if one.scale:
        found = builder.shl(found, ir.Constant(_i64, one.scale))
    return builder.icmp_signed("!=", found, ir.Constant(_i64, 0)) if one.kind == "flag" else found


@lower_setattr_generic(ViewType)
def _set_view_attribute(context: Any, builder: Any, sig: Any, args: Any, name: str) -> None:
    kind, given = sig.args
    packet, offset = _place(context, builder, kind, args[0])
    one = kind.header.by_name[name]
    at, size, shift, mask = one.container
    integers: list[Any]
    if one.kind == "ipv6":
        function: Any = checksums.set_ipv6_address
        integers = [at, *ipv6_halves(context, builder, given, args[1])]
    else:
        number = address_number(context, builder, given, args[1])
        if one.kind == "mac":
            function, integers = checksums.set_mac, [at, number]
        elif one.keeps == headers.IP_ADDRESS:
            function, integers = checksums.set_ipv4_address, [at, number]
        elif one.keeps in (headers.TRANSPORT, headers.TRANSPORT_LENGTH):
            function = checksums.set_transport_field
            place = checksums.CHECKSUM_AT[kind.header.name]
            udp, twice = int(kind.header.name == "udp"), int(one.keeps == headers.TRANSPORT_LENGTH)
            integers = [at, size, shift, mask, number, place, udp, twice]
        else:
            function = checksums.set_ip_header if one.keeps == headers.IP_HEADER else checksums.set_plain
            integers = [at, size, shift, mask, number]
    values = [ir.Constant(_i64, one) if isinstance(one, int) else one for one in (offset, *integers)]
    twins.call(context, builder, function, (PACKET, *[types.int64] * len(values)), (packet, *values))


# Truth of packets and views.


@infer_global(bool)
class _Truth(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], ViewType | PacketType):
            return signature(types.boolean, args[0])
        return None


@lower_builtin(bool, ViewType)
def _view_truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    _, offset = _place(context, builder, sig.args[0], args[0])
    return builder.icmp_signed(">=", offset, ir.Constant(_i64, 0))


@lower_builtin(bool, PacketType)
def _packet_truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return cgutils.true_bit
