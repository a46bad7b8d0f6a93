"""Taking the place of a pinned firewall whose process has ended: one link, another program, between two packets.

A firewall that keeps filtering (`on death keep`) is a lone packet function with a classifier, held by a link that has a
name in the BPF file system. While a process holds that link too, the firewall is that process's; when none does any
more, whoever starts the next one on the interface may have it. Everything is asked of the kernel and of /proc, so this
takes CAP_SYS_ADMIN; whoever has not got it finds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from raceway.apps.functions.listing import AttachedFunction, attached_functions
from raceway.kernel.bpf.links import Link
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program, program_info
from raceway.kernel.bpf.system import Command, open_id
from raceway.kernel.processes import Process, survey

_NAME, _MAP = "firewall", "rw_Classifier"


@dataclass(frozen=True)
class FirewallThere:
    """The firewall on an interface. function: what it has counted, and its pin; holders: processes that have it."""

    function: AttachedFunction
    holders: tuple[Process, ...]

    @property
    def left_behind(self) -> bool:
        """True if it is pinned and its process has ended."""
        return self.function.pinned and not self.holders


def firewall_on(interface: str) -> FirewallThere | None:
    """The firewall on an interface of this network namespace; None if there is none, or it cannot be looked at."""
    try:
        functions = [one for one in attached_functions() if one.interface == interface]
        if len(functions) != 1 or functions[0].name != _NAME:
            return None
        if not _has_classifier(functions[0].program):
            return None
        return FirewallThere(functions[0], holders(functions[0].link))
    except OSError:
        return None


def _has_classifier(program: int) -> bool:
    for number in program_info(program).map_ids:
        with Map.from_id(number) as one:
            if one.name == _MAP:
                return True
    return False


def holders(link: int) -> tuple[Process, ...]:
    """The processes that have a descriptor of a BPF link, as far as this process may look."""
    found: dict[int, Process] = {}
    for file in survey(lambda target: target == "anon_inode:bpf_link").files:
        if file.info.get("link_id") == str(link):
            found[file.process.pid] = file.process
    return tuple(process for _, process in sorted(found.items()))


def succeeded(interface: str, program: Program, mode: str) -> tuple[Link, str] | None:
    """Put a program in the place of a firewall that was left behind: its link, which is the caller's from now on, and
    its mode. None if there is no such firewall, or it is in another mode than the one wanted. Raises OSError."""
    there = firewall_on(interface)
    if there is None or not there.left_behind or mode not in ("", there.function.mode):
        return None
    link = Link(open_id(Command.LINK_GET_FD_BY_ID, there.function.link), f"XDP link to {interface}")
    try:
        link.update(program)
    except BaseException:
        link.close()
        raise
    return link, there.function.mode
