"""`raceway dump`: a line for each packet, or a capture file."""

from __future__ import annotations

import sys
import time
from typing import Any

from raceway.apps.forwarder.forwarder import Forwarder, Way
from raceway.apps.report import Ticker, final_report, introduce
from raceway.apps.summary import summary_line
from raceway.compile.pcap_filter.expression import Expression
from raceway.errors import EndOfStream
from raceway.ports.geometry import Geometry
from raceway.ports.names import PortKind, RegistrationMode, parse
from raceway.ports.opening import open as open_port
from raceway.ports.pcap.port import CapturePort
from raceway.ports.port import Port


def record(port: str, file: str, *, limit: int, json: bool, expression: str = "") -> None:
    """Record what a port receives, or what an expression accepts of it, to a capture file."""
    with _open_to_look(port) as source:
        introduce(source)
        wanted = _filter(expression, source)
        slots = max((ring.size for ring in source.rx), default=1024)
        target = CapturePort(f"pcap:{file}", file, Geometry(transmit_slots=slots), source.region, write=True)
        with target:
            _wait_for_first(source)
            target.be_of_link_type(source.link_type)
            if wanted is not None and wanted.link_type != source.link_type:
                wanted = _filter(expression, source)
            way = Way(source, target, limit=limit)
            if wanted is not None:
                way = Way(source, target, wanted, limit_sent=limit)
            forwarder = Forwarder([way])
            ticker = Ticker()
            began = time.monotonic()

            def look(running: Forwarder) -> None:
                counted = running.counters()
                ticker.tick(counted["taken"], counted["taken_bytes"], sum(running.drops().values()))

            try:
                forwarder.run(look)
            except KeyboardInterrupt:
                pass
            seconds = time.monotonic() - began
            target.flush()
            counted = forwarder.counters()
            summary: dict[str, Any] = {
                "packets": counted["taken"],
                "bytes": counted["taken_bytes"],
                "batches": counted["batches"],
                "seconds": seconds,
                "drops": _named(forwarder.drops()) | source.drops() | target.drops(),
                "file": file,
            }
            if wanted is not None:
                summary |= {"accepted": counted["sent"], "expression": expression}
        # Closed, so the file is whole when the report says so.
        final_report("dump", port, summary, json=json, to_stderr=file == "-")


def _open_to_look(port: str) -> Port:
    """Open a port for receiving. An interface named without a mode is only looked at, what its host sends included: to
    see packets, nobody should have to lose them (and perhaps the connection that he is logged in by)."""
    parsed = parse(port)
    if (
        parsed.kind == PortKind.NETMAP
        and parsed.pipe is None
        and parsed.mode == RegistrationMode.NR_REG_ALL_NIC
        and "xdp" not in parsed.options
    ):
        return open_port(f"{port}@xdp:mode=packet,outgoing=yes", rings=1)
    return open_port(port)


def _filter(text: str, source: Port) -> Expression | None:
    """The expression for the port's link type; None for an empty one, which accepts everything."""
    return Expression(text, source.link_type) if text.strip() else None


def _named(drops: dict[str, int]) -> dict[str, int]:
    """Drops of the loop, in the words of a tool whose only packet function is a filter."""
    names = {"function": "filter", "aborted": "other_link_type"}
    return {names.get(name, name): count for name, count in drops.items()}


def _wait_for_first(source: Port) -> None:
    """A file's header tells the link type, and a pipe's is known with its first packet."""
    try:
        while True:
            source.rxsync()
            if any(ring.space or ring.ended for ring in source.rx):
                return
            source.wait(0.5)
    except KeyboardInterrupt:
        return


def print_packets(port: str, *, limit: int, hexadecimal: bool, json: bool, expression: str = "") -> None:
    """Print a line for each packet, or for each that an expression accepts."""
    packets = octets = batches = filtered = 0
    began = time.monotonic()
    with _open_to_look(port) as source:
        introduce(source)
        wanted = _filter(expression, source)
        try:
            while not limit or packets < limit:
                batch = source.receive(limit=limit - packets if limit else None)
                batches += 1
                lines = []
                if wanted is not None and wanted.link_type != source.link_type:
                    wanted = _filter(expression, source)
                for packet in batch:
                    if wanted is not None and not wanted(packet):
                        filtered += 1
                        continue
                    packets += 1
                    lines.append(summary_line(packet, source.link_type))
                    octets += len(packet)
                    if hexadecimal:
                        lines += hexdump(bytes(packet))
                if lines:
                    sys.stdout.write("\n".join(lines) + "\n")
                    sys.stdout.flush()
        except (EndOfStream, KeyboardInterrupt):
            pass
        summary = {
            "packets": packets,
            "bytes": octets,
            "batches": batches,
            "seconds": time.monotonic() - began,
            "drops": source.drops() | ({"filter": filtered} if filtered else {}),
        }
        final_report("dump", port, summary, json=json, to_stderr=not json)


def hexdump(data: bytes) -> list[str]:
    """The bytes, 16 a line: offset, hexadecimal, ASCII."""
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"    {start:04x}  {row.hex(' '):<47}  {text}")
    return lines
