"""The loop over a capture file: list packets of the reader's window, judge them, write those that are accepted.

    list  ->  judge  ->  write      some hundred packets at a time, so that what one step has
    ^                      |        touched is still in the processor's nearest cache for the next
    +----------------------+

Data plane. The judge is machine code that works on slots and metadata as on any ring's, and Python where there is none.
Records that stand in the output as they do in the input (pcap to pcap, same clock and byte order) are copied as they
are, neighbours together; all others get new headers.
"""

from __future__ import annotations

from raceway.apps.filter.records import (
    AT_END,
    FULL_ROWS,
    JUDGE,
    LIST,
    WAIT_FOR_FILE,
    WAIT_FOR_JUDGE,
    WAIT_FOR_WRITER,
    WRITE,
    Pass,
)
from raceway.memory.access import call_batch, load_u32
from raceway.memory.jit import entry, inner
from raceway.memory.layout import METADATA_SIZE, SLOT_SIZE, Batch, Metadata, Slot
from raceway.ports.pcap.formats import LINK_NULL_EXPLICIT, PACKET_MINIMUM, PCAP, RECORD_HEADER
from raceway.ports.pcap.parse import FOUND, SKIPPED, WAIT, next_record
from raceway.ports.pcap.records import Reader, Writer
from raceway.ports.pcap.sync import copy_packet, write_end, write_header

_SPARE = 64


@inner
def list_packets(run: Pass) -> int:
    """List packets of the reader's window; WAIT_FOR_FILE if Python must serve the window, FULL_ROWS if there are more
    than rows, AT_END at the end of the file or before what is malformed."""
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
    unknown = 0
    run.count = 0
    if reader.error != 0:
        return AT_END
    while verdict in (FOUND, SKIPPED) and count < limit:
        verdict, following, data, captured, wire, time, link_type = next_record(reader, position, end)
        if verdict == FOUND:
            if time < 0:
                unknown += 1
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
    reader.timestamps_unknown += unknown
    run.count = count
    run.packets += count
    run.bytes += octets
    run.mixed = mixed
    run.link_type = first
    if verdict in (FOUND, SKIPPED):
        return FULL_ROWS
    return WAIT_FOR_FILE if verdict == WAIT else AT_END


@inner
def count_accepted(run: Pass) -> int:
    """How many of the packets at hand are accepted."""
    place = run.verdicts
    end = place + 4 * run.count
    kept = 0
    while place < end:
        if load_u32(place) != 0:
            kept += 1
        place += 4
    return kept


@inner
def write_as_they_stand(run: Pass, reader: Reader, writer: Writer) -> int:
    """Copy the records of accepted packets from `next` on into the writer's window, runs of neighbours together; 1 if
    Python must serve it before more fit."""
    window = reader.window
    at = writer.window + writer.used
    end = writer.window + writer.capacity
    index = run.next
    count = run.count
    verdicts = run.verdicts
    packets = 0
    octets = 0
    full = 0
    while index < count and full == 0:
        if load_u32(verdicts + 4 * index) == 0:
            index += 1
            continue
        start = Slot(run.slots + index * SLOT_SIZE).buffer - RECORD_HEADER
        size = 0
        while index < count and load_u32(verdicts + 4 * index) != 0:
            captured = Slot(run.slots + index * SLOT_SIZE).length
            if at + size + RECORD_HEADER + captured > end:
                full = 1
                break
            size += RECORD_HEADER + captured
            packets += 1
            octets += captured
            index += 1
        # Both windows have a line to spare behind them.
        copy_packet(at, window + start, size, size + _SPARE)
        at += size
    writer.used = at - writer.window
    writer.packets += packets
    writer.bytes += octets
    run.next = index
    return full


@inner
def write_anew(run: Pass, reader: Reader, writer: Writer) -> int:
    """Write the accepted packets from `next` on into the writer's window; 1 if Python must serve it before more fit."""
    window = reader.window
    verdicts = run.verdicts
    at = writer.window + writer.used
    end = writer.window + writer.capacity
    index = run.next
    count = run.count
    packets = 0
    octets = 0
    full = 0
    while index < count:
        if load_u32(verdicts + 4 * index) == 0:
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
        copy_packet(at, window + slot.buffer, captured, captured + _SPARE)
        at = write_end(writer, start, at + captured, captured)
        packets += 1
        octets += captured
        index += 1
    writer.used = at - writer.window
    writer.packets += packets
    writer.bytes += octets
    run.next = index
    return full


@inner
def as_they_stand(run: Pass, reader: Reader, writer: Writer) -> bool:
    """Whether a record of the input is one of the output too."""
    same: bool = (
        reader.format == PCAP
        and writer.format == PCAP
        and reader.swapped == 0
        and reader.lengths_swapped == 0
        and reader.fraction == writer.divisor
        and (
            run.link_type == writer.link_type
            or (run.link_type == LINK_NULL_EXPLICIT and writer.link_type == 0)
        )
    )
    return same


@entry
def filter_window(address: int) -> int:
    """Go on until Python is needed; one of the numbers of `records` says for what."""
    run = Pass(address)
    while True:
        if run.stage == LIST:
            run.outcome = list_packets(run)
            if run.count == 0:
                outcome: int = run.outcome
                return outcome
            run.rounds += 1
            run.stage = JUDGE
        if run.stage == JUDGE:
            if run.kernel == 0 or run.mixed != 0 or run.link_type != run.kind:
                return WAIT_FOR_JUDGE
            batch = Batch(run.batch)
            batch.buffers = Reader(run.reader).window
            batch.count = run.count
            batch.slot_count = run.count
            call_batch(run.kernel, run.batch)
            run.stage = WRITE
            run.next = -1
        if run.next < 0:
            run.next = 0
            run.accepted += count_accepted(run)
        if run.writer != 0:
            reader = Reader(run.reader)
            writer = Writer(run.writer)
            if as_they_stand(run, reader, writer):
                full = write_as_they_stand(run, reader, writer)
            else:
                full = write_anew(run, reader, writer)
            if full != 0:
                return WAIT_FOR_WRITER
        run.stage = LIST
        if run.outcome != FULL_ROWS:
            result: int = run.outcome
            return result
