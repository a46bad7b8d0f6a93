"""A hash of everything that compiled code of this package depends on: what names the cache's directory.

That is every source file, the versions of numba, llvmlite, numpy and Python, numba's options and the processor. Reading
all files takes ten milliseconds, which whoever attaches a function waits for; so the hash of their contents is noted
beside the caches, with what the file system says of each file. `ctime` is the kernel's alone to set: while it, the
size and the inode of all files are the same, so are their contents.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_SETTLED = 2_000_000_000
"""Nanoseconds after which another change of a file has another time, on any file system."""


def sources_hash(notes: Path | None = None) -> str:
    """The hash, as 24 hexadecimal digits. notes: a directory of this user's where contents' hashes are noted."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(_contents(notes).encode())
    digest.update(_environment().encode())
    return digest.hexdigest()


def _contents(notes: Path | None) -> str:
    if notes is None:
        return _read_all()
    before, changed = _listing()
    note = notes / f"sources-{hashlib.blake2b(os.fsencode(_PACKAGE), digest_size=8).hexdigest()}"
    with suppress(OSError, ValueError):
        found = note.lstat()
        safe = found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode) and not found.st_mode & 0o022
        listing, contents = note.read_text().split()
        if safe and listing == before and len(contents) == 32:
            return contents
    contents = _read_all()
    if _listing()[0] == before and time.time_ns() - changed > _SETTLED:
        _note(note, f"{before} {contents}\n")
    return contents


def _note(note: Path, text: str) -> None:
    with suppress(OSError):
        descriptor, new = tempfile.mkstemp(prefix=".new-", dir=note.parent)
        try:
            os.write(descriptor, text.encode())
            Path(new).replace(note)
        except OSError:
            Path(new).unlink()
            raise
        finally:
            os.close(descriptor)


def _files(folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The package's source files: name within the package, and entry."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield entry.path, entry
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from _files(entry.path)


def _listing() -> tuple[str, int]:
    """A hash of what the file system says of the files, and when the last of them changed (nanoseconds since 1970)."""
    digest, latest = hashlib.blake2b(digest_size=16), 0
    for path, entry in sorted(_files(str(_PACKAGE))):
        found = entry.stat()
        facts = (found.st_ino, found.st_dev, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(f"{path} {facts}\n".encode())
        latest = max(latest, found.st_ctime_ns)
    return digest.hexdigest(), latest


def _read_all() -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _environment() -> str:
    words = [f"{name} {_version(name)}" for name in ("numba", "llvmlite", "numpy")]
    # Options of numba's that change what is generated, and the processor's own name and features.
    words += sorted(f"{key}={value}" for key, value in os.environ.items() if key.startswith("NUMBA_"))
    words += [platform.python_implementation(), sys.version, platform.machine(), _processor()]
    return "\n".join(words)


def _version(name: str) -> str:
    """What a package says of its version, read without importing it. importlib.metadata takes 40 ms to say the same."""
    found = importlib.util.find_spec(name)
    folder = Path(found.origin).parent if found is not None and found.origin else Path()
    for file in ("_version.py", "version.py"):
        with suppress(OSError):
            return (folder / file).read_text()
    from importlib.metadata import version

    return version(name)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU")))
