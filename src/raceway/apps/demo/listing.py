"""The packet function's source as people see it: lines with their numbers, and the lines that drop.

Which rule a line drops by is read from the syntax tree (`return drop(RULE, ...)`), so that a changed firewall.py
shows its own lines. Control plane; imports no compiler.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Rule:
    """One rule of the firewall: its name, from the constant that numbers its counter, and the line (from 1) that
    drops by it."""

    name: str
    line: int


@dataclass(frozen=True)
class Listing:
    """A file's lines, its rules in the order of their counters, and where to cut it for a small screen.

    starts: line numbers (from 1) at which a listing may start, ascending: the file's beginning, then that of each
    statement of the module, the function's `def` last. last: the function's last line, which returns what is kept.
    """

    lines: list[str]
    rules: list[Rule]
    starts: list[int]
    last: int

    def start_for(self, rows: int) -> int:
        """The earliest start from which everything fits into so many rows; the last one if none does."""
        fitting = [start for start in self.starts if self.last - start < rows]
        return fitting[0] if fitting else self.starts[-1]


def listing_of(module: ModuleType, function: str = "firewall") -> Listing:
    """Read a firewall's module: its `DROPPED` counters, and its `function`, whose drops are `drop(RULE, ...)`."""
    text = inspect.getsource(module)
    tree = ast.parse(text)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    definition = found[0]
    rules: dict[int, Rule] = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "drop":
            constant = node.args[0]
            if isinstance(constant, ast.Name):
                rules[getattr(module, constant.id)] = Rule(constant.id.lower(), node.lineno)
    lines = text.splitlines()
    starts = [1]
    for node in tree.body[1:]:
        decorators = definition.decorator_list if node is definition else []
        starts.append(_with_comment(lines, min([node.lineno, *(one.lineno for one in decorators)])))
    return Listing(
        lines,
        [rules[index] for index in range(len(module.DROPPED))],
        [*starts, definition.lineno],
        definition.end_lineno or definition.lineno,
    )


def _with_comment(lines: list[str], line: int) -> int:
    """The line at which the comment right above a statement begins."""
    while line > 1 and lines[line - 2].startswith("#"):
        line -= 1
    return line
