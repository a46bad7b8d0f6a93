"""Making much that stays without Python's garbage collector, which would look at all of it again and again.

Ten thousand rules are some hundred thousand objects, and so is what a compiler makes of one function. Each time a
quarter as many are new as there were, the collector walks through everything and finds nothing to collect: a third of
the time that reading takes, and of the time that compiling takes beside so many rules. What could have been collected
meanwhile is some ten megabytes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Let nothing be collected in here, or in a function that this decorates, by this process's collector."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
