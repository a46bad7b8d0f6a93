"""Why functions cannot be attached to an interface: whose are there already, and what to do about it."""

from __future__ import annotations

import socket

from raceway.errors import PortBusyError
from raceway.kernel.bpf.links import links
from raceway.kernel.bpf.programs import program_info
from raceway.kernel.bpf.system import LinkKind
from raceway.kernel.processes import Process, survey

_PORTS = ("raceway_rx", "raceway_frames")


def explained(interface: str, error: PortBusyError) -> PortBusyError:
    """The error to raise where another program than this process's is attached: it names raceway's functions, and who
    holds them, as far as this process may look (CAP_SYS_ADMIN); else it is the error as it was."""
    from raceway.apps.functions.listing import attached_functions

    try:
        functions = [one for one in attached_functions() if one.interface == interface]
        if functions:
            names = ", ".join(one.name for one in functions)
            if functions[0].pinned:
                who, end = f"pinned at {functions[0].pin}", "take them off"
            else:
                who, end = _held_by(functions[0].link), "take them off, or end that process"
            return PortBusyError(
                interface,
                f"another process's packet functions are attached to it: {names} ({who}). Only functions of one "
                f"process make a chain: attach all of them with one command, raceway attach {interface} FILE.py:ONE "
                f"FILE.py:ANOTHER, after raceway detach {interface} ({end})",
            )
        index = socket.if_nametoindex(interface)
        for link in links():
            there = link.kind == LinkKind.XDP and link.mode and link.index == index
            if there and program_info(link.program).name in _PORTS:
                return PortBusyError(
                    interface,
                    f"a raceway port has it open ({_held_by(link.id)}). In that process, attach the function to "
                    "the port: raceway.attach(port, function)",
                )
    except OSError:
        pass
    return error


def _held_by(link: int) -> str:
    found: dict[int, Process] = {}
    for file in survey(lambda target: target == "anon_inode:bpf_link").files:
        if file.info.get("link_id") == str(link):
            found[file.process.pid] = file.process
    said = [f"process {pid}, {process.command[:60]}" for pid, process in sorted(found.items())]
    return "; ".join(said) or "no process that can be seen has them"
