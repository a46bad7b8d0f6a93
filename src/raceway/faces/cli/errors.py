"""How a tool that fails says so: one line, or the few that the error itself brings, and exit status 1 or 2."""

from __future__ import annotations

import os
import sys


def report(error: Exception) -> int:
    """Print what went wrong; return the exit status: 2 for what the user wrote, 1 for what the world did."""
    if os.environ.get("RACEWAY_TRACEBACK"):
        raise error
    from raceway.errors import RacewayError
    from raceway.ports.names import PortNameError

    expected = isinstance(error, (RacewayError, PortNameError, OSError, ValueError, SyntaxError))
    wrong_words = isinstance(error, (PortNameError, ValueError, SyntaxError)) and not isinstance(
        error, OSError
    )
    text = str(error) if expected else f"unexpected {type(error).__name__}: {error}"
    if (
        isinstance(error, OSError)
        and not isinstance(error, RacewayError)
        and error.filename
        and error.strerror
    ):
        # As other tools say it; Python's own words begin with "[Errno 2]".
        text = f"{error.filename}: {error.strerror}"
    # A port name's error has a caret under the name, which a word before the name would put out of place.
    print(
        f"raceway: not the name of a port:\n{text}"
        if isinstance(error, PortNameError)
        else f"raceway: {text}",
        file=sys.stderr,
    )
    if not expected:
        print("raceway: this is a bug; RACEWAY_TRACEBACK=1 shows where it happened", file=sys.stderr)
    return 2 if wrong_words else 1
