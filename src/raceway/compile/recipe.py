"""All that a packet function's compiled code depends on, as text that is the same in every process: the key of a cache.

What is compiled is a rewritten tree and the few objects that it names (`rewrite`): numbers, addresses, tuples and
counters' names stand in the tree already, each with the value that it has now. So the tree is written down, and what it
names: prefixes with their bits, state objects by kind and shape (never by what they hold), filter expressions by their
program, other functions by their own trees. Whatever else a function should name has no text here, and there is no
recipe: not to know is to compile.

Needs no compiler.
"""

from __future__ import annotations

import ast
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from raceway.compile.addresses import IPv4Address, IPv6Address, MACAddress, Prefix
from raceway.compile.checker import check
from raceway.compile.errors import PacketFunctionError
from raceway.compile.rewrite import Rewriter
from raceway.compile.source import Source
from raceway.compile.state.words import State

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction


class Recipe(NamedTuple):
    """text: what two functions have in common exactly if the same is compiled of both; states: the state objects, in
    the order in which the text speaks of them."""

    text: str
    states: tuple[State, ...]


def recipe(function: PacketFunction) -> Recipe | None:
    """The recipe of a packet function as its globals are now; None if there is something about it that has no text."""
    reader = _Reader()
    try:
        reader.add(function.function, function.source, function.locals)
    except (PacketFunctionError, _NoTextError):
        return None  # What is wrong with it the compiler says, with the user's line.
    return Recipe("\n".join((function.hook, *reader.texts)), tuple(reader.states))


class _NoTextError(Exception):
    """Something that is named by a function cannot be written down."""


class _Named:
    """Stands in a rewritten function for what a compiler would put there."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Reader:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.states: list[State] = []
        self._functions: dict[Any, _Named] = {}

    def add(self, function: Any, source: Source, locals_: set[str]) -> _Named:
        """Write a function down, once, and what it names."""
        if function not in self._functions:
            named = self._functions[function] = _Named(f"function {len(self._functions)}")
            rewriter = _Rewriter(source, locals_, self._helper)
            tree = rewriter.tree()
            scope = {name: self._text(value) for name, value in rewriter.scope.items()}
            self.texts.append(f"{named.text}: {ast.dump(tree)} {scope!r}")
        return self._functions[function]

    def _helper(self, function: Any, source: Source, node: ast.AST) -> Any:
        from raceway.compile.function import PacketFunction
        from raceway.compile.pcap_filter.expression import Expression

        if isinstance(function, Expression):
            program = [tuple(one) for one in function.program]
            return _Named(f"expression of link type {function.link_type}: {program!r}")
        if isinstance(function, PacketFunction):
            function = function.function
        if not isinstance(function, FunctionType):
            raise _NoTextError
        if (function.__module__ or "").startswith("raceway."):
            # Of this package, whose sources are hashed.
            return _Named(f"{function.__module__}.{function.__qualname__}")
        if function in self._functions:
            return self._functions[function]
        helper = Source(function)
        return self.add(function, helper, check(helper, helper=True))

    def _text(self, value: Any) -> str:
        if isinstance(value, _Named):
            return value.text
        if isinstance(value, State):
            return self._state(value)
        if type(value) is Prefix:
            return f"prefix {value.family} {value.value:#x}/{value.length}"
        if type(value) in (IPv4Address, IPv6Address, MACAddress):
            return f"address {value.family} {int(value):#x}"
        if isinstance(value, type) and value.__module__ == "builtins":
            return f"builtin {value.__name__}"
        raise _NoTextError

    def _state(self, state: State) -> str:
        # By identity: two tables that are equal now are two tables.
        known = [index for index, one in enumerate(self.states) if one is state]
        if known:
            return f"state {known[0]}"
        shape = state.shape()
        if shape is None:
            raise _NoTextError
        self.states.append(state)
        return f"state {len(self.states) - 1}: {shape!r}"


class _Rewriter(Rewriter):
    """Rewrites for nobody to compile."""

    def operation(self, name: str) -> Any:
        return _Named(f"operation {name}")
