"""Received frames in memory: an XDP program that copies what arrives into an array which a process has mapped.

An AF_XDP socket in copy mode costs the kernel, for each packet, a buffer from the fill ring, the copy, a descriptor and
the way back of the driver's own page through the redirect machinery. Here the program does the copy itself and drops
the frame, which gives the page back to the driver at once (`script/bench` has rows for both). What is lost is room for
frames longer than FRAME_LIMIT, and XDP in generic mode, where several processors may run a queue's program at a time.

A queue has a RECEIVED record, and frames in the array as a circle::

    frames     | length | bytes ...   FRAME_STRIDE from one to the next
               ^ consumed            ^ produced
               the process reads     the program writes the next one here

A process that sleeps sets `waiting`; the program answers by a record in the queue's ring buffer, whose descriptor is
readable then, and takes `waiting` back. Publishing is an atomic addition that fetches, and so a full barrier between
`produced` and `waiting` (Documentation/bpf/standardization/instruction-set.rst, section 5.3).
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from raceway.kernel.bpf.assembler import R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Assembler
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import (
    MAP_MMAPABLE,
    PROGRAM_XDP_DEVICE_BOUND,
    PROGRAM_XDP_FRAGMENTS,
    RING_FORCE_WAKEUP,
    Helper,
    MapKind,
    ProgramKind,
    XdpAction,
)
from raceway.kernel.redirect import FRAME_DATA, FRAME_LIMIT, FRAME_STRIDE, put_tag_in
from raceway.memory.layout import lines
from raceway.memory.structures import structure

RECEIVED = lines(
    [("produced", "<i8"), ("full", "<i8"), ("too_long", "<i8"), ("seen", "<i8")],
    [("consumed", "<i8"), ("taken", "<i8")],
    [("waiting", "<i8")],
)
"""What a queue's program and its reader share. produced, consumed: frames put in, frames taken out; full, too_long:
frames that were dropped, for the array was full or its frames too short; seen: `consumed` as the program last saw it,
for whose line it does not ask while there is room; taken: whether the queue is the process's (else its packets are the
host's); waiting: whether the process sleeps."""
Received = structure("Received", RECEIVED)

FRAMES = lines(
    [("control", "<i8"), ("frames", "<i8"), ("mask", "<i8"), ("at", "<i8"), ("rung", "<i8"), ("answered", "<i8"),
     ("finished", "<i8"), ("looked", "<i8")],
    [("next_look", "<i8"), ("scratch", "<i8"), ("scratch_2", "<i8")],
)  # fmt: skip
"""What the data plane knows of a queue. control, frames: addresses; mask: frames - 1; at: frames taken out; rung,
answered: addresses of the ring buffer's two positions; finished: packets whose checksum was completed here; looked,
next_look: when the last look at `produced` was and when the next may be, nanoseconds on CLOCK_MONOTONIC."""
Frames = structure("Frames", FRAMES)


class ReceivedFrames:
    """The program and its maps, for an interface of `queues` receive queues; `records[queue]` is a FRAMES record.

    frames: how many the array has a queue, a power of two; device: as for `redirect.redirect_to_sockets`.
    Raises OSError, PermissionNeededError, VerifierError.
    """

    def __init__(self, queues: int, frames: int, *, device: int = 0) -> None:
        if frames & (frames - 1) or frames < 2:
            raise ValueError(f"{frames} frames: expected a power of two")
        self._parts: list[Map | Program] = []
        try:
            control = self._map(MapKind.ARRAY, RECEIVED.itemsize, queues, "raceway_queues", MAP_MMAPABLE)
            array = self._map(MapKind.ARRAY, FRAME_STRIDE, queues * frames, "raceway_frames", MAP_MMAPABLE)
            bells = [self._map(MapKind.RINGBUF, 0, mmap.PAGESIZE, "raceway_bell") for _ in range(queues)]
            choice = self._map(MapKind.ARRAY_OF_MAPS, 4, queues, "raceway_bells", inner=bells[0])
            for queue, bell in enumerate(bells):
                choice.update(queue, bell.fd)
            self.program = _program(control, array, choice, frames, device)
            self._parts.append(self.program)
            self._control, self._frames = control.memory(), array.memory()
            self._positions = [bell.positions() for bell in bells]
        except BaseException:
            self.close()
            raise
        self.bells = [bell.fd for bell in bells]
        self.controls: Any = self._control[: queues * RECEIVED.itemsize].view(RECEIVED)
        self.records = np.zeros(queues, dtype=FRAMES)
        for queue in range(queues):
            record = self.records[queue]
            record["control"] = self._control.ctypes.data + queue * RECEIVED.itemsize
            record["frames"] = self._frames.ctypes.data + queue * frames * FRAME_STRIDE
            record["mask"] = frames - 1
            answered, rung = self._positions[queue]
            record["rung"], record["answered"] = rung.ctypes.data, answered.ctypes.data

    def _map(
        self, kind: MapKind, size: int, entries: int, name: str, flags: int = 0, inner: Map | None = None
    ) -> Map:
        key = 0 if kind == MapKind.RINGBUF else 4
        made = Map(kind, key_size=key, value_size=size, entries=entries, name=name, flags=flags, inner=inner)
        self._parts.append(made)
        return made

    def take(self, queue: int) -> None:
        """From now on the queue's packets come here."""
        self.controls[queue]["taken"] = 1

    def alarm(self, queue: int) -> int:
        """The address of the queue's `waiting`."""
        return int(self.records[queue]["control"]) + int(Received.fields["waiting"][1])

    def dropped(self) -> dict[str, int]:
        """`ring_full` and `bad_frame`: as an AF_XDP socket's."""
        return {
            "ring_full": int(self.controls["full"].sum()),
            "bad_frame": int(self.controls["too_long"].sum()),
        }

    def close(self) -> None:
        """The memory stays mapped until the last array over it is gone. May be called twice."""
        for part in self._parts:
            part.close()


