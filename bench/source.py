"""A source that is nobody's bottleneck: live XDP frames of one constant packet, from one thread, until it is stopped.

    python source.py INTERFACE MAC ADDRESS LENGTH [FLOWS]

The program that BPF_PROG_TEST_RUN runs (BPF_F_TEST_XDP_LIVE_FRAMES) does nothing but count and redirect: the kernel's
page pool has the packet in its buffers already. So one processor makes several times what a receiver takes, and none
of it depends on the code that is measured. With FLOWS, a power of two, packets come from so many ports in turn, and are
as Linux' sockets send them: with checksums, and not to be fragmented.

Says `sending` once it begins, and at SIGINT or SIGTERM `made N frames`.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys

from raceway.kernel.bpf.assembler import R1, R2, R3, R4, R5, R6, Assembler
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import MAP_MMAPABLE, TEST_LIVE_FRAMES, Helper, MapKind, ProgramKind

_FOR_EVER = (1 << 31) - 1
_PORT = 9


def _sum(data: bytes) -> int:
    """The one's complement sum of 16-bit words (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def packet(mac: str, address: str, length: int, checksummed: bool = False) -> bytes:
    """A UDP packet in IPv4 in Ethernet, `length` bytes without frame check sequence, from .99 of the same subnet."""
    destination = socket.inet_aton(address)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        length - 14,
        0,
        0x4000 if checksummed else 0,
        64,
        17,
        0,
        destination[:3] + b"\x63",
        destination,
    )
    header = header[:10] + struct.pack("!H", 0xFFFF ^ _sum(header)) + header[12:]
    # Without a checksum, as RFC 768 allows.
    udp = struct.pack("!HHHH", _PORT, _PORT, length - 34, 0)
    if checksummed:
        pseudo = header[12:20] + struct.pack("!HH", 17, length - 34)
        udp = udp[:6] + struct.pack("!H", 0xFFFF ^ _sum(pseudo + udp))
    ethernet = bytes.fromhex(mac.replace(":", "")) + b"\x02\x00\x00\x00\x00\x63" + b"\x08\x00"
    return (ethernet + header + udp).ljust(length, b"\0")


def main() -> None:
    """Send until stopped."""
    name, mac, address, length, *more = sys.argv[1:]
    flows = int(more[0]) if more else 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    made = Map(MapKind.ARRAY, value_size=8, entries=1, name="bench_made", flags=MAP_MMAPABLE)
    frame = packet(mac, address, int(length))
    code = Assembler().mov(R6, R1)
    code.load_map_value(R1, made).load(R2, R1, 0, 8).add(R2, 1).store(R1, 0, R2, 8)
    if flows > 1:
        frame = packet(mac, address, int(length), checksummed=True)
        # Frames come back as they left, so both fields are written anew: what one grows by, the other loses.
        code.load(R3, R6, 0, 4).load(R4, R6, 4, 4)  # struct xdp_md: data and data_end
        code.mov(R5, R3).add(R5, 42).jump_if(">", R5, R4, "send").and_(R2, flows - 1)
        code.mov(R5, R2).add(R5, _PORT).to_be(R5, 16).store(R3, 34, R5, 2)
        code.mov(R5, int.from_bytes(frame[40:42], "big")).sub(R5, R2).to_be(R5, 16).store(R3, 40, R5, 2)
        code.label("send")
    code.mov(R1, socket.if_nametoindex(name)).mov(R2, 0).call(Helper.REDIRECT).exit()
    with made, Program(ProgramKind.XDP, code.assemble(), name="bench_source") as program:
        print("sending", flush=True)
        try:
            while True:
                program.test_run(frame, repeat=_FOR_EVER, flags=TEST_LIVE_FRAMES)
        except (KeyboardInterrupt, InterruptedError):
            pass
        print(f"made {int.from_bytes(made.lookup(0) or b'', sys.byteorder)} frames", flush=True)


if __name__ == "__main__":
    main()
