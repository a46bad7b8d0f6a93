"""What tests that need a network share: a lab, and the reason why there is none.

    from labs import lab as lab, needs_root       # a fixture is imported by the name that tests ask for

    @needs_root
    def test_something(lab):
        two = lab(queues=2)                       # the arguments of raceway.apps.lab.Lab
        two.run("a", ["ping", "-c", "1", two.address("b")], check=True)

A lab takes some 15 ms. It is gone after the test, and with the process if that is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from raceway.apps.lab import Lab
from raceway.apps.lab.names import every_lab
from raceway.kernel import namespaces


def _why_not() -> str:
    """Why this process cannot make labs; "" if it can."""
    try:
        os.close(namespaces.anonymous())
        with namespaces.inside("/proc/self/ns/net"):
            return ""
    except OSError as error:
        return f"needs root: {error}"


_REASON = _why_not()
needs_root = pytest.mark.skipif(bool(_REASON), reason=_REASON or "runs")
"""For tests that make network namespaces and visit them."""


def needs(*programs: str) -> pytest.MarkDecorator:
    """For tests that run programs which not every machine has."""
    absent = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not here: {', '.join(absent)}")


@pytest.fixture
def lab() -> Iterator[Callable[..., Lab]]:
    """Makes labs, as `Lab` does; they end with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Lab(*arguments, **options))


def output(place: Lab, host: str, *command: str, timeout: float = 20) -> str:
    """What a command says on standard output at a host; an AssertionError with all that it said if it fails."""
    done = place.run(host, command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (
        f"{' '.join(command)} at {host}: {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return str(done.stdout)


def until(condition: Callable[[], Any], seconds: float = 20) -> bool:
    """Wait for a condition; False if it does not come true."""
    began = time.monotonic()
    while not condition():
        passed = time.monotonic() - began
        if passed > seconds:
            return False
        time.sleep(0.0001 if passed < 0.02 else 0.005)
    return True


def reaches(place: Lab, host: str, address: str, size: int = 56, patience: float = 1.0) -> bool:
    """Whether an echo request with `size` bytes of data (RFC 792, RFC 4443), not fragmented, comes back in time."""
    command = ["ping", "-c", "1", "-W", str(patience), "-M", "do", "-s", str(size), address]
    return place.run(host, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def mounts_of_labs() -> list[str]:
    """What labs have mounted where this process sees it: the names of namespaces, and no /sys."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [mount for mount in mounts if "/rw-" in mount or "sysfs raceway" in mount]


def names_of_labs() -> list[str]:
    """The labs that have names, on this machine."""
    return [found.name for found in every_lab()]


@pytest.fixture
def mounts():
    """A process in a mount namespace of its own, which has a BPF file system whatever the machine has."""
    command = ["unshare", "--mount", "sh", "-c", "mount -t bpf bpf /sys/fs/bpf && echo there && exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "there\n"
        yield holder.pid
        holder.kill()
