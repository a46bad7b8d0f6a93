"""The same question of every packet of a real capture in memory: a packet function, libpcap, dpkt, Scapy."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

import raceway
from bench.peers import FiveTuple
from raceway import DROP, PASS, Expression, PacketFunction, packet_function
from raceway.memory.layout import SLOT, Batch
from raceway.memory.structures import allocate

QUESTION = FiveTuple(protocol="tcp", any_port=80, any_network="192.0.2.0/24")
DEMO = Path(raceway.__file__).parent / "data" / "demo.pcapng.gz"


@packet_function
def web_of_the_server(packet):  # type: ignore[no-untyped-def]
    ip = packet.ipv4
    tcp = packet.tcp
    if not ip or not tcp:
        return DROP
    if tcp.source_port != 80 and tcp.destination_port != 80:
        return DROP
    if ip.source == "192.0.2.0/24" or ip.destination == "192.0.2.0/24":
        return PASS
    return DROP


@packet_function
def web_by_offsets(packet):  # type: ignore[no-untyped-def]
    """The same for Ethernet without tags and IPv4 without options, as the capture's web traffic is."""
    if packet.load16(12) != 0x0800 or packet.load8(14) != 0x45 or packet.load8(23) != 6:
        return DROP
    if packet.load16(34) != 80 and packet.load16(36) != 80:
        return DROP
    if packet.load32(26) & 0xFFFFFF00 == 0xC0000200 or packet.load32(30) & 0xFFFFFF00 == 0xC0000200:
        return PASS
    return DROP


@contextmanager
def long_demo(packets: int) -> Iterator[tuple[Path, Path]]:
    """A pcap file of so many packets, the shipped capture over and over, in memory if there is a place for files there;
    and where another may be written."""
    capture = raceway.load_capture(DEMO)
    rows = zip(capture, capture.timestamps.tolist(), capture.wire_lengths.tolist(), strict=True)
    once = b"".join(
        struct.pack("<IIII", time // 10**9, time % 10**9, len(packet), wire) + packet
        for packet, time, wire in rows
    )
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="raceway-bench-", dir=place) as folder:
        path = Path(folder) / "long.pcap"
        with path.open("wb") as file:
            file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
            for _ in range(-(-packets // len(capture))):
                file.write(once)
        yield path, Path(folder) / "out.pcap"


def expression_kernel() -> Expression:
    """The question as a pcap filter, compiled by raceway."""
    return raceway.expression(QUESTION.expression())


@contextmanager
def plain_demo() -> Iterator[Path]:
    """The shipped capture, decompressed, for peers that read no gzip."""
    with tempfile.TemporaryDirectory(prefix="raceway-bench-") as folder:
        path = Path(folder) / "demo.pcapng"
        with gzip.open(DEMO) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield path


def function_cost(
    function: PacketFunction | Expression, *, interpreted: bool = False, passes: int = 200
) -> tuple[float, int]:
    """(nanoseconds a packet, median of the passes; packets accepted) of a function over the capture in memory.

    The packets lie one behind another, as libpcap's program has them.
    """
    capture = raceway.load_capture(DEMO)
    count = len(capture)
    slots, verdicts, batch = np.zeros(count, SLOT), np.zeros(count, np.uint8), allocate(Batch)
    slots["offset"], slots["length"] = capture.offsets[:count], capture.lengths
    batch["slots"], batch["slot_count"], batch["count"] = slots.ctypes.data, count, count
    batch["buffers"], batch["buffer_size"] = capture.data.ctypes.data, 1
    batch["verdicts"] = verdicts.ctypes.data
    kernel = function.interpreted() if interpreted else function.native()
    times = []
    for _ in range(2 if interpreted else passes):
        began = time.perf_counter_ns()
        kernel(batch.ctypes.data)
        times.append((time.perf_counter_ns() - began) / count)
    return float(median(times)), int((verdicts == PASS).sum())
