"""Generated eBPF on disk, so that a function that was attached before is attached without a compiler.

It lies where compiled loops lie (`memory.jit.cache_directory`, whose name is a hash of this package's sources, the
compiler and Python), a file a function::

    | magic | checksum of all that follows, of the key and the directory's name | JSON, compressed |

and its name is a hash of the function's recipe (`compile.recipe`). State objects are numbers in it, by their order in
the recipe, and become the objects that the function names now.

A file that is not whole, not this user's own or writable by others is as if it were not there. What cannot be written
is not kept, in silence: it will be made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from raceway.compile.bpf import definitions
from raceway.compile.bpf.generated import Generated, Part, Reference
from raceway.compile.recipe import Recipe
from raceway.compile.state.words import State
from raceway.memory.jit import cache_directory

KEPT = 256
"""Functions that are kept, those used last."""
LARGEST = 16 << 20
"""Bytes of the largest file that is read or written."""

_MAGIC = b"raceway eBPF 2\n"
_CHECKSUM = 32
_WIDE = 0x18  # the instruction that takes an address, of two slots
_MAPS = (definitions.CONTROL, definitions.NEXT, definitions.SOCKETS)
_ABANDONED = 3600


def load(recipe: Recipe, processors: int) -> Generated | None:
    """What was generated of this recipe for so many processors, if it is there."""
    directory = _directory()
    if directory is None:
        return None
    path = _path(directory, recipe, processors)
    try:
        raw = _read(path)
        generated = _unpacked(raw, path, recipe.states, processors)
        os.utime(path)
    except (OSError, ValueError, KeyError, TypeError, IndexError, zlib.error, RecursionError):
        return None
    return generated


def store(recipe: Recipe, generated: Generated) -> None:
    """Keep what was generated of a recipe."""
    directory = _directory()
    if directory is None:
        return
    path = _path(directory, recipe, generated.processors)
    try:
        raw = _packed(generated, path, recipe.states)
        if len(raw) > LARGEST:
            return
        # Whoever reads sees all of it or nothing.
        descriptor, new = tempfile.mkstemp(prefix=".new-", dir=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)
            Path(new).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(new).unlink()
            raise
        _forget(directory)
    except (OSError, ValueError):
        return


def nothing() -> bool:
    """Whether there is a place for what is generated, and nothing there yet."""
    directory = _directory()
    return directory is not None and not any(directory.iterdir())


def _directory() -> Path | None:
    root = cache_directory()
    if root is None:
        return None
    directory = root / "ebpf"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError:
        return None
    return directory if stat.S_ISDIR(found.st_mode) and _ours(found) else None


def _ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _path(directory: Path, recipe: Recipe, processors: int) -> Path:
    text = f"{processors} {recipe.text}"
    return directory / hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _ours(found) or found.st_size > LARGEST:
            raise ValueError(f"{path} is not a file of this user's alone")
        return file.read(LARGEST)


def _checksum(path: Path, rest: bytes) -> bytes:
    name = f"{path.parent.parent.name}/{path.name}\n".encode()
    return hashlib.blake2b(name + rest, digest_size=_CHECKSUM).digest()


def _packed(generated: Generated, path: Path, states: tuple[State, ...]) -> bytes:
    numbers = {id(state): index for index, state in enumerate(states)}

    def number(wanted: State | str) -> int | str:
        return wanted if isinstance(wanted, str) else numbers[id(wanted)]

    content = {
        "name": generated.name,
        "instructions": generated.instructions.hex(),
        "references": [[one.instruction, number(one.wanted), one.offset] for one in generated.references],
        "states": [number(state) for state in generated.states],
        "ir": generated.ir,
        "parts": generated.parts,
    }
    rest = zlib.compress(json.dumps(content).encode(), 1)
    return _MAGIC + _checksum(path, rest) + rest


def _unpacked(raw: bytes, path: Path, states: tuple[State, ...], processors: int) -> Generated:
    start = len(_MAGIC) + _CHECKSUM
    rest = raw[start:]
    if raw[: len(_MAGIC)] != _MAGIC or raw[len(_MAGIC) : start] != _checksum(path, rest):
        raise ValueError(f"{path} is not whole")
    content: dict[str, Any] = json.loads(zlib.decompress(rest))
    instructions = bytes.fromhex(content["instructions"])

    def state(number: int) -> State:
        if type(number) is not int or number < 0:
            raise ValueError(f"{path} names state object {number!r}")
        return states[number]

    def wanted(word: int | str) -> State | str:
        if isinstance(word, str) and word not in _MAPS:
            raise ValueError(f"{path} names a map {word!r}")
        return word if isinstance(word, str) else state(word)

    references = tuple(Reference(at, wanted(what), offset) for at, what, offset in content["references"])
    for one in references:
        if (
            not 0 <= one.instruction * 8 <= len(instructions) - 16
            or instructions[one.instruction * 8] != _WIDE
        ):
            raise ValueError(f"{path} has something to fill in at {one.instruction}")
    if len(instructions) % 8 or not all(0 <= one.offset < 1 << 31 for one in references):
        raise ValueError(f"{path} has no instructions")
    parts = tuple(_part(*one, last=len(instructions) // 8) for one in content["parts"])
    return Generated(
        str(content["name"]), instructions, references, tuple(state(one) for one in content["states"]),
        processors, str(content["ir"]), (), parts,
    )  # fmt: skip


def _part(start: int, takes: list[int | str] | None, *, last: int) -> Part:
    if type(start) is not int or not 0 <= start < last:
        raise ValueError(f"a part begins at {start!r}")
    for one in takes or ():
        if one not in ("context", "number") and not (type(one) is int and 0 < one < 1 << 20):
            raise ValueError(f"a part takes {one!r}")
    return Part(start, None if takes is None else tuple(takes))


def _forget(directory: Path) -> None:
    """Remove what was not used for the longest time, and what somebody began to write and did not end."""
    files = []
    for path in directory.iterdir():
        with suppress(OSError):
            files.append((path.lstat().st_mtime, path))
    new = [(when, path) for when, path in files if path.name.startswith(".new-")]
    kept = sorted((one for one in files if not one[1].name.startswith(".new-")), reverse=True)
    for when, path in [*kept[KEPT:], *(one for one in new if time.time() - one[0] > _ABANDONED)]:
        del when
        with suppress(OSError):
            path.unlink()
