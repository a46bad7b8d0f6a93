"""Addresses, prefixes and five-tuples in compiled code: numbers whose types know what they are.

An IPv4 or MAC address is an int64 that turns into a plain number in arithmetic; an IPv6 address is its two halves; a
prefix is no value at all, only a type, so that comparing with one becomes a mask and a comparison with constants.

Only imported when something is compiled.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types as numba_types
from numba.core.imputils import lower_constant, lower_getattr_generic
from numba.core.typeconv import Conversion
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, infer_global
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model, typeof_impl

from raceway.compile import native_errors
from raceway.compile.addresses import IPv4Address, IPv6Address, MACAddress, Prefix, signed64
from raceway.compile.five_tuple import VERSION_6

types: Any = numba_types  # numba fills this module in as it starts
_i64 = ir.IntType(64)


def constant(value: int) -> Any:
    """Return a 64-bit constant."""
    return ir.Constant(_i64, signed64(value))


def build(context: Any, builder: Any, kind: Any, values: Any) -> Any:
    """Make a struct value of its members, in order."""
    made = cgutils.create_struct_proxy(kind)(context, builder)
    for index, value in enumerate(values):
        made[index] = value
    return made._getvalue()


class ScalarAddressType(types.Type):
    """An IPv4 or MAC address: an int64."""

    def __init__(self, family: str) -> None:
        self.family = family
        super().__init__(name=f"{family} address")

    def can_convert_to(self, typingctx: Any, other: Any) -> Any:
        return Conversion.safe if other == types.int64 else None

    def unify(self, typingctx: Any, other: Any) -> Any:
        return types.int64 if isinstance(other, types.Integer | ScalarAddressType) else None


@register_model(ScalarAddressType)
class _ScalarModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _i64)


SCALARS = {"ipv4": ScalarAddressType("ipv4"), "mac": ScalarAddressType("mac")}


@lower_cast(ScalarAddressType, types.Integer)
def _as_number(context: Any, builder: Any, have: Any, want: Any, value: Any) -> Any:
    return context.cast(builder, value, types.int64, want)


@lower_cast(types.Integer, ScalarAddressType)
@lower_cast(types.Boolean, ScalarAddressType)
def _as_address(context: Any, builder: Any, have: Any, want: Any, value: Any) -> Any:
    return context.cast(builder, value, have, types.int64)


class IPv6Type(types.Type):
    """An IPv6 address: its halves."""

    def __init__(self) -> None:
        super().__init__(name="ipv6 address")


class IPAddressType(types.Type):
    """An address of a five-tuple, of either family: whether it is IPv6, and its halves."""

    def __init__(self) -> None:
        super().__init__(name="ip address")


class FiveTupleType(types.Type):
    """A five-tuple: five words, as in `five_tuple.FiveTuple.words`."""

    def __init__(self) -> None:
        super().__init__(name="five-tuple")


IPV6, IP_ADDRESS, FIVE_TUPLE = IPv6Type(), IPAddressType(), FiveTupleType()
_MEMBERS = {
    IPv6Type: ("high", "low"),
    IPAddressType: ("version_6", "high", "low"),
    FiveTupleType: ("numbers", "source_high", "source_low", "destination_high", "destination_low"),
}


def _words_model(members: tuple[str, ...]) -> Any:
    class Model(models.StructModel):
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, [(name, types.int64) for name in members])

    return Model


for _kind, _members in _MEMBERS.items():
    register_model(_kind)(_words_model(_members))


class WordsType(types.Type):
    """A pointer to 64-bit words."""

    def __init__(self) -> None:
        super().__init__(name="words")


WORDS = WordsType()


@register_model(WordsType)
class _WordsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _i64.as_pointer())


class TableType(types.Type):
    """The words of a state object: where they start, and how many there are."""

    def __init__(self) -> None:
        super().__init__(name="table")


TABLE = TableType()


@register_model(TableType)
class _TableModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, [("start", WORDS), ("count", types.int64)])


class PrefixType(types.Type):
    """A prefix or address that is known when compiling: no value, only this type."""

    def __init__(self, prefix: Prefix) -> None:
        self.prefix = prefix
        super().__init__(name=f"prefix({prefix})")

    def can_convert_to(self, typingctx: Any, other: Any) -> Any:
        if not self.prefix.is_address:
            return None
        if isinstance(other, ScalarAddressType) and other.family == self.prefix.family:
            return Conversion.safe
        return Conversion.safe if isinstance(other, IPv6Type) and self.prefix.family == "ipv6" else None


@register_model(PrefixType)
class _PrefixModel(models.OpaqueModel):
    pass


@lower_constant(PrefixType)
def _prefix_constant(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.get_dummy_value()


@typeof_impl.register(Prefix)
def _typeof_prefix(value: Prefix, context: Any) -> Any:
    return PrefixType(value)


@typeof_impl.register(IPv4Address)
@typeof_impl.register(IPv6Address)
@typeof_impl.register(MACAddress)
def _typeof_address(value: Any, context: Any) -> Any:
    return PrefixType(Prefix(value.family, int(value), value.bits))


OF_KIND = {
    "number": types.int64, "flag": types.boolean, "ipv4": SCALARS["ipv4"], "mac": SCALARS["mac"], "ipv6": IPV6,
}  # fmt: skip


def address_number(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Emit the number that an integer, a scalar address or a constant address is."""
    if isinstance(kind, PrefixType):
        return constant(kind.prefix.value)
    return context.cast(builder, value, kind, types.int64)


