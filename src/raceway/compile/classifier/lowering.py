"""The classifier in compiled code: its key, a value of some words, and what is asked with it. Imported to compile."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types as numba_types
from numba.core.imputils import lower_getattr_generic
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr
from numba.extending import lower_builtin, models, register_model

from raceway.compile import apart, lowering_state, native_errors
from raceway.compile.classifier import walk
from raceway.compile.classifier.classifier import Classifier
from raceway.compile.classifier.sets import LAST_ANSWER
from raceway.compile.lowering import PacketType, current, is_number
from raceway.compile.lowering_addresses import build, constant
from raceway.compile.lowering_state import StateType
from raceway.compile.pipeline import OFTEN

# In line wherever they are: a call is a way more for the verifier at each branch behind it.
OFTEN.update(
    function.__code__ for function in (walk.half, walk.narrow, walk.wide, walk.number, walk.match, walk.flat)
)
types: Any = numba_types  # numba fills this module in as it starts
_i64 = ir.IntType(64)
_MEMBERS = [f"word_{number}" for number in range(walk.KEY_WORDS)]


class KeyType(types.Type):
    """The type of a classifier's key: the words of `walk.key`."""

    def __init__(self) -> None:
        super().__init__(name="classifier key")


KEY = KeyType()


@register_model(KeyType)
class _KeyModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, [(name, types.int64) for name in _MEMBERS])


@infer_getattr
class _KeyAttributes(AttributeTemplate):
    key = KeyType

    def generic_resolve(self, kind: Any, name: str) -> Any:
        return types.int64 if name == "wrong" else None


@lower_getattr_generic(KeyType)
def _key_attribute(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    return builder.extract_value(value, walk.WRONG)


def fresh_key(context: Any, builder: Any, packet: Any) -> apart.Memory:
    """Emit the key of a packet of five words, at the place where keys lie."""
    words = apart.room(builder, apart.KEY, walk.KEY_WORDS + 1)
    apart.call(context, builder, walk.key, apart.Packet(packet), words)
    return words


def _key(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    words = fresh_key(context, builder, current(context, builder, sig.args[1], args[1]))
    loaded = [builder.load(builder.gep(words.start, [constant(index)])) for index in range(walk.KEY_WORDS)]
    return build(context, builder, KEY, loaded)


def key_place(builder: Any, key: Any) -> apart.Memory:
    """Emit the place that a key lies at, until the next one lies there."""
    words = apart.room(builder, apart.KEY, walk.KEY_WORDS + 1)
    for index in range(walk.KEY_WORDS):
        builder.store(builder.extract_value(key, index), builder.gep(words.start, [constant(index)]))
    return words


def _match(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    words = key_place(builder, args[1])
    answers = context.cast(builder, args[2], sig.args[2], types.int64) if len(args) > 2 else constant(0)
    answers = builder.and_(answers, constant(LAST_ANSWER))
    state = sig.args[0].state
    look = walk.flat_in if state.flat else walk.match_in
    apart.call(context, builder, look, apart.Words(state), words, answers)
    return builder.load(builder.gep(words.start, [constant(walk.KEY_WORDS)]))


def method(key: str, result: Any, fits: Any, wanted: str, lowering: Any) -> type[AbstractTemplate]:
    """Make the template of a state object's method. key: as `Class.name`."""
    name = key.rpartition(".")[2]

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if kws or not fits(args):
                given = ", ".join(native_errors.plain(one) for one in args) or "nothing"
                raise native_errors.told(f"{name}() cannot be called with {given}; it takes {wanted}")
            return signature(result, *args, recvr=self.this)

    Template.key = key
    lower_builtin(key, StateType, types.VarArg(types.Any))(lowering)
    return Template


lowering_state.TEMPLATES[Classifier, "key"] = method(
    "Classifier.key", KEY, lambda args: len(args) == 1 and isinstance(args[0], PacketType), "the packet", _key
)
lowering_state.TEMPLATES[Classifier, "match"] = method(
    "Classifier.match",
    types.int64,
    lambda args: args[:1] == (KEY,) and len(args) <= 2 and all(is_number(one) for one in args[1:]),
    "a key, and a number of answers",
    _match,
)
