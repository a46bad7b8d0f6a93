"""Compiling the small C programs of this folder with the machine's own compiler, at run time.

The library peers (libpcap, `rte_ring`) are measured from C, where they are at their best: a call through
Python would measure Python. The binaries live in a temporary folder only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .measurement import PeerUnavailable
from .process import find_program, run

_SOURCES = Path(__file__).parent
_TIMEOUT = 60.0


def pkg_config(package: str, *options: str) -> list[str]:
    """Words that `pkg-config` gives for a package, such as its compiler flags. Raises PeerUnavailable."""
    return run([find_program("pkg-config"), *options, package], timeout=_TIMEOUT).split()


def compile_program(
    source: str, folder: Path, *, flags: Sequence[str] = (), libraries: Sequence[str] = ()
) -> Path:
    """Compiles `source`, a file of this folder, with -O2 or what `flags` say instead, into `folder`.

    Raises PeerUnavailable with the compiler's first complaint, for instance a missing header.
    """
    program = folder / Path(source).stem
    compiler = find_program("cc")
    command = [compiler, "-std=gnu11", "-O2", *flags, str(_SOURCES / source), "-o", str(program), *libraries]
    try:
        run(command, timeout=_TIMEOUT)
    except PeerUnavailable as error:
        raise PeerUnavailable(f"{source} does not compile: {error}") from error
    return program
