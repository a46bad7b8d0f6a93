"""Which packet functions are attached on this machine, by whomever, what they have counted; and taking them off.

Everything is asked of the kernel: its XDP links, their programs, the programs' maps. So it shows what is there, also of
processes that have died (pinned functions) or that know nothing of us.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

import numpy as np

from raceway.apps.functions.attaching import network_namespace
from raceway.apps.functions.pinning import pin_path, unpin
from raceway.compile.bpf import definitions
from raceway.kernel.bpf.links import Link, links
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import program_info
from raceway.kernel.bpf.system import Command, LinkKind, open_id
from raceway.kernel.interface import Network

_LONGEST_CHAIN = 64


@dataclass(frozen=True)
class AttachedFunction:
    """A function on an interface of the calling thread's network namespace.

    name: as far as the kernel keeps it (12 letters); position: in its chain; pin: the name in the BPF file
    system that its chain has there, "" if it has none; counters: packets by verdict, and why.
    """

    interface: str
    mode: str
    position: int
    name: str
    program: int
    link: int
    pinned: bool
    pin: str
    counters: dict[str, int]


def attached_functions() -> list[AttachedFunction]:
    """The packet functions on interfaces of this network namespace. Takes CAP_SYS_ADMIN: PermissionNeededError."""
    found: list[AttachedFunction] = []
    for link in links():
        if link.kind != LinkKind.XDP or not link.mode:
            continue
        try:
            interface = socket.if_indextoname(link.index)
        except OSError:
            continue
        path = pin_path((network_namespace(), link.index))
        pin = str(path) if path.exists() else ""
        program: int | None = link.program
        for position in range(_LONGEST_CHAIN):
            if program is None:
                break
            try:
                info = program_info(program)
                if not info.name.startswith("rw_"):
                    break
                counters, following = _look(info.map_ids)
            except FileNotFoundError:
                break
            found.append(
                AttachedFunction(
                    interface, link.mode, position, info.name[3:], program, link.id, bool(pin), pin, counters
                )
            )
            program = following
    return found


def _look(maps: tuple[int, ...]) -> tuple[dict[str, int], int | None]:
    counters: dict[str, int] = {}
    following = None
    for number in maps:
        with Map.from_id(number) as one:
            if one.name == "rw_control":
                words = one.memory().view(np.int64)[definitions.COUNTERS_AT // 8 : one.value_size // 8]
                sums = words.reshape(-1, definitions.COUNTERS_STRIDE // 8).sum(axis=0).tolist()
                counters = dict(zip(definitions.COUNTERS, sums, strict=False))
            elif one.name == "rw_next":
                raw = one.lookup(0)
                following = int.from_bytes(raw, "little") if raw else None
    return counters, following


def detach(name: str) -> list[str]:
    """Take every packet function off an interface, whoever attached it; return their names.

    Raises NoSuchInterfaceError, PermissionNeededError; ValueError if there is none.
    """
    with Network() as network:
        index = network.interface(name).index
    there = [one for one in attached_functions() if one.interface == name]
    if not there:
        raise ValueError(
            f"{name}: no packet function is attached to it; raceway functions lists those that are"
        )
    for number in dict.fromkeys(one.link for one in there):
        with Link(open_id(Command.LINK_GET_FD_BY_ID, number), f"XDP link to {name}") as link:
            link.detach()
    unpin((network_namespace(), index))
    return [one.name for one in there]
