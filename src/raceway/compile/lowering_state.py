"""State objects in compiled code: each is a type that knows where its words are. Only imported to compile.

`state_address` is the only place where an address of state gets into the code, so a target that keeps the words
elsewhere (a BPF map) has one seam to change.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types as numba_types
from numba.core.imputils import lower_constant
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model, typeof_impl

from raceway.compile import apart, native_errors, primitives, twins
from raceway.compile.lowering import PACKET, PacketType, current, is_number
from raceway.compile.lowering_addresses import (
    FIVE_TUPLE,
    IP_ADDRESS,
    IPV6,
    SCALARS,
    TABLE,
    WORDS,
    PrefixType,
    TableType,
    WordsType,
    build,
    constant,
)
from raceway.compile.state import chains, hash_table, prefix_table, random, samples, token_bucket, words
from raceway.compile.state.counters import Counters
from raceway.compile.state.hash_table import HashTable, Table
from raceway.compile.state.prefix_table import PrefixTable
from raceway.compile.state.random import Random
from raceway.compile.state.samples import Samples
from raceway.compile.state.token_bucket import TokenBucket
from raceway.compile.state.words import State

types: Any = numba_types  # numba fills this module in as it starts
_i64 = ir.IntType(64)


def _place(context: Any, builder: Any, kind: Any, memory: Any, index: Any) -> Any:
    """Emit the pointer to a word. That an index is outside a table's words would be a mistake of this floor: only
    eBPF asks, for its verifier believes nothing."""
    if kind == WORDS:
        return builder.gep(memory, [index])
    table = cgutils.create_struct_proxy(TABLE)(context, builder, value=memory)
    index = primitives.emit(builder, "offset", index)
    with builder.if_then(primitives.emit(builder, "beyond", index, table.count), likely=False):
        twins.fail(builder, twins.OUT_OF_BOUNDS)
    return builder.gep(table.start, [primitives.emit(builder, "within", index)])


@infer_global(operator.getitem)
class _WordsGet(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if args[0] in (WORDS, TABLE):
            return signature(types.int64, args[0], types.int64)
        if isinstance(args[0], StateType) and isinstance(args[0].state, Counters) and is_number(args[1]):
            return signature(types.int64, args[0], types.int64)
        return None


@infer_global(operator.setitem)
class _WordsSet(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if args[0] in (WORDS, TABLE):
            return signature(types.none, args[0], types.int64, types.int64)
        counters = isinstance(args[0], StateType) and isinstance(args[0].state, Counters)
        if counters and is_number(args[1]) and is_number(args[2]):
            return signature(types.none, args[0], types.int64, types.int64)
        return None


@lower_builtin(operator.getitem, TableType, types.int64)
@lower_builtin(operator.getitem, WordsType, types.int64)
def _get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.load(_place(context, builder, sig.args[0], args[0], args[1]))


@lower_builtin(operator.setitem, TableType, types.int64, types.int64)
@lower_builtin(operator.setitem, WordsType, types.int64, types.int64)
def _set(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    builder.store(args[2], _place(context, builder, sig.args[0], args[0], args[1]))
    return context.get_dummy_value()


def _atomic(name: str, result: Any, operands: int) -> Any:
    """Make the compiled equal of a function of `words`, from the primitive of that name."""

    def typed(memory: Any, index: Any, values: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            place = _place(context, builder, sig.args[0], args[0], args[1])
            found = primitives.emit(builder, name, place, *args[2:])
            return context.get_dummy_value() if result is types.none else found

        return result(memory, types.int64, *[types.int64] * len(values)), generate

    if operands == 0:
        return intrinsic(lambda typing, memory, index: typed(memory, index, ()))
    if operands == 1:
        return intrinsic(lambda typing, memory, index, value: typed(memory, index, (value,)))
    return intrinsic(lambda typing, memory, index, expected, value: typed(memory, index, (expected, value)))


twins.REPLACED[words.publish] = _atomic("publish", types.none, 1)
twins.REPLACED[words.observe] = _atomic("observe", types.int64, 0)
twins.REPLACED[words.count] = _atomic("add", types.int64, 1)
twins.REPLACED[words.exchange] = _atomic("exchange", types.int64, 1)
twins.REPLACED[words.compare_exchange] = _atomic("compare_exchange", types.boolean, 2)


class StateType(types.Type):
    """One state object. The type keeps it alive as long as code for it."""

    def __init__(self, state: State) -> None:
        self.state = state
        super().__init__(name=f"{type(state).__name__} {state.serial}")


@register_model(StateType)
class _StateModel(models.OpaqueModel):
    pass


@lower_constant(StateType)
def _state_constant(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.get_dummy_value()


@typeof_impl.register(State)
def _typeof_state(value: State, context: Any) -> Any:
    return StateType(value)


def state_address(context: Any, builder: Any, kind: StateType) -> Any:
    """Emit the pointer to a state object's words."""
    return primitives.emit_state(builder, kind.state)


