"""The filter's control plane: open, compile for each link type, go through the file window by window, report."""

from __future__ import annotations

import json as json_format
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from raceway.apps.filter import records
from raceway.apps.filter.judges import Judge, NativeJudge, judge_of
from raceway.apps.filter.records import Pass
from raceway.apps.report import final_report
from raceway.compile.pcap_filter.libpcap import ETHERNET, NETMASK_UNKNOWN, SNAPLEN
from raceway.memory.jit import INTERPRETED, progress, progress_done
from raceway.memory.layout import METADATA, SLOT
from raceway.memory.structures import allocate
from raceway.ports.pcap.formats import LINK_NULL_EXPLICIT
from raceway.ports.pcap.reader import CaptureReader
from raceway.ports.pcap.records import Reader
from raceway.ports.pcap.writer import CaptureWriter

WINDOW = 2 << 20
"""Bytes of the file that are read, and of the other that are written, at a time."""
ROWS = 512
"""Packets that are listed, judged and written before the next: what is known of them stays in the nearest cache."""


@cache
def _loop() -> Callable[[int], int]:
    """`passes.filter_window`, as machine code that was kept if there is any."""
    if INTERPRETED:
        from raceway.apps.filter.passes import filter_window

        return filter_window
    from raceway.memory.machine_code import kept, of_entries

    def make() -> str:
        from raceway.apps.filter.passes import filter_window

        progress("filter_window")
        try:
            return of_entries({"filter_window": filter_window})
        finally:
            progress_done()

    code = kept("passes", b"", make)
    _alive.append(code)
    return code.function("filter_window")


_alive: list[Any] = []


class FilterRun:
    """One file through one expression, on one target.

    text: the expression, compiled for each link type that the file has; target: one of `judges.TARGETS`; netmask: of
    the network, for `ip broadcast`, as an integer.
    """

    def __init__(
        self, reader: CaptureReader, text: str, target: str = "native", *, netmask: int = NETMASK_UNKNOWN
    ) -> None:
        self.reader, self.text, self.target, self.netmask = reader, text, target, netmask
        self._judges: dict[int, Judge] = {}
        link_type = ETHERNET if reader.link_type is None else reader.link_type
        judge = self._judge(link_type)
        self._slots = np.zeros(ROWS, SLOT)
        self._metadata = np.zeros(ROWS, METADATA)
        self._accepted = np.zeros(ROWS, np.uint32)
        self._array = allocate(Pass)
        self._pass: Any = Pass(self._array.ctypes.data)
        self._pass.reader = reader.record_address
        self._pass.slots, self._pass.metadata = self._slots.ctypes.data, self._metadata.ctypes.data
        self._pass.verdicts, self._pass.limit = self._accepted.ctypes.data, ROWS
        if isinstance(judge, NativeJudge):
            self._batch = judge.batch(0, self._slots, self._metadata, self._accepted)
            self._pass.kernel, self._pass.batch = judge.address, self._batch.ctypes.data
            self._pass.kind = link_type or LINK_NULL_EXPLICIT

    @property
    def packets(self) -> int:
        """Packets of the file that were judged."""
        return int(self._pass.packets)

    @property
    def bytes(self) -> int:
        """Their captured bytes."""
        return int(self._pass.bytes)

    @property
    def accepted(self) -> int:
        """How many of them were accepted."""
        return int(self._pass.accepted)

    @property
    def rounds(self) -> int:
        """How many times some of them were listed, judged and written."""
        return int(self._pass.rounds)

    def _judge(self, link_type: int) -> Judge:
        if link_type not in self._judges:
            snaplen = self._snaplen(link_type)
            self._judges[link_type] = judge_of(
                self.text, link_type, self.target, snaplen=snaplen, netmask=self.netmask
            )
        return self._judges[link_type]

    def _snaplen(self, link_type: int) -> int:
        """What the file says that its packets are cut to, as libpcap takes it: that much of a packet is accepted."""
        found = [one.snaplen for one in self.reader.interfaces if one.link_type == link_type]
        snaplen = found[0] if found else self.reader.snaplen
        return snaplen if 1 <= snaplen <= 0x7FFFFFFF else SNAPLEN

    def step(self, writer: CaptureWriter | None = None) -> npt.NDArray[np.uint32] | None:
        """Go through the next packets; the bytes accepted of each, or None once the file has ended.

        The array is used again. Raises the reader's error behind the last sound packet, and OSError of the writer.
        """
        kernel, self._pass.kernel = self._pass.kernel, 0
        try:
            if not self._go(writer):
                return None
            accepted = self._accepted[: self._pass.count]
            self._decide()
            # No further than these.
            self._pass.outcome = records.AT_END
            while _loop()(self._pass.address) == records.WAIT_FOR_WRITER:
                self._serve_writer(writer)
        finally:
            self._pass.kernel = kernel
        return accepted

    def run(self, writer: CaptureWriter | None = None) -> None:
        """Go through the whole file. Raises as `step` does."""
        while self._go(writer):
            self._decide()

    def _go(self, writer: CaptureWriter | None) -> bool:
        """Run the loop until packets at hand want a judge (True) or the file has ended (False)."""
        self._pass.writer = writer.record_address if writer is not None else 0
        loop, address = _loop(), self._pass.address
        if self._pass.stage == records.LIST:
            # Otherwise there are packets at hand, and they are where they are in the window.
            self.reader.service()
        while (code := loop(address)) != records.WAIT_FOR_JUDGE:
            if code == records.AT_END:
                if self.reader.error is not None:
                    raise self.reader.error
                return False
            if code == records.WAIT_FOR_WRITER:
                self._serve_writer(writer)
            elif code == records.WAIT_FOR_FILE:
                self.reader.service()
        return True

    def _serve_writer(self, writer: CaptureWriter | None) -> None:
        assert writer is not None
        writer.service()

    def _decide(self) -> None:
        """Judge the packets at hand by Python's hand, and have them written next."""
        count = self._pass.count
        slots, metadata, accepted = self._slots[:count], self._metadata[:count], self._accepted[:count]
        window = Reader(self.reader.record_address).window
        if not self._pass.mixed:
            self._judge(_number(self._pass.link_type))(window, slots, metadata, accepted)
        else:
            kinds = metadata["link_type"]
            for kind in np.unique(kinds):
                rows = np.flatnonzero(kinds == kind)
                part = np.zeros(len(rows), np.uint32)
                self._judge(_number(int(kind)))(window, slots[rows], metadata[rows], part)
                accepted[rows] = part
        self._pass.stage, self._pass.next = records.WRITE, -1


