"""What the DPDK peers have in common: EAL options without huge pages, PCI or traces on the disk.

The Environment Abstraction Layer puts its files (configuration, memory zones, a socket) below
$RUNTIME_DIRECTORY/dpdk/, and only without that variable into /var/run/dpdk/. Each peer runs in a temporary
folder that it names there, so that removing the folder removes everything. With `--no-huge` memory is
anonymous (memfd), and there is no file of huge pages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .measurement import PeerUnavailable


@dataclass(frozen=True)
class RuntimeFolder:
    """A temporary folder for DPDK processes that belong together: working directory and runtime directory."""

    path: Path
    environment: Mapping[str, str]
    prefix: str


@contextlib.contextmanager
def runtime_folder() -> Iterator[RuntimeFolder]:
    """A fresh folder; on leaving it goes, with whatever DPDK left in it. End the processes first."""
    with tempfile.TemporaryDirectory(prefix="raceway-peer-", ignore_cleanup_errors=True) as name:
        prefix = Path(name).name
        try:
            yield RuntimeFolder(Path(name), {"RUNTIME_DIRECTORY": name}, prefix)
        finally:
            # For a DPDK that does not know the variable. The prefix is random, hence ours alone.
            for left in Path("/var/run/dpdk").glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)


def eal_options(
    cores: Sequence[int], *, main: int, megabytes: int, prefix: str, extra: Sequence[str] = ()
) -> list[str]:
    """Options for the EAL, up to but without the `--` that ends them."""
    return [
        "-l",
        ",".join(map(str, cores)),
        "--main-lcore",
        str(main),
        "--no-huge",
        "-m",
        str(megabytes),
        "--no-pci",
        f"--file-prefix={prefix}",
        *extra,
    ]


def two_cores(cores: tuple[int, int]) -> tuple[int, int]:
    """The cores, if they are two and this process may use both."""
    allowed = os.sched_getaffinity(0)
    if len(set(cores)) != 2 or not set(cores) <= allowed:
        usable = ", ".join(map(str, sorted(allowed)))
        raise PeerUnavailable(f"needs two different cores, got {cores}; this process may use {usable}")
    return cores