# Keys.


def key_digit(kind: Any) -> int:
    """Return the digit that a type has in a key's tag; 0 if it cannot be a key."""
    if isinstance(kind, types.Integer | types.Boolean) or kind in SCALARS.values():
        return words.ONE_WORD
    if isinstance(kind, PrefixType):
        if not kind.prefix.is_address:
            return 0
        return words.IPV6_WORDS if kind.prefix.family == "ipv6" else words.ONE_WORD
    return {IPV6: words.IPV6_WORDS, FIVE_TUPLE: words.FIVE_TUPLE_WORDS}.get(kind, 0)


def key_parts(kind: Any) -> list[Any]:
    """Return the types that a key is made of."""
    if isinstance(kind, types.BaseTuple):
        return list(kind.types) if hasattr(kind, "types") else [kind.dtype] * len(kind)
    return [kind]


def usable_key(table: Table, kind: Any) -> bool:
    """Tell whether a value of this type can be a key of a table."""
    if kind == IP_ADDRESS:
        return table.key_words >= 2
    digits = [key_digit(one) for one in key_parts(kind)]
    return (
        bool(digits) and all(digits) and sum(words.WORDS_OF_DIGIT[one] for one in digits) <= table.key_words
    )


def _kind_bit(kind: Any) -> int:
    family = getattr(kind, "family", "") or (kind.prefix.family if isinstance(kind, PrefixType) else "")
    return {"ipv4": words.KIND_IPV4, "mac": words.KIND_MAC}.get(family, words.KIND_NUMBER)


def _flat(context: Any, builder: Any, kind: Any, value: Any) -> list[Any]:
    if isinstance(kind, PrefixType):
        number = kind.prefix.value
        return (
            [constant(number >> 64), constant(number)] if kind.prefix.family == "ipv6" else [constant(number)]
        )
    if kind in (IPV6, FIVE_TUPLE):
        words_: list[Any] = cgutils.unpack_tuple(builder, value)
        return words_
    return [context.cast(builder, value, kind, types.int64)]


def _key(context: Any, builder: Any, kind: Any, value: Any) -> tuple[apart.Memory, list[Any]]:
    """Emit the key's words, and room for two more behind them; return where they are; number of words, tag, kind."""
    if kind == IP_ADDRESS:
        version, high, low = cgutils.unpack_tuple(builder, value)
        six = builder.icmp_signed("!=", version, constant(0))
        flat = [builder.select(six, high, low), low]
        count, tag = (builder.select(six, constant(2), constant(1)) for _ in range(2))
        shown = builder.select(six, constant(0), constant(words.KIND_IPV4))
    else:
        flat, digits = [], 0
        parts = key_parts(kind)
        for index, part in enumerate(parts):
            is_tuple = isinstance(kind, types.BaseTuple)
            opaque = isinstance(part, PrefixType)
            one = None if opaque else builder.extract_value(value, index) if is_tuple else value
            flat += _flat(context, builder, part, one)
            digits = digits * 4 + key_digit(part)
        count, tag = constant(len(flat)), constant(digits)
        shown = constant(_kind_bit(parts[0]) if digits == words.ONE_WORD else 0)
    place = apart.room(builder, apart.TABLE_KEY, len(flat) + 2)
    for index, word in enumerate(flat):
        builder.store(word, builder.gep(place.start, [constant(index)]))
    return apart.Memory(place.start, place.count, len(flat)), [count, tag, shown]


def _ask(context: Any, builder: Any, function: Any, kind: StateType, key: apart.Memory, *rest: Any) -> Any:
    """Emit the call of a table's function, apart; its result is left behind the key."""
    table: Any = kind.state
    sizes = (apart.Constant(table.mask), apart.Constant(table.entry))
    arguments = [apart.Constant(one.constant) if isinstance(one, ir.Constant) else one for one in rest]
    at = key.bound
    returned = apart.call(
        context, builder, function, apart.Words(kind.state), *sizes, key, *arguments, into=(key, at)
    )
    found = builder.load(builder.gep(key.start, [constant(at)]))
    return builder.icmp_signed("!=", found, constant(0)) if returned == types.boolean else found


def _state_words(context: Any, builder: Any, kind: StateType) -> Any:
    count = constant(len(kind.state.words))
    return build(context, builder, TABLE, [state_address(context, builder, kind), count])


def _run(context: Any, builder: Any, function: Any, values: list[Any]) -> Any:
    kinds = [
        TABLE
        if isinstance(value.type, ir.LiteralStructType)
        else WORDS
        if value.type == _i64.as_pointer()
        else types.int64
        for value in values
    ]
    return twins.call(context, builder, function, tuple(kinds), tuple(values))


