"""Trying a thing and judging how it went.

A try returns a sentence about what works, or raises. `PermissionNeededError` and EPERM mean that it is not known, and
the error's own words say what would be needed; any other error means that it does not work, and the kernel's words say
how.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterable

from raceway.apps.doctor.findings import Finding, State
from raceway.errors import PermissionNeededError, RacewayError
from raceway.kernel.capabilities import missing

# What the whole of raceway needs, for the one command that grants it all.
NEEDED = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_IPC_LOCK")

_REFUSALS = (errno.EPERM, errno.EACCES)


def attempt(
    area: str,
    subject: str,
    work: Callable[[], str],
    *,
    state: State = State.BAD,
    remedy: str = "",
    needs: Iterable[str] = (),
) -> Finding:
    """Try something.

    state: how grave it is if it does not work; remedy: what to do then; needs: the capabilities that it takes: without
    them it is not even tried, where the attempt itself would not say which one was missing.
    """
    absent = missing(needs)
    if absent:
        return unknown(area, subject, absent)
    try:
        what = work()
    except PermissionNeededError as error:
        if error.missing:
            return unknown(area, subject, error.missing)
        return Finding(
            area, State.WARN, subject, _one_line(error), "run raceway where the refusal does not apply"
        )
    except OSError as error:
        if error.errno in _REFUSALS:
            return Finding(area, State.UNKNOWN, subject, f"refused: {_one_line(error)}", as_root())
        return Finding(area, state, subject, _one_line(error), remedy)
    except RacewayError as error:
        return Finding(area, state, subject, _one_line(error), remedy)
    return Finding(area, State.OK, subject, what)


def unknown(area: str, subject: str, absent: list[str]) -> Finding:
    """What cannot be found out without these capabilities."""
    return Finding(area, State.UNKNOWN, subject, without(absent), as_root(), tuple(absent))


def without(absent: Iterable[str]) -> str:
    """What stands in the place of an answer."""
    names = list(dict.fromkeys(absent))
    return f"unknown without {' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}"


def as_root() -> str:
    """How to ask again with every privilege."""
    return "sudo raceway doctor"


def grant(names: Iterable[str]) -> str:
    """The command that gives capabilities to this interpreter for good."""
    words = ",".join(name.lower() for name in names)
    # Of the file itself: a virtual environment's python is a link, and capabilities do not follow links.
    return f"sudo setcap {words}+ep {shlex.quote(os.path.realpath(sys.executable or '/proc/self/exe'))}"


def _one_line(error: BaseException) -> str:
    """An error's first line; of an OSError the words, without the number."""
    text = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    return (text.strip().splitlines() or [type(error).__name__])[0]
