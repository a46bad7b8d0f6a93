"""Refuses, before any compiler sees it, what no target supports: by name and place, and says what to write instead.

A packet function is a small part of Python: numbers, header fields, tables, `if`, `for i in range(...)`, `while`, and
calls of other functions of that kind. The three targets agree on it, and so that they agree:

- every path of the function ends in a `return`;
- a name is given a value on every path before it is used (Python would raise at run time, machine code could not);
- only attributes that exist are asked for.
"""

from __future__ import annotations

import ast
import difflib
from typing import Any, NoReturn

from raceway.compile import head, headers
from raceway.compile.rewrite import LARGEST, PERMITTED_BUILTINS, SMALLEST
from raceway.compile.source import Source

PACKET_METHODS = (*headers.LOADS, *headers.STORES, *headers.LITTLE, *head.METHODS)
PACKET_ATTRIBUTES = (*headers.HEADERS, *headers.FACTS, *headers.GIVEN, "five_tuple", *PACKET_METHODS)
FIVE_TUPLE_ATTRIBUTES = ("protocol", "source", "destination", "source_port", "destination_port", "reverse")

_REFUSED: dict[type[ast.AST], tuple[str, str]] = {
    ast.Try: (
        "try",
        "a read past the end makes the verdict ABORTED; test a header (if packet.tcp:) or len(packet) before",
    ),
    ast.Raise: ("raise", "return raceway.ABORTED"),
    ast.Assert: ("assert", "write an if that returns raceway.ABORTED"),
    ast.With: ("with", "a packet function has nothing to open or to lock"),
    ast.AsyncWith: ("async with", "a packet function has nothing to wait for"),
    ast.AsyncFor: ("async for", "use for i in range(...)"),
    ast.FunctionDef: ("a function inside a function", "define it at the top of the file and call it"),
    ast.AsyncFunctionDef: ("an async function", "define a plain function at the top of the file and call it"),
    ast.ClassDef: (
        "a class",
        "use plain numbers and the state objects (raceway.HashTable, raceway.Counters)",
    ),
    ast.Lambda: ("lambda", "define a function at the top of the file and call it"),
    ast.Yield: ("yield", "return one verdict"),
    ast.YieldFrom: ("yield from", "return one verdict"),
    ast.Await: ("await", "a packet function has nothing to wait for"),
    ast.ListComp: ("a list comprehension", "use for i in range(...) and a number that you add to"),
    ast.SetComp: ("a set comprehension", "use for i in range(...) and a number that you add to"),
    ast.DictComp: ("a dict comprehension", "use for i in range(...) and a raceway.HashTable"),
    ast.GeneratorExp: ("a generator expression", "use for i in range(...) and a number that you add to"),
    ast.JoinedStr: ("an f-string", "count with raceway.Counters, and format where you read them"),
    ast.List: ("a list", "use a tuple"),
    ast.Set: ("a set", "use a tuple, or a raceway.HashTable for what changes"),
    ast.Dict: ("a dict", "use a raceway.HashTable, made outside the function"),
    ast.Starred: ("* in a call or assignment", "name each value"),
    ast.Global: ("global", "keep state in raceway.Counters or a raceway.HashTable"),
    ast.Nonlocal: ("nonlocal", "keep state in raceway.Counters or a raceway.HashTable"),
    ast.Delete: ("del", "use table.delete(key)"),
    ast.Import: ("import", "import at the top of the file"),
    ast.ImportFrom: ("import", "import at the top of the file"),
    ast.Match: ("match", "use if and elif"),
    ast.Slice: ("a slice", "use packet.load8 to packet.load64 at an offset"),
    ast.Div: ("/", "write //, for packet functions compute with integers only"),
    ast.MatMult: ("@", "packet functions compute with integers only"),
    ast.Pow: ("**", "write a shift (1 << n) or the number itself"),
    ast.NamedExpr: (":=", "assign on a line of its own before"),
    ast.Is: ("is", "write =="),
    ast.IsNot: ("is not", "write !="),
}
for _name in ("TryStar", "TypeAlias", "TemplateStr"):
    if hasattr(ast, _name):
        _REFUSED[getattr(ast, _name)] = (_name, "leave it out")

_ALLOWED = (
    ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.If, ast.While, ast.For, ast.Break, ast.Continue, ast.Expr,
    ast.Pass, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Compare, ast.Call, ast.Constant, ast.Attribute,
    ast.Subscript, ast.Name, ast.Tuple, ast.keyword, ast.expr_context, ast.boolop, ast.operator,
    ast.unaryop, ast.cmpop,
)  # fmt: skip

