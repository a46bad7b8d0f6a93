"""`raceway.simulate`: a packet function over packets at hand, on any of its targets, without an interface.

The kernel's part is BPF_PROG_TEST_RUN: the program that would be attached, run by the kernel on bytes of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raceway.compile.bpf import definitions
from raceway.compile.head import HEADROOM
from raceway.compile.packet import Packet
from raceway.compile.verdicts import Verdict

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction

TARGETS = ("interpreted", "native", "kernel")
REASONS = ("out_of_bounds", "arithmetic", "bad_verdict", "other_error", "loop_limit")
SHORTEST = 14
"""Bytes of the shortest packet that XDP ever sees (ETH_HLEN)."""


@dataclass
class Simulation:
    """What a function made of packets: verdicts, bytes afterwards, and why those that were ABORTED were, by name."""

    verdicts: list[Verdict]
    packets: list[bytes]
    reasons: dict[str, int]


def simulate(
    function: PacketFunction,
    packets: Iterable[Any],
    target: str = "interpreted",
    *,
    times: int | Sequence[int] = 0,
    port: int = 0,
    ring: int = 0,
) -> Simulation:
    """Run a packet function over packets, one after the other, and say what became of each.

    packets: bytes, or what has bytes (Scapy's packets, `Packet`); they are copied. target: "interpreted" (plain
    Python), "native" (machine code), "kernel" (eBPF, in the kernel, by BPF_PROG_TEST_RUN; takes CAP_BPF, CAP_PERFMON
    and CAP_NET_ADMIN, and packets of at least 14 bytes, for it never sees shorter ones). times: nanoseconds since
    1970, for all or for each. State objects keep what the function does to them, on whatever target.

    Raises ValueError, PacketFunctionError, and for the kernel VerifierError, PermissionNeededError, OSError.
    """
    if target not in TARGETS:
        raise ValueError(f"target {target!r}: one of {', '.join(TARGETS)} was expected")
    given = [bytes(one) for one in packets]
    when = [times] * len(given) if isinstance(times, int) else [int(one) for one in times]
    if len(when) != len(given):
        raise ValueError(f"{len(when)} times for {len(given)} packets")
    if target == "interpreted":
        return _interpreted(function, given, when, port, ring)
    if target == "native":
        return _native(function, given, when, port, ring)
    return _kernel(function, given, when, port, ring)


def _interpreted(
    function: PacketFunction, given: list[bytes], when: list[int], port: int, ring: int
) -> Simulation:
    made = Simulation([], [], dict.fromkeys(REASONS, 0))
    for data, time in zip(given, when, strict=True):
        packet = Packet(data, time=time, port=port, ring=ring)
        verdict, reason = function.run(packet)
        made.verdicts.append(verdict)
        made.packets.append(bytes(packet))
        if reason:
            made.reasons[reason] += 1
    return made


def _native(
    function: PacketFunction, given: list[bytes], when: list[int], port: int, ring: int
) -> Simulation:
    from raceway.memory.layout import METADATA, SLOT, Batch
    from raceway.memory.structures import allocate

    count = len(given)
    size = HEADROOM + max(map(len, given), default=0) + 1
    buffers = np.zeros((count + 1, size), dtype=np.uint8)
    slots, metadata = np.zeros(count + 1, SLOT), np.zeros(count + 1, METADATA)
    verdicts = np.zeros(count + 1, np.uint8)
    for index, data in enumerate(given):
        buffers[index, HEADROOM : HEADROOM + len(data)] = np.frombuffer(data, np.uint8)
        slots[index] = (index, len(data), HEADROOM, 0)
    metadata["timestamp"][:count] = when
    batch = allocate(Batch)
    fields = {
        "slots": slots.ctypes.data, "buffers": buffers.ctypes.data, "buffer_size": size, "slot_count": count + 1,
        "count": count, "verdicts": verdicts.ctypes.data, "metadata": metadata.ctypes.data, "port": port, "ring": ring,
    }  # fmt: skip
    for name, value in fields.items():
        batch[name] = value
    function.native()(batch.ctypes.data)
    places = zip(slots["offset"][:count].tolist(), slots["length"][:count].tolist(), strict=True)
    after = [buffers[index, at : at + length].tobytes() for index, (at, length) in enumerate(places)]
    reasons = {name: int(batch[name][0]) for name in REASONS if name != "loop_limit"}
    return Simulation(
        [Verdict(one) for one in verdicts[:count].tolist()], after, {**reasons, "loop_limit": 0}
    )


def _kernel(
    function: PacketFunction, given: list[bytes], when: list[int], port: int, ring: int
) -> Simulation:
    from raceway.kernel.functions.loading import LoadedFunction

    for index, data in enumerate(given):
        if len(data) < SHORTEST:
            raise ValueError(
                f"packet {index} has {len(data)} bytes; a function in the kernel never sees fewer than {SHORTEST}"
            )
    if function.simulated is None:
        function.simulated = LoadedFunction(function)
    loaded: LoadedFunction = function.simulated
    record, before = loaded.record, loaded.counters
    record[definitions.SIMULATED // 8] = 1
    record[definitions.PORT // 8], record[definitions.RING // 8] = port, ring
    made = Simulation([], [], {})
    for data, time in zip(given, when, strict=True):
        record[definitions.TIME // 8] = time
        verdict, after, _ = loaded.program.test_run(data)
        made.verdicts.append(Verdict(verdict))
        made.packets.append(after)
    counted = loaded.counters
    made.reasons = {name: counted[name] - before[name] for name in REASONS}
    return made
