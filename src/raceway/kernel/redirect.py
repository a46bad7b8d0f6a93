"""The XDP programs that ports are made of: to an AF_XDP socket, and frames out of shared memory."""

from __future__ import annotations

import errno

from raceway.kernel.bpf.assembler import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, Assembler
from raceway.kernel.bpf.btf import kernel_function
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import (
    MAP_MMAPABLE,
    PROGRAM_XDP_DEVICE_BOUND,
    PROGRAM_XDP_FRAGMENTS,
    MapKind,
    ProgramKind,
)
from raceway.kernel.netlink import NETLINK_GENERIC, NetlinkSocket, attributes, number, number_attribute
from raceway.memory.layout import lines
from raceway.memory.structures import structure

XDP_ABORTED, XDP_DROP, XDP_PASS = 0, 1, 2
# Helpers, by their numbers in linux/bpf.h.
_MAP_LOOKUP, _REDIRECT, _ADJUST_HEAD, _REDIRECT_MAP, _ADJUST_TAIL, _STORE_BYTES, _BUFFER_LENGTH = (
    1, 23, 44, 51, 65, 190, 188,
)  # fmt: skip
# NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX and _XDP_RX_METADATA_FEATURES, and NETDEV_XDP_RX_METADATA_VLAN_TAG in that.
_DEV_GET, _DEV_INDEX, _DEV_METADATA, _VLAN_TAG = 1, 1, 5, 4

LIVE_CONTROL = lines([("produced", "<i8")], [("consumed", "<i8")], [("rounds", "<i8")])
"""What the frames' producer and the program share: frames put in, frames taken out, and how many times there has been
none since the last one was taken."""
LiveControl = structure("LiveControl", LIVE_CONTROL)
FRAME_STRIDE, FRAME_DATA = 2048, 8
"""Bytes from one shared frame to the next, and where in it its bytes begin; its length stands in the first four."""
FRAME_LIMIT = FRAME_STRIDE - FRAME_DATA


def tells_vlan_tags(index: int) -> bool:
    """Whether XDP programs can ask the driver of this interface (of the calling thread's network namespace) for a VLAN
    tag that is not among a packet's bytes."""
    try:
        with NetlinkSocket(NETLINK_GENERIC) as netlink:
            answers = netlink.ask_generic("netdev", _DEV_GET, number_attribute(_DEV_INDEX, index))
    except OSError:
        return False
    return bool(answers) and bool(number(attributes(answers[0]).get(_DEV_METADATA)) & _VLAN_TAG)


def redirect_to_sockets(sockets: Map, *, device: int = 0) -> Program:
    """A program that gives every packet to the AF_XDP socket of its queue, and to the host where there is none.

    device: the index of an interface whose driver tells VLAN tags, which the program is then bound to: a tag that a
    card has taken out of a packet's bytes, or that the sender's kernel never put in, is put where the wire has it
    (Documentation/networking/xdp-rx-metadata.rst). OSError if the kernel cannot.
    """
    code = Assembler()
    code.mov(R6, R1)
    if device:
        put_tag_in(code)
    code.load(R2, R6, 16, 4)  # struct xdp_md: rx_queue_index
    code.load_map(R1, sockets)
    code.mov(R3, XDP_PASS)
    code.call(_REDIRECT_MAP).exit()
    raw, name = code.assemble(), "raceway_rx"
    if device:
        flags = PROGRAM_XDP_FRAGMENTS | PROGRAM_XDP_DEVICE_BOUND
        return Program(ProgramKind.XDP, raw, name=name, flags=flags, device=device)
    try:
        return Program(ProgramKind.XDP, raw, name=name, flags=PROGRAM_XDP_FRAGMENTS)
    except OSError:
        # A kernel before 5.18 knows nothing of packets in several buffers.
        return Program(ProgramKind.XDP, raw, name=name)


def put_tag_in(code: Assembler) -> None:
    """If there is a tag (IEEE 802.1Q, 9.3) beside the packet: make room behind the addresses, and write it there.

    R1 and R6 are the context; R7 to R9 stay as they are, and so does the stack below -16."""
    function = kernel_function("bpf_xdp_metadata_rx_vlan_tag")
    if function is None:
        raise OSError(errno.EOPNOTSUPP, "the kernel has no bpf_xdp_metadata_rx_vlan_tag")
    # The kernel writes the tag's protocol, in network order, and its control information to the stack.
    protocol, control = -8, -16
    code.store(R10, protocol, 0, 8).store(R10, control, 0, 8)
    code.mov(R2, R10).add(R2, protocol).mov(R3, R10).add(R3, control)
    code.call_kfunc(function)
    code.jump_if("!=", R0, 0, "as it is", wide=False)
    code.mov(R1, R6).mov(R2, -4).call(_ADJUST_HEAD)
    code.jump_if("!=", R0, 0, "no room")
    code.load(R2, R6, 0, 4).load(R3, R6, 4, 4)  # struct xdp_md: data and data_end
    code.mov(R4, R2).add(R4, 18).jump_if("<=", R4, R3, "room")
    # Without its tag it would be another network's packet. The driver counts it.
    code.label("no room").mov(R0, XDP_ABORTED).exit()
    code.label("room")
    for at in (0, 4, 8):
        code.load(R5, R2, at + 4, 4).store(R2, at, R5, 4)
    code.load(R5, R10, protocol, 2).store(R2, 12, R5, 2)
    code.load(R5, R10, control, 2).to_be(R5, 16).store(R2, 14, R5, 2)
    code.label("as it is")


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
    # In this order: who sees that the last frame was taken must not see the rounds before it.
    code.store(R7, rounds, 0, 8).store(R7, consumed, R8, 8)
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
