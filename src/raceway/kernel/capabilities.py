"""Which of root's powers this process has, and the error that names the missing one and the command that grants it.

Capabilities are capabilities(7)'s: root has all of them, an interpreter can be given some by setcap(8). Nothing in
raceway asks whether it is root; it tries, and turns the kernel's EPERM into `refused`.
"""

from __future__ import annotations

import os
import resource
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from raceway.errors import PermissionNeededError

__all__ = ["PermissionNeededError", "effective", "missing", "refused"]

# linux/capability.h, in the order of their bits
_NAMES = tuple(
    "CAP_" + name
    for name in """
        CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
        NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
        SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
        SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
    """.split()  # noqa: SIM905 - as a list of strings it would be a page
)
# The newer capabilities were cut out of CAP_SYS_ADMIN, and the kernel takes it in their stead.
_PARTS_OF_SYS_ADMIN = {"CAP_BPF", "CAP_PERFMON", "CAP_CHECKPOINT_RESTORE"}


def effective() -> frozenset[str]:
    """The capabilities that the calling thread can use now, as "CAP_NET_ADMIN"."""
    bits = int(_status("CapEff"), 16)
    return frozenset(name for bit, name in enumerate(_NAMES) if bits >> bit & 1)


def missing(needed: Iterable[str]) -> list[str]:
    """Those of the needed capabilities that the calling thread does not have. ValueError for one that there is not."""
    owned = effective()
    if "CAP_SYS_ADMIN" in owned:
        owned |= _PARTS_OF_SYS_ADMIN
    return [name for name in _checked(needed) if name not in owned]


def refused(what: str, needed: Iterable[str]) -> PermissionNeededError:
    """The error for an EPERM that was just met, to be raised.

    what: what the kernel refused, as "attaching an XDP program to eth0"; needed: every capability that takes.
    """
    needed = _checked(needed)
    absent = missing(needed)
    if not absent:
        return PermissionNeededError(
            f"{what} was refused, although this process has {_together(needed)}: {_other_reason()}",
            needed=needed,
            missing=[],
        )
    # Of the file itself: a virtual environment's python is a link, and capabilities do not follow links.
    interpreter = os.path.realpath(sys.executable or "/proc/self/exe")
    grant = f"{','.join(name.lower() for name in needed)}+ep"
    return PermissionNeededError(
        f"{what} was refused: this process lacks {_together(absent)}. "
        f"To give this interpreter what it needs: sudo setcap {grant} {shlex.quote(interpreter)}",
        needed=needed,
        missing=absent,
    )


def _checked(needed: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(needed))
    for name in names:
        if name not in _NAMES:
            raise ValueError(f"{name!r} is no capability; they are named as CAP_NET_ADMIN is")
    return names


def _together(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _other_reason() -> str:
    """Why the kernel may say EPERM to someone who has what is needed: what can be seen, or that nothing can."""
    seen = []
    if _read("/proc/self/uid_map").split() != ["0", "0", str((1 << 32) - 1)]:
        seen.append("it runs in a user namespace, and its capabilities do not reach beyond what that owns")
    if _status("Seccomp") not in ("", "0"):
        seen.append("a seccomp filter is in force, as container engines set one")
    lockdown = _read("/sys/kernel/security/lockdown")
    if "[" in lockdown and "[none]" not in lockdown:
        seen.append(f"the kernel is locked down ({lockdown.split('[')[1].split(']')[0]})")
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit != resource.RLIM_INFINITY and "CAP_IPC_LOCK" not in effective():
        seen.append(f"it may lock {limit:,} bytes of memory (ulimit -l)")
    if not seen:
        return "a security module or the device may forbid it; nothing that can be seen from here does"
    return "perhaps because " + ", or because ".join(seen)


def _status(field: str) -> str:
    # The thread's own, for capabilities belong to threads.
    for line in _read("/proc/thread-self/status").splitlines():
        if line.startswith(field + ":"):
            return line.split(":", 1)[1].strip()
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
