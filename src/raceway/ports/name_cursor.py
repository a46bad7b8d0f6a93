"""A text with a place in it, and the error that points at the place: what every decoder of port names stands on.

`Cursor` steps through a name and says what was expected where it stopped; `PortNameError` is what it says it with.
Knows nothing of the grammar, which is in `names` and, for what follows an "@", in `options`.
"""

import errno
import re
import unicodedata

_SHOWN_LIMIT = 60  # characters of a name to show on each side of an error
_LONG_LIMIT = 2**63 - 1  # where strtol stops and says ERANGE


class PortNameError(ValueError):
    """A text that names no port.

    `name` is the text, `position` the index in it (0 to its length) of the first character that cannot be
    right, `expected` what could have stood there and `hint`, often empty, what was probably meant. As a
    string: the name, a caret under that character with what was expected, and the hint; characters that
    cannot be printed are escaped, and of a very long name only the surroundings of the error are shown.
    """

    def __init__(self, name: str, position: int, expected: str, hint: str = "") -> None:
        super().__init__(name, position, expected, hint)
        self.name = name
        self.position = position
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        begin, end = max(0, self.position - _SHOWN_LIMIT), self.position + _SHOWN_LIMIT
        before = ("..." if begin else "") + _printable(self.name[begin : self.position])
        after = _printable(self.name[self.position : end]) + ("..." if end < len(self.name) else "")
        # Unicode Standard Annex #11: some characters are two columns wide, combining ones none.
        wide = sum(unicodedata.east_asian_width(c) in "WF" for c in before)
        columns = len(before) + wide - sum(unicodedata.combining(c) > 0 for c in before)
        hint = f"\nhint: {self.hint}" if self.hint else ""
        return f"{before}{after}\n{' ' * columns}^ expected {self.expected}{hint}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Cursor:
    """Where a decoder stands in its text, and the errno that C's strtol would have left behind."""

    __slots__ = ("at", "errno", "text")

    def __init__(self, text: str, at: int = 0) -> None:
        self.text = text
        self.at = at
        self.errno = 0

    def more(self) -> bool:
        return self.at < len(self.text)

    def sees(self, characters: str) -> bool:
        return self.more() and self.text[self.at] in characters

    def skip(self, characters: str) -> str:
        """Step over the next character if it is one of `characters`, and return it; otherwise ""."""
        self.at += (seen := self.sees(characters))
        return self.text[self.at - 1] if seen else ""

    def take(self, pattern: str) -> str:
        found = re.compile(pattern).match(self.text, self.at)
        taken = found.group() if found else ""
        self.at += len(taken)
        return taken

    def take_number(self) -> int:
        digits = self.take("[0-9]*").lstrip("0")
        number = int(digits[:20] or "0")  # 20 digits are beyond a long, and int() refuses thousands of them
        self.errno = errno.ERANGE if number > _LONG_LIMIT else self.errno
        return min(number, _LONG_LIMIT)

    def fault(self, expected: str, hint: str = "", at: int | None = None) -> PortNameError:
        return PortNameError(self.text, self.at if at is None else at, expected, hint)
