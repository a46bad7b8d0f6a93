"""How raceway's own functions become machine code, and where the result is kept.

Data-plane functions come in two kinds, and the difference keeps compiling short:

`@inner`
    a part of a loop. Never cached by itself: it is compiled into the entries that call it.
`@entry`
    a loop that Python calls. It takes one address (int64) of a record that holds all its state and returns
    an int64 code, so a call costs 160 ns and the signature never varies. Entries are cached on disk.

The cache directory's name is a hash over every source file of the package, numba, llvmlite, Python and the
processor, because numba itself looks only at the file of the entry: a change in a callee in another file
would leave a stale loop in use. A changed tree simply has another directory; the oldest are removed.

With ``NUMBA_DISABLE_JIT=1`` both decorators return the plain function, numba is not even imported, and the
whole data plane runs interpreted: slower by three orders of magnitude, debuggable, and the oracle of the tests.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

from raceway.memory.sources import sources_hash

F = TypeVar("F", bound=Callable[..., Any])

INTERPRETED: bool = os.environ.get("NUMBA_DISABLE_JIT", "") not in ("", "0")
"""True where the data plane runs as plain Python (environment variable NUMBA_DISABLE_JIT=1)."""

interpreted_batches: dict[int, Callable[[int], int]] = {}
"""Interpreted, a batch kernel has no machine address: it is found here by the number that stands for it."""

_PACKAGE = Path(__file__).resolve().parent.parent
_KEPT_CACHES = 4
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


def numba_options() -> dict[str, Any]:
    """How numba compiles the data plane: without Python's lock, and with NumPy's meaning of a division by zero."""
    return dict(_OPTIONS)


def inner(function: F) -> F:
    """Mark a data-plane function that is compiled into its callers."""
    if INTERPRETED:
        return function
    import numba

    # Nobody calls it but compiled code, so it needs no face for Python or C.
    compiled: Any = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
    _compile_once(compiled)
    return cast(F, compiled)


def _compile_once(dispatcher: Any) -> None:
    """Keep numba from compiling a function again for every constant that it is called with: `fail(..., 3)` and
    `fail(..., 4)` have arguments of different literal types, and each would be a function of its own."""
    from numba.core.types.misc import unliteral

    template = dispatcher.get_call_template

    def plain(arguments: Any, keywords: Any) -> Any:
        return template(
            tuple(unliteral(kind) for kind in arguments),
            {name: unliteral(kind) for name, kind in keywords.items()},
        )

    dispatcher.get_call_template = plain


def entry(function: Callable[[int], int]) -> Entry:
    """Mark a loop that Python calls: one address in, one code out, compiled at the first call and cached on disk."""
    return Entry(function)


class Entry:
    """A loop that compiles (or loads from the cache) when it is called, or its address asked for, the first time."""

    def __init__(self, function: Callable[[int], int]) -> None:
        self.python = function
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__wrapped__ = function
        self._compiled: Callable[[int], int] | None = function if INTERPRETED else None
        self._pointer = 0

    def prepare(self) -> Callable[[int], int]:
        """Compile or load now, and return the machine code's Python face."""
        if self._compiled is None:
            import numba

            # Records are known to the compiler once this is there.
            import_module("raceway.memory.lowering")
            dispatcher = numba.njit(**_OPTIONS)(self.python)
            # The directory's name says nothing of files outside the package, so their loops are never kept.
            ours = Path(self.python.__code__.co_filename).is_relative_to(_PACKAGE)
            if ours and cache_directory() is not None:
                dispatcher._cache = _package_cache(self.python)
            else:
                progress(self.__name__)
            dispatcher.compile("int64(int64)")
            progress_done()
            dispatcher.disable_compile()
            (result,) = dispatcher.overloads.values()
            self._pointer = result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)
            self._compiled = dispatcher
        return self._compiled

    @property
    def pointer(self) -> int:
        """What `access.call_batch` calls: the machine code's address; interpreted, a number that stands for it."""
        if INTERPRETED and not self._pointer:
            self._pointer = id(self)
            interpreted_batches[self._pointer] = self.python
        self.prepare()
        return self._pointer

    def __call__(self, address: int) -> int:
        return (self._compiled or self.prepare())(address)


_last_line: list[str] = []


def progress(name: str) -> None:
    """Say on a terminal's standard error that a loop is being compiled, which happens once for a version."""
    if not sys.stderr.isatty() and "RACEWAY_PROGRESS" not in os.environ:
        return
    _last_line.append(name)
    sys.stderr.write(f"\r\x1b[Kraceway: compiling {name.replace('_', ' ')} (once for this version) ...")
    sys.stderr.flush()


def progress_done() -> None:
    """Clear the progress line, if one was written."""
    if _last_line:
        _last_line.clear()
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


@cache
def cache_directory() -> Path | None:
    """The directory of this version's compiled loops, made if need be; None where none can be written."""
    root = Path(os.environ.get("RACEWAY_CACHE_DIR") or _default_root())
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = root.stat()
        alone = found.st_uid == os.geteuid() and not found.st_mode & 0o022
        directory = root / f"compiled-{sources_hash(root if alone else None)}"
        directory.mkdir(exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=directory):
            pass
        # Another user's directory could hold another user's machine code.
        if directory.stat().st_uid != os.geteuid():
            return None
        os.utime(directory)
        _forget_old(root, directory)
    except OSError:
        return None
    return directory


def _default_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "raceway"


def _forget_old(root: Path, current: Path) -> None:
    """Remove all but the newest few caches; one used within the last day stays, for its process may still read it."""
    others = [path for path in root.glob("compiled-*") if path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[_KEPT_CACHES - 1 :]:
        if time.time() - path.stat().st_mtime > 24 * 3600:
            shutil.rmtree(path, ignore_errors=True)
    for note in root.glob("sources-*"):
        if time.time() - note.stat().st_mtime > 30 * 24 * 3600:
            note.unlink()


def _package_cache(function: Callable[..., Any]) -> Any:
    """A numba cache for `function` that lives in our directory and believes nothing but the directory's name."""
    from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

    class Locator(_CacheLocator):
        def __init__(self, function: Callable[..., Any], file: str) -> None:
            self._line = function.__code__.co_firstlineno

        def get_cache_path(self) -> str:
            return str(cache_directory())

        def get_source_stamp(self) -> str:
            return "the directory's name is the stamp"

        def get_disambiguator(self) -> str:
            return str(self._line)

        @classmethod
        def from_function(cls, function: Callable[..., Any], file: str) -> Locator:
            return cls(function, file)

    class Implementation(CompileResultCacheImpl):
        _locator_classes = (Locator,)

    class Cache(FunctionCache):
        _impl_class = Implementation

        def load_overload(self, signature: Any, context: Any) -> Any:
            found = super().load_overload(signature, context)
            if found is None:
                progress(function.__name__)
            return found

        def save_overload(self, signature: Any, data: Any) -> None:
            super().save_overload(signature, data)
            progress_done()

    return Cache(function)