def ipv6_halves(context: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, Any]:
    """Emit the halves of an IPv6 address."""
    if isinstance(kind, PrefixType):
        return constant(kind.prefix.value >> 64), constant(kind.prefix.value)
    proxy = cgutils.create_struct_proxy(IPV6)(context, builder, value=value)
    return proxy.high, proxy.low


def _check_family(prefix: Prefix, family: str) -> None:
    if prefix.family != family or not prefix.is_address:
        raise native_errors.told(f"{prefix} is not one {family} address")


@lower_cast(PrefixType, ScalarAddressType)
def _constant_as_scalar(context: Any, builder: Any, have: Any, want: Any, value: Any) -> Any:
    _check_family(have.prefix, want.family)
    return constant(have.prefix.value)


@lower_cast(PrefixType, IPv6Type)
def _constant_as_ipv6(context: Any, builder: Any, have: Any, want: Any, value: Any) -> Any:
    _check_family(have.prefix, "ipv6")
    return build(context, builder, IPV6, [constant(have.prefix.value >> 64), constant(have.prefix.value)])


# Comparing.

_ADDRESSES = (ScalarAddressType, IPv6Type, IPAddressType)


def comparable(left: Any, right: Any) -> bool:
    """Tell whether `==` has a meaning of ours between two types."""
    if isinstance(right, PrefixType) and isinstance(left, PrefixType):
        return False
    if isinstance(left, PrefixType):
        left, right = right, left
    if isinstance(right, PrefixType):
        if isinstance(left, types.Integer):
            return right.prefix.is_address and right.prefix.family != "ipv6"
        return isinstance(left, _ADDRESSES)
    if isinstance(left, ScalarAddressType) and isinstance(right, ScalarAddressType):
        return True
    either = (IPAddressType, IPv6Type, FiveTupleType)
    if left == right and isinstance(left, either):
        return True
    return isinstance(left, _ADDRESSES) and isinstance(right, _ADDRESSES)


