"""A packet function in the kernel against the same in C: BPF_PROG_TEST_RUN of both, repeated, on one packet.

The function looks a five-tuple up in a table; `match.c` does the same with a map of the kernel's, and is compiled by
clang -O2 where there is one.
"""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

import raceway
from bench.peers import Measurement, PeerUnavailable
from bench.row import Row
from raceway import DROP, PASS

REPEAT = 2_000_000
PACKET = bytes.fromhex(
    "020000000002 020000000001 0800 45000035 00010000 4006 a70f 0a010203 c0a80709"
    "04d2 0050 00000000 00000000 5002 2000 0000 0000" + "61" * 13
)
TABLE = raceway.HashTable(1024)


@raceway.packet_function
def match(packet):  # type: ignore[no-untyped-def]
    if packet.five_tuple in TABLE:
        return DROP
    return PASS


def ours() -> float:
    """Nanoseconds a packet of the packet function."""
    from raceway.kernel.functions.loading import LoadedFunction

    TABLE.put(raceway.Packet(PACKET).five_tuple, 1)
    with LoadedFunction(match) as loaded:
        verdict, _, duration = loaded.program.test_run(PACKET, repeat=REPEAT)
    assert verdict == DROP
    return float(duration)


def theirs() -> Measurement:
    """Nanoseconds a packet of the same in C."""
    from raceway.compile.bpf import elf
    from raceway.kernel.bpf.maps import Map
    from raceway.kernel.bpf.programs import Program
    from raceway.kernel.bpf.system import PROGRAM_XDP_FRAGMENTS, MapKind, ProgramKind

    if shutil.which("clang") is None:
        raise PeerUnavailable("there is no clang here")
    with tempfile.TemporaryDirectory(prefix="raceway-bench-") as folder:
        made = Path(folder) / "match.o"
        source = Path(__file__).parent / "match.c"
        include = "-I/usr/include/x86_64-linux-gnu"
        command = ["clang", "-O2", "-target", "bpf", "-mcpu=v3", include, "-c", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerUnavailable(f"clang: {done.stderr.strip().splitlines()[0]}")
        section = elf.read(made.read_bytes())["xdp"]
    code = bytearray(section.data)
    with Map(MapKind.HASH, key_size=48, value_size=8, entries=1024) as flows:
        for relocation in section.relocations:
            code[relocation.offset + 1] |= 0x10  # BPF_PSEUDO_MAP_FD
            code[relocation.offset + 4 : relocation.offset + 8] = flows.fd.to_bytes(4, "little")
        addresses = [socket.inet_aton(one) + bytes(12) for one in ("10.1.2.3", "192.168.7.9")]
        flows.update(
            struct.pack("=II", 4, 6) + b"".join(addresses) + struct.pack(">HH", 1234, 80) + bytes(4), 1
        )
        with Program(ProgramKind.XDP, bytes(code), name="match", flags=PROGRAM_XDP_FRAGMENTS) as program:
            verdict, _, duration = program.test_run(PACKET, repeat=REPEAT)
    assert verdict == DROP
    return Measurement("clang", float(duration), "ns/packet", {}, " ".join(command))


def row() -> Row:
    """The row of the table; the goal is at most 1.15 times C's time."""
    return Row(
        "five-tuple match and look-up, in the kernel", "the same in C, clang -O2", "ns/packet", round(1 / 1.15, 2),
        better="lower", group="kernel",
    )  # fmt: skip
