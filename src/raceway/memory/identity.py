"""What a process is known by to others: when it began, which network namespace it is in; and its words, printable.

Control plane; imports nothing, so that tools which only look around start fast.
"""

from __future__ import annotations

import os
from pathlib import Path


def started(process: Path) -> int:
    """When a process began, in clock ticks since the machine's start; 0 if /proc does not tell. process: /proc/PID."""
    try:
        # The command's name, in parentheses, may hold anything, parentheses and spaces included.
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def network_namespace() -> int:
    """The inode of the calling thread's network namespace; 0 if /proc does not tell."""
    try:
        return os.stat("/proc/thread-self/ns/net").st_ino
    except OSError:
        return 0


def printable(raw: bytes) -> str:
    """Somebody else's text as one line that a terminal can be trusted with."""
    text = raw.split(b"\0", 1)[0].decode(errors="replace")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
