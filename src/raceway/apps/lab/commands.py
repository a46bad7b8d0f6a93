"""`raceway lab up|down|show|run`: labs that have names, and outlive the command that makes them."""

from __future__ import annotations

import json as json_format
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from raceway.apps.lab import names, processes
from raceway.apps.lab.build import build
from raceway.apps.lab.names import Found, LabError
from raceway.apps.lab.picture import advice, facts, picture, table
from raceway.apps.lab.plan import make_plan
from raceway.apps.lab.survey import survey
from raceway.kernel import namespaces

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # As the shell says it: POSIX, 2.8.2 Exit Status for Commands


def up(
    name: str,
    shape: str,
    hosts: int | None,
    *,
    queues: int,
    mtu: int,
    ipv6: bool,
    offloads: bool | None,
    vlan: int,
) -> None:
    """Make a lab, and print who is where and what to type next."""
    names.checked(name)
    plan = make_plan(shape, hosts, queues=queues, mtu=mtu, ipv6=ipv6, offloads=offloads, vlan=vlan)
    spaces: dict[str, int] = {}
    build(plan, spaces, name)
    for descriptor in spaces.values():
        os.close(descriptor)
    print(f"{name}: {plan.shape}, {facts(plan)}\n\n{picture(plan)}\n")
    print("\n".join(advice(plan, name)))


def down(chosen: Sequence[Found], *, kill: bool) -> None:
    """Remove labs. LabError if processes are still in one and `kill` does not say to end them; the others go."""
    refusals = []
    for lab in chosen:
        try:
            remove(lab, kill=kill)
        except LabError as error:
            refusals.append(str(error))
        else:
            print(f"{lab.name}: removed")
    if refusals:
        raise LabError("\n".join(refusals))


def down_all(*, kill: bool) -> None:
    """Remove every lab, and end what labs of dead Python programs have left running."""
    left = processes.orphans()
    if left and kill:
        processes.end(left)
        print(f"ended what labs of dead programs left running: {_listed(left)}")
    labs = names.every_lab()
    if not labs and not left:
        print("there are no labs")
    down(labs, kill=kill)
    if left and not kill:
        raise LabError(
            f"labs of programs that are dead left running: {_listed(left)}; end them: raceway lab down --all --kill"
        )


def remove(lab: Found, *, kill: bool = False) -> None:
    """Remove a lab, complete or not. Processes inside are ended if `kill` says so, else they are a LabError."""
    spaces = {
        namespaces.identity(lab.path(host)): host
        for host in lab.hosts
        if namespaces.is_namespace(lab.path(host))
    }
    found = processes.inside(spaces)
    if any(found.values()):
        if not kill:
            where = "; ".join(
                f"at {spaces[space]}: {_listed(group)}" for space, group in found.items() if group
            )
            raise LabError(
                f"in lab {lab.name!r} something is still running, {where}; "
                f"end it and remove the lab: raceway lab down {lab.name} --kill"
            )
        processes.end({process for group in found.values() for process in group})
    for host in lab.hosts:
        namespaces.take_name(lab.path(host))


def show(name: str | None, *, json: bool) -> None:
    """Print what there is in one lab or in all."""
    labs = [survey(lab) for lab in ([names.find(name)] if name is not None else names.every_lab())]
    if json:
        print(json_format.dumps({"tool": "lab show", "labs": [lab.as_dict() for lab in labs]}))
    elif labs:
        print("\n\n".join(table(lab) for lab in labs))
    else:
        print("there are no labs; make one: raceway lab up")


def run(words: Sequence[str]) -> NoReturn:
    """Become the command of `[NAME] HOST [--] COMMAND...`, at the host; exit status and signals are the command's."""
    lab, host, command = _understood(list(words))
    if host not in lab.hosts:
        raise LabError(f"lab {lab.name!r} has no host {host!r}; it has {', '.join(lab.hosts)}")
    if not namespaces.is_namespace(lab.path(host)):
        raise LabError(f"lab {lab.name!r} is half-made; remove it: raceway lab down {lab.name}")
    # This very program, if it is not on the path: with sudo it often is not.
    program = command[0]
    if program == "raceway" and shutil.which(program) is None:
        program = os.path.abspath(sys.argv[0])
    namespaces.enter(lab.path(host))
    try:
        namespaces.own_sysfs()
    except OSError as error:
        print(f"raceway: /sys will show the interfaces from outside the lab: {error}", file=sys.stderr)
    sys.stdout.flush()
    # Python ignores these, and what is ignored stays so in the command; a pipe's writer would never end.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(program, command)
    except FileNotFoundError:
        print(f"raceway: {program}: no such command", file=sys.stderr)
        sys.exit(_NOT_FOUND)
    except OSError as error:
        print(f"raceway: {program}: {error.strerror}", file=sys.stderr)
        sys.exit(_NOT_EXECUTABLE)


def _understood(words: list[str]) -> tuple[Found, str, list[str]]:
    # No lab has a host's name, so the first word says what it is.
    example = "raceway lab run a ping -c 3 10.0.0.2"
    name = names.DEFAULT if not words or names.is_host(words[0]) else words.pop(0)
    lab = names.find(name)
    if not words:
        raise ValueError(
            f"expected a host of lab {name!r} ({', '.join(lab.hosts)}) and a command, such as {example}"
        )
    host = words.pop(0)
    if words[:1] == ["--"]:
        words.pop(0)
    if not words:
        raise ValueError(f"expected a command to run at {host!r}, such as {example}")
    return lab, host, words


def _listed(found: Sequence[processes.Process]) -> str:
    return ", ".join(map(str, found))
