"""Links: a program attached to an interface for as long as a descriptor is open.

The kernel takes the program off when the link's last descriptor is closed, which it is however its process ends; and
when the interface goes, the link stays and is about nothing (`Link.attached` is False). A child made by fork without
exec has the descriptor too, and keeps the program where it is until it ends or somebody calls `detach`.

An interface has one XDP program, before there is a packet in the host's sense, and any number of tcx programs in a row,
on packets (sk_buff) that come in or go out. An interface's index is looked up in the network namespace in which the
calling thread is at the time.
"""

from __future__ import annotations

import ctypes
import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from raceway.errors import NoSuchInterfaceError, PortBusyError
from raceway.kernel.bpf.programs import Program, program_info
from raceway.kernel.bpf.system import (
    TCX_BEFORE,
    XDP_DRIVER_MODE,
    XDP_HARDWARE_MODE,
    XDP_SKB_MODE,
    AttachType,
    Command,
    Descriptor,
    LinkKind,
    bpf,
    named,
    next_id,
    object_info,
    open_id,
)
from raceway.kernel.capabilities import refused

_XDP_MODES = {"driver": XDP_DRIVER_MODE, "generic": XDP_SKB_MODE, "offload": XDP_HARDWARE_MODE}
_DIRECTIONS = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}


class CreateAttributes(ctypes.Structure):
    """For LINK_CREATE, of XDP and tcx."""

    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("relative_fd", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("expected_revision", ctypes.c_uint64),
    ]


class UpdateAttributes(ctypes.Structure):
    """For LINK_UPDATE and, as far as the first field, LINK_DETACH."""

    _fields_ = [
        ("link_fd", ctypes.c_uint32),
        ("new_prog_fd", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("old_prog_fd", ctypes.c_uint32),
    ]


class LinkInfoRecord(ctypes.Structure):
    """struct bpf_link_info, with the fields of XDP and tcx. The reserve is for what other kinds put there."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("reserve", ctypes.c_uint8 * 40),
    ]


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of a link.

    kind: `LinkKind`'s number, or another kind's; program: the program's id; index: the interface's, in its own
    namespace, 0 if it is gone or this is no link to an interface; attach_type: `AttachType`'s number, 0 for other
    kinds;
    mode: "driver", "generic" or "offload" of XDP on an interface of the calling thread's namespace, else "".
    """

    id: int
    kind: int
    program: int
    index: int
    attach_type: int
    mode: str = ""


class Link(Descriptor):
    """A program attached to something. `close` takes it off, if this was the last descriptor."""

    @property
    def id(self) -> int:
        """The kernel's number of it."""
        return self.info().id

    @property
    def attached(self) -> bool:
        """False once the interface is gone or the program was detached."""
        return self.info().index != 0

    def info(self) -> LinkInfo:
        """What the kernel says of it. `mode` is left empty."""
        return _info(self.fd)

    def detach(self) -> None:
        """Take the program off now, whoever else has a descriptor. May be called twice. Raises OSError."""
        try:
            bpf(Command.LINK_DETACH, UpdateAttributes(self.fd))
        except OSError as error:
            if error.errno == errno.ENOLINK:
                return  # tcx says so when there is nothing to take off.
            raise named(error, f"detaching {self._what}") from None

    def update(self, program: Program) -> None:
        """Put another program in the place of the one that is attached; no packet passes between. Raises OSError."""
        try:
            bpf(Command.LINK_UPDATE, UpdateAttributes(self.fd, program.fd))
        except OSError as error:
            raise named(error, f"replacing the program of {self._what} by {program.name!r}") from None


def attach_xdp(program: Program, index: int, mode: str) -> Link:
    """Attach an XDP program to the interface of this index.

    mode: "driver" (the driver runs it), "generic" (the host's stack does, after making an sk_buff) or "offload" (the
    device does). PortBusyError names the program that is there already; NoSuchInterfaceError, PermissionNeededError;
    OSError says no more than the kernel: EOPNOTSUPP of a driver that has no such mode, EINVAL or ERANGE mostly of an
    MTU too large for it.
    """
    flags = _known("XDP mode", mode, _XDP_MODES)
    name = _interface_name(index)
    what = f"attaching XDP program {program.name!r} to {name} in {mode} mode"
    try:
        descriptor = _create(program, index, AttachType.XDP, flags)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EEXIST):
            raise PortBusyError(name, _occupant(index)) from None
        raise _explained(error, what, index) from None
    return Link(descriptor, f"XDP link to {name}")


