"""Which tcx programs an interface has, whoever attached them (BPF_PROG_QUERY; Linux 6.6 and later)."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass

from raceway.kernel.bpf.system import AttachType, Command, bpf
from raceway.kernel.capabilities import refused

_PROGRAMS_LIMIT = 64  # BPF_MPROG_MAX: the kernel attaches no more in one place


class QueryAttributes(ctypes.Structure):
    """For PROG_QUERY of an interface."""

    _fields_ = [
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("prog_cnt", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("prog_attach_flags", ctypes.c_uint64),
        ("link_ids", ctypes.c_uint64),
        ("link_attach_flags", ctypes.c_uint64),
        ("revision", ctypes.c_uint64),
    ]


@dataclass(frozen=True, slots=True)
class TcxProgram:
    """A program at an interface's "ingress" or "egress", in the order in which they run: its id and its link's (0: it
    was attached without one, to stay)."""

    direction: str
    program: int
    link: int


def tcx_programs(index: int) -> list[TcxProgram]:
    """The tcx programs of the interface of this index in the calling thread's network namespace.

    [] from kernels that have no tcx. Takes CAP_NET_ADMIN: PermissionNeededError. OSError ENODEV: no such interface.
    """
    found = []
    for direction, kind in (("ingress", AttachType.TCX_INGRESS), ("egress", AttachType.TCX_EGRESS)):
        programs, links = (ctypes.c_uint32 * _PROGRAMS_LIMIT)(), (ctypes.c_uint32 * _PROGRAMS_LIMIT)()
        question = QueryAttributes(
            target_ifindex=index,
            attach_type=kind,
            prog_ids=ctypes.addressof(programs),
            prog_cnt=_PROGRAMS_LIMIT,
            link_ids=ctypes.addressof(links),
        )
        try:
            bpf(Command.PROG_QUERY, question)
        except OSError as error:
            if error.errno == errno.EPERM:
                raise refused(
                    f"asking for the tcx programs of interface {index}", ["CAP_NET_ADMIN"]
                ) from None
            if error.errno in (errno.EINVAL, errno.ENOENT):
                continue
            raise
        count = min(question.prog_cnt, _PROGRAMS_LIMIT)
        found += [TcxProgram(direction, programs[place], links[place]) for place in range(count)]
    return found
