"""The bpf(2) system call, its attributes, the kernel's numbers, and descriptors that close themselves.

The numbers are those of linux/bpf.h (its name is in the comment where ours differs by more than the prefix), and they
are part of the kernel's promise never to change. Attributes are ctypes structures: `union bpf_attr` has one layout a
command, and the kernel takes a shorter or longer union as long as what it does not know is zero.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import weakref
from enum import IntEnum
from typing import Self

from raceway.errors import RacewayError

_NUMBERS = {  # of bpf(2), by architecture
    "x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "s390x": 351,
}  # fmt: skip

_ENOTSUPP = 524  # linux/errno.h, meant for the kernel alone

NAME_LIMIT = 15  # BPF_OBJ_NAME_LEN - 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Command(IntEnum):
    """enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    PROG_TEST_RUN = 10
    PROG_GET_NEXT_ID = 11
    MAP_GET_NEXT_ID = 12
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    BTF_LOAD = 18
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_GET_FD_BY_ID = 30
    LINK_GET_NEXT_ID = 31
    ENABLE_STATS = 32
    LINK_DETACH = 34


class MapKind(IntEnum):
    """enum bpf_map_type, BPF_MAP_TYPE_."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    DEVMAP = 14
    CPUMAP = 16
    XSKMAP = 17
    DEVMAP_HASH = 25
    RINGBUF = 27


class ProgramKind(IntEnum):
    """enum bpf_prog_type, BPF_PROG_TYPE_."""

    SOCKET_FILTER = 1
    SCHED_CLS = 3
    XDP = 6
    SYSCALL = 31


class AttachType(IntEnum):
    """enum bpf_attach_type, BPF_."""

    XDP_DEVMAP = 33
    XDP_CPUMAP = 35
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


class LinkKind(IntEnum):
    """enum bpf_link_type, BPF_LINK_TYPE_."""

    XDP = 6
    TCX = 11


class Helper(IntEnum):
    """Functions that programs may call: enum bpf_func_id, BPF_FUNC_."""

    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    KTIME_GET_NS = 5
    GET_PRANDOM_U32 = 7
    GET_SMP_PROCESSOR_ID = 8
    SKB_STORE_BYTES = 9
    L3_CSUM_REPLACE = 10
    L4_CSUM_REPLACE = 11
    TAIL_CALL = 12
    CLONE_REDIRECT = 13
    SKB_VLAN_PUSH = 18
    SKB_VLAN_POP = 19
    REDIRECT = 23
    SKB_LOAD_BYTES = 26
    CSUM_DIFF = 28
    GET_HASH_RECALC = 34
    SKB_CHANGE_TAIL = 38
    SKB_PULL_DATA = 39
    XDP_ADJUST_HEAD = 44
    REDIRECT_MAP = 51
    XDP_ADJUST_META = 54
    XDP_ADJUST_TAIL = 65
    KTIME_GET_BOOT_NS = 125
    RINGBUF_OUTPUT = 130
    CSUM_LEVEL = 135
    REDIRECT_PEER = 155
    LOOP = 181
    XDP_GET_BUFF_LEN = 188
    XDP_LOAD_BYTES = 189
    XDP_STORE_BYTES = 190


class XdpAction(IntEnum):
    """enum xdp_action, XDP_: what an XDP program returns."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


class TcxAction(IntEnum):
    """enum tcx_action_base, TCX_: what a tcx program returns."""

    NEXT = -1
    PASS = 0
    DROP = 2
    REDIRECT = 7


# Flags of MAP_CREATE (BPF_F_)
MAP_NO_PREALLOC = 1 << 0  # BPF_F_NO_PREALLOC
MAP_READ_ONLY_PROGRAM = 1 << 7  # BPF_F_RDONLY_PROG
MAP_WRITE_ONLY_PROGRAM = 1 << 8  # BPF_F_WRONLY_PROG
MAP_MMAPABLE = 1 << 10  # BPF_F_MMAPABLE

# Flags of MAP_UPDATE_ELEM
UPDATE_ANY = 0  # BPF_ANY: create it or change it
UPDATE_NEW_ONLY = 1  # BPF_NOEXIST
UPDATE_EXISTING_ONLY = 2  # BPF_EXIST

# Flags of PROG_LOAD
PROGRAM_SLEEPABLE = 1 << 4  # BPF_F_SLEEPABLE
PROGRAM_XDP_FRAGMENTS = 1 << 5  # BPF_F_XDP_HAS_FRAGS: packets over several buffers are welcome
PROGRAM_XDP_DEVICE_BOUND = 1 << 6  # BPF_F_XDP_DEV_BOUND_ONLY: may ask the driver for metadata

# Flags of PROG_TEST_RUN
TEST_RUN_ON_CPU = 1 << 0  # BPF_F_TEST_RUN_ON_CPU
TEST_LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES

# Flags of LINK_CREATE: if_link.h for XDP, bpf.h for tcx
XDP_SKB_MODE = 1 << 1  # XDP_FLAGS_SKB_MODE
XDP_DRIVER_MODE = 1 << 2  # XDP_FLAGS_DRV_MODE
XDP_HARDWARE_MODE = 1 << 3  # XDP_FLAGS_HW_MODE
TCX_BEFORE = 1 << 3  # BPF_F_BEFORE: before the relative program, or before all if there is none