def attach_tcx(program: Program, index: int, direction: str, first: bool = False) -> Link:
    """Attach a program (ProgramKind.SCHED_CLS) to what comes in ("ingress") or goes out ("egress") at an interface.

    first: before the programs that are there already, and not after them. PortBusyError if this very program is there
    already; NoSuchInterfaceError, PermissionNeededError, OSError (EINVAL from kernels before 6.6, which have no tcx).
    """
    kind = _known("direction", direction, _DIRECTIONS)
    name = _interface_name(index)
    what = f"attaching program {program.name!r} to {name}, {direction}"
    try:
        descriptor = _create(program, index, kind, TCX_BEFORE if first else 0)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EEXIST):
            raise PortBusyError(
                name, f"{_program_name(program.id)} is attached to its {direction} already"
            ) from None
        raise _explained(error, what, index) from None
    return Link(descriptor, f"tcx link to {name}, {direction}")


def links() -> Iterator[LinkInfo]:
    """All links that there are, of all processes and namespaces. Takes CAP_SYS_ADMIN."""
    found: list[LinkInfo] = []
    number: int | None = 0
    try:
        while (number := next_id(Command.LINK_GET_NEXT_ID, number or 0)) is not None:
            try:
                descriptor = open_id(Command.LINK_GET_FD_BY_ID, number)
            except FileNotFoundError:
                continue  # Gone since.
            with Descriptor(descriptor, f"BPF link {number}"):
                found.append(_info(descriptor))
    except PermissionError:
        raise refused("looking at the BPF links of this machine", ["CAP_SYS_ADMIN"]) from None
    for link in found:
        yield _with_mode(link) if link.kind == LinkKind.XDP and link.index else link


def _create(program: Program, index: int, kind: int, flags: int) -> int:
    return bpf(Command.LINK_CREATE, CreateAttributes(program.fd, index, kind, flags))


def _info(descriptor: int) -> LinkInfo:
    record = LinkInfoRecord()
    object_info(descriptor, record)
    if record.type == LinkKind.XDP:
        return LinkInfo(record.id, record.type, record.prog_id, record.ifindex, AttachType.XDP)
    if record.type == LinkKind.TCX:
        # The index of an interface that is gone reads 0 by the kernel's word; both fields are tcx's own.
        return LinkInfo(record.id, record.type, record.prog_id, record.ifindex, record.attach_type)
    return LinkInfo(record.id, record.type, record.prog_id, 0, 0)


def _with_mode(link: LinkInfo) -> LinkInfo:
    # Another namespace's interface may have the same index: it is ours only if it has this very program.
    modes = [mode for mode, program in _xdp_programs(link.index) if program == link.program]
    return LinkInfo(link.id, link.kind, link.program, link.index, link.attach_type, modes[0] if modes else "")


def _xdp_programs(index: int) -> list[tuple[str, int]]:
    """Mode and id of each XDP program on an interface of the calling thread's namespace."""
    from raceway.kernel.interface import Network

    try:
        with Network() as network:
            found = network.xdp_attached(index)
    except OSError:
        return []
    return [("offload" if each.mode == "hardware" else each.mode, each.program) for each in found]


def _occupant(index: int) -> str:
    programs = [f"{_program_name(number)} in {mode} mode" for mode, number in _xdp_programs(index)]
    if not programs:
        return "an XDP program is attached to it, or to the device that it is a part of"
    return f"there is an XDP program already: {' and '.join(programs)}"


def _program_name(number: int) -> str:
    """What can be found out about a program: its name is for CAP_SYS_ADMIN only."""
    try:
        name = program_info(number).name
    except OSError:
        name = ""
    return f"program {number}" + (f" ({name})" if name else "")


def _explained(error: OSError, what: str, index: int) -> OSError:
    # Of an index that is nobody's the kernel says EINVAL to XDP, and ENODEV to tcx.
    if error.errno in (errno.ENODEV, errno.EINVAL) and not _interface_exists(index):
        return NoSuchInterfaceError(index)
    if error.errno == errno.EPERM:
        return refused(what, ["CAP_NET_ADMIN", "CAP_BPF"])
    return named(error, what)


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"


def _interface_exists(index: int) -> bool:
    try:
        return bool(socket.if_indextoname(index))
    except OSError:
        return False


def _known(what: str, word: str, words: dict[str, int] | dict[str, AttachType]) -> int:
    if word not in words:
        raise ValueError(f"{what} {word!r}: one of {', '.join(words)} was expected")
    return words[word]