# Methods: (state class, name) -> (result, smallest and largest number of arguments, does it take a key first).

_METHODS: dict[tuple[type[State], str], tuple[Any, int, int]] = {
    (HashTable, "get"): (types.int64, 1, 2),
    (HashTable, "put"): (types.boolean, 2, 2),
    (HashTable, "add"): (types.int64, 1, 2),
    (HashTable, "delete"): (types.boolean, 1, 1),
    (TokenBucket, "allow"): (types.boolean, 1, 3),
    (PrefixTable, "lookup"): (types.int64, 1, 2),
    (Counters, "add"): (types.int64, 1, 2),
    (Samples, "add"): (types.int64, 1, 2),
    (Samples, "sample"): (types.boolean, 2, 2),
    (Random, "getrandbits"): (types.int64, 1, 1),
    (Random, "randrange"): (types.int64, 1, 1),
}


_WANTED: dict[type[State], str] = {
    HashTable: "a key is a number, an address, a five-tuple or a tuple of those, of at most {} words (key_words=)",
    TokenBucket: "it takes the packet, a key of at most {} words, and a number of tokens",
    PrefixTable: "it takes an IPv4 or IPv6 address, and a number for where there is no prefix",
    Counters: "it takes an index or a name, and a number",
    Random: "it takes one number",
    Samples: "it takes the packet, and a number",
}


def _fits(state: Any, name: str, args: Any) -> bool:
    if isinstance(state, HashTable):
        return usable_key(state, args[0]) and all(is_number(one) for one in args[1:])
    if isinstance(state, TokenBucket):
        key = len(args) < 2 or usable_key(state, args[1])
        return isinstance(args[0], PacketType) and key and all(is_number(one) for one in args[2:])
    if isinstance(state, Samples):
        return isinstance(args[0], PacketType) and is_number(args[1])
    if isinstance(state, PrefixTable):
        return _looked_up(args[0]) and all(is_number(one) for one in args[1:])
    return all(is_number(one) for one in args)


def _looked_up(kind: Any) -> bool:
    if isinstance(kind, PrefixType):
        return kind.prefix.is_address and kind.prefix.family != "mac"
    return kind in (SCALARS["ipv4"], IPV6, IP_ADDRESS)


def _template(owner: type[State], name: str) -> type[AbstractTemplate]:
    result, least, most = _METHODS[owner, name]
    key = f"{owner.__name__}.{name}"

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if kws or not least <= len(args) <= most or not _fits(self.this.state, name, args):
                given = ", ".join(native_errors.plain(one) for one in args) or "nothing"
                wanted = _WANTED[type(self.this.state)].format(getattr(self.this.state, "key_words", 0))
                raise native_errors.told(f"{name}() cannot be called with {given}; {wanted}")
            return signature(result, *args, recvr=self.this)

    Template.key = key
    lower_builtin(key, StateType, types.VarArg(types.Any))(_LOWERINGS[owner, name])
    return Template


def _integer(context: Any, builder: Any, sig: Any, args: Any, index: int, default: int) -> Any:
    if index >= len(args):
        return constant(default)
    return context.cast(builder, args[index], sig.args[index], types.int64)


def _lower_hash_table(function: Any, default: int | None, shown: bool) -> Any:
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place, (count, tag, kind) = _key(context, builder, sig.args[1], args[1])
        rest = [count, tag, kind] if shown else [count, tag]
        if default is not None:
            rest.append(_integer(context, builder, sig, args, 2, default))
        return _ask(context, builder, function, sig.args[0], place, *rest)

    return lower


