"""From the checked source to a function that numba compiles: names become values, text becomes constants.

Everything that the function takes from outside (verdicts, numbers, prefixes, tables, other functions) is looked up
once, when it is compiled, and put in as a constant. What is rewritten, and why:

- text that is an address or prefix: a `Prefix` constant, so that `==` with it is a mask and a comparison;
- names of counters: their indexes;
- `x in (a, b)`: a chain of comparisons;
- `not` of a view or an address: of its truth;
- shifts by a count that is not a literal: Python's meaning for every count (a literal one needs no help);
- calls of the user's other functions: those are checked and rewritten in the same way.
"""

from __future__ import annotations

import ast
import builtins
import copy
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from raceway.compile.addresses import Address, Prefix, prefix
from raceway.compile.source import MISSING, Source
from raceway.compile.state.counters import Counters
from raceway.compile.state.words import State

_Node = TypeVar("_Node", bound=ast.AST)

SMALLEST, LARGEST = -(1 << 63), (1 << 63) - 1

PERMITTED_BUILTINS = ("len", "range", "min", "max", "abs", "int", "bool")


def is_plain(value: Any) -> bool:
    """Tell whether a value is a number or truth value."""
    return isinstance(value, int) and not isinstance(value, Address)


class Rewriter(ast.NodeTransformer):
    """Rewrites one function. `helper` turns another Python function into something that compiled code can call."""

    def __init__(
        self, source: Source, locals_: set[str], helper: Callable[[Any, Source, ast.AST], Any]
    ) -> None:
        self.source = source
        self.locals = locals_
        self.helper = helper
        self.scope: dict[str, Any] = {}
        self._counters: State | None = None

    def run(self) -> FunctionType:
        """Return the rewritten function, which still names the user's file and lines."""
        module = ast.fix_missing_locations(ast.Module(body=[self.tree()], type_ignores=[]))
        name = self.source.tree.name
        scope: dict[str, Any] = {"__name__": f"raceway.packet_function.{name}", **self.scope}
        exec(compile(module, self.source.file, "exec"), scope)  # the user's own function, on its own machine
        made: FunctionType = scope[name]
        return made

    def tree(self) -> ast.FunctionDef:
        """Return the rewritten function's tree. With `scope` it says all that the function is: nothing else that it
        could take from outside gets into what is compiled."""
        original = self.source.tree
        node = ast.FunctionDef(
            name=original.name, args=_bare(original.args), body=_without_docstring(original.body), decorator_list=[],
            returns=None, lineno=original.lineno, col_offset=original.col_offset,
            end_lineno=original.end_lineno, end_col_offset=original.end_col_offset,
        )  # fmt: skip
        if "type_params" in ast.FunctionDef._fields:
            node.type_params = []  # type: ignore[attr-defined,unused-ignore]
        node.body = [self.visit(copy.deepcopy(one)) for one in node.body]
        return node

    # Values.

    def constant(self, value: Any, node: ast.AST, what: str) -> ast.expr:
        """Return the expression that stands for a value from outside."""
        if isinstance(value, Enum) and isinstance(value.value, int):
            value = value.value
        if isinstance(value, bool):
            return _at(ast.Constant(value), node)
        if isinstance(value, str):
            value = self.prefix(value, node)
        if isinstance(value, int) and not isinstance(value, Address):
            if not SMALLEST <= value <= LARGEST:
                self.source.refuse(
                    node, f"{what} does not fit in 64 bits with a sign; packet functions compute in those"
                )
            return _at(ast.Constant(int(value)), node)
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return _at(ast.Tuple([self.constant(one, node, what) for one in value], ast.Load()), node)
        if isinstance(value, Prefix | Address | State):
            return self.outside(value, node)
        if isinstance(value, list | set | frozenset | dict):
            kind = type(value).__name__
            self.source.refuse(
                node, f"{what} is a {kind}; use a tuple, or a raceway.HashTable for what changes"
            )
        if isinstance(value, float):
            self.source.refuse(node, f"{what} is a float; packet functions compute with integers only")
        return self.source.refuse(node, f"{what} is {_kind(value)}, which a packet function cannot use")

    def outside(self, value: Any, node: ast.AST) -> ast.expr:
        """Return a name of the new function's globals that stands for an object."""
        known = [name for name, one in self.scope.items() if one is value]
        name = known[0] if known else f"raceway_{len(self.scope)}"
        self.scope[name] = value
        return _at(ast.Name(name, ast.Load()), node)

    def prefix(self, text: str, node: ast.AST) -> Prefix:
        """Read an address or prefix in the source."""
        try:
            return prefix(text)
        except ValueError as error:
            self.source.refuse(node, str(error))

    def resolve(self, node: ast.expr) -> Any:
        """Return the object that a name, or a dotted name that starts outside the function, stands for, or MISSING."""
        if isinstance(node, ast.Name):
            return MISSING if node.id in self.locals else self.source.value(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.resolve(node.value)
            if isinstance(owner, ModuleType) or (isinstance(owner, type) and issubclass(owner, Enum)):
                return getattr(owner, node.attr, MISSING)
        return MISSING

    # Nodes.

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id in self.locals or not isinstance(node.ctx, ast.Load):
            return node
        value = self.source.value(node.id)
        if value is MISSING:
            self.source.refuse(node, f"the name {node.id!r} is not defined")
        return self.constant(value, node, f"{node.id!r}")

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        value = self.resolve(node)
        if value is not MISSING:
            return self.constant(value, node, f"{ast.unparse(node)!r}")
        self._refuse_missing_member(node)
        return self.generic_visit(node)

    def _refuse_missing_member(self, node: ast.Attribute) -> None:
        owner = self.resolve(node.value)
        if isinstance(owner, ModuleType):
            self.source.refuse(node, f"module {owner.__name__} has no {node.attr!r}")
        if isinstance(owner, type) and issubclass(owner, Enum):
            names = ", ".join(one.name for one in owner)
            self.source.refuse(node, f"{owner.__name__} has no {node.attr!r}; it has {names}")

    def visit_Constant(self, node: ast.Constant) -> Any:
        return self.constant(node.value, node, f"{node.value!r}")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return _at(ast.Pass(), node)
        return _at(ast.Assign([self.visit(node.target)], self.visit(node.value)), node)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        table = self.resolve(node.value)
        node.slice = self._named(table, node.slice)
        node.value = self.visit(node.value)
        node.slice = self.visit(node.slice)
        return node

    def _named(self, table: Any, index: ast.expr) -> ast.expr:
        """Turn a counter's name into its index."""
        names = getattr(table, "names", None)
        if isinstance(index, ast.Constant) and isinstance(index.value, str) and names is not None:
            if index.value not in names:
                self.source.refuse(
                    index, f"there is no counter {index.value!r}; there are {', '.join(names)}"
                )
            return _at(ast.Constant(names.index(index.value)), index)
        return index

    def visit_Call(self, node: ast.Call) -> Any:
        function = self.resolve(node.func)
        if isinstance(node.func, ast.Attribute):
            table = self.resolve(node.func.value)
            if isinstance(table, State) and node.args:
                node.args[0] = self._named(table, node.args[0])
        node.args = [self.visit(one) for one in node.args]
        for keyword in node.keywords:
            keyword.value = self.visit(keyword.value)
        if function is MISSING:
            if isinstance(node.func, ast.Name):
                self.source.refuse(node.func, f"the name {node.func.id!r} is not defined")
            if isinstance(node.func, ast.Attribute):
                self._refuse_missing_member(node.func)
            node.func = self.visit(node.func)
            return node
        if function is int:
            return self._helped("raceway_number", _helpers().number, node.args, node)
        if function is min or function is max:
            name = "smallest" if function is min else "largest"
            return self._helped(f"raceway_{name}", getattr(_helpers(), name), node.args, node)
        if getattr(builtins, getattr(function, "__name__", ""), None) is function:
            return node
        node.func = self.outside(self.helper(function, self.source, node.func), node.func)
        return node

    def visit_Compare(self, node: ast.Compare) -> Any:
        if not isinstance(node.ops[0], ast.In | ast.NotIn):
            return self.generic_visit(node)
        right = node.comparators[0]
        value = self.resolve(right)
        if isinstance(value, str):
            self.source.refuse(right, f"{ast.unparse(right)} is one prefix as text; write == instead of in")
        if not isinstance(right, ast.Tuple) and not isinstance(value, tuple | Prefix):
            return self.generic_visit(node)
        if value == () or (isinstance(right, ast.Tuple) and not right.elts):
            self.source.refuse(right, "an empty tuple contains nothing")
        call = self._helped(
            "raceway_among", _helpers().among, [self.visit(node.left), self.visit(right)], node
        )
        return call if isinstance(node.ops[0], ast.In) else _at(ast.UnaryOp(ast.Not(), call), node)

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        node = self.generic_visit(node)  # type: ignore[assignment]
        return self._shift(node.left, node.op, node.right, node) or node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        node = self.generic_visit(node)  # type: ignore[assignment]
        if isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Name | ast.Attribute):
            # As a value: numba knows the truth of a view, but not what `not` makes of one.
            node.operand = self._helped("raceway_truth", bool, [node.operand], node)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        added = self._counted(node)
        if added is not None:
            return added
        if isinstance(node.op, ast.LShift | ast.RShift) and isinstance(node.target, ast.Name):
            value = self.visit(node.value)
            shifted = self._shift(_at(ast.Name(node.target.id, ast.Load()), node), node.op, value, node)
            if shifted is not None:
                return _at(ast.Assign([node.target], shifted), node)
            node.value = value
            return node
        return self.generic_visit(node)

    def _counted(self, node: ast.AugAssign) -> ast.stmt | None:
        """`COUNT[i] += n` as `COUNT.add(i, n)`, which processors can do at once; not where a call in `n` could add to
        the same counter in between."""
        target = node.target
        if not isinstance(target, ast.Subscript) or not isinstance(node.op, ast.Add | ast.Sub):
            return None
        counters = self.resolve(target.value)
        if not isinstance(counters, Counters) or any(isinstance(one, ast.Call) for one in ast.walk(node)):
            return None
        amount = (
            node.value if isinstance(node.op, ast.Add) else _at(ast.UnaryOp(ast.USub(), node.value), node)
        )
        function = _at(ast.Attribute(target.value, "add", ast.Load()), node)
        return _at(ast.Expr(self.visit(_at(ast.Call(function, [target.slice, amount], []), node))), node)

    def _shift(
        self, left: ast.expr, operation: ast.operator, right: ast.expr, node: ast.AST
    ) -> ast.expr | None:
        if not isinstance(operation, ast.LShift | ast.RShift):
            return None
        if isinstance(right, ast.Constant) and isinstance(right.value, int):
            if 0 <= right.value <= 63:
                return None
            self.source.refuse(right, f"a shift by {right.value} is outside 0 to 63")
        name = "shift_left" if isinstance(operation, ast.LShift) else "shift_right"
        return self._helped(f"raceway_{name}", getattr(_helpers(), name), [left, right], node)

    def _helped(self, name: str, function: Any, arguments: list[ast.expr], node: ast.AST) -> ast.expr:
        self.scope[name] = self.operation(function.name) if isinstance(function, _Operation) else function
        return _at(ast.Call(_at(ast.Name(name, ast.Load()), node), arguments, []), node)

    def operation(self, name: str) -> Any:
        """Return what compiled code calls for something that Python says in another way."""
        from raceway.compile import native_helpers

        return getattr(native_helpers, name)


@dataclass(frozen=True)
class _Operation:
    """A function of `native_helpers`, by its name: that module imports the compiler."""

    name: str


class _Operations:
    def __getattr__(self, name: str) -> _Operation:
        return _Operation(name)


def _helpers() -> Any:
    return _OPERATIONS


_OPERATIONS = _Operations()


def _at(made: _Node, node: ast.AST) -> _Node:
    return ast.copy_location(made, node)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        return body[1:]
    return body


def _bare(arguments: ast.arguments) -> ast.arguments:
    names = [ast.copy_location(ast.arg(one.arg), one) for one in arguments.args]
    return ast.arguments(posonlyargs=[], args=names, kwonlyargs=[], kw_defaults=[], defaults=[])


def _kind(value: Any) -> str:
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if callable(value):
        return "a function, which can only be called"
    return f"a {type(value).__name__}"
