"""The XDP programs that ports are made of: to an AF_XDP socket, and frames out of shared memory."""

from __future__ import annotations

from raceway.kernel.bpf.assembler import R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Assembler
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import MAP_MMAPABLE, PROGRAM_XDP_FRAGMENTS, MapKind, ProgramKind
from raceway.memory.layout import lines
from raceway.memory.structures import structure

XDP_DROP, XDP_PASS = 1, 2
# Helpers, by their numbers in linux/bpf.h.
_MAP_LOOKUP, _REDIRECT, _REDIRECT_MAP, _ADJUST_TAIL, _STORE_BYTES, _BUFFER_LENGTH = 1, 23, 51, 65, 190, 188

LIVE_CONTROL = lines([("produced", "<i8")], [("consumed", "<i8")], [("rounds", "<i8")])
"""What the frames' producer and the program share: frames put in, frames taken out, times that there was none."""
LiveControl = structure("LiveControl", LIVE_CONTROL)
FRAME_STRIDE, FRAME_DATA = 2048, 8
"""Bytes from one shared frame to the next, and where in it its bytes begin; its length stands in the first four."""
FRAME_LIMIT = FRAME_STRIDE - FRAME_DATA


def redirect_to_sockets(sockets: Map) -> Program:
    """A program that gives every packet to the AF_XDP socket of its queue, and to the host where there is none."""
    code = Assembler()
    code.load(R2, R1, 16, 4)  # struct xdp_md: rx_queue_index
    code.load_map(R1, sockets)
    code.mov(R3, XDP_PASS)
    code.call(_REDIRECT_MAP).exit()
    try:
        return Program(ProgramKind.XDP, code.assemble(), name="raceway_rx", flags=PROGRAM_XDP_FRAGMENTS)
    except OSError:
        # A kernel before 5.18 knows nothing of packets in several buffers.
        return Program(ProgramKind.XDP, code.assemble(), name="raceway_rx")


def live_frames(frames: int, *, out_of: int = 0) -> tuple[Program, Map, Map]:
    """A program for a live run (BPF_F_TEST_XDP_LIVE_FRAMES) that makes a frame out of each that is put into a shared
    array: the program, the array's control record (LIVE_CONTROL) and its frames.

    frames: how many the array has, a power of two; out_of: the index of the interface that they leave by; 0: they go up
    into the host's stack. Each frame is shortened from the run's own, so that must be as long as the longest.
    """
    control = Map(
        MapKind.ARRAY, value_size=LIVE_CONTROL.itemsize, entries=1, name="raceway_control", flags=MAP_MMAPABLE
    )
    array = Map(
        MapKind.ARRAY, value_size=FRAME_STRIDE, entries=frames, name="raceway_frames", flags=MAP_MMAPABLE
    )
    produced, consumed, rounds = (LiveControl.fields[name][1] for name in ("produced", "consumed", "rounds"))
    code = Assembler()
    code.mov(R6, R1)
    code.load_map_value(R7, control, 0)
    code.load(R8, R7, consumed, 8)
    code.load(R1, R7, produced, 8)
    code.jump_if("==", R1, R8, "empty")
    code.mov(R2, R8).and_(R2, frames - 1)
    code.store(R10, -4, R2, 4)
    code.load_map(R1, array)
    code.mov(R2, R10).add(R2, -4)
    code.call(_MAP_LOOKUP)
    code.jump_if("==", R0, 0, "empty")
    code.mov(R9, R0)
    code.add(R8, 1)
    # How much shorter the frame is than the run's.
    code.mov(R1, R6).call(_BUFFER_LENGTH)
    code.load(R2, R9, 0, 4)
    code.jump_if("<", R2, 14, "skip")
    code.jump_if(">", R2, FRAME_LIMIT, "skip")
    code.sub(R2, R0)
    code.jump_if("==", R2, 0, "fill")
    code.mov(R1, R6).call(_ADJUST_TAIL)
    code.jump_if("!=", R0, 0, "skip")
    code.label("fill")
    code.load(R4, R9, 0, 4)
    code.jump_if("<", R4, 14, "skip")
    code.jump_if(">", R4, FRAME_LIMIT, "skip")
    code.mov(R1, R6).mov(R2, 0).mov(R3, R9).add(R3, FRAME_DATA)
    code.call(_STORE_BYTES)
    code.store(R7, consumed, R8, 8)
    if out_of:
        code.mov(R1, out_of).mov(R2, 0).call(_REDIRECT).exit()
    else:
        code.mov(R0, XDP_PASS).exit()
    code.label("skip").store(R7, consumed, R8, 8)
    code.mov(R0, XDP_DROP).exit()
    code.label("empty")
    code.load(R1, R7, rounds, 8).add(R1, 1).store(R7, rounds, R1, 8)
    code.mov(R0, XDP_DROP).exit()
    return Program(ProgramKind.XDP, code.assemble(), name="raceway_live"), control, array
