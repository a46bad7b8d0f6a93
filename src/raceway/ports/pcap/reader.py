"""Reading capture files: the Python half of a receive ring on a file.

The reader holds a window of the file's bytes. `receive_sync` parses packets out of it; whatever it cannot do
alone (more bytes, pcapng's section headers and interface descriptions) it leaves to `service()`.
Memory is bounded by the window and one block (16 MiB), whatever the file says and however well it compresses.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, cast

import numpy as np

from raceway.memory.structures import allocate
from raceway.ports.pcap import formats
from raceway.ports.pcap.blocks import (
    BlockError,
    InterfaceDescription,
    block_length,
    check_section,
    parse_file_header,
    parse_interface,
    section_order,
)
from raceway.ports.pcap.formats import NANOSECONDS, TIMESTAMP_MAXIMUM, CaptureFileError
from raceway.ports.pcap.records import (
    CLOCK_BINARY,
    CLOCK_DIVIDE,
    CLOCK_MULTIPLY,
    CLOCK_UNKNOWN,
    SPARE,
    Interface,
    Reader,
)
from raceway.ports.pcap.sources import File, Source, open_source

WINDOW = 4 << 20
_WINDOW_MINIMUM = 64
_SIZE_HINT_MAXIMUM = 1 << 30


class CaptureReader:
    """A capture file, open for reading: pcap or pcapng of either byte order and any resolution, plain or
    gzip.

    path: the file; "-" is standard input. window: bytes to read at a time; it grows by itself for a longer
    record. Raises OSError if the file cannot be opened or read and CaptureFileError if it does not begin as a
    capture.

    A malformed record later in the file raises nothing here: the packets before it are delivered, the ring
    ends, and `error` has the exception for whoever finds `ended`.
    """

    def __init__(self, path: str | os.PathLike[str], *, window: int = WINDOW) -> None:
        if window < 1:
            raise ValueError(f"{os.fspath(path)}: a window of {window} bytes: expected at least 1")
        self.path = os.fspath(path)
        self._record_array = allocate(Reader)
        self._record: Any = Reader(self._record_array.ctypes.data)
        self._interfaces = allocate(Interface, 4)
        self._set_window(np.empty(max(window, _WINDOW_MINIMUM) + SPARE, dtype=np.uint8))
        self._failure: Exception | None = None
        self.link_type: int | None = None
        """LINKTYPE_ value of the file's first interface; None while a pcapng file has described none."""
        self.snaplen = 0
        """Bytes to which a pcap file says that its packets are cut; of a pcapng file each interface says it."""
        self.interfaces: list[InterfaceDescription] = []
        """The interfaces that the current pcapng section has described so far."""
        self._file = File(self.path)
        self._source: Source = self._file
        try:
            self._source = open_source(self._file)
            self._begin()
        except BaseException:
            self._file.close()
            raise

    # What a port needs

    @property
    def record_address(self) -> int:
        """Address of the `Reader` record, for `kring.adapter`; valid as long as this object lives."""
        address: int = self._record.address
        return address

    def service(self) -> None:
        """Do what `receive_sync` asked for by `kring.attention`: read on, and read what only Python
        understands.

        Blocks until at least one more record is there or the file ends. Raises nothing for what the file
        holds or for a disk that fails: that is in `error` once the ring has ended.
        """
        record = self._record
        if record.error:
            return
        try:
            self._fill(record.needed)
            if record.format == formats.PCAPNG:
                self._read_control_blocks()
        except (CaptureFileError, OSError) as failure:
            self._failure = failure
            record.error = formats.HELD_BY_READER

    @property
    def ended(self) -> bool:
        """True when no more packets will come: at the end of the file, or at an error."""
        record = self._record
        return bool(record.error or (record.final and record.begin == record.end))

    @property
    def error(self) -> CaptureFileError | OSError | None:
        """Why reading stopped before the end of the file, or None if it did not."""
        record = self._record
        if not record.error:
            return None
        if isinstance(self._failure, (CaptureFileError, OSError)):
            return self._failure
        found, expected = formats.malformed(record.error, record.error_value, record.error_expected)
        return self._malformed(record.error_offset, found, expected)

    def drops(self) -> dict[str, int]:
        """Return the packets of the file that were not delivered, by name."""
        return {"too_long_for_ring": self._record.too_long_for_ring}

    # What people need

    @property
    def format(self) -> str:
        """Return "pcap" or "pcapng"."""
        return formats.FORMAT_NAMES[self._record.format]

    @property
    def nanosecond(self) -> bool:
        """Whether its times may be finer than microseconds; of a pcapng file nobody knows beforehand."""
        return bool(self._record.format != formats.PCAP or self._record.fraction == 1)

    @property
    def records(self) -> int:
        """Packets met so far, those dropped by name included."""
        return int(self._record.records)

    @property
    def timestamps_unknown(self) -> int:
        """Packets delivered with time 0 because their own lies outside 1970 to 2262."""
        return int(self._record.timestamps_unknown)

    @property
    def progress(self) -> tuple[int, int | None]:
        """Bytes of the file (compressed, if it is) that were taken, and its size, None where it has none."""
        taken = self._source.position()
        if not self._source.compressed:
            taken -= self._record.end - self._record.begin
        return taken, self._file.size()

    @property
    def size_hint(self) -> int:
        """A guess at how many bytes of packets the file holds: its size, up to 1 GiB; 0 if that says nothing."""
        size = None if self._source.compressed else self._file.size()
        return min(size or 0, _SIZE_HINT_MAXIMUM)

    def rewind(self) -> None:
        """Start again from the file's beginning; the counts go on. OSError (ESPIPE) for standard input and
        pipes."""
        self._file.rewind()
        self._source = open_source(self._file)
        self._failure = None
        self._record.error = 0
        self._begin()

    def close(self) -> None:
        """Close the file. The record and its window stay valid."""
        self._file.close()

    def __enter__(self) -> CaptureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The file's beginning

    def _begin(self) -> None:
        record = self._record
        record.begin = record.end = record.base = record.final = record.interface_count = 0
        record.needed = formats.BLOCK_MINIMUM
        self.interfaces = []
        try:
            self._fill(4)
            self._fill(self._header_length())
            header = parse_file_header(self._bytes(formats.FILE_HEADER))
        except BlockError as error:
            raise self._malformed(error.offset, error.found, error.expected) from None
        if header is None:
            record.format = formats.PCAPNG
            # So that the link type is known at once; no further, for a live stream may have no packet yet.
            self._read_control_blocks(until_interface=True)
            return
        record.format = formats.PCAP
        record.swapped = header.order == ">"
        record.fraction = header.fraction
        record.lengths_swapped = header.lengths_swapped
        record.link_type = _in_metadata(header.link_type)
        record.begin = formats.FILE_HEADER
        self.link_type = header.link_type
        self.snaplen = header.snaplen

    def _header_length(self) -> int:
        """Bytes without which the file's kind and header cannot be read: a live pcapng stream may have no 24
        yet."""
        section = self._bytes(4) == formats.SECTION_HEADER.to_bytes(4, "big")
        return formats.BLOCK_MINIMUM if section else formats.FILE_HEADER

    # The window

    def _set_window(self, window: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self._window = window
        self._view = memoryview(cast(Any, window))
        self._capacity = len(window) - SPARE
        self._record.window = window.ctypes.data

    def _fill(self, needed: int) -> bool:
        """Bring `needed` bytes into the window, or all that there are; False if there are fewer."""
        record = self._record
        left = record.end - record.begin
        if left >= needed:
            return True
        if record.final:
            return False
        if needed > self._capacity:
            larger = np.empty(needed + SPARE, dtype=np.uint8)
            larger[:left] = self._window[record.begin : record.end]
            self._set_window(larger)
        else:
            self._window[:left] = self._window[record.begin : record.end]
        record.base += record.begin
        record.begin, record.end = 0, left
        while record.end < needed:
            got = self._source.readinto(self._view[record.end : self._capacity])
            if got == 0:
                record.final = 1
                return False
            record.end += got
        return True

    def _bytes(self, count: int) -> bytes:
        """Return up to `count` bytes of the window without taking them."""
        begin = self._record.begin
        return bytes(self._view[begin : min(begin + count, self._record.end)])

    # pcapng's control blocks

    def _read_control_blocks(self, *, until_interface: bool = False) -> None:
        """Take the section headers and interface descriptions that stand at the window's beginning."""
        record = self._record
        while not (until_interface and self.interfaces) and self._fill(formats.BLOCK_MINIMUM):
            head = self._bytes(formats.BLOCK_MINIMUM)
            order = ">" if record.swapped else "<"
            kind = int.from_bytes(head[:4], "big" if record.swapped else "little")
            if kind not in (formats.SECTION_HEADER, formats.INTERFACE_DESCRIPTION):
                return
            try:
                if kind == formats.SECTION_HEADER:
                    order = section_order(head)
                    block = self._whole_block(block_length(head, order, formats.SECTION_MINIMUM))
                    check_section(block, order)
                    record.swapped = order == ">"
                    record.interface_count = 0
                    self.interfaces = []
                else:
                    block = self._whole_block(block_length(head, order, formats.INTERFACE_MINIMUM))
                    self._add_interface(parse_interface(block, order))
            except BlockError as error:
                offset = record.base + record.begin + error.offset
                raise self._malformed(offset, error.found, error.expected) from None
            record.begin += len(block)

    def _whole_block(self, total: int) -> bytes:
        if not self._fill(total):
            left = self._record.end - self._record.begin
            raise BlockError(0, *formats.malformed(formats.TRUNCATED, left, total))
        return self._bytes(total)

    def _add_interface(self, description: InterfaceDescription) -> None:
        number = len(self.interfaces)
        if number == formats.INTERFACES_MAXIMUM:
            raise BlockError(0, f"interface {number:,}", f"at most {number:,} in a section")
        if number == len(self._interfaces):
            larger = allocate(Interface, 2 * number)
            larger[:number] = self._interfaces
            self._interfaces = larger
        if self.link_type is None:
            self.link_type = description.link_type
        row = Interface(self._interfaces.ctypes.data + number * Interface.size)
        row.link_type, row.snaplen = _in_metadata(description.link_type), description.snaplen
        _set_clock(row, description)
        self.interfaces.append(description)
        self._record.interfaces = self._interfaces.ctypes.data
        self._record.interface_count = len(self.interfaces)

    def _malformed(self, offset: int, found: str, expected: str) -> CaptureFileError:
        return CaptureFileError(
            self._file.name, offset, found, expected, decompressed=self._source.compressed
        )


def _in_metadata(link_type: int) -> int:
    return link_type or formats.LINK_NULL_EXPLICIT


def _set_clock(row: Any, description: InterfaceDescription) -> None:
    """Choose the arithmetic that turns this interface's timestamps into nanoseconds (see
    `parse.nanoseconds`)."""
    offset = description.offset * NANOSECONDS
    row.offset = offset if abs(offset) <= TIMESTAMP_MAXIMUM else 0
    if abs(offset) > TIMESTAMP_MAXIMUM:
        row.clock = CLOCK_UNKNOWN
    elif description.base == 2:
        row.clock, row.factor = CLOCK_BINARY, description.exponent
        row.mask = (1 << description.exponent) - 1
    elif description.exponent <= 9:
        row.clock, row.factor = CLOCK_MULTIPLY, 10 ** (9 - description.exponent)
        row.limit = TIMESTAMP_MAXIMUM // row.factor
    else:
        row.clock, row.factor = CLOCK_DIVIDE, 10 ** (description.exponent - 9)
