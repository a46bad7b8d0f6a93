"""How the namespaces of a lab are called, and which labs there are.

Host `a` of the lab `trial` is the namespace that `ip netns` knows as `rw-trial-a`. The names are all that is needed to
find a lab and to remove it, however far whoever made it had come: there is no list beside them that could be stale.
A lab's name is never that of a host, so `raceway lab run a ls` and `raceway lab run trial a ls` can be told apart.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from raceway.errors import RacewayError
from raceway.kernel import namespaces

DEFAULT = "lab"
"""The lab that is meant when none is named."""

_HOST = re.compile(r"[a-z]|m[1-9][0-9]?|hub|router")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_PREFIX = "rw-"


class LabError(RacewayError):
    """A lab is not there, is there already, or cannot be removed as it is."""


@dataclass(frozen=True, slots=True)
class Found:
    """A lab by its names alone: it may be half-made."""

    name: str
    hosts: tuple[str, ...]

    def path(self, host: str) -> str:
        """Of a host's namespace."""
        return namespace_path(self.name, host)


def is_host(word: str) -> bool:
    """Whether a host could be called so, in some lab."""
    return _HOST.fullmatch(word) is not None


def checked(name: str) -> str:
    """The name, if a lab may have it; ValueError if not."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"lab {name!r}: expected a name of 1 to 32 letters, digits, '_' and '-', not beginning with one of the last"
        )
    if is_host(name):
        raise ValueError(f"lab {name!r}: hosts are called so; expected another name, such as 'trial'")
    return name


def namespace_name(lab: str, host: str) -> str:
    """The name that `ip netns` shows."""
    return f"{_PREFIX}{lab}-{host}"


def namespace_path(lab: str, host: str) -> str:
    """Where that name is."""
    return os.path.join(namespaces.DIRECTORY, namespace_name(lab, host))


def every_lab() -> list[Found]:
    """The labs that have names, by name; their hosts in the order of a plan."""
    try:
        entries = os.listdir(namespaces.DIRECTORY)
    except FileNotFoundError:
        return []
    hosts: dict[str, list[str]] = {}
    for entry in entries:
        name, _, host = entry.removeprefix(_PREFIX).rpartition("-")
        if entry.startswith(_PREFIX) and is_host(host) and _NAME.fullmatch(name) and not is_host(name):
            hosts.setdefault(name, []).append(host)
    return [Found(name, _in_order(found)) for name, found in sorted(hosts.items())]


def find(name: str) -> Found:
    """The lab of this name; LabError if there is none, with those that there are."""
    checked(name)
    labs = every_lab()
    for lab in labs:
        if lab.name == name:
            return lab
    others = f"there {'are' if len(labs) > 1 else 'is'} {', '.join(lab.name for lab in labs)}"
    make = f"make it: raceway lab up{'' if name == DEFAULT else ' ' + name}"
    raise LabError(f"there is no lab {name!r}; {others if labs else make}")


def _in_order(hosts: list[str]) -> tuple[str, ...]:
    """a, b, c, and the centre last; but in a line m, m1, m2, ... between a and b."""
    centre = [host for host in hosts if len(host) > 1 and not host.startswith("m")]
    middle = sorted(
        (host for host in hosts if len(host) > 1 and host.startswith("m")), key=lambda host: int(host[1:])
    )
    leaves = sorted(host for host in hosts if len(host) == 1)
    if not centre and "m" in leaves:
        leaves.remove("m")
        middle.insert(0, "m")
    if middle:
        return (*[leaf for leaf in leaves if leaf == "a"], *middle, *[leaf for leaf in leaves if leaf != "a"])
    return (*leaves, *centre)
