"""Text that an operator wrote: where each piece of it stands, and errors that show it."""

from __future__ import annotations

from dataclasses import dataclass

from raceway.errors import RacewayError


@dataclass(frozen=True)
class Place:
    """A line of a rules file, and a column in it, both from 1."""

    file: str
    line: int
    text: str
    column: int = 1

    def at(self, column: int) -> Place:
        """The same line at another column."""
        return Place(self.file, self.line, self.text, column)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class RulesError(RacewayError, ValueError):
    """Rules that are not accepted. file, line, column: where; reason: why, without the place."""

    def __init__(self, place: Place, reason: str) -> None:
        self.file, self.line, self.column, self.reason = place.file, place.line, place.column, reason
        if not place.text:
            # A file that cannot be read, or its end: there is no line to show.
            known = reason.startswith(place.file)
            super().__init__(reason if known else f"{place}: {reason}")
            return
        shown = "".join("\t" if letter == "\t" else " " for letter in place.text[: place.column - 1])
        super().__init__(f"{place}:{place.column}: {reason}\n  {place.text}\n  {shown}^")
