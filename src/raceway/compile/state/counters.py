"""Counters: numbers that a packet function adds to, by index or by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raceway.compile.addresses import signed64
from raceway.compile.state.calls import count_call
from raceway.compile.state.words import State, count, whole_number


class Counters(State):
    """A fixed number of signed 64-bit counters, all 0 at first.

    `Counters(16)` has indexes 0 to 15, `Counters("web", "dns")` has names (and indexes in their order). In a packet
    function: `COUNT.add("web")`, `COUNT.add(2, amount)`, `COUNT["web"] += 1`, `COUNT[i]`; an index outside is
    Python's IndexError, and the verdict ABORTED. In Python it reads like a list and, with names, like a dict.
    `add` loses nothing, whoever else adds at the same time; in plain Python, `+= 1` is a reading and a writing.
    """

    def __init__(self, first: int | str | list[str] | tuple[str, ...], *more: str) -> None:
        self.names: tuple[str, ...] | None = None
        if isinstance(first, str | list | tuple):
            names = (first, *more) if isinstance(first, str) else (*first, *more)
            wrong = [name for name in names if not isinstance(name, str) or not name]
            if wrong or not names:
                raise TypeError(f"counters have names that are text, got {wrong[0] if wrong else 'none'!r}")
            if len(set(names)) < len(names):
                raise ValueError(f"each counter has a name of its own, got {', '.join(names)}")
            self.names = names
            size = len(names)
        else:
            if more:
                raise TypeError("counters take a number, or names")
            size = whole_number(first, "the number of counters", 1, 1 << 28)
        self.size = size
        super().__init__(size)

    def index(self, which: int | str) -> int:
        """Return the index of a counter, from an index or a name."""
        if isinstance(which, str):
            if self.names is None or which not in self.names:
                raise KeyError(
                    f"there is no counter {which!r}; there are {', '.join(self.names or ('numbers only',))}"
                )
            return self.names.index(which)
        if not -self.size <= which < self.size or which < 0:
            raise IndexError(f"counter {which}: there are {self.size}")
        return int(which)

    def add(self, which: int | str, amount: int = 1) -> int:
        """Add to a counter; return the sum."""
        at, amount = self.index(which), signed64(int(amount))
        with self.writing:
            if self.alone:
                return count(self.memory, at, amount)
        return count_call(self, at, amount)

    def __getitem__(self, which: int | str) -> int:
        return self.memory[self.index(which)]

    def __setitem__(self, which: int | str, value: int) -> None:
        self.memory[self.index(which)] = signed64(int(value))

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        return iter(self.names if self.names is not None else self.words.tolist())

    def keys(self) -> list[Any]:
        """Return names, or indexes."""
        return list(self.names if self.names is not None else range(self.size))

    def values(self) -> list[int]:
        """Return the numbers, in order."""
        numbers: list[int] = self.words.tolist()
        return numbers

    def items(self) -> list[tuple[Any, int]]:
        """Return names (or indexes) and numbers."""
        return list(zip(self.keys(), self.values(), strict=True))

    def clear(self) -> None:
        """Set all to 0."""
        self.words[:] = 0

    def __repr__(self) -> str:
        return f"<Counters {' '.join(f'{name}={value}' for name, value in self.items()[:16])}>"