_CALLS_REFUSED = {
    "print": "count with raceway.Counters, or print where you call the function on a raceway.Packet",
    "open": "a packet function sees nothing but its packet and its state",
    "isinstance": "values have one kind each",
    "sum": "add in a loop", "sorted": "there are no lists", "list": "use a tuple", "dict": "use a raceway.HashTable",
    "set": "use a raceway.HashTable", "str": "there is no text in a packet function", "float": "use integers",
    "bytes": "use packet.load8 to packet.load64", "enumerate": "use for i in range(...)",
    "zip": "use for i in range(...)",
    "round": "use integers", "divmod": "use // and %", "pow": "use a shift",
    "any": "write the conditions with or", "all": "write the conditions with and",
    "getattr": "name the attribute", "setattr": "name the attribute",
}  # fmt: skip


def check(source: Source, *, helper: bool = False) -> set[str]:
    """Check a function; return the names of its local variables. Raises PacketFunctionError.

    helper: a function that packet functions call; it may have any number of parameters and need not return a verdict.
    """
    checker = _Checker(source, helper)
    checker.signature()
    checker.walk()
    _Flow(source, checker.locals, helper).run()
    return checker.locals


class _Checker:
    def __init__(self, source: Source, helper: bool) -> None:
        self.source = source
        self.helper = helper
        self.tree = source.tree
        self.parameters = [one.arg for one in self.tree.args.args]
        stored = (ast.Store, ast.Del)
        names = {
            node.id
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, stored)
        }
        self.locals = names | set(self.parameters)
        self.kinds: dict[str, str] = {}

    def refuse(self, node: ast.AST, reason: str) -> NoReturn:
        self.source.refuse(node, reason)

    def signature(self) -> None:
        arguments = self.tree.args
        for one in (arguments.vararg, arguments.kwarg):
            if one is not None:
                star = "*" if one is arguments.vararg else "**"
                self.refuse(one, f"{star}{one.arg}: a packet function cannot have it; name each parameter")
        for one in (*arguments.posonlyargs, *arguments.kwonlyargs):
            self.refuse(one, f"parameter {one.arg!r} must be an ordinary one, without / and *")
        if arguments.defaults:
            self.refuse(arguments.defaults[0], "a default value is not supported; pass the value")
        if not self.helper and len(self.parameters) != 1:
            count = len(self.parameters)
            self.refuse(
                self.tree, f"a packet function has one parameter, the packet; {self.tree.name} has {count}"
            )
        if not self.helper:
            self.kinds[self.parameters[0]] = "packet"

    def walk(self) -> None:
        body = list(self.tree.body)
        first = body[0]
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            body = body[1:]
        self._find_kinds()
        for statement in body:
            self.visit(statement)

    def _find_kinds(self) -> None:
        """Follow names that are only ever given one kind of view, for better messages."""
        assigned: dict[str, set[str]] = {}
        counted: dict[str, int] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                counted[node.id] = counted.get(node.id, 0) + 1
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.Assign)
                and len(node.targets) == 1
                and isinstance(node.targets[0], ast.Name)
            ):
                assigned.setdefault(node.targets[0].id, set()).add(self.kind(node.value))
                counted[node.targets[0].id] -= 1
        for name, kinds in assigned.items():
            if name in self.parameters:
                self.kinds.pop(name, None)
            elif len(kinds) == 1 and counted[name] == 0:
                self.kinds[name] = kinds.pop()
        for name, left in counted.items():
            if left:
                self.kinds.pop(name, None)

    def kind(self, node: ast.expr) -> str:
        """Tell what an expression is: packet, the name of a header, five_tuple, or "" for what is not known."""
        if isinstance(node, ast.Name):
            return self.kinds.get(node.id, "")
        if isinstance(node, ast.Attribute):
            owner = self.kind(node.value)
            if owner == "packet" and (node.attr in headers.HEADERS or node.attr == "five_tuple"):
                return node.attr
            if (owner, node.attr) in (("vlan", "inner"), ("five_tuple", "reverse")):
                return owner
        return ""

    def visit(self, node: ast.AST) -> None:
        refused = _REFUSED.get(type(node))
        if refused:
            self.refuse(node, f"{refused[0]} is not supported in a packet function; {refused[1]}")
        if not isinstance(node, _ALLOWED):
            self.refuse(node, f"{type(node).__name__} is not supported in a packet function")
        method = getattr(self, f"visit_{type(node).__name__}", None)
        if method is not None:
            method(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.operator | ast.cmpop):
                self._operator(node, child)
            elif not (isinstance(node, ast.AnnAssign) and child is node.annotation):
                self.visit(child)

    def _operator(self, node: ast.AST, operation: ast.AST) -> None:
        refused = _REFUSED.get(type(operation))
        if refused:
            self.refuse(node, f"{refused[0]} is not supported in a packet function; {refused[1]}")

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            return
        if isinstance(value, int) and not SMALLEST <= value <= LARGEST:
            self.refuse(
                node, f"{value:#x} does not fit in 64 bits with a sign; packet functions compute in those"
            )
        if isinstance(value, float | complex):
            self.refuse(
                node, f"{value} is a {type(value).__name__}; packet functions compute with integers only"
            )
        if value is None:
            self.refuse(node, "None is not supported in a packet function; use a number")
        if isinstance(value, bytes):
            self.refuse(
                node,
                "bytes are not supported in a packet function; compare packet.load8 to load64 with numbers",
            )
        if value is Ellipsis:
            self.refuse(node, "... is not supported in a packet function; write pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Call) and type(node.value) not in _REFUSED:
            self.refuse(node, "this expression does nothing; assign it, or return it")

    def visit_For(self, node: ast.For) -> None:
        call = node.iter
        is_range = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"
        if not is_range or "range" in self.locals or not isinstance(node.target, ast.Name):
            self.refuse(node, "a for loop counts: write for i in range(bound)")
        assert isinstance(call, ast.Call)
        if len(call.args) == 3:
            step = call.args[2]
            negative = isinstance(step, ast.UnaryOp) and isinstance(step.op, ast.USub)
            number = step.operand if negative else step  # type: ignore[attr-defined]
            if not (isinstance(number, ast.Constant) and isinstance(number.value, int) and number.value):
                self.refuse(step, "the step of range must be a number other than 0, written there")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.kind(node.value)
        if not owner:
            return
        known, what = self._attributes(owner)
        if node.attr in known:
            if isinstance(node.ctx, ast.Store) and owner == "packet":
                self.refuse(
                    node,
                    f"packet.{node.attr} cannot be set; set a field of a header, or use packet.store8 to store64",
                )
            if isinstance(node.ctx, ast.Store) and not self._settable(owner, node.attr):
                self.refuse(node, f"{what} field {node.attr!r} cannot be set")
            return
        close = difflib.get_close_matches(node.attr, known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        listed = f"; it has {', '.join(known)}" if not close else ""
        self.refuse(node, f"{what} has no attribute {node.attr!r}{hint}{listed}")

    @staticmethod
    def _attributes(owner: str) -> tuple[tuple[str, ...], str]:
        if owner == "packet":
            return PACKET_ATTRIBUTES, "a packet"
        if owner == "five_tuple":
            return FIVE_TUPLE_ATTRIBUTES, "a five-tuple"
        more = ("offset", "packet", "inner") if owner == "vlan" else ("offset", "packet")
        return (*headers.HEADERS[owner].by_name, *more), f"the {owner} header"

    @staticmethod
    def _settable(owner: str, name: str) -> bool:
        field = headers.HEADERS[owner].by_name.get(name) if owner in headers.HEADERS else None
        return field is not None and field.writable

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute):
            if self.kind(function.value) == "packet" and function.attr in PACKET_METHODS:
                wanted = 2 if function.attr.startswith("store") else 1
                if node.keywords or len(node.args) != wanted:
                    arguments = "offset, value" if wanted == 2 else "offset"
                    arguments = "size" if function.attr in head.METHODS else arguments
                    self.refuse(
                        node, f"packet.{function.attr} is called as packet.{function.attr}({arguments})"
                    )
            return
        if not isinstance(function, ast.Name):
            self.refuse(node, "only a function with a name can be called")
        name = function.id
        if name in self.locals:
            self.refuse(node, f"{name!r} is a variable; only functions from outside can be called")
        value = self.source.value(name)
        builtin = type(value).__module__ == "builtins" and getattr(value, "__module__", "") == "builtins"
        if builtin and name not in PERMITTED_BUILTINS:
            hint = _CALLS_REFUSED.get(name, f"there are {', '.join(PERMITTED_BUILTINS)}")
            self.refuse(node, f"{name}() is not supported in a packet function; {hint}")
        if builtin and node.keywords:
            self.refuse(node, f"{name}() takes no keywords here")

    def visit_Subscript(self, node: ast.Subscript) -> None:
        owner = self.kind(node.value)
        if owner == "packet":
            self.refuse(
                node, "packet[...] is not supported; write packet.load8(offset), or load16, load32, load64"
            )

    def visit_Compare(self, node: ast.Compare) -> None:
        for operation, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operation, ast.In | ast.NotIn):
                if len(node.ops) > 1:
                    self.refuse(node, "in cannot stand in a chain of comparisons; write each with and")
                if isinstance(right, ast.Constant) and isinstance(right.value, str):
                    self.refuse(right, f"in {right.value!r} looks for text in text; write == {right.value!r}")
        for operand in (node.left, *node.comparators):
            parts = operand.elts if isinstance(operand, ast.Tuple) else [operand]
            for part in parts:
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    self._address(part)

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            self._address(node.value)

    def _address(self, node: ast.Constant) -> None:
        from raceway.compile.addresses import prefix

        try:
            prefix(str(node.value))
        except ValueError as error:
            self.refuse(node, str(error))