def _lower_allow(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    bucket = sig.args[0].state
    now = current(context, builder, sig.args[1], args[1])
    packet = cgutils.create_struct_proxy(PACKET)(context, builder, value=now)
    if len(args) > 2:
        place, key = _key(context, builder, sig.args[2], args[2])
    else:
        place, key = _key(context, builder, types.int64, constant(0))
    cost = _integer(context, builder, sig, args, 3, 1)
    # More numbers than eBPF hands over: the time stands behind the key, and behind where the result goes.
    time = apart.Stored(packet.time, place.bound + 1)
    limits = [constant(bucket.rate), constant(bucket.burst)]
    return _ask(context, builder, token_bucket.allow, sig.args[0], place, *key, time, *limits, cost)


def _lower_lookup(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kind = sig.args[1]
    default = _integer(context, builder, sig, args, 2, 0)
    if kind == IP_ADDRESS:
        version, high, low = cgutils.unpack_tuple(builder, args[1])
        six = builder.icmp_signed("!=", version, constant(0))
        root = builder.select(six, constant(prefix_table.ROOT_6), constant(prefix_table.ROOT_4))
        high = builder.select(six, high, builder.shl(low, constant(32)))
        low = builder.select(six, low, constant(0))
    else:
        flat = _flat(context, builder, kind, args[1])
        root = constant(prefix_table.ROOT_6 if len(flat) == 2 else prefix_table.ROOT_4)
        high, low = flat if len(flat) == 2 else (builder.shl(flat[0], constant(32)), constant(0))
    table = _state_words(context, builder, sig.args[0])
    return _run(context, builder, prefix_table.lookup, [table, root, high, low, default])


def _counter(context: Any, builder: Any, kind: StateType, index: Any) -> Any:
    """Emit the bounds check of an index; return the pointer to the counter."""
    counters: Any = kind.state
    index = primitives.emit(builder, "offset", index)
    with builder.if_then(builder.icmp_unsigned(">=", index, constant(counters.size)), likely=False):
        twins.fail(builder, twins.OUT_OF_BOUNDS)
    return builder.gep(state_address(context, builder, kind), [primitives.emit(builder, "within", index)])


def _lower_counter_add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    place = _counter(context, builder, sig.args[0], _integer(context, builder, sig, args, 1, 0))
    return primitives.emit(builder, "add", place, _integer(context, builder, sig, args, 2, 1))


def _lower_sample(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    packet = current(context, builder, sig.args[1], args[1])
    time = cgutils.create_struct_proxy(PACKET)(context, builder, value=packet).time
    number = _integer(context, builder, sig, args, 2, 0)
    state = apart.Words(sig.args[0].state)
    apart.call(context, builder, samples.sample, state, apart.Packet(packet), number, time)
    return ir.Constant(ir.IntType(1), 1)


def _lower_random(function: Any, largest: int) -> Any:
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        asked = _integer(context, builder, sig, args, 1, 0)
        less = builder.sub(asked, constant(1))
        with builder.if_then(builder.icmp_unsigned(">=", less, constant(largest)), likely=False):
            # ValueError: a number of bits, or a stop, that there is not.
            twins.fail(builder, twins.OTHER)
        return _run(context, builder, function, [_state_words(context, builder, sig.args[0]), asked])

    return lower


@lower_builtin(operator.getitem, StateType, types.int64)
def _counter_get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.load(_counter(context, builder, sig.args[0], args[1]))


@lower_builtin(operator.setitem, StateType, types.int64, types.int64)
def _counter_set(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    builder.store(args[2], _counter(context, builder, sig.args[0], args[1]))
    return context.get_dummy_value()


@infer_global(operator.contains)
class _Contains(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        table, key = args
        if (
            isinstance(table, StateType)
            and isinstance(table.state, HashTable)
            and usable_key(table.state, key)
        ):
            return signature(types.boolean, table, key)
        return None


lower_builtin(operator.contains, StateType, types.Any)(_lower_hash_table(hash_table.contains, None, False))

_LOWERINGS: dict[tuple[type[State], str], Any] = {
    (HashTable, "get"): _lower_hash_table(hash_table.get, 0, False),
    (HashTable, "put"): _lower_hash_table(hash_table.put, 0, True),
    (HashTable, "add"): _lower_hash_table(hash_table.add, 1, True),
    (HashTable, "delete"): _lower_hash_table(hash_table.delete, None, False),
    (TokenBucket, "allow"): _lower_allow,
    (PrefixTable, "lookup"): _lower_lookup,
    (Counters, "add"): _lower_counter_add,
    (Samples, "add"): _lower_counter_add,
    (Samples, "sample"): _lower_sample,
    (Random, "getrandbits"): _lower_random(random.getrandbits, random.MOST_BITS),
    (Random, "randrange"): _lower_random(random.randrange, random.LARGEST_STOP),
}
TEMPLATES = {pair: _template(*pair) for pair in _METHODS}
"""What can be called on a state object in compiled code, by its class and the name."""


@infer_getattr
class _StateAttributes(AttributeTemplate):
    key = StateType

    def generic_resolve(self, kind: Any, name: str) -> Any:
        template = TEMPLATES.get((type(kind.state), name))
        return None if template is None else types.BoundFunction(template, kind)


@infer_global(len)
class _Length(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        known = (HashTable, Counters)
        if len(args) == 1 and isinstance(args[0], StateType) and isinstance(args[0].state, known):
            return signature(types.int64, *args)
        return None


@lower_builtin(len, StateType)
def _length(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    state = sig.args[0].state
    if isinstance(state, HashTable):
        return builder.load(
            builder.gep(state_address(context, builder, sig.args[0]), [constant(chains.COUNT)])
        )
    return constant(len(state))
