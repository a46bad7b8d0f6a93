"""BPF programs: loading them past the verifier, running one on a given packet, and asking the kernel about any.

A program has type information (BTF) only if some of its functions are to be walked once (`part_types`).
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from raceway.kernel.bpf.part_types import ROW_SIZE
from raceway.kernel.bpf.system import (
    TEST_LIVE_FRAMES,
    Command,
    Descriptor,
    ProgramKind,
    VerifierError,
    bpf,
    check_name,
    describe,
    named,
    object_info,
    open_id,
)
from raceway.kernel.capabilities import missing, refused

_FIRST_LOG, _ONLY_LOG, _LARGEST_LOG = 1 << 16, 1 << 20, 1 << 28
LOG_STEPS, LOG_WORDS = 1, 4
"""What the verifier writes down (BPF_LOG_LEVEL1, BPF_LOG_STATS): its steps too, or only why it refuses a program."""
_SHOWN_LINES = 8
# What XDP programs may add to a packet: 256 bytes of headroom, the rest of a page of tailroom.
_ROOM_TO_GROW = 8192
_ATTEMPTS = 5
_OF_NETWORKS = (ProgramKind.XDP, ProgramKind.SCHED_CLS)


class LoadAttributes(ctypes.Structure):
    """For PROG_LOAD."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("func_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("line_info_cnt", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("core_relo_cnt", ctypes.c_uint32),
        ("fd_array", ctypes.c_uint64),
    ]


class TestAttributes(ctypes.Structure):
    """For PROG_TEST_RUN."""

    __test__ = False  # No test, whatever pytest thinks of its name.
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


class ProgramInfoRecord(ctypes.Structure):
    """struct bpf_prog_info."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("gpl_compatible", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("nr_jited_ksyms", ctypes.c_uint32),
        ("nr_jited_func_lens", ctypes.c_uint32),
        ("jited_ksyms", ctypes.c_uint64),
        ("jited_func_lens", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("nr_func_info", ctypes.c_uint32),
        ("nr_line_info", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("jited_line_info", ctypes.c_uint64),
        ("nr_jited_line_info", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("jited_line_info_rec_size", ctypes.c_uint32),
        ("nr_prog_tags", ctypes.c_uint32),
        ("prog_tags", ctypes.c_uint64),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
    ]


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a program.

    kind: `ProgramKind`'s number; tag: a hash of its instructions; load_time: nanoseconds since boot; user: the id of
    whoever loaded it; device: the interface's index that it is bound to, or 0; runs and run_time (nanoseconds): counted
    only while kernel.bpf_stats_enabled is 1.
    """

    id: int
    name: str
    kind: int
    tag: str
    map_ids: tuple[int, ...]
    load_time: int
    user: int
    device: int
    runs: int
    run_time: int


class Program(Descriptor):
    """A loaded program. Gone when nobody has a descriptor of it and it is attached nowhere.

    kind: `ProgramKind`; instructions: as an `Assembler` gives them; name: at most 15 characters, shown by the kernel's
    tools; license: what the kernel's GPL-only helpers look at; flags: PROGRAM_ values of `system`; device: the index of
    an interface to bind it to; descriptors: of module BTFs, for `call_kfunc`; log: LOG_WORDS or LOG_STEPS: what a
    refusal says at the first attempt (of LOG_STEPS the last megabyte, from Linux 6.4 on). By default the program is
    verified again, and again, until all that the verifier says is known; it may walk for seconds each time. types: its
    functions' types, as loaded, and the rows that say which is whose.
    Raises VerifierError, PermissionNeededError, OSError.
    """

    def __init__(
        self,
        kind: int,
        instructions: bytes,
        *,
        name: str = "",
        license: str = "Dual BSD/GPL",
        expected_attach_type: int = 0,
        flags: int = 0,
        device: int = 0,
        descriptors: Sequence[int] = (),
        log: int = 0,
        types: tuple[Descriptor, bytes] | None = None,
    ) -> None:
        if not instructions or len(instructions) % 8:
            raise ValueError(
                f"program {name!r}: {len(instructions)} bytes, and instructions are a multiple of 8 bytes"
            )
        code = ctypes.create_string_buffer(instructions, len(instructions))
        license_text = ctypes.create_string_buffer(license.encode())
        array = (ctypes.c_int * max(len(descriptors), 1))(*descriptors)
        attributes = LoadAttributes(
            prog_type=kind,
            insn_cnt=len(instructions) // 8,
            insns=ctypes.addressof(code),
            license=ctypes.addressof(license_text),
            prog_flags=flags,
            prog_name=check_name("program", name),
            prog_ifindex=device,
            expected_attach_type=expected_attach_type,
            fd_array=ctypes.addressof(array) if descriptors else 0,
        )
        rows = types[1] if types else b""
        row_buffer = ctypes.create_string_buffer(rows, max(len(rows), 1))
        if types:
            attributes.prog_btf_fd = types[0].fd
            attributes.func_info = ctypes.addressof(row_buffer)
            attributes.func_info_rec_size = ROW_SIZE
            attributes.func_info_cnt = len(rows) // ROW_SIZE
        super().__init__(_load(attributes, name, log), f"BPF program {name!r}")
        self.kind, self.name = kind, name

    @property
    def id(self) -> int:
        """The kernel's number of it."""
        return self.info().id

    def info(self) -> ProgramInfo:
        """What the kernel says of it."""
        return _info(self.fd)

    def test_run(
        self,
        data: bytes,
        *,
        context: bytes = b"",
        repeat: int = 1,
        flags: int = 0,
        batch_size: int = 0,
    ) -> tuple[int, bytes, int]:
        """Run it on a packet: what it returned the last time, the packet as it was left, nanoseconds a run on average.

        context: what the program gets to see beside the packet, as `xdp_context` makes it.
        flags: TEST_LIVE_FRAMES sends what the program returns XDP_TX, XDP_REDIRECT or XDP_PASS for, `batch_size`
        frames at a time (0: the kernel's 64); the packet that is returned is empty then. A signal to the thread ends
        the call: InterruptedError. Raises OSError.
        """
        live = bool(flags & TEST_LIVE_FRAMES)
        data_in = ctypes.create_string_buffer(data, max(len(data), 1))
        data_out = ctypes.create_string_buffer(1 if live else len(data) + _ROOM_TO_GROW)
        context_in = ctypes.create_string_buffer(context, max(len(context), 1))
        attributes = TestAttributes(
            prog_fd=self.fd,
            data_size_in=len(data),
            data_size_out=0 if live else len(data_out),
            data_in=ctypes.addressof(data_in),
            data_out=0 if live else ctypes.addressof(data_out),
            repeat=repeat,
            ctx_size_in=len(context),
            ctx_in=ctypes.addressof(context_in) if context else 0,
            flags=flags,
            batch_size=batch_size,
        )
        try:
            bpf(Command.PROG_TEST_RUN, attributes)
        except OSError as error:
            raise named(error, f"running program {self.name!r} on {len(data)} bytes") from None
        left = b"" if live else data_out.raw[: attributes.data_size_out]
        return attributes.retval, left, attributes.duration