def _number(kind: int) -> int:
    return 0 if kind == LINK_NULL_EXPLICIT else kind


def run_filter(
    file: str,
    output: str | None,
    text: str,
    *,
    target: str = "native",
    each: bool = False,
    json: bool = False,
    netmask: int = NETMASK_UNKNOWN,
) -> None:
    """Filter a capture file and say what came of it.

    output: where accepted packets are written, None for nowhere. each: print how many bytes are accepted of every
    packet. Raises ExpressionError, OSError, CaptureFileError.
    """
    began = time.monotonic()
    results: list[int] = []
    with CaptureReader(file, window=WINDOW) as reader:
        run = FilterRun(reader, text, target, netmask=netmask)
        writer = None
        if output is not None:
            _check_apart(file, output)
            writer = CaptureWriter(output, window=WINDOW, nanosecond=reader.nanosecond, background=True)
            writer.be_of_link_type(ETHERNET if reader.link_type is None else reader.link_type)
        try:
            if each:
                while (accepted := run.step(writer)) is not None:
                    results += accepted.tolist()
            else:
                run.run(writer)
        except KeyboardInterrupt:
            pass
        finally:
            if writer is not None:
                writer.close()
        drops = {"filter": run.packets - run.accepted} | (writer.drops() if writer else {})
        summary: dict[str, Any] = {
            "packets": run.packets,
            "bytes": run.bytes,
            "batches": run.rounds,
            "seconds": time.monotonic() - began,
            "drops": {name: count for name, count in drops.items() if count},
            "accepted": run.accepted,
            "expression": text,
            "target": target,
            "file": output or "",
        }
    if each:
        _print_each(results, json=json, to_stderr=output == "-")
    else:
        final_report("filter", file, summary, json=json, to_stderr=output == "-")


def _print_each(results: list[int], *, json: bool, to_stderr: bool) -> None:
    out = sys.stderr if to_stderr else sys.stdout
    if json:
        print(json_format.dumps({"results": results}), file=out)
    else:
        print("\n".join(map(str, results)), file=out)


def _check_apart(file: str, output: str) -> None:
    if file != "-" and output != "-" and os.path.exists(output) and os.path.samefile(file, output):
        raise ValueError(f"{output}: is the file that is read; write another")
