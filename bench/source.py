"""A source that is nobody's bottleneck: live XDP frames of one constant packet, from one thread, until it is stopped.

    python source.py INTERFACE MAC ADDRESS LENGTH

The program that BPF_PROG_TEST_RUN runs (BPF_F_TEST_XDP_LIVE_FRAMES) does nothing but count and redirect: the kernel's
page pool has the packet in its buffers already. So one processor makes several times what a receiver takes, and none
of it depends on the code that is measured. Says `sending` once it begins, and at SIGINT or SIGTERM `made N frames`.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys

from raceway.kernel.bpf.assembler import R1, R2, Assembler
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import MAP_MMAPABLE, TEST_LIVE_FRAMES, Helper, MapKind, ProgramKind

_FOR_EVER = (1 << 31) - 1
_PORT = 9


def packet(mac: str, address: str, length: int) -> bytes:
    """A UDP packet in IPv4 in Ethernet, `length` bytes without frame check sequence, from .99 of the same subnet."""
    destination = socket.inet_aton(address)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, length - 14, 0, 0, 64, 17, 0, destination[:3] + b"\x63", destination
    )
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", 0xFFFF ^ total) + header[12:]
    # Without a checksum, as RFC 768 allows.
    udp = struct.pack("!HHHH", _PORT, _PORT, length - 34, 0)
    ethernet = bytes.fromhex(mac.replace(":", "")) + b"\x02\x00\x00\x00\x00\x63" + b"\x08\x00"
    return (ethernet + header + udp).ljust(length, b"\0")


def main() -> None:
    """Send until stopped."""
    name, mac, address, length = sys.argv[1:5]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    made = Map(MapKind.ARRAY, value_size=8, entries=1, name="bench_made", flags=MAP_MMAPABLE)
    code = Assembler()
    code.load_map_value(R1, made).load(R2, R1, 0, 8).add(R2, 1).store(R1, 0, R2, 8)
    code.mov(R1, socket.if_nametoindex(name)).mov(R2, 0).call(Helper.REDIRECT).exit()
    with made, Program(ProgramKind.XDP, code.assemble(), name="bench_source") as program:
        frame = packet(mac, address, int(length))
        print("sending", flush=True)
        try:
            while True:
                program.test_run(frame, repeat=_FOR_EVER, flags=TEST_LIVE_FRAMES)
        except (KeyboardInterrupt, InterruptedError):
            pass
        print(f"made {int.from_bytes(made.lookup(0) or b'', sys.byteorder)} frames", flush=True)


if __name__ == "__main__":
    main()