def xdp_context(length: int, *, index: int = 0, queue: int = 0, metadata: int = 0) -> bytes:
    """struct xdp_md, for `test_run`: a packet of `length` bytes (with `metadata` bytes before it, which `data` then
    begins with), as if received by queue `queue` of interface `index`."""
    return struct.pack("=6I", metadata, metadata + length, 0, index, queue, 0)


def program_info(number: int) -> ProgramInfo:
    """What the kernel says of the program of this id. Takes CAP_SYS_ADMIN; FileNotFoundError if there is none."""
    try:
        descriptor = open_id(Command.PROG_GET_FD_BY_ID, number)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise refused(f"looking at BPF program {number}", ["CAP_SYS_ADMIN"]) from None
        raise named(error, f"looking at BPF program {number}") from None
    with Descriptor(descriptor, f"BPF program {number}"):
        return _info(descriptor)


def _info(descriptor: int) -> ProgramInfo:
    record = ProgramInfoRecord()
    object_info(descriptor, record)
    ids = (ctypes.c_uint32 * max(record.nr_map_ids, 1))()
    if record.nr_map_ids:
        # The kernel gave everything but arrays; for those it wants to be told where, and nothing else.
        count = record.nr_map_ids
        record = ProgramInfoRecord(nr_map_ids=count, map_ids=ctypes.addressof(ids))
        object_info(descriptor, record)
    return ProgramInfo(
        id=record.id,
        name=record.name.decode(errors="replace"),
        kind=record.type,
        tag=bytes(record.tag).hex(),
        map_ids=tuple(ids[: record.nr_map_ids]),
        load_time=record.load_time,
        user=record.created_by_uid,
        device=record.ifindex,
        runs=record.run_cnt,
        run_time=record.run_time_ns,
    )


def _load(attributes: LoadAttributes, name: str, level: int) -> int:
    """PROG_LOAD; without a level a second time, with a log, if it is refused."""
    what = f"loading the BPF program {name!r}"
    if not level:
        try:
            return _attempt(attributes)
        except OSError as error:
            refusal = error
    size = _ONLY_LOG if level else _FIRST_LOG
    attributes.log_level = level or LOG_STEPS
    while True:
        log = ctypes.create_string_buffer(size)
        attributes.log_buf, attributes.log_size = ctypes.addressof(log), size
        try:
            return _attempt(attributes)
        except OSError as error:
            # Whatever it was, the kernel says ENOSPC when not all of the log had room.
            if error.errno != errno.ENOSPC or level or size >= _LARGEST_LOG:
                refusal = error
                break
        size *= 4
    text = log.value.decode(errors="replace")
    if text.strip():
        raise VerifierError(_verdict(name, text, refusal), text)
    if refusal.errno == errno.EPERM:
        needed = ["CAP_NET_ADMIN", "CAP_BPF"] if attributes.prog_type in _OF_NETWORKS else ["CAP_BPF"]
        raise refused(what, needed) from None
    raise named(refusal, f"{what} of {attributes.insn_cnt} instructions") from None


def _attempt(attributes: LoadAttributes) -> int:
    # The verifier gives up with EAGAIN when a signal waits, whatever the signal's handler will do.
    for _ in range(_ATTEMPTS):
        try:
            return bpf(Command.PROG_LOAD, attributes)
        except (BlockingIOError, InterruptedError):
            continue
    return bpf(Command.PROG_LOAD, attributes)


def said(log: str) -> list[str]:
    """The lines of a log without what the verifier counted."""
    counted = ("processed ", "verification time ", "stack depth ")
    return [line for line in log.splitlines() if line.strip() and not line.startswith(counted)]


def _verdict(name: str, log: str, refusal: OSError) -> str:
    shown = "\n  ".join(said(log)[-_SHOWN_LINES:])
    hint = ""
    if refusal.errno in (errno.EACCES, errno.EPERM) and missing(["CAP_PERFMON"]):
        hint = "\n(this process lacks CAP_PERFMON, without which the verifier allows less arithmetic with addresses)"
    return f"the kernel's verifier refuses program {name!r} ({describe(refusal.errno)}):\n  {shown}{hint}"