def equal(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    """Emit `==`: equality, or belonging where one side is a prefix."""
    (left, right), (first, second) = kinds, values
    if isinstance(left, PrefixType):
        left, right, first, second = right, left, second, first
    if isinstance(right, PrefixType):
        return _belongs(context, builder, left, first, right.prefix)
    if left == right or (isinstance(left, types.Integer) and isinstance(right, types.Integer)):
        return _same_words(
            builder, _words(context, builder, left, first), _words(context, builder, right, second)
        )
    if isinstance(left, ScalarAddressType) and isinstance(right, ScalarAddressType):
        return cgutils.false_bit
    if types.int64 in (left, right) or isinstance(left, types.Integer) or isinstance(right, types.Integer):
        one = context.cast(builder, first, left, types.int64)
        return builder.icmp_signed("==", one, context.cast(builder, second, right, types.int64))
    return _same_words(
        builder, _either_words(context, builder, left, first), _either_words(context, builder, right, second)
    )


def _words(context: Any, builder: Any, kind: Any, value: Any) -> list[Any]:
    members = _MEMBERS.get(type(kind))
    if members is None:
        return [context.cast(builder, value, kind, types.int64)]
    proxy = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    return [getattr(proxy, name) for name in members]


def _either_words(context: Any, builder: Any, kind: Any, value: Any) -> list[Any]:
    """The words of an address as an address of either family; a MAC address as one of a third."""
    words = _words(context, builder, kind, value)
    if isinstance(kind, IPv6Type):
        return [constant(1), *words]
    if isinstance(kind, ScalarAddressType):
        return [constant(0 if kind.family == "ipv4" else 2), constant(0), *words]
    return words


def _same_words(builder: Any, left: list[Any], right: list[Any]) -> Any:
    same = cgutils.true_bit
    for one, other in zip(left, right, strict=True):
        same = builder.and_(same, builder.icmp_signed("==", one, other))
    return same


def _belongs(context: Any, builder: Any, kind: Any, value: Any, prefix: Prefix) -> Any:
    words = _words(context, builder, kind, value)
    family = prefix.family
    if isinstance(kind, types.Integer):
        return builder.icmp_signed("==", words[0], constant(prefix.value))
    if isinstance(kind, ScalarAddressType):
        if kind.family != family:
            return cgutils.false_bit
        return _masked(builder, words[0], prefix.mask, prefix.value)
    if isinstance(kind, IPAddressType):
        if family == "mac":
            return cgutils.false_bit
        version = builder.icmp_signed("==", words[0], constant(int(family == "ipv6")))
        words = words[1:]
    elif family != "ipv6":
        return cgutils.false_bit
    else:
        version = cgutils.true_bit
    if family == "ipv4":
        return builder.and_(version, _masked(builder, words[1], prefix.mask, prefix.value))
    high = _masked(builder, words[0], prefix.mask >> 64, prefix.value >> 64)
    low = _masked(builder, words[1], prefix.mask & (1 << 64) - 1, prefix.value & (1 << 64) - 1)
    return builder.and_(version, builder.and_(high, low))


def _masked(builder: Any, word: Any, mask: int, value: int) -> Any:
    return builder.icmp_signed("==", builder.and_(word, constant(mask)), constant(value))


class _Compared(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.boolean, *args) if len(args) == 2 and comparable(*args) else None


infer_global(operator.eq)(type("_Equal", (_Compared,), {"key": operator.eq}))
infer_global(operator.ne)(type("_Unequal", (_Compared,), {"key": operator.ne}))


def _lower_equal(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return equal(context, builder, sig.args, args)


def _lower_unequal(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.not_(equal(context, builder, sig.args, args))


_COMPARED = (ScalarAddressType, IPv6Type, IPAddressType, FiveTupleType, PrefixType)
for _left in (*_COMPARED, types.Integer):
    for _right in (*_COMPARED, types.Integer):
        if _left is not types.Integer or _right is not types.Integer:
            lower_builtin(operator.eq, _left, _right)(_lower_equal)
            lower_builtin(operator.ne, _left, _right)(_lower_unequal)


@intrinsic
def among(typing: Any, value: Any, options: Any) -> Any:
    """`value in (a, b, c)`: the rewriter turns membership in a tuple into this."""
    if isinstance(options, PrefixType):
        options_kinds: tuple[Any, ...] = (options,)
    elif isinstance(options, types.BaseTuple):
        options_kinds = tuple(options.types) if hasattr(options, "types") else (options.dtype,) * len(options)
    else:
        return None
    for kind in options_kinds:
        plain = isinstance(value, types.Integer | types.Boolean) and isinstance(
            kind, types.Integer | types.Boolean
        )
        mixed = isinstance(value, ScalarAddressType) and isinstance(kind, types.Integer)
        if not (plain or mixed or comparable(value, kind)):
            return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found = cgutils.false_bit
        for index, kind in enumerate(options_kinds):
            one = None
            if isinstance(sig.args[1], types.BaseTuple) and not isinstance(kind, PrefixType):
                one = builder.extract_value(args[1], index)
            same = equal(context, builder, (_number_kind(sig.args[0]), _number_kind(kind)), (
                _number(context, builder, sig.args[0], args[0]), _number(context, builder, kind, one),
            ))  # fmt: skip
            found = builder.or_(found, same)
        return found

    return types.boolean(value, options), generate


def _number_kind(kind: Any) -> Any:
    return types.int64 if isinstance(kind, types.Integer | types.Boolean) else kind


def _number(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Integer | types.Boolean):
        return context.cast(builder, value, kind, types.int64)
    return value


# Truth and attributes.


@infer_global(bool)
class _Truth(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], (*_ADDRESSES, FiveTupleType)):
            return signature(types.boolean, args[0])
        return None


def _lower_truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    words = _words(context, builder, sig.args[0], args[0])
    if isinstance(sig.args[0], IPAddressType):
        words = words[1:]
    result = constant(0)
    for word in words:
        result = builder.or_(result, word)
    return builder.icmp_signed("!=", result, constant(0))


for _one in (*_ADDRESSES, FiveTupleType):
    lower_builtin(bool, _one)(_lower_truth)


@infer_getattr
class _IPv6Attributes(AttributeTemplate):
    key = IPv6Type

    def generic_resolve(self, kind: Any, name: str) -> Any:
        return types.int64 if name in ("high", "low") else None


@lower_getattr_generic(IPv6Type)
def _ipv6_attribute(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    return getattr(cgutils.create_struct_proxy(kind)(context, builder, value=value), name)


FIVE_TUPLE_ATTRIBUTES = {
    "protocol": types.int64, "source": IP_ADDRESS, "destination": IP_ADDRESS, "source_port": types.int64,
    "destination_port": types.int64, "reverse": FIVE_TUPLE,
}  # fmt: skip


@infer_getattr
class _FiveTupleAttributes(AttributeTemplate):
    key = FiveTupleType

    def generic_resolve(self, kind: Any, name: str) -> Any:
        return FIVE_TUPLE_ATTRIBUTES.get(name)


@lower_getattr_generic(FiveTupleType)
def _five_tuple_attribute(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    one = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    ports = builder.and_(one.numbers, constant(0xFFFF))
    source_port = builder.and_(builder.lshr(one.numbers, constant(16)), constant(0xFFFF))
    if name == "protocol":
        return builder.and_(builder.lshr(one.numbers, constant(32)), constant(0xFF))
    if name == "source_port":
        return source_port
    if name == "destination_port":
        return ports
    if name == "reverse":
        kept = builder.and_(one.numbers, constant(~0xFFFFFFFF))
        swapped = builder.or_(kept, builder.or_(builder.shl(ports, constant(16)), source_port))
        halves = [one.destination_high, one.destination_low, one.source_high, one.source_low]
        return build(context, builder, kind, [swapped, *halves])
    version = builder.and_(builder.lshr(one.numbers, constant(VERSION_6.bit_length() - 1)), constant(1))
    return build(
        context, builder, IP_ADDRESS, [version, getattr(one, f"{name}_high"), getattr(one, f"{name}_low")]
    )
