"""The same question of every packet of a real capture in memory: a packet function, libpcap, dpkt, Scapy."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

import raceway
from bench.peers import FiveTuple
from raceway import DROP, PASS, packet_function
from raceway.memory.layout import Batch
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


@contextmanager
def plain_demo() -> Iterator[Path]:
    """The shipped capture, decompressed, for peers that read no gzip."""
    with tempfile.TemporaryDirectory(prefix="raceway-bench-") as folder:
        path = Path(folder) / "demo.pcapng"
        with gzip.open(DEMO) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield path


def function_cost(*, interpreted: bool = False, passes: int = 200) -> tuple[float, int]:
    """(nanoseconds a packet, median of the passes; packets accepted) of the function over the capture."""
    with raceway.open(f"pcap:{DEMO}", slots=16_384) as port:
        ring = port.rx[0]
        while not ring.ended and not ring.space == ring.size - 1:
            port.rxsync()
        verdicts = np.zeros(ring.space, np.uint8)
        kring, batch = ring._kring, allocate(Batch)
        for field in ("slots", "buffers", "buffer_size", "slot_count"):
            batch[field] = kring[field]
        batch["first"], batch["count"], batch["verdicts"] = ring.head, ring.space, verdicts.ctypes.data
        kernel = web_of_the_server.interpreted() if interpreted else web_of_the_server.native()
        times = []
        for _ in range(2 if interpreted else passes):
            began = time.perf_counter_ns()
            kernel(batch.ctypes.data)
            times.append((time.perf_counter_ns() - began) / ring.space)
        return float(median(times)), int((verdicts == PASS).sum())
