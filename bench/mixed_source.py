"""A source as source.py, of packets that differ: each next one has the next row's addresses, ports and protocol.

    python mixed_source.py INTERFACE MAC ROWS

ROWS: a file of rows of 16 bytes, as many as a power of two: source, destination, source port and destination port as
in the packet, the protocol, and three bytes that do not count. Says what source.py says.
"""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import numpy as np

from bench.source import packet
from raceway.kernel.bpf.assembler import R0, R1, R2, R3, R6, R7, R8, Assembler
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import (
    MAP_MMAPABLE,
    TEST_LIVE_FRAMES,
    Helper,
    MapKind,
    ProgramKind,
    XdpAction,
)

ROW = 16
LENGTH = 60
_FOR_EVER = (1 << 31) - 1
_FILLED = ((0, 26, 4), (4, 30, 4), (8, 34, 4), (12, 23, 1))
"""Where it stands in the row and in the packet, and how many bytes."""


def _code(made: Map, rows: int, interface: int) -> bytes:
    """Count, fill in the row of the count, and redirect. made: the count in 8 bytes, and behind ROW bytes the rows."""
    code = Assembler().load(R7, R1, 0, 4).load(R8, R1, 4, 4)
    code.mov(R2, R7).add(R2, LENGTH).jump_if(">", R2, R8, "cut")
    code.load_map_value(R6, made).load(R2, R6, 0, 8).mov(R3, R2).add(R2, 1).store(R6, 0, R2, 8)
    code.and_(R3, rows - 1).mul(R3, ROW).add(R6, R3)
    for at, place, size in _FILLED:
        code.load(R2, R6, ROW + at, size).store(R7, place, R2, size)
    code.mov(R1, interface).mov(R2, 0).call(Helper.REDIRECT).exit()
    return code.label("cut").mov(R0, XdpAction.DROP).exit().assemble()


def main() -> None:
    """Send until stopped."""
    name, mac, file = sys.argv[1:4]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = np.fromfile(Path(file), np.uint8)
    made = Map(MapKind.ARRAY, value_size=ROW + len(rows), entries=1, name="bench_made", flags=MAP_MMAPABLE)
    made.memory()[ROW : ROW + len(rows)] = rows
    frame = bytearray(packet(mac, "0.0.0.0", LENGTH))
    # Where TCP has its header's length.
    frame[46] = 0x50
    code = _code(made, len(rows) // ROW, socket.if_nametoindex(name))
    with made, Program(ProgramKind.XDP, code, name="bench_source") as program:
        print("sending", flush=True)
        try:
            while True:
                program.test_run(bytes(frame), repeat=_FOR_EVER, flags=TEST_LIVE_FRAMES)
        except (KeyboardInterrupt, InterruptedError):
            pass
        print(f"made {int.from_bytes(made.memory()[:8].tobytes(), sys.byteorder)} frames", flush=True)


if __name__ == "__main__":
    main()
