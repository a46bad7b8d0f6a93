"""A lab for Python programs and tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from raceway.apps.lab import processes
from raceway.apps.lab.build import build, undo
from raceway.apps.lab.names import checked
from raceway.apps.lab.plan import DEFAULT_MTU, End, Shape, make_plan
from raceway.kernel import namespaces


class Lab:
    """Network namespaces joined by veth pairs, there from the constructor's end until `close`.

        with Lab(queues=2, mtu=9000) as lab:
            lab.run("a", ["ping", "-c", "1", lab.address("b")], check=True)
            with lab.inside("b"):
                port = raceway.open(lab.interface("b"))

    shape: "line" (a, m, ..., b), "star" (a, b, ... around hub) or "router" (a, b, ... around router); see plan.py.
    hosts: how many, of a star and a router without the centre. queues: of every interface, each way. mtu: in bytes.
    offloads: True all on, False all off, None as the kernel has them. vlan: addresses are on 802.1Q interfaces of
    this number, so that what is sent to them is tagged.

    The namespaces have no names unless `name` gives the lab one: then it is as one of `raceway lab up`. Without, they
    end with the process however that ends; but processes that were started in them and go on without their lab
    keep their namespace, until `raceway lab down --all --kill`.

    ValueError for what cannot be, LabError if the name is taken, PermissionNeededError (a PermissionError) without
    CAP_SYS_ADMIN and CAP_NET_ADMIN: root has them, and whoever `unshare -Urn` makes root.
    """

    def __init__(
        self,
        shape: Shape | str = Shape.LINE,
        hosts: int | None = None,
        *,
        queues: int = 1,
        mtu: int = DEFAULT_MTU,
        ipv6: bool = True,
        offloads: bool | None = None,
        vlan: int = 0,
        name: str | None = None,
    ) -> None:
        self.name = None if name is None else checked(name)
        self.plan = make_plan(shape, hosts, queues=queues, mtu=mtu, ipv6=ipv6, offloads=offloads, vlan=vlan)
        self._spaces: dict[str, int] = {}
        self._children: list[subprocess.Popen[Any]] = []
        build(self.plan, self._spaces, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Lab {self.name or self.plan.shape}: {', '.join(self.hosts) if self._spaces else 'closed'}>"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts' names, from one end of a line to the other, or with the centre last."""
        return self.plan.hosts

    def close(self) -> None:
        """End what still runs in the lab and remove it. May be called twice.

        Processes get SIGTERM, and two seconds later SIGKILL. Sockets and ports that this process has opened inside
        keep their namespace until they are closed.
        """
        try:
            if self._spaces:
                identities = {namespaces.identity(space) for space in self._spaces.values()}
                # A process may be starting another one while it is looked for.
                for _ in range(3):
                    found = processes.inside(identities)
                    if not any(found.values()):
                        break
                    processes.end({process for group in found.values() for process in group})
            for child in self._children:
                child.poll()
        finally:
            undo(self._spaces, self.name)
            self._children.clear()

    # ---- what is where

    def end(self, host: str, towards: str | None = None) -> End:
        """The host's end of its link: interface, index, MAC address, addresses. With several links: towards whom."""
        return self.plan.end(host, towards)

    def interface(self, host: str, towards: str | None = None) -> str:
        """The name of the veth there."""
        return self.end(host, towards).interface

    def index(self, host: str, towards: str | None = None) -> int:
        """The index of the veth there. No two interfaces of a lab have the same."""
        return self.end(host, towards).index

    def mac(self, host: str, towards: str | None = None) -> str:
        """The MAC address of the veth there, as "02:00:00:00:00:01"."""
        return self.end(host, towards).mac

    def address(self, host: str, family: Literal[4, 6] = 4, towards: str | None = None) -> str:
        """The host's IPv4 or IPv6 address; ValueError if it has none of that family."""
        if family not in (4, 6):
            raise ValueError(f"family {family!r}: expected 4 or 6")
        for address in self.end(host, towards).addresses:
            if (":" in address) == (family == 6):
                return address.split("/")[0]
        raise ValueError(f"host {host!r} has no IPv{family} address in this lab")

    def namespace(self, host: str) -> int:
        """The descriptor of the host's namespace, which is the lab's: do not close it."""
        self.plan.ends(host)
        if host not in self._spaces:
            raise ValueError("the lab is closed")
        return self._spaces[host]

    # ---- being there

    def inside(self, host: str) -> contextlib.AbstractContextManager[None]:
        """Take the calling thread to the host for the time of a `with`; other threads stay where they are."""
        return namespaces.inside(self.namespace(host))

    def popen(self, host: str, command: Sequence[str] | str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command at the host, with /sys as it is there. options: those of `subprocess.Popen`."""
        space = self.namespace(host)
        environment: Mapping[str, str] = options.pop("env", None) or os.environ
        options["env"] = {**environment, processes.MARK: processes.owner_mark()}

        def start() -> subprocess.Popen[Any]:
            namespaces.enter(space)
            try:
                namespaces.own_sysfs()
            except OSError as error:
                warnings.warn(f"/sys shows another network namespace: {error}", RuntimeWarning, stacklevel=2)
            child = subprocess.Popen(command, **options)
            # Here, so that it is known even if Ctrl-C comes before it is returned.
            self._children.append(child)
            return child

        return namespaces.in_thread(start)

    def run(
        self,
        host: str,
        command: Sequence[str] | str,
        *,
        input: Any = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command at the host and wait for its end: as `subprocess.run`, options and errors included."""
        if input is not None:
            options["stdin"] = subprocess.PIPE
        if capture_output:
            options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.popen(host, command, **options) as child:
            try:
                output, errors = child.communicate(input, timeout=timeout)
            except subprocess.TimeoutExpired as late:
                child.kill()
                late.output, late.stderr = child.communicate()
                raise
            except BaseException:
                child.kill()
                raise
        self._children.remove(child)
        done = subprocess.CompletedProcess(child.args, child.returncode, output, errors)
        if check:
            done.check_returncode()
        return done
