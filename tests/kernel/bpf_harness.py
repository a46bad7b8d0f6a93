"""What the tests of BPF share: whether this machine lets us, a namespace with a veth pair, and running programs."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

import raceway
from raceway.kernel.bpf.assembler import Assembler
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import MapKind, ProgramKind

Result = TypeVar("Result")
CLONE_NEWNET = 0x40000000  # linux/sched.h
libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def why_no_bpf() -> str:
    """Why the tests cannot run here; "" if they can."""
    try:
        Map(MapKind.XSKMAP, value_size=4, entries=1).close()
    except OSError as error:
        return f"needs root and bpf(2): {error}"
    return ""


NO_BPF = why_no_bpf()
needs_bpf = pytest.mark.skipif(bool(NO_BPF), reason=NO_BPF)
needs_ip = pytest.mark.skipif(bool(NO_BPF) or not shutil.which("ip"), reason=NO_BPF or "needs ip (iproute2)")


def run_xdp(program: Assembler, packet: bytes = bytes(64)) -> int:
    """What the program returns for a packet."""
    with Program(ProgramKind.XDP, program.assemble(), name="test") as loaded:
        return loaded.test_run(packet)[0]


class Namespace:
    """A network namespace with a veth pair, `near` and `far`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.name, *arguments)

    def index(self, device: str = "near") -> int:
        return int(json.loads(self.ip("-j", "link", "show", device))[0]["ifindex"])

    def xdp(self, device: str = "near") -> int:
        """The id of the XDP program on the device, as `ip` sees it; 0 if there is none."""
        shown = json.loads(self.ip("-j", "-d", "link", "show", device))[0]
        return int(shown.get("xdp", {}).get("prog", {}).get("id", 0))

    def do(self, work: Callable[[], Result]) -> Result:
        """Do something in a thread that is in the namespace, and return or raise what it does."""
        results: list[Any] = []

        def visit() -> None:
            try:
                descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if libc.setns(descriptor, CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(descriptor)
                results.append((True, work()))
            except BaseException as error:
                results.append((False, error))

        thread = threading.Thread(target=visit)
        thread.start()
        thread.join()
        good, result = results[0]
        if not good:
            raise result
        return result


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make one and remove it."""
    name = f"rw-bpf-{os.getpid()}-{next(_numbers)}"
    ip("netns", "add", name)
    try:
        made = Namespace(name)
        made.ip("link", "add", "near", "type", "veth", "peer", "name", "far")
        made.ip("link", "set", "near", "up")
        made.ip("link", "set", "far", "up")
        yield made
    finally:
        ip("netns", "del", name)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def child(script: str, *wrapper: str) -> list[str]:
    """The command that runs a script with this interpreter and this raceway."""
    source = str(Path(raceway.__file__).parents[1])
    return [*wrapper, sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {source!r})\n{script}"]
