"""The kernel's features, one by one, each by using it.

What needs an interface is tried on the loopback of a network namespace that is made for it, belongs to one thread and
goes with it. Programs and sockets are closed again; nothing is written anywhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from raceway.apps.doctor.attempts import as_root, attempt, unknown
from raceway.apps.doctor.findings import Finding, State
from raceway.apps.doctor.sockets import COPY, FRAGMENTS, bound, with_memory
from raceway.errors import RacewayError
from raceway.kernel import namespaces
from raceway.kernel.bpf.assembler import R0, Assembler
from raceway.kernel.bpf.links import attach_tcx, attach_xdp
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program, xdp_context
from raceway.kernel.bpf.system import (
    MAP_MMAPABLE,
    PROGRAM_XDP_FRAGMENTS,
    TEST_LIVE_FRAMES,
    MapKind,
    ProgramKind,
    TcxAction,
    XdpAction,
)
from raceway.kernel.capabilities import missing
from raceway.kernel.interface import Network

AREA = "kernel"

_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3 = 263, 10, 2
_SO_PREFER_BUSY_POLL = 69
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_TUNSETIFF, _TAP_FLAGS = (
    0x400454CA,
    0x0002 | 0x1000 | 0x4000 | 0x0100,
)  # TAP, no packet info, vnet header, queues

_BPF = ("CAP_BPF",)
_BPF_NET = ("CAP_BPF", "CAP_NET_ADMIN")
_SCRATCH = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN")
_OLD = "a newer kernel has it"
_SLOWER = "network interfaces are slower (AF_PACKET)"


def kernel_findings() -> Iterator[Finding]:
    """Everything about the kernel."""
    yield Finding(AREA, State.OK, f"Linux {platform.release()}", platform.machine())
    yield attempt(AREA, "shared memory (memfd, sealed)", _seals, remedy="raceway needs Linux 3.17 or later")
    yield _membarrier()
    yield from _bpf()
    yield attempt(
        AREA, "AF_XDP sockets", _xdp_socket, needs=["CAP_NET_RAW"], state=State.WARN,
        remedy=f"a kernel with CONFIG_XDP_SOCKETS; until then {_SLOWER}",
    )  # fmt: skip
    yield attempt(
        AREA, "AF_PACKET sockets (TPACKET_V3)", _packet_socket, needs=["CAP_NET_RAW"], state=State.WARN,
        remedy="a kernel with CONFIG_PACKET: there is nothing to fall back to where AF_XDP cannot be used",
    )  # fmt: skip
    yield from _scratch()
    yield attempt(
        AREA, "preferred busy polling", _busy_poll, needs=["CAP_NET_ADMIN"], state=State.NOTE,
        remedy="Linux 5.11 has it: lower and steadier latency on network interfaces",
    )  # fmt: skip
    yield from _user_namespace()


def _seals() -> str:
    descriptor = os.memfd_create("raceway-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, 4096)
        fcntl.fcntl(
            descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
        try:
            os.ftruncate(descriptor, 0)
        except PermissionError:
            return "rings cannot be cut short under anybody"
        raise OSError(errno.EINVAL, "a sealed memfd could be cut short")
    finally:
        os.close(descriptor)


def _membarrier() -> Finding:
    from raceway.memory import barriers

    subject = "membarrier"
    if barriers.register():
        return Finding(AREA, State.OK, subject, "pipes need no fence in their data path")
    remedy = "Linux 4.16 with CONFIG_MEMBARRIER, and no seccomp filter against it"
    return Finding(AREA, State.NOTE, subject, "pipes work, with a fence for each batch", remedy)


# -- BPF, without an interface ---------------------------------------------------------------------------------


def returning(verdict: int) -> bytes:
    """The shortest program: return a number."""
    return Assembler().mov(R0, verdict).exit().assemble()


def _bpf() -> Iterator[Finding]:
    yield attempt(
        AREA, "XDP programs", _xdp_program, needs=_BPF_NET, state=State.WARN,
        remedy=f"a kernel with CONFIG_BPF_SYSCALL; until then {_SLOWER}",
    )  # fmt: skip
    yield attempt(
        AREA,
        "XDP on packets in several buffers",
        _fragments,
        needs=_BPF_NET,
        state=State.NOTE,
        remedy=_OLD + ": 5.18",
    )
    yield attempt(
        AREA, "arrays shared with programs", _array, needs=_BPF, state=State.WARN, remedy=_OLD + ": 5.5"
    )
    yield attempt(
        AREA, "socket maps (XSKMAP)", _socket_map, needs=_BPF_NET, state=State.WARN,
        remedy="a kernel with CONFIG_XDP_SOCKETS",
    )  # fmt: skip
    yield attempt(
        AREA, "live XDP frames", _live_frames, needs=_BPF_NET, state=State.NOTE,
        remedy=_OLD + ": 5.18; until then packets are sent through sockets, several times slower",
    )  # fmt: skip
    yield _just_in_time()
    yield _type_information()


def _xdp_program() -> str:
    with Program(ProgramKind.XDP, returning(XdpAction.PASS), name="doctor") as program:
        verdict, left, _ = program.test_run(bytes(60))
    if (verdict, left) != (XdpAction.PASS, bytes(60)):
        raise OSError(errno.EINVAL, f"a program that returns {XdpAction.PASS} returned {verdict}")
    return "load and run"


def _fragments() -> str:
    with Program(
        ProgramKind.XDP, returning(XdpAction.PASS), name="doctor", flags=PROGRAM_XDP_FRAGMENTS
    ) as program:
        _, left, _ = program.test_run(bytes(9000))
    return f"a packet of {len(left):,} bytes went through"


def _array() -> str:
    with Map(MapKind.ARRAY, value_size=8, entries=1, name="doctor", flags=MAP_MMAPABLE) as array:
        memory = array.memory()
        memory[0] = 7
        if (array.lookup(0) or b"")[:1] != b"\7":
            raise OSError(errno.EIO, "what was written into the mapping is not in the map")
    return "mapped and read back"


def _socket_map() -> str:
    with Map(MapKind.XSKMAP, value_size=4, entries=1, name="doctor"):
        return "can be made"


def _live_frames() -> str:
    # Each frame is dropped by its program: nothing is sent, on no interface.
    with Program(ProgramKind.XDP, returning(XdpAction.DROP), name="doctor") as program:
        program.test_run(bytes(60), context=xdp_context(60), repeat=2, flags=TEST_LIVE_FRAMES)
    return "packets can leave without sk_buffs"


def _just_in_time() -> Finding:
    subject = "BPF compiled to machine code"
    remedy = "sudo sysctl net.core.bpf_jit_enable=1"
    if missing(_BPF_NET):
        # The setting instead; it can be read in the machine's first network namespace only.
        try:
            on = int(Path("/proc/sys/net/core/bpf_jit_enable").read_text()) > 0
        except (OSError, ValueError):
            return unknown(AREA, subject, missing(_BPF_NET))
    else:
        try:
            with Program(ProgramKind.XDP, returning(XdpAction.PASS), name="doctor") as program:
                on = "prog_jited:\t1" in Path(f"/proc/self/fdinfo/{program.fd}").read_text()
        except (OSError, RacewayError) as error:
            what = f"no program could be loaded: {str(error).splitlines()[0]}"
            return Finding(AREA, State.UNKNOWN, subject, what, as_root())
    if on:
        return Finding(AREA, State.OK, subject)
    return Finding(AREA, State.WARN, subject, "programs are interpreted", remedy)


def _type_information() -> Finding:
    subject = "type information (BTF)"
    if os.path.exists("/sys/kernel/btf/vmlinux"):
        return Finding(AREA, State.OK, subject)
    remedy = "a kernel with CONFIG_DEBUG_INFO_BTF"
    return Finding(AREA, State.NOTE, subject, "none: programs cannot call the kernel's own functions", remedy)


# -- sockets ---------------------------------------------------------------------------------------------------


def _xdp_socket() -> str:
    with with_memory():
        return "with memory of our own"


def _packet_socket() -> str:
    # Bound to no protocol: it receives nothing.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as made:
        made.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
    return "to fall back to"


def _busy_poll() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as made:
        made.setsockopt(socket.SOL_SOCKET, _SO_PREFER_BUSY_POLL, 1)
    return "a sync can drive the device itself"


# -- with an interface, in a namespace of its own --------------------------------------------------------------


def _scratch() -> Iterator[Finding]:
    """Tries on the loopback of a new namespace, by a thread that ends there."""
    tries: list[tuple[str, Callable[[int], str], tuple[str, ...], State, str]] = [
        ("XDP by bpf_link", _xdp_link, _BPF_NET, State.WARN, f"{_OLD}: 5.9; until then {_SLOWER}"),
        ("AF_XDP bound to a queue", _bound, ("CAP_NET_RAW",), State.WARN, f"none is known; {_SLOWER}"),
        (
            "tcx by bpf_link",
            _tcx_link,
            _BPF_NET,
            State.WARN,
            f"{_OLD}: 6.6; there are no host rings (eth0^) without",
        ),
        ("TAP devices", _tap, (), State.WARN, "a kernel with CONFIG_TUN, and /dev/net/tun"),
        ("AF_XDP counters of others", _diagnosis, (), State.NOTE, "a kernel with CONFIG_XDP_SOCKETS_DIAG"),
    ]
    if missing(_SCRATCH):
        for subject, _, needs, _, _ in tries:
            yield unknown(AREA, subject, missing((*_SCRATCH, *needs)))
        return

    def work() -> list[Finding]:
        namespaces.leave_for_new()
        _raise_loopback()
        with Network() as network:
            index = network.interface("lo").index
        return [
            attempt(AREA, subject, partial(work, index), state=state, remedy=remedy, needs=needs)
            for subject, work, needs, state, remedy in tries
        ]

    try:
        yield from namespaces.in_thread(work)
    except (OSError, RacewayError) as error:
        subject, remedy = (
            "network namespaces",
            "a kernel with CONFIG_NET_NS: labs need it, and so do these tries",
        )
        yield Finding(AREA, State.WARN, subject, str(error).splitlines()[0], remedy)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        request = bytearray(struct.pack("16sH22x", b"lo", 0))
        fcntl.ioctl(asker, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(asker, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def _xdp_link(index: int) -> str:
    with (
        Program(ProgramKind.XDP, returning(XdpAction.PASS), name="doctor") as program,
        attach_xdp(program, index, "generic"),
    ):
        return "attached, and off again"


def _tcx_link(index: int) -> str:
    with (
        Program(ProgramKind.SCHED_CLS, returning(TcxAction.PASS), name="doctor") as program,
        attach_tcx(program, index, "egress"),
    ):
        return "attached, and off again"


def _bound(index: int) -> str:
    try:
        bound(index, 0, COPY | FRAGMENTS)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        bound(index, 0, COPY)
        return "in copy mode; packets in several buffers only from Linux 6.6 on"
    return "in copy mode, packets in several buffers too"


def _tap(_: int) -> str:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"doctor%d", _TAP_FLAGS))
    finally:
        os.close(descriptor)
    return "with queues and segmentation offload"


def _diagnosis(_: int) -> str:
    from raceway.kernel.xdp_sockets import ask_kernel

    if ask_kernel() is None:
        raise OSError(errno.EOPNOTSUPP, "this kernel does not tell; those of raceway's own ports are known")
    return "can be asked for"


# -- as nobody in particular -----------------------------------------------------------------------------------

# Run by an interpreter of its own, for a process with threads cannot enter a user namespace. It says, by error numbers
# (0: it worked): whether it could make one, and whether it could have a TAP device in it.
_STRANGER = """
import ctypes, fcntl, os, struct
libc = ctypes.CDLL(None, use_errno=True)
made = ctypes.get_errno() if libc.unshare(0x50000000) else 0
tap = made
if not made:
    try:
        fcntl.ioctl(os.open("/dev/net/tun", os.O_RDWR), {request}, struct.pack("16sH22x", b"doctor%d", {flags}))
    except OSError as error:
        tap = error.errno
print(made, tap)
"""


def _user_namespace() -> Iterator[Finding]:
    code = _STRANGER.format(request=_TUNSETIFF, flags=_TAP_FLAGS)
    subject = "user namespaces"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=5, check=True
        )
        made, tap = map(int, done.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        yield Finding(
            AREA, State.UNKNOWN, subject, f"could not be tried: {type(error).__name__}", "unshare -Urn true"
        )
        return
    if made:
        remedy = (
            "sudo sysctl user.max_user_namespaces=1000 kernel.unprivileged_userns_clone=1, whichever there is"
        )
        if os.path.exists("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"):
            remedy = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        what = f"{os.strerror(made)}: no labs or TAP devices without privilege"
        yield Finding(AREA, State.NOTE, subject, what, remedy)
        return
    yield Finding(AREA, State.OK, subject, "labs work without privilege")
    subject = "TAP devices without privilege"
    if tap:
        what = f"not in a user namespace: {os.strerror(tap)}"
        yield Finding(AREA, State.NOTE, subject, what, "sudo chmod 0666 /dev/net/tun")
    else:
        yield Finding(AREA, State.OK, subject, "in a user namespace")
