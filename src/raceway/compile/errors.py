"""The errors of this floor that users meet: their function cannot become a packet function, or their words no filter,
and why."""

from __future__ import annotations


class PacketFunctionError(Exception):
    """A packet function, or a constant in one, that no target supports.

    The text names file, line and column, shows the line with a caret, names the construct and says what to write
    instead. `file`, `line` (from 1; 0 where there is none), `column` (from 1) and `reason` hold the same apart.
    """

    def __init__(
        self, reason: str, *, file: str = "", line: int = 0, column: int = 0, source: str = ""
    ) -> None:
        self.reason = reason
        self.file = file
        self.line = line
        self.column = column
        self.source = source
        super().__init__(self._text())

    def _text(self) -> str:
        if not self.file:
            return self.reason
        where = f"{self.file}:{self.line}:{self.column}: {self.reason}"
        if not self.source.strip():
            return where
        shown = self.source.rstrip().expandtabs(4)
        before = self.source[: max(self.column - 1, 0)].expandtabs(4)
        indent = len(shown) - len(shown.lstrip())
        return f"{where}\n    {shown.lstrip()}\n    {' ' * max(len(before) - indent, 0)}^"


class ExpressionError(ValueError):
    """A pcap filter expression that libpcap refuses, in libpcap's own words, or a filter program that is not sound."""
