"""What the tests of pcap filters share: libpcap's cases, packets, and every target as a function of bytes."""

from __future__ import annotations

import ctypes
import json
import os
from functools import cache
from pathlib import Path

import numpy as np

from raceway.compile.pcap_filter import interpreter
from raceway.compile.pcap_filter.libpcap import Reference
from raceway.memory.jit import INTERPRETED
from raceway.memory.layout import METADATA, SLOT, Batch
from raceway.memory.structures import allocate

DATA = Path(__file__).parent.parent / "data" / "pcap-filter"
CASES = json.loads((DATA / "cases.json").read_text())


@cache
def kernel_refusal() -> str:
    """Why the kernel target cannot be tested here, or ""."""
    from raceway.compile.pcap_filter.libpcap import compile_expression
    from raceway.kernel.pcap_filter import KernelFilter

    if os.geteuid():
        return "needs root, to load programs into the kernel"
    try:
        with KernelFilter(compile_expression("ip6 protochain 6")) as loaded:
            loaded.run(bytes(60), 60)
    except OSError as error:
        return str(error)
    return ""


class Targets:
    """All targets that this process has, of one program: bytes and their length on the wire in, bytes accepted out."""

    def __init__(self, program, *, kernel=True, native=not INTERPRETED):
        self.reference = Reference(program)
        self.program = program
        self.loaded = None
        if kernel and not kernel_refusal():
            from raceway.kernel.pcap_filter import KernelFilter

            self.loaded = KernelFilter(program)
        self.native = compiled(program) if native else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.loaded is not None:
            self.loaded.close()

    def check(self, packets, wires=None):
        """Assert that every target says the same of every packet; return what they say."""
        wires = wires or [len(packet) for packet in packets]
        expected = [self.reference.run(packet, wire) for packet, wire in zip(packets, wires, strict=True)]
        found = [
            interpreter.run(self.program, packet, wire) for packet, wire in zip(packets, wires, strict=True)
        ]
        assert found == expected, self.about("interpreted", packets, found, expected)
        if self.native is not None:
            found = run_batch(self.native, packets, wires)
            assert found == expected, self.about("native", packets, found, expected)
        if self.loaded is not None:
            found = [self.loaded.run(packet, wire) for packet, wire in zip(packets, wires, strict=True)]
            assert found == expected, self.about("kernel", packets, found, expected)
        return expected

    def about(self, target, packets, found, expected):
        index = next(
            index for index, pair in enumerate(zip(found, expected, strict=True)) if len(set(pair)) > 1
        )
        return (
            f"{target}: {found[index]}, libpcap: {expected[index]}, packet {index}: {packets[index][:120].hex()}\n"
            f"{self.program.text()}"
        )


class _Held:
    """What `compile_kernel` asks of an expression, of a bare program."""

    def __init__(self, program):
        self.program, self.link_type, self.text = program, 1, "a program"


def compiled(program):
    from raceway.compile.pcap_filter.kernels import compile_kernel

    return compile_kernel(_Held(program), counts=True)


def run_batch(kernel, packets, wires, link_type=0, spare=0):
    """Run a counting kernel over packets that lie one behind the other, the last at the very end of a page."""
    lengths = np.array([len(packet) for packet in packets], dtype=np.int64)
    block = b"".join(packets)
    memory, address = at_the_end_of_a_page(block)
    slots, metadata = np.zeros(len(packets), SLOT), np.zeros(len(packets), METADATA)
    slots["buffer"], slots["length"] = np.cumsum(lengths) - lengths, lengths
    metadata["wire_length"], metadata["link_type"] = wires, link_type
    accepted, batch = np.full(len(packets), 0xEEEEEEEE, np.uint32), allocate(Batch)
    batch["slots"], batch["metadata"] = slots.ctypes.data, metadata.ctypes.data
    batch["count"] = batch["slot_count"] = len(packets)
    batch["buffers"], batch["buffer_size"] = address, 1
    batch["verdicts"] = accepted.ctypes.data
    assert kernel(batch.ctypes.data) == len(packets)
    del memory
    return accepted.tolist()


def at_the_end_of_a_page(block):
    """Memory that ends with the block, and with it a page: whoever reads on is killed."""
    import mmap

    pages = -(-max(len(block), 1) // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    guard = base + pages * mmap.PAGESIZE
    assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    address = guard - len(block)
    ctypes.memmove(address, block, len(block))
    return memory, address