def _program(control: Map, array: Map, bells: Map, frames: int, device: int) -> Program:
    produced, full, too_long, seen, consumed, taken, waiting = (
        Received.fields[name][1]
        for name in ("produced", "full", "too_long", "seen", "consumed", "taken", "waiting")
    )
    queue, index = -20, -24  # on the stack, behind what `put_tag_in` uses
    code = Assembler()
    code.mov(R6, R1)
    code.load(R2, R6, 16, 4).store(R10, queue, R2, 4)  # struct xdp_md: rx_queue_index
    code.load_map(R1, control).mov(R2, R10).add(R2, queue).call(Helper.MAP_LOOKUP_ELEM)
    code.jump_if("==", R0, 0, "host")
    code.mov(R7, R0)
    code.load(R1, R7, taken, 8).jump_if("==", R1, 0, "host")
    if device:
        put_tag_in(code.mov(R1, R6))
    code.mov(R1, R6).call(Helper.XDP_GET_BUFF_LEN).mov(R8, R0)
    code.jump_if("<", R8, 14, "host")
    code.jump_if(">", R8, FRAME_LIMIT, "too long")
    code.load(R1, R7, produced, 8)
    code.load(R2, R7, seen, 8).mov(R3, R1).sub(R3, R2)
    code.jump_if("<", R3, frames, "there is room")
    code.load(R2, R7, consumed, 8).store(R7, seen, R2, 8).mov(R3, R1).sub(R3, R2)
    code.jump_if(">=", R3, frames, "full")
    code.label("there is room")
    code.load(R2, R10, queue, 4).mul(R2, frames).and_(R1, frames - 1).add(R2, R1).store(R10, index, R2, 4)
    code.load_map(R1, array).mov(R2, R10).add(R2, index).call(Helper.MAP_LOOKUP_ELEM)
    code.jump_if("==", R0, 0, "host")
    code.mov(R9, R0).store(R9, 0, R8, 4)
    code.mov(R1, R6).mov(R2, 0).mov(R3, R9).add(R3, FRAME_DATA).mov(R4, R8).call(Helper.XDP_LOAD_BYTES)
    code.mov(R1, 1).atomic_add(R7, produced, R1, 8, fetch=True)
    code.load(R1, R7, waiting, 8).jump_if("==", R1, 0, "drop")
    code.store(R7, waiting, 0, 8)
    code.load_map(R1, bells).mov(R2, R10).add(R2, queue).call(Helper.MAP_LOOKUP_ELEM)
    code.jump_if("==", R0, 0, "drop")
    # If there is no room for it, an earlier one has not been answered, and the descriptor is readable already.
    code.mov(R1, R0).mov(R2, R10).add(R2, index).mov(R3, 4).mov(R4, RING_FORCE_WAKEUP)
    code.call(Helper.RINGBUF_OUTPUT)
    code.label("drop").mov(R0, XdpAction.DROP).exit()
    code.label("full").load(R1, R7, full, 8).add(R1, 1).store(R7, full, R1, 8)
    code.mov(R0, XdpAction.DROP).exit()
    code.label("too long").load(R1, R7, too_long, 8).add(R1, 1).store(R7, too_long, R1, 8)
    code.mov(R0, XdpAction.DROP).exit()
    code.label("host").mov(R0, XdpAction.PASS).exit()
    flags = PROGRAM_XDP_FRAGMENTS | (PROGRAM_XDP_DEVICE_BOUND if device else 0)
    return Program(ProgramKind.XDP, code.assemble(), name="raceway_frames", flags=flags, device=device)
