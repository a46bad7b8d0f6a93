"""Why functions cannot be attached to an interface: whose are there already, and what to do about it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from raceway.errors import PortBusyError
from raceway.kernel.bpf.links import links
from raceway.kernel.bpf.programs import program_info
from raceway.kernel.bpf.system import LinkKind

if TYPE_CHECKING:
    from raceway.apps.functions.succeeding import FirewallThere

_PORTS = ("raceway_rx", "raceway_frames")


def explained(interface: str, error: PortBusyError) -> PortBusyError:
    """The error to raise where another program than this process's is attached: it names raceway's functions, and who
    holds them, as far as this process may look (CAP_SYS_ADMIN); else it is the error as it was."""
    from raceway.apps.functions.listing import attached_functions
    from raceway.apps.functions.succeeding import firewall_on

    firewall = firewall_on(interface)
    if firewall is not None:
        return _firewall(interface, firewall)
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
    from raceway.apps.functions.succeeding import holders

    said = [f"process {one.pid}, {one.command[:60]}" for one in holders(link)]
    return "; ".join(said) or "no process that can be seen has them"


def _firewall(interface: str, there: FirewallThere) -> PortBusyError:
    if there.left_behind:
        return PortBusyError(
            interface,
            f"the rules of a firewall whose process has ended filter here in {there.function.mode} mode, pinned at "
            f"{there.function.pin}. raceway firewall run {interface} -f RULES puts others in their place, raceway "
            f"detach {interface} takes them off",
        )
    return PortBusyError(
        interface,
        f"a firewall is on it already ({_held_by(there.function.link)}). raceway firewall reload {interface} -f RULES "
        "puts other rules in force there; to start another one, end that process first",
    )
