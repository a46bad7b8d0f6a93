"""A user's function as its author wrote it: file, lines, syntax tree, and what its names stand for."""

from __future__ import annotations

import ast
import builtins
import inspect
from typing import Any, NoReturn

from raceway.compile.errors import PacketFunctionError


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()
"""What a name stands for that is not defined (yet)."""


class Source:
    """One function's source. `tree` has the line and column numbers of the user's file."""

    def __init__(self, function: Any) -> None:
        self.function = function
        code = getattr(function, "__code__", None)
        if code is None or not inspect.isfunction(function):
            raise PacketFunctionError(f"a packet function is an ordinary function (def), got {function!r}")
        self.file: str = code.co_filename
        name = function.__name__
        if name == "<lambda>":
            raise PacketFunctionError(
                "a packet function cannot be a lambda; write it as a def",
                file=self.file, line=code.co_firstlineno, column=1,
            )  # fmt: skip
        try:
            lines, first = inspect.getsourcelines(function)
        except (OSError, TypeError):
            raise PacketFunctionError(
                f"the source of {name} cannot be read, for it was not defined in a file; put it into a .py file"
            ) from None
        self.first = max(first, 1)
        self.lines = [line.rstrip("\n") for line in lines]
        text = "".join(lines)
        indented = text[:1].isspace()
        module = ast.parse("if 1:\n" + text if indented else text)
        ast.increment_lineno(module, self.first - 1 - indented)
        body: Any = module.body[0]
        node = body.body[0] if indented else body
        if isinstance(node, ast.AsyncFunctionDef):
            self.refuse(node, "an async function cannot be a packet function; write a plain def")
        if not isinstance(node, ast.FunctionDef):
            raise PacketFunctionError(
                f"the source of {name} is not a plain def", file=self.file, line=self.first
            )
        self.tree: ast.FunctionDef = node
        self._cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))

    @property
    def name(self) -> str:
        """The function's name."""
        return self.tree.name

    def value(self, name: str) -> Any:
        """Return what a name of an enclosing scope stands for now, or MISSING."""
        if name in self._cells:
            try:
                return self._cells[name].cell_contents
            except ValueError:
                return MISSING
        scope = self.function.__globals__
        return scope[name] if name in scope else getattr(builtins, name, MISSING)

    def text(self, line: int) -> str:
        """Return a line of the user's file."""
        index = line - self.first
        return self.lines[index] if 0 <= index < len(self.lines) else ""

    def refuse(self, node: Any, reason: str) -> NoReturn:
        """Raise a PacketFunctionError that points at a node of the tree."""
        line = getattr(node, "lineno", self.first)
        text = self.text(line)
        column = len(text.encode()[: getattr(node, "col_offset", 0)].decode(errors="ignore")) + 1
        raise PacketFunctionError(reason, file=self.file, line=line, column=column, source=text)

    def refuse_line(self, line: int, reason: str) -> NoReturn:
        """Raise a PacketFunctionError that points at the start of a line."""
        text = self.text(line)
        column = len(text) - len(text.lstrip()) + 1
        raise PacketFunctionError(reason, file=self.file, line=line, column=column, source=text)
