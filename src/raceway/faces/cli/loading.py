"""From `FILE.py:FUNCTION` on the command line to a packet function."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction


def load_function(where: str) -> PacketFunction:
    """Import the file and return its packet function; a plain function is made one. Raises as `load_callable` does,
    and PacketFunctionError for a function that cannot be compiled."""
    from raceway.compile.function import PacketFunction, packet_function

    found = load_callable(where)
    return found if isinstance(found, PacketFunction) else packet_function(found)


def load_callable(where: str) -> Callable[[Any], Any]:
    """Import the file and return its packet function, or whatever else can be called by that name.

    Raises ValueError that says what is missing, and whatever the file itself raises.
    """
    from raceway.compile.function import PacketFunction

    file, colon, name = where.rpartition(":")
    if not colon or not name.isidentifier():
        raise ValueError(f"{where}: expected FILE.py:FUNCTION")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{where}: there is no file {file}")
    module = _import(path)
    found = getattr(module, name, None)
    if found is None:
        functions = [key for key, value in vars(module).items() if isinstance(value, PacketFunction)]
        hint = f"; packet functions in it: {', '.join(functions)}" if functions else ""
        raise ValueError(f"{where}: {file} has no function {name!r}{hint}")
    if not callable(found):
        raise ValueError(f"{where}: {name} is {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


_imported: dict[tuple[Path, int, int], ModuleType] = {}


def _import(path: Path) -> ModuleType:
    """The module that a file is: the same one for two functions of it, for they share what is global there."""
    found = path.stat()
    stamp = (path.resolve(), found.st_mtime_ns, found.st_size)
    if stamp not in _imported:
        _imported[stamp] = _executed(path)
    return _imported[stamp]


def _executed(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ValueError(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    # What stands beside the file can be imported, as when Python runs it.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
