"""Where a capture's bytes come from: a file or standard input, as it is or gzip-compressed (RFC 1952).

A source gives bytes into a buffer that the caller made, and never more than fit: a gigabyte of zeros that was
compressed to a megabyte costs no more memory than any other file. Bytes before a defect are given before it
is raised, and it is raised again by every later call.
"""

from __future__ import annotations

import errno
import io
import os
import select
import zlib
from typing import Protocol

from raceway.ports.pcap.formats import CaptureFileError

GZIP_MAGIC = b"\x1f\x8b"
_PIECE = 256 << 10


class Source(Protocol):
    """Bytes in order, into memory that the caller gives."""

    compressed: bool

    def readinto(self, room: memoryview) -> int:
        """Fill `room` from its beginning and return how many bytes came: 0 is the end. OSError,
        CaptureFileError."""

    def position(self) -> int:
        """Bytes taken from the file so far (of a compressed one, its compressed bytes)."""


class File:
    """An open file or standard input ("-"), unbuffered, whose first bytes can be looked at."""

    compressed = False

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "standard input" if path == "-" else path
        self._raw = io.FileIO(0, "r", closefd=False) if path == "-" else io.FileIO(path, "r")
        self._taken = 0
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer only at the end, without taking them."""
        while len(self._ahead) < count:
            more = bytearray(count - len(self._ahead))
            got = self._read(memoryview(more))
            if not got:
                break
            self._ahead += more[:got]
        return self._ahead[:count]

    def readinto(self, room: memoryview) -> int:
        """See `Source`."""
        if self._ahead:
            got = min(len(self._ahead), len(room))
            room[:got] = self._ahead[:got]
            self._ahead = self._ahead[got:]
        else:
            got = self._read(room)
        self._taken += got
        return got

    def _read(self, room: memoryview) -> int:
        try:
            # None: somebody made standard input non-blocking.
            while (got := self._raw.readinto(room)) is None:
                select.select([self._raw], [], [])
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), self.name) from error
        return got

    def position(self) -> int:
        """See `Source`."""
        return self._taken

    def size(self) -> int | None:
        """Return the file's size in bytes, or None where it has none (a pipe, a terminal)."""
        return os.fstat(self._raw.fileno()).st_size if self._raw.seekable() else None

    def rewind(self) -> None:
        """Start again from the beginning. OSError (ESPIPE) where that cannot be."""
        if self.path == "-" or not self._raw.seekable():
            raise OSError(errno.ESPIPE, "cannot be read a second time: it is not a file on disk", self.name)
        self._raw.seek(0)
        self._taken = 0
        self._ahead = b""

    def close(self) -> None:
        """Close the file; standard input stays open."""
        self._raw.close()


class Gzip:
    """The decompressed bytes of a `File`, whose members (RFC 1952, section 2.2) follow one another."""

    compressed = True

    def __init__(self, file: File) -> None:
        self._file = file
        self._piece = bytearray(_PIECE)
        self._input = b""
        self._member = zlib.decompressobj(wbits=31)
        self._step = _PIECE
        self._failure: CaptureFileError | None = None

    def position(self) -> int:
        """See `Source`."""
        return self._file.position() - len(self._input)

    def readinto(self, room: memoryview) -> int:
        """See `Source`."""
        if self._failure is not None:
            raise self._failure
        while True:
            if not self._input:
                got = self._file.readinto(memoryview(self._piece))
                self._input = bytes(self._piece[:got])
                self._step = _PIECE
            if self._member.eof:
                if not self._next_member():
                    return 0
                continue
            at_end = not self._input
            given = self._inflate(room)
            if given:
                return given
            if at_end and not self._member.eof:
                raise self._fail("the end of the file in the middle of its compressed data", "all of it")

    def _next_member(self) -> bool:
        """Go on behind a finished member; False at the end of the file. Zeros pad tapes and are no defect."""
        self._input = self._input.lstrip(b"\0")
        if not self._input:
            got = self._file.readinto(memoryview(self._piece))
            self._input = bytes(self._piece[:got])
            return bool(got)
        self._member = zlib.decompressobj(wbits=31)
        return True

    def _inflate(self, room: memoryview) -> int:
        """Decompress some of the input into `room`.

        zlib's face in Python forgets what it had made before it found a defect. So after one the same input
        goes in again by halves, down to the byte: everything before the defect comes out, and its place is
        known exactly.
        """
        before = self._member.copy()
        feed, kept = self._input[: self._step], self._input[self._step :]
        try:
            made = self._member.decompress(feed, len(room))
        except zlib.error as error:
            if len(feed) > 1:
                self._member, self._step = before, len(feed) // 2
                return self._inflate(room)
            reason = str(error).rpartition(": ")[2]
            raise self._fail(f"gzip data with {reason}", "sound gzip data") from error
        self._input = (self._member.unused_data or self._member.unconsumed_tail) + kept
        room[: len(made)] = made
        return len(made)

    def _fail(self, found: str, expected: str) -> CaptureFileError:
        self._failure = CaptureFileError(self._file.name, self.position(), found, expected)
        return self._failure


def open_source(file: File) -> Source:
    """Look at a file's first bytes and return it, or what it decompresses to."""
    return Gzip(file) if file.peek(2) == GZIP_MAGIC else file
