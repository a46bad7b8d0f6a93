"""The filter's control plane: open, compile for each link type, go through the file window by window, report."""

from __future__ import annotations

import json as json_format
import os
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from raceway.apps.filter.judges import Judge, judge_of
from raceway.apps.filter.passes import Pass, count_accepted, list_packets, write_packets
from raceway.apps.report import final_report
from raceway.compile.pcap_filter.expression import Expression
from raceway.compile.pcap_filter.libpcap import ETHERNET, SNAPLEN
from raceway.memory.layout import METADATA, SLOT
from raceway.memory.structures import allocate
from raceway.ports.pcap.formats import LINK_NULL_EXPLICIT, RECORD_HEADER
from raceway.ports.pcap.reader import CaptureReader
from raceway.ports.pcap.writer import CaptureWriter

WINDOW = 1 << 20
"""Bytes of the file that are listed, judged and written at a time: enough that the turns between cost nothing."""


class FilterRun:
    """One file through one expression, on one target.

    text: the expression, compiled for each link type that the file has; target: one of `judges.TARGETS`.
    """

    def __init__(self, reader: CaptureReader, text: str, target: str = "native") -> None:
        self.reader, self.text, self.target = reader, text, target
        self.packets = self.bytes = self.accepted = self.windows = 0
        self._judges: dict[int, Judge] = {}
        self._judge(ETHERNET if reader.link_type is None else reader.link_type)
        self._limit = WINDOW // RECORD_HEADER
        self._slots = np.zeros(self._limit, SLOT)
        self._metadata = np.zeros(self._limit, METADATA)
        self._accepted = np.zeros(self._limit, np.uint32)
        self._array = allocate(Pass)
        self._pass: Any = Pass(self._array.ctypes.data)
        self._pass.reader = reader.record_address
        self._pass.slots, self._pass.metadata = self._slots.ctypes.data, self._metadata.ctypes.data
        self._pass.accepted, self._pass.limit = self._accepted.ctypes.data, self._limit

    def _judge(self, link_type: int) -> Judge:
        if link_type not in self._judges:
            expression = Expression(self.text, link_type, snaplen=self._snaplen(link_type))
            self._judges[link_type] = judge_of(expression, self.target)
        return self._judges[link_type]

    def _snaplen(self, link_type: int) -> int:
        """What the file says that its packets are cut to, as libpcap takes it: that much of a packet is accepted."""
        found = [one.snaplen for one in self.reader.interfaces if one.link_type == link_type]
        snaplen = found[0] if found else self.reader.snaplen
        return snaplen if 1 <= snaplen <= 0x7FFFFFFF else SNAPLEN

    def step(self, writer: CaptureWriter | None = None) -> npt.NDArray[np.uint32] | None:
        """Go through one window; the bytes accepted of each of its packets, or None once the file has ended.

        The array is used again. Raises the reader's error behind the last sound packet, and OSError of the writer.
        """
        self.reader.service()
        code = list_packets(self._pass.address)
        count = self._pass.count
        if count == 0 and code == 0:
            if self.reader.error is not None:
                raise self.reader.error
            return None
        slots, metadata, accepted = self._slots[:count], self._metadata[:count], self._accepted[:count]
        self._decide(slots, metadata, accepted)
        self.packets += count
        self.bytes += self._pass.bytes
        count_accepted(self._pass.address)
        self.accepted += self._pass.kept
        self.windows += 1
        if writer is not None:
            self._pass.writer, self._pass.next = writer.record_address, 0
            while write_packets(self._pass.address):
                writer.service()
        return accepted

    def _decide(self, slots: Any, metadata: Any, accepted: npt.NDArray[np.uint32]) -> None:
        from raceway.ports.pcap.records import Reader

        window = Reader(self.reader.record_address).window
        if not len(slots):
            return
        if not self._pass.mixed:
            self._judge(_number(int(metadata[0]["link_type"])))(window, slots, metadata, accepted)
            return
        kinds = metadata["link_type"]
        for kind in np.unique(kinds):
            rows = np.flatnonzero(kinds == kind)
            part = np.zeros(len(rows), np.uint32)
            self._judge(_number(int(kind)))(window, slots[rows], metadata[rows], part)
            accepted[rows] = part


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
) -> None:
    """Filter a capture file and say what came of it.

    output: where accepted packets are written, None for nowhere. each: print how many bytes are accepted of every
    packet. Raises ExpressionError, OSError, CaptureFileError.
    """
    began = time.monotonic()
    results: list[int] = []
    with CaptureReader(file, window=WINDOW) as reader:
        run = FilterRun(reader, text, target)
        writer = None
        if output is not None:
            _check_apart(file, output)
            writer = CaptureWriter(output, window=WINDOW, background=True)
            writer.be_of_link_type(ETHERNET if reader.link_type is None else reader.link_type)
        try:
            while (accepted := run.step(writer)) is not None:
                if each:
                    results += accepted.tolist()
        except KeyboardInterrupt:
            pass
        finally:
            if writer is not None:
                writer.close()
        drops = {"filter": run.packets - run.accepted} | (writer.drops() if writer else {})
        summary: dict[str, Any] = {
            "packets": run.packets,
            "bytes": run.bytes,
            "batches": run.windows,
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
