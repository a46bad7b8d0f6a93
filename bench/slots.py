"""Slots through a pipe between two threads on two cores, millions a second."""

from __future__ import annotations

import os
import threading
import time

import raceway
from bench.loops import SlotRun, receive_slots, send_slots
from raceway.memory.structures import allocate


def slots_a_second(batch: int = 32, slots: int = 1024, count: int = 200_000_000) -> float:
    """Slots a second: written by one thread, checked by the sync, read by the other, each thread on its own core."""
    count -= count % batch
    name = f"netmap:bench{os.getpid()}"
    with raceway.open(name + "{1", slots=slots) as a, raceway.open(name + "}1") as b:
        runs = allocate(SlotRun, 2)
        runs["count"], runs["batch"] = count, batch
        runs["kring"] = a.tx[0].address, b.rx[0].address
        send_slots.prepare()
        receive_slots.prepare()

        def receive() -> None:
            os.sched_setaffinity(0, {1})
            receive_slots(runs[1:].ctypes.data)

        before = os.sched_getaffinity(0)
        thread = threading.Thread(target=receive)
        thread.start()
        os.sched_setaffinity(0, {0})
        began = time.perf_counter()
        try:
            send_slots(runs.ctypes.data)
            thread.join()
        finally:
            os.sched_setaffinity(0, before)
        seconds = time.perf_counter() - began
        assert runs["done"].tolist() == [count, count]
        assert b.rx[0].packets == count
    return count / seconds


if __name__ == "__main__":
    for batch in (8, 32, 128, 512):
        for slots in (256, 1024, 4096):
            if batch < slots:
                print(batch, slots, *(f"{slots_a_second(batch, slots) / 1e6:.0f}" for _ in range(3)))
