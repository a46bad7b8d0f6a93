"""Writing capture files: the Python half of a transmit ring on a file.

`transmit_sync` formats packets into a window; `service()` writes the window out. A file is complete after
`close()`, and readable at any time after `flush()`.
"""

from __future__ import annotations

import errno
import io
import os
import select
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from types import TracebackType
from typing import Any, cast

import numpy as np

from raceway.memory.structures import allocate
from raceway.ports.pcap import formats
from raceway.ports.pcap.blocks import build_file_header, build_interface, build_packet, build_section
from raceway.ports.pcap.formats import CAPTURED_MAXIMUM, LINK_ETHERNET, LINK_TYPE_MASK, PACKET_MINIMUM
from raceway.ports.pcap.records import SPARE, Writer

Window = np.ndarray[Any, np.dtype[np.uint8]]
WINDOW = 1 << 20
_BLOCK_ROOM = 64 << 10
"""Room that the window has beyond the longest packet: for the file's header and an interface with its
name."""
_TEXT_MAXIMUM = 10_000


_WINDOWS = 4
"""Windows that a writer with a thread has: what is filled, what is written, and some between, so that neither waits for
the other at every turn."""


class _Background:
    """A thread that writes windows, one after another in the order in which they come.

    write: writes some of a memoryview and returns how many bytes. After an OSError nothing more is written, and every
    call here raises it.
    """

    def __init__(self, write: Callable[[memoryview], int], capacity: int) -> None:
        self._write = write
        self._given: SimpleQueue[tuple[Window, int] | threading.Event | None] = SimpleQueue()
        self._free: SimpleQueue[Window] = SimpleQueue()
        for _ in range(_WINDOWS - 1):
            self._free.put(np.empty(capacity + SPARE, dtype=np.uint8))
        self._failure: OSError | None = None
        self.written = 0
        self._thread: threading.Thread | None = None

    def empty_window(self) -> Window:
        """A window that is free; waits until there is one."""
        self._check()
        return self._free.get()

    def hand_over(self, window: Window, used: int) -> None:
        """Have a window written of which so many bytes are used."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="raceway capture writer", daemon=True)
            self._thread.start()
        self._given.put((window, used))

    def wait(self) -> None:
        """Wait until everything that was handed over is written."""
        if self._thread is not None:
            done = threading.Event()
            self._given.put(done)
            done.wait()
        self._check()

    def end(self) -> None:
        """Let the thread end, and wait for it."""
        if self._thread is not None:
            self._given.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            if isinstance(given, threading.Event):
                given.set()
                continue
            window, used = given
            view = memoryview(cast(Any, window))[:used]
            try:
                while view and self._failure is None:
                    count = self._write(view)
                    self.written += count
                    view = view[count:]
            except OSError as failure:
                self._failure = failure
            self._free.put(window)

    def _check(self) -> None:
        if self._failure is not None:
            raise OSError(self._failure.errno, self._failure.strerror, self._failure.filename)


class CaptureWriter:
    """A capture file, open for writing.

    path: the file, which is made or emptied; "-" is standard output.
    format: "pcapng" or "pcap"; by default pcap for a name that ends in ".pcap" and pcapng for all others.
    link_type: LINKTYPE_ value (0 to 65,535) of packets that do not bring their own. A pcap file has only this
    one and drops others as `other_link_type`; a pcapng file gets an interface for each.
    nanosecond: the resolution of its timestamps; otherwise microseconds.
    snaplen: packets are cut to so many bytes (1 to 262,144), their length on the wire is kept.
    interface_name, comment: kept in a pcapng file.
    background: a thread writes a full window while the next one is filled; the next call raises what it met.

    Raises OSError, naming the file, if it cannot be opened or written (also from `service`, `flush`,
    `close`), and ValueError for values that no file can have.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        link_type: int = LINK_ETHERNET,
        nanosecond: bool = True,
        snaplen: int = CAPTURED_MAXIMUM,
        *,
        interface_name: str = "",
        comment: str = "",
        window: int = WINDOW,
        background: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self.name = "standard output" if self.path == "-" else self.path
        self.format = format or ("pcap" if self.path.endswith(".pcap") else "pcapng")
        self._check(link_type, snaplen, interface_name, comment)
        self._exponent = 9 if nanosecond else 6
        self._interface_name, self._comment = interface_name, comment
        self._record_array = allocate(Writer)
        self._record: Any = Writer(self._record_array.ctypes.data)
        self._numbers = np.zeros(LINK_TYPE_MASK + 1, dtype=np.uint32)
        capacity = max(window, snaplen + PACKET_MINIMUM + _BLOCK_ROOM)
        self._window = np.empty(capacity + SPARE, dtype=np.uint8)
        self._view = memoryview(cast(Any, self._window))
        self._background = _Background(self._write, capacity) if background else None
        self._interface_count = 0
        self._written = 0
        record = self._record
        record.window, record.capacity = self._window.ctypes.data, capacity
        record.format = formats.PCAP if self.format == "pcap" else formats.PCAPNG
        record.divisor = 1 if nanosecond else 1000
        record.snaplen = snaplen
        record.interfaces = self._numbers.ctypes.data
        self._raw = self._open()
        self._begin(link_type)

    def _check(self, link_type: int, snaplen: int, interface_name: str, comment: str) -> None:
        if self.format not in ("pcap", "pcapng"):
            raise ValueError(f"{self.name}: format {self.format!r}: expected 'pcap' or 'pcapng'")
        if self.path.endswith(".gz"):
            raise ValueError(
                f"{self.name}: compressed files are only read: write {self.path[:-3]} and run gzip on it"
            )
        self._check_link_type(link_type)
        if not 1 <= snaplen <= CAPTURED_MAXIMUM:
            raise ValueError(f"{self.name}: snaplen {snaplen}: expected 1 to {CAPTURED_MAXIMUM:,}")
        for what, text in (("interface_name", interface_name), ("comment", comment)):
            if text and self.format == "pcap":
                raise ValueError(f"{self.name}: {what}: pcap has no room for one, pcapng has")
            if len(text.encode()) > _TEXT_MAXIMUM:
                raise ValueError(f"{self.name}: {what}: expected at most {_TEXT_MAXIMUM:,} bytes")

    def _check_link_type(self, link_type: int) -> None:
        if not 0 <= link_type <= LINK_TYPE_MASK:
            raise ValueError(f"{self.name}: link type {link_type}: expected 0 to {LINK_TYPE_MASK:,}")

    def _open(self) -> io.FileIO:
        if self.path == "-":
            return io.FileIO(1, "w", closefd=False)
        return io.FileIO(self.path, "w")

    def _begin(self, link_type: int) -> None:
        """Put the file's beginning into the empty window: its header, for pcapng with the first interface."""
        self._record.link_type = link_type
        if self.format == "pcap":
            nanosecond = self._exponent == 9
            self._append(build_file_header(link_type, self._record.snaplen, nanosecond=nanosecond))
        else:
            self._append(build_section("raceway", self._comment))
            self._add_interface(link_type)

    def be_of_link_type(self, link_type: int) -> None:
        """Begin the file again with another link type (0 to 65,535) for packets that do not bring their own.

        ValueError if it has packets already, or if any of it was written out.
        """
        self._check_link_type(link_type)
        if self.packets or self.written:
            raise ValueError(f"{self.name}: the file has a link type already: {self._record.link_type}")
        self._record.used = self._record.wanted_link_type = 0
        self._numbers[:] = 0
        self._interface_count = 0
        self._begin(link_type)

    @property
    def record_address(self) -> int:
        """Address of the `Writer` record, for `kring.adapter`; valid as long as this object lives."""
        address: int = self._record.address
        return address

    @property
    def now(self) -> int:
        """Nanoseconds since 1970 for packets that come without a time."""
        return int(self._record.now)

    @now.setter
    def now(self, value: int) -> None:
        self._record.now = value

    @property
    def packets(self) -> int:
        """Packets written, those in the window included."""
        return int(self._record.packets)

    @property
    def written(self) -> int:
        """Bytes that the file system has taken."""
        return self._written + (self._background.written if self._background is not None else 0)

    @property
    def cut(self) -> int:
        """Packets that were cut to `snaplen`."""
        return int(self._record.cut)

    @property
    def timestamps_clamped(self) -> int:
        """Packets whose time is later than pcap's 32 bits of seconds can say (the year 2106), written as the
        latest."""
        return int(self._record.timestamps_clamped)

    def drops(self) -> dict[str, int]:
        """Return the packets that were not written, by name.

        `other_link_type`: not the one of a pcap file. `bad_link_type`: none that a file can hold.
        `too_long_for_ring`: chains that filled the whole ring before they were complete.
        """
        record = self._record
        return {
            name: getattr(record, name) for name in ("other_link_type", "bad_link_type", "too_long_for_ring")
        }

    def add(self, packets: Iterable[tuple[bytes, int, int, bytes]]) -> None:
        """Write packets of a pcapng file's first interface, from Python: for each its bytes, when it came (ns since
        1970), how many bytes it had on the wire, and a comment (UTF-8, at most 10,000 bytes; b"" for none).

        ValueError for a pcap file, and for what is longer than it may be. OSError if room has to be made for it;
        `packets` says then how many were taken.
        """
        if self.format != "pcapng":
            raise ValueError(f"{self.name}: packets one by one are for pcapng files")
        record = self._record
        divisor, snaplen, room = record.divisor, record.snaplen, record.capacity - record.used
        pieces: list[bytes] = []
        cut = 0
        for data, time, length, comment in packets:
            if len(data) > snaplen or len(comment) > _TEXT_MAXIMUM:
                raise ValueError(
                    f"{self.name}: {len(data):,} bytes and a comment of {len(comment):,} are too much"
                )
            block = build_packet(0, time // divisor, data, length, comment)
            if len(block) > room:
                self._take(pieces, cut)
                pieces, cut = [], 0
                self.flush()
                room = record.capacity - record.used
            room -= len(block)
            pieces.append(block)
            cut += length > len(data)
        self._take(pieces, cut)

    def _take(self, blocks: list[bytes], cut: int) -> None:
        """Put blocks of packets into the window, of which so many were cut."""
        self._append(b"".join(blocks))
        self._record.packets += len(blocks)
        self._record.cut += cut

    def service(self) -> None:
        """Do what `transmit_sync` asked for by `kring.attention`: write the window out, describe an
        interface."""
        if self._background is None or not self._record.used:
            self.flush()
        else:
            self._hand_over(self._background)
        if self._record.wanted_link_type:
            self._add_interface(self._record.wanted_link_type - 1)
            self._record.wanted_link_type = 0

    def flush(self) -> None:
        """Write out what the window holds. After an OSError what was not written is still there, to try
        again."""
        if self._background is not None:
            self._background.wait()
        record = self._record
        done = 0
        try:
            while done < record.used:
                done += self._write(self._view[done : record.used])
        finally:
            left = record.used - done
            if done and left:
                self._window[:left] = self._window[done : record.used]
            record.used = left
            self._written += done

    def _hand_over(self, background: _Background) -> None:
        """Let the thread write this window, and go on with another one that it has written."""
        fresh = background.empty_window()
        full, used = self._window, self._record.used
        self._window = fresh
        self._view = memoryview(cast(Any, self._window))
        self._record.window, self._record.used = fresh.ctypes.data, 0
        background.hand_over(full, used)

    def _write(self, data: memoryview) -> int:
        try:
            # None: somebody made standard output non-blocking.
            while (count := self._raw.write(data)) is None:
                select.select([], [self._raw], [])
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), self.name) from error
        if count == 0:
            raise OSError(errno.EIO, "the file takes no more bytes", self.name)
        return count

    def close(self) -> None:
        """Write out what is left and close the file; standard output stays open. A second call does
        nothing."""
        if self._raw.closed:
            return
        try:
            self.flush()
        finally:
            if self._background is not None:
                self._background.end()
            try:
                self._raw.close()
            except OSError as error:
                raise OSError(error.errno, os.strerror(error.errno or 0), self.name) from error

    def __enter__(self) -> CaptureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, data: bytes) -> None:
        """Put a header into the window, which has room for any after `flush`, and at the beginning."""
        used = self._record.used
        self._view[used : used + len(data)] = data
        self._record.used = used + len(data)

    def _add_interface(self, link_type: int) -> None:
        """Describe an interface of this link type. Names tell interfaces apart, so only the first has the
        given one."""
        name = self._interface_name if self._interface_count == 0 else ""
        snaplen = self._record.snaplen
        self._append(build_interface(link_type, snaplen, exponent=self._exponent, name=name))
        self._interface_count += 1
        self._numbers[link_type] = self._interface_count
