"""The two loops over a window of a capture file: list its packets, and write those that are accepted. Data plane.

Between the two lies the judgement of all packets of the window at once, so that it can be any target's.
"""

from __future__ import annotations

import numpy as np

from raceway.memory.access import load_u32
from raceway.memory.jit import entry
from raceway.memory.layout import METADATA_SIZE, SLOT_SIZE, Metadata, Slot
from raceway.memory.structures import structure
from raceway.ports.pcap.formats import LINK_NULL_EXPLICIT, PACKET_MINIMUM, PCAP
from raceway.ports.pcap.parse import FOUND, SKIPPED, WAIT, next_record
from raceway.ports.pcap.records import Reader, Writer
from raceway.ports.pcap.sync import copy_packet, write_end, write_header

PASS = np.dtype(
    [
        (name, "<i8")
        for name in (
            "reader",
            "writer",
            "slots",
            "metadata",
            "limit",
            "count",
            "accepted",
            "next",
            "bytes",
            "mixed",
            "kept",
        )
    ]
)
"""`slots`, `metadata`: `limit` rows of each, of which `count` are in use; a slot's buffer is the packet's offset in the
window. `accepted`: as many 32-bit numbers, 0 for packets that are not written. `next`: the first that is not yet.
`bytes`: of all that are listed; `mixed`: whether their link types differ; `kept`: how many are accepted."""
Pass = structure("Pass", PASS)


@entry
def list_packets(address: int) -> int:
    """List the packets of the reader's window; 1 if Python must serve the window, 2 if there are more than rows, 0 at
    the end of the file or before what is malformed."""
    run = Pass(address)
    reader = Reader(run.reader)
    window = reader.window
    position = window + reader.begin
    end = window + reader.end
    count = 0
    limit = run.limit
    slots = run.slots
    about = run.metadata
    verdict = SKIPPED
    octets = 0
    mixed = 0
    first = -1
    run.bytes = 0
    run.mixed = 0
    if reader.error != 0:
        run.count = 0
        return 0
    while verdict in (FOUND, SKIPPED) and count < limit:
        verdict, following, data, captured, wire, time, link_type = next_record(reader, position, end)
        if verdict == FOUND:
            if time < 0:
                reader.timestamps_unknown += 1
                time = 0
            slot = Slot(slots)
            slot.buffer = data - window
            slot.length = captured
            slots += SLOT_SIZE
            metadata = Metadata(about)
            metadata.timestamp = time
            metadata.wire_length = wire
            metadata.link_type = link_type
            about += METADATA_SIZE
            octets += captured
            if link_type != first:
                if first >= 0:
                    mixed = 1
                first = link_type
            count += 1
        position = following
    reader.begin = position - window
    reader.records += count
    run.count = count
    run.bytes = octets
    run.mixed = mixed
    if verdict in (FOUND, SKIPPED):
        return 2
    return 1 if verdict == WAIT else 0


@entry
def count_accepted(address: int) -> int:
    """Set `kept`."""
    run = Pass(address)
    accepted = run.accepted
    kept = 0
    for index in range(run.count):
        if load_u32(accepted + 4 * index) != 0:
            kept += 1
    run.kept = kept
    return 0


@entry
def write_packets(address: int) -> int:
    """Write the accepted packets from `next` on into the writer's window; 1 if Python must serve it before more fit."""
    run = Pass(address)
    reader = Reader(run.reader)
    writer = Writer(run.writer)
    window = reader.window
    accepted = run.accepted
    at = writer.window + writer.used
    end = writer.window + writer.capacity
    index = run.next
    count = run.count
    packets = 0
    octets = 0
    full = 0
    while index < count:
        if load_u32(accepted + 4 * index) == 0:
            index += 1
            continue
        slot = Slot(run.slots + index * SLOT_SIZE)
        metadata = Metadata(run.metadata + index * METADATA_SIZE)
        link_type = metadata.link_type
        if link_type == LINK_NULL_EXPLICIT:
            link_type = 0
        captured = slot.length
        if writer.format == PCAP:
            if link_type != writer.link_type:
                writer.other_link_type += 1
                index += 1
                continue
        elif load_u32(writer.interfaces + 4 * link_type) == 0:
            writer.wanted_link_type = link_type + 1
            full = 1
            break
        if at + PACKET_MINIMUM + captured + 3 > end:
            full = 1
            break
        start = at
        wire = max(captured, metadata.wire_length)
        at = write_header(writer, start, captured, wire, metadata.timestamp, link_type)
        # Both windows have a line to spare behind them.
        copy_packet(at, window + slot.buffer, captured, captured + 64)
        at = write_end(writer, start, at + captured, captured)
        packets += 1
        octets += captured
        index += 1
    writer.used = at - writer.window
    writer.packets += packets
    writer.bytes += octets
    run.next = index
    return full
