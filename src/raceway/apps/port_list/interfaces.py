"""Which interfaces are in use: those with XDP or tcx programs, and those that open ports are named after.

Who holds a program is read from the descriptors of its link (/proc/PID/fdinfo/N of `anon_inode:bpf_link`), which takes
no privilege for one's own processes. Where a program is, is asked of each network namespace that matters: the caller's
own, those in which a raceway port was opened or a link's holder lives, and those that `ip netns` has names for. Another
namespace than one's own can be entered with CAP_SYS_ADMIN only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from raceway.errors import NoSuchInterfaceError
from raceway.kernel import namespaces
from raceway.kernel.bpf.programs import program_info
from raceway.kernel.bpf.queries import tcx_programs
from raceway.kernel.interface import Network
from raceway.kernel.processes import OpenFile, Process, namespace_of
from raceway.memory.identity import network_namespace, printable

_NAMESPACES_LIMIT = 256


def is_link(target: str) -> bool:
    """Whether a descriptor with this target is a BPF link's."""
    return target.startswith("anon_inode:") and "bpf" in target and "link" in target


@dataclass(frozen=True)
class Attachment:
    """A program on an interface. where: "XDP driver", "XDP generic", "XDP hardware", "tcx ingress" or "tcx egress";
    holders: the processes that keep it there; empty for one that was attached to stay, or is another user's."""

    where: str
    program: int
    name: str
    holders: tuple[Process, ...]


@dataclass(frozen=True)
class UsedInterface:
    """An interface in use. counters: IFLA_STATS64 by name."""

    name: str
    index: int
    network: int
    driver: str
    up: bool
    receive_queues: int
    transmit_queues: int
    counters: Mapping[str, int]
    attachments: tuple[Attachment, ...]


@dataclass
class Interfaces:
    """used: by namespace and index; others: the names of the caller's own namespace's other interfaces; closed:
    namespaces that could not be looked into; names: what namespaces are called, by inode."""

    used: list[UsedInterface] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Link:
    kind: str
    number: int
    program: int
    index: int
    direction: str
    process: Process


def is_namespace(target: str) -> bool:
    """Whether a descriptor with this target is a network namespace's: that is how one without threads is kept."""
    return target.startswith("net:[")


def used_interfaces(
    files: Iterable[OpenFile], opened: Mapping[int, set[str]], holders: Iterable[Process]
) -> Interfaces:
    """Look at every namespace that matters.

    files: descriptors of BPF links and of namespaces; opened: names of interfaces that ports were opened on, by
    namespace; holders: processes at which those namespaces can be found.
    """
    files = list(files)
    known = [link for link in map(_link, files) if link is not None]
    own = network_namespace()
    found = Interfaces(names=_named_namespaces())
    candidates = list(dict.fromkeys([*holders, *(link.process for link in known)]))
    wanted = [own, *opened, *found.names, *_namespaces_of(link.process for link in known)]
    for identity in list(dict.fromkeys(wanted))[:_NAMESPACES_LIMIT]:
        look = _looker(identity, known, opened.get(identity, set()))
        if identity == own:
            used, found.others = look()
            found.used += used
            continue
        path = found.names.get(identity)
        path = f"{namespaces.DIRECTORY}/{path}" if path else namespace_of(identity, candidates, files)
        try:
            if path is None:
                raise FileNotFoundError(f"no process in network namespace {identity} can be looked into")
            found.used += _visit(path, look)[0]
        except OSError:
            found.closed.append(identity)
    return found


def _visit(
    path: str, look: Callable[[], tuple[list[UsedInterface], list[str]]]
) -> tuple[list[UsedInterface], list[str]]:
    def work() -> tuple[list[UsedInterface], list[str]]:
        namespaces.enter(path)
        return look()

    return namespaces.in_thread(work)


def _looker(
    identity: int, links: list[_Link], opened: set[str]
) -> Callable[[], tuple[list[UsedInterface], list[str]]]:
    """What to do in a namespace once one is there: its used interfaces, and the others' names."""

    def look() -> tuple[list[UsedInterface], list[str]]:
        used, others = [], []
        with Network() as network:
            for name in network.names():
                try:
                    facts = network.interface(name)
                    on = (*_xdp(network, name, links), *_tcx(identity, facts.index, links))
                    if not on and name not in opened:
                        others.append(name)
                        continue
                    counters = network.link_counters(name)
                except NoSuchInterfaceError:
                    continue  # Gone since.
                used.append(
                    UsedInterface(
                        name=name,
                        index=facts.index,
                        network=identity,
                        driver=facts.driver or facts.kind,
                        up=facts.up,
                        receive_queues=facts.receive_queues,
                        transmit_queues=facts.transmit_queues,
                        counters=counters,
                        attachments=on,
                    )
                )
        return used, others

    return look


def _xdp(network: Network, name: str, links: list[_Link]) -> list[Attachment]:
    return [
        _attachment(
            f"XDP {each.mode}", each.program, (link for link in links if link.program == each.program)
        )
        for each in network.xdp_attached(name)
    ]


def _tcx(identity: int, index: int, links: list[_Link]) -> list[Attachment]:
    """The tcx programs of an interface: as the kernel tells who may ask; else from the links of one's own processes,
    which say an index but not in which namespace: those whose holder is nowhere else count."""
    try:
        return [
            _attachment(
                f"tcx {each.direction}",
                each.program,
                (
                    link
                    for link in links
                    if link.number == each.link or (not each.link and link.program == each.program)
                ),
            )
            for each in tcx_programs(index)
        ]
    except PermissionError:
        pass
    except OSError:
        return []  # Gone since.
    here = [
        link
        for link in links
        if link.kind == "tcx" and link.index == index and _namespaces_of([link.process]) == [identity]
    ]
    return [
        _attachment(
            f"tcx {link.direction}", link.program, [each for each in here if each.number == link.number]
        )
        for link in {link.number: link for link in here}.values()
    ]


def _attachment(where: str, program: int, links: Iterable[_Link]) -> Attachment:
    try:
        name = program_info(program).name if program else ""
    except OSError:
        name = ""  # For CAP_SYS_ADMIN only.
    holders = dict.fromkeys(link.process for link in links)
    return Attachment(where, program, printable(name.encode()), tuple(holders))


def _link(file: OpenFile) -> _Link | None:
    info = file.info if is_link(file.target) else {}
    kind = info.get("link_type", "")
    numbers = [info.get(key, "") for key in ("link_id", "prog_id", "ifindex")]
    if kind not in ("xdp", "tcx") or not all(number.isdigit() for number in numbers):
        return None
    link, program, index = map(int, numbers)
    # The kernel writes "46 (ingress)" or "47 (egress)".
    direction = "ingress" if "ingress" in info.get("attach_type", "") else "egress"
    return _Link(kind, link, program, index, direction, file.process)


def _namespaces_of(found: Iterable[Process]) -> list[int]:
    """The namespaces in which threads of these processes are."""
    identities: dict[int, None] = {}
    for process in found:
        try:
            tasks = list((process.path / "task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                identities[(task / "ns" / "net").stat().st_ino] = None
            except OSError:
                continue
    return list(identities)


def _named_namespaces() -> dict[int, str]:
    """What `ip netns` calls namespaces, by inode."""
    try:
        entries = sorted(os.listdir(namespaces.DIRECTORY))
    except OSError:
        return {}
    found: dict[int, str] = {}
    for entry in entries:
        path = f"{namespaces.DIRECTORY}/{entry}"
        try:
            if namespaces.is_namespace(path):
                found.setdefault(os.stat(path).st_ino, printable(entry.encode()))
        except OSError:
            continue
    return found