# Flags of RINGBUF_OUTPUT
RING_FORCE_WAKEUP = 1 << 1  # BPF_RB_FORCE_WAKEUP

# Flags of the redirecting helpers
REDIRECT_INGRESS = 1 << 0  # BPF_F_INGRESS: as if it had arrived at the interface


class VerifierError(RacewayError):
    """The kernel's verifier refused a program.

    log: everything that it said, instruction by instruction. The message has the last lines of it.
    """

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


class ObjectInfoAttributes(ctypes.Structure):
    """For OBJ_GET_INFO_BY_FD."""

    _fields_ = [("bpf_fd", ctypes.c_uint32), ("info_len", ctypes.c_uint32), ("info", ctypes.c_uint64)]


class IdAttributes(ctypes.Structure):
    """For *_GET_NEXT_ID and *_GET_FD_BY_ID."""

    _fields_ = [("id", ctypes.c_uint32), ("next_id", ctypes.c_uint32), ("open_flags", ctypes.c_uint32)]


class PinAttributes(ctypes.Structure):
    """For OBJ_PIN."""

    _fields_ = [("pathname", ctypes.c_uint64), ("bpf_fd", ctypes.c_uint32), ("file_flags", ctypes.c_uint32)]


def pin(descriptor: int, path: str) -> None:
    """Give a BPF object a name in a BPF file system: it stays until the name is removed. Raises OSError."""
    name = ctypes.create_string_buffer(path.encode())
    try:
        bpf(Command.OBJ_PIN, PinAttributes(ctypes.addressof(name), descriptor))
    except OSError as error:
        raise named(error, f"pinning at {path}") from None


def bpf(command: int, attributes: bytes | ctypes.Structure) -> int:
    """bpf(2): what it returns, a descriptor for the commands that make one. Raises OSError.

    attributes: the command's part of `union bpf_attr`; a structure also takes what the kernel writes back.
    The interpreter's lock is not held meanwhile, and a call that a signal interrupts is not repeated
    (InterruptedError): whoever runs live frames for minutes is ended that way.
    """
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) has a number that raceway does not know on {platform.machine()}")
    if isinstance(attributes, bytes):
        buffer: ctypes.Array[ctypes.c_char] | ctypes.Structure = ctypes.create_string_buffer(
            attributes, max(len(attributes), 1)
        )
        size = len(attributes)
    else:
        buffer, size = attributes, ctypes.sizeof(attributes)
    result: int = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(command), ctypes.byref(buffer), ctypes.c_ulong(size)
    )
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, describe(error))
    return result


def object_info(descriptor: int, info: ctypes.Structure) -> None:
    """Have the kernel describe what a descriptor stands for, in the structure that fits its kind. Raises OSError."""
    attributes = ObjectInfoAttributes(descriptor, ctypes.sizeof(info), ctypes.addressof(info))
    bpf(Command.OBJ_GET_INFO_BY_FD, attributes)


def next_id(command: int, after: int) -> int | None:
    """The next id of the kernel's maps, programs or links (*_GET_NEXT_ID), None if there is none. Raises OSError."""
    attributes = IdAttributes(after)
    try:
        bpf(command, attributes)
    except FileNotFoundError:
        return None
    found: int = attributes.next_id
    return found


def open_id(command: int, number: int) -> int:
    """A descriptor for the map, program or link of this id (*_GET_FD_BY_ID). Raises OSError."""
    return bpf(command, IdAttributes(number))


def check_name(what: str, name: str) -> bytes:
    """A name as the kernel takes it; ValueError says what is wrong with it."""
    if len(name) > NAME_LIMIT or not all(
        letter.isascii() and (letter.isalnum() or letter in "_.") for letter in name
    ):
        raise ValueError(
            f"{what} {name!r}: at most {NAME_LIMIT} ASCII letters, digits, dots and underscores make a name"
        )
    return name.encode()


def describe(error: int | None) -> str:
    """What an error number means; the kernel's bpf(2) also gives one that the C library does not know."""
    return "not supported by this kernel" if error == _ENOTSUPP else os.strerror(error or 0)


def named(error: OSError, what: str) -> OSError:
    """The same error, saying what could not be done."""
    return OSError(error.errno, f"{what}: {describe(error.errno)}")


class Descriptor:
    """Something of the kernel's that lives as long as its descriptor. Closes once, by `close`, as a context manager
    or with the last reference to this object."""

    def __init__(self, descriptor: int, what: str) -> None:
        self._descriptor, self._what = descriptor, what
        self._finalizer = weakref.finalize(self, os.close, descriptor)

    @property
    def fd(self) -> int:
        """The descriptor. ValueError once closed: its number may be somebody else's by then."""
        if not self._finalizer.alive:
            raise ValueError(f"{self._what} is closed")
        return self._descriptor

    @property
    def closed(self) -> bool:
        """True when it was closed."""
        return not self._finalizer.alive

    def fileno(self) -> int:
        """The same as `fd`, for select and friends."""
        return self.fd

    def close(self) -> None:
        """Let go of it. May be called twice."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self._what}: {'closed' if self.closed else f'descriptor {self._descriptor}'}>"
