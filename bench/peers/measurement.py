"""What a peer hands back: a figure with its unit and command, or the reason why there is none.

Every function of this package returns a `Measurement` or raises `PeerUnavailable`. There is no third way: a
peer that is not installed, that will not start, that says something unexpected or that takes too long is
unavailable, and the reason is a sentence for the reader of the benchmark, not a traceback.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Detail: TypeAlias = dict[str, int | float | str]
"""Named facts beside the figure: cross-checks, counts, parameters; each name says its unit."""


class PeerUnavailable(Exception):
    """The peer gave no figure; the message says why and what was expected."""


@dataclass(frozen=True)
class Measurement:
    """One figure of one peer.

    `value` is in `unit` (for example "packets/s"), `command` is the command that one would type to see the
    same; temporary files appear in it by their bare names.
    """

    name: str
    value: float
    unit: str
    detail: Detail = field(default_factory=dict)
    command: str = ""
