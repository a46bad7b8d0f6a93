"""Two network namespaces joined by a veth pair, without names: nothing to remove, whatever happens.

Each namespace is held open by one sleeping process (unshare(1)). When the two end, and they do so even if
this process is killed, the kernel takes namespaces and interfaces away.

    [ namespace A: near ] ====== veth ====== [ far : namespace B ]
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .measurement import PeerUnavailable
from .process import Console, find_program, run

NEAR, FAR = "near", "far"
_LARGEST_MTU = 65535  # captures may hold frames that offloading made large
_TIMEOUT = 10.0


@dataclass(frozen=True)
class Namespace:
    """A namespace by the process that holds it."""

    holder: int

    def inside(self) -> list[str]:
        """Words to put before a command so that it runs in this namespace."""
        return [find_program("nsenter"), f"--net=/proc/{self.holder}/ns/net", "--"]

    def received(self, interface: str) -> int:
        """Packets that the interface has received. Raises PeerUnavailable."""
        command = [*self.inside(), find_program("ip"), "-json", "-statistics", "link", "show", interface]
        return parse_received(run(command, timeout=_TIMEOUT))


def parse_received(output: str) -> int:
    """Received packets from `ip -json -statistics link show`. Raises PeerUnavailable."""
    try:
        return int(json.loads(output)[0]["stats64"]["rx"]["packets"])
    except (ValueError, LookupError, TypeError) as error:
        raise PeerUnavailable(f"ip's statistics are not of the form expected: {output[:200]!r}") from error


@contextlib.contextmanager
def _namespace() -> Iterator[Namespace]:
    ours = os.readlink("/proc/self/ns/net")
    with Console([find_program("unshare"), "--net", "--", find_program("sleep"), "infinity"]) as console:
        deadline = time.monotonic() + _TIMEOUT
        while os.readlink(f"/proc/{console.process.pid}/ns/net") == ours:
            if console.process.poll() is not None or time.monotonic() > deadline:
                raise PeerUnavailable(f"no network namespace: {console.output or 'unshare gave no reason'}")
            time.sleep(0.005)
        yield Namespace(console.process.pid)


@contextlib.contextmanager
def veth_pair() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with interfaces `near` and `far`, both up. Needs root. Raises PeerUnavailable."""
    if os.geteuid() != 0:
        raise PeerUnavailable("network namespaces and veth need root")
    address = find_program("ip")
    with _namespace() as near, _namespace() as far:
        add = ["link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", str(far.holder)]
        run([*near.inside(), address, *add], timeout=_TIMEOUT)
        for space, interface in ((near, NEAR), (far, FAR)):
            # No addresses, so that IPv6's own router solicitations do not count as traffic.
            settings = ["link", "set", interface, "mtu", str(_LARGEST_MTU), "addrgenmode", "none", "up"]
            run([*space.inside(), address, *settings], timeout=_TIMEOUT)
        yield near, far
