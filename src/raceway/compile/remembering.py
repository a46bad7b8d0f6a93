"""What an operator makes of some types, found out once in a compilation. Only imported when something is compiled.

For each `a + b`, numba asks every meaning that `+` has (two hundred, with NumPy's) which one fits, the same each time
for the same types. That is a quarter of the time that compiling a packet function takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import types as numba_types
from numba.core.compiler_lock import global_compiler_lock

types: Any = numba_types  # numba fills this module in as it starts
_OPERATORS = "_operator"


@contextmanager
def operators_remembered() -> Iterator[None]:
    """Let the meaning of Python's operators be looked for once for each kinds of operands, in here."""
    with global_compiler_lock:
        before = vars(types.Function).get("get_call_type")
        if getattr(before, "remembers", False):
            yield
            return
        look = types.Function.get_call_type
        known: dict[tuple[Any, Any], Any] = {}

        def get_call_type(self: Any, context: Any, args: Any, kws: Any) -> Any:
            if kws or getattr(self.typing_key, "__module__", "") != _OPERATORS:
                return look(self, context, args, kws)
            found = known.get((self, args))
            if found is None:
                found = look(self, context, args, kws)
                if found is not None:
                    known[self, args] = found
            return found

        get_call_type.remembers = True  # type: ignore[attr-defined]
        types.Function.get_call_type = get_call_type
        try:
            yield
        finally:
            if before is None:
                del types.Function.get_call_type
            else:
                types.Function.get_call_type = before