class _Flow:
    """Follows every path: does it return, and has each name a value where it is used?"""

    def __init__(self, source: Source, locals_: set[str], helper: bool) -> None:
        self.source = source
        self.locals = locals_
        self.helper = helper
        self.returns: list[ast.Return] = []
        self.breaks: list[list[frozenset[str]]] = []

    def run(self) -> None:
        tree = self.source.tree
        end = self.block(tree.body, frozenset(one.arg for one in tree.args.args))
        with_value = [one for one in self.returns if one.value is not None]
        if end is not None and (with_value or not self.helper):
            line = _last_line(tree.body)
            self.source.refuse_line(
                line,
                f"{tree.name} can end here without a return; every path returns a verdict"
                if not self.helper
                else f"{tree.name} can end here without a return; other paths return a value",
            )
        for one in self.returns:
            if one.value is None and (with_value or not self.helper):
                self.source.refuse(one, "this return has no value; return a verdict")

    def block(self, body: list[ast.stmt], known: frozenset[str] | None) -> frozenset[str] | None:
        """Return the names that have a value behind the statements, or None if no path gets there."""
        for statement in body:
            if known is None:
                return None
            known = self.statement(statement, known)
        return known

    def statement(self, node: ast.stmt, known: frozenset[str]) -> frozenset[str] | None:
        if isinstance(node, ast.If):
            known = self.uses(node.test, known)
            return _meet(self.block(node.body, known), self.block(node.orelse, known))
        if isinstance(node, ast.While | ast.For):
            return self.loop(node, known)
        if isinstance(node, ast.Return):
            self.returns.append(node)
            self.uses(node, known)
            return None
        if isinstance(node, ast.Break):
            if self.breaks:
                self.breaks[-1].append(known)
            return None
        if isinstance(node, ast.Continue):
            return None
        return self.uses(node, known)

    def loop(self, node: ast.While | ast.For, known: frozenset[str]) -> frozenset[str] | None:
        forever = False
        if isinstance(node, ast.While):
            known = self.uses(node.test, known)
            forever = isinstance(node.test, ast.Constant) and bool(node.test.value)
            inside = known
        else:
            known = self.uses(node.iter, known)
            inside = known | {node.target.id} if isinstance(node.target, ast.Name) else known
        self.breaks.append([])
        self.block(node.body, inside)
        broken = self.breaks.pop()
        after = None if forever else self.block(node.orelse, known)
        for one in broken:
            after = _meet(after, one)
        return after

    def uses(self, node: ast.AST, known: frozenset[str]) -> frozenset[str]:
        stored = set()
        for one in ast.walk(node):
            if isinstance(one, ast.Name) and one.id in self.locals:
                if isinstance(one.ctx, ast.Store) and not isinstance(node, ast.AugAssign):
                    stored.add(one.id)
                elif one.id not in known and one.id not in stored:
                    self.source.refuse(
                        one, f"{one.id!r} has no value on some path to here; give it one before"
                    )
        return known | stored


def _meet(left: frozenset[str] | None, right: frozenset[str] | None) -> frozenset[str] | None:
    if left is None or right is None:
        return right if left is None else left
    return left & right


def _last_line(body: list[ast.stmt]) -> int:
    last: Any = body[-1]
    if isinstance(last, ast.If):
        return _last_line(last.orelse) if last.orelse else last.lineno
    return int(last.lineno)
