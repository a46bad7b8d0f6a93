"""The `pcap:` adapter: capture files behind the rings, and capture files in memory.

Control plane: `reader` and `writer` open files, hold their windows of bytes and speak pcapng's rare blocks
(`blocks`); `sources` reads plain and compressed bytes; `capture` loads a whole file into arrays.
Data plane: `parse` walks the records of a window, `sync` carries them into and out of rings. The two share
the records of `records`, and the numbers of `formats`.

Names are imported when they are asked for, so that looking at this package costs no compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raceway.ports.pcap.capture import Capture, load_capture
    from raceway.ports.pcap.formats import CaptureFileError
    from raceway.ports.pcap.reader import CaptureReader
    from raceway.ports.pcap.writer import CaptureWriter

__all__ = ["Capture", "CaptureFileError", "CaptureReader", "CaptureWriter", "load_capture"]

_HOMES = {
    "Capture": "capture",
    "CaptureFileError": "formats",
    "CaptureReader": "reader",
    "CaptureWriter": "writer",
    "load_capture": "capture",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
