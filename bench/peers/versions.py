"""Versions of the peers, the CPU's model, the kernel; nothing that names the machine."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

from .dpdk import runtime_folder
from .measurement import PeerUnavailable
from .process import find_program, run

_TIMEOUT = 10.0
_ABSENT = "not installed"


def parse_dpdk_version(output: str) -> str | None:
    """The version in what the EAL prints for its option -v, for instance "22.11.11"."""
    found = re.search(r"RTE Version: 'DPDK ([^']+)'", output)
    return found[1] if found else None


def parse_tcpreplay_version(output: str) -> str | None:
    """The version in what `tcpreplay --version` prints, for instance "4.4.3"."""
    found = re.search(r"^tcpreplay version: (\S+)", output, re.MULTILINE)
    return found[1] if found else None


def parse_libpcap_version(text: str) -> str | None:
    """The version in what `pcap_lib_version()` returns, for instance "1.10.3"."""
    found = re.search(r"libpcap version (\S+)", text)
    return found[1] if found else None


def parse_cpu_model(cpuinfo: str) -> str | None:
    """The first "model name" of /proc/cpuinfo, or None where the architecture has none."""
    found = re.search(r"^model name\s*:\s*(.+?)\s*$", cpuinfo, re.MULTILINE)
    return found[1] if found else None


def _dpdk() -> str | None:
    with runtime_folder() as folder:
        options = [
            "-v",
            "--no-huge",
            "--no-pci",
            "-m",
            "32",
            f"--file-prefix={folder.prefix}",
            "--",
            "--help",
        ]
        # --help ends testpmd with its usage, without ports and without a prompt.
        command = [find_program("dpdk-testpmd"), *options]
        return parse_dpdk_version(run(command, timeout=_TIMEOUT, environment=folder.environment))


def _tcpreplay() -> str | None:
    return parse_tcpreplay_version(run([find_program("tcpreplay"), "--version"], timeout=_TIMEOUT))


def _libpcap() -> str | None:
    name = ctypes.util.find_library("pcap")
    if name is None:
        return None
    version = ctypes.CDLL(name).pcap_lib_version
    version.restype = ctypes.c_char_p
    return parse_libpcap_version(version().decode())


def _python_package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _ABSENT


def _or_absent(ask: Callable[[], str | None]) -> str:
    try:
        return ask() or "unknown"
    except PeerUnavailable as reason:
        return str(reason) if "not installed" not in str(reason) else _ABSENT


def versions() -> dict[str, str]:
    """Names to versions, in the order in which a report should show them. Never raises for a missing peer."""
    return {
        "CPU": parse_cpu_model(Path("/proc/cpuinfo").read_text()) or platform.machine(),
        "CPUs": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "DPDK": _or_absent(_dpdk),
        "libpcap": _or_absent(_libpcap),
        "tcpreplay": _or_absent(_tcpreplay),
        **{name: _python_package(name) for name in ("dpkt", "scapy", "numpy")},
    }
