"""What a driver says of its device, by the ioctl SIOCETHTOOL (<linux/ethtool.h>).

The older of ethtool's two ways, because a plain socket is all that it needs, every driver answers on it, and it asks
the namespace that the *socket* was made in. Asking needs no privilege; `set_features` needs CAP_NET_ADMIN.

Every function takes that socket and an interface's name, and raises OSError: ENODEV (no such interface), EOPNOTSUPP
(the driver does not answer this question).
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from dataclasses import dataclass

_SIOCETHTOOL = 0x8946
_IFNAMSIZ = 16

_GDRVINFO, _GRINGPARAM, _GSTRINGS, _GSTATS = 0x03, 0x10, 0x1B, 0x1D
_GSSET_INFO, _GRXFHINDIR, _GFEATURES, _SFEATURES, _GCHANNELS = 0x37, 0x38, 0x3A, 0x3B, 0x3C
_SS_STATS, _SS_FEATURES = 1, 4
_STRING = 32
_LARGEST_TABLE = 1 << 16
_MORE = 1024
"""Room for more strings and counters than there were a moment ago: a device may get more queues meanwhile."""
_NOT_ANSWERED = (errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Channels:
    """How many queues there are, and how many there could be."""

    receive: int
    transmit: int
    maximum_receive: int
    maximum_transmit: int


@dataclass(frozen=True)
class RingSizes:
    """Descriptors in each of the device's own rings, and how many there could be."""

    receive: int
    transmit: int
    maximum_receive: int
    maximum_transmit: int


@dataclass(frozen=True)
class Driver:
    """The driver's name and version, the firmware's, and where the device is (`0000:01:00.0`)."""

    name: str
    version: str
    firmware: str
    bus: str


def _command(asker: socket.socket, name: str, data: bytearray) -> int:
    """Let the kernel work on `data`, which begins with the command's number; return what the ioctl returned."""
    encoded = name.encode()
    if len(encoded) >= _IFNAMSIZ:
        raise ValueError(f"interface {name!r}: expected a name of at most {_IFNAMSIZ - 1} bytes")
    room = array.array("B", data)
    address, _ = room.buffer_info()
    request = bytearray(struct.pack(f"{_IFNAMSIZ}sP16x", encoded, address))
    result = int(fcntl.ioctl(asker.fileno(), _SIOCETHTOOL, request))
    data[:] = room.tobytes()
    return result


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace").strip()


def driver(asker: socket.socket, name: str) -> Driver:
    """Who drives the device."""
    data = bytearray(struct.pack("=I", _GDRVINFO).ljust(196, b"\0"))
    _command(asker, name, data)
    called, version, firmware, bus = struct.unpack_from("32s32s32s32s", data, 4)
    return Driver(_text(called), _text(version), _text(firmware), _text(bus))


def channels(asker: socket.socket, name: str) -> Channels:
    """Queues in use. A channel that is "combined" has one of each kind."""
    data = bytearray(struct.pack("=I", _GCHANNELS).ljust(36, b"\0"))
    _command(asker, name, data)
    _, most_rx, most_tx, _, most_both, rx, tx, _, both = struct.unpack("=9I", data)
    # A driver that can do either (combined or separate) gives both as maxima: no more than the larger is meant.
    return Channels(rx + both, tx + both, max(most_rx, most_both), max(most_tx, most_both))


def ring_sizes(asker: socket.socket, name: str) -> RingSizes:
    """The device's own descriptor rings."""
    data = bytearray(struct.pack("=I", _GRINGPARAM).ljust(36, b"\0"))
    _command(asker, name, data)
    _, most_rx, _, _, most_tx, rx, _, _, tx = struct.unpack("=9I", data)
    return RingSizes(rx, tx, most_rx, most_tx)


def receive_table(asker: socket.socket, name: str) -> list[int]:
    """The RSS indirection table: which receive queue each value of the flow hash goes to."""
    data = bytearray(struct.pack("=II", _GRXFHINDIR, 0))
    _command(asker, name, data)
    (size,) = struct.unpack_from("=I", data, 4)
    if not 0 < size <= _LARGEST_TABLE:
        return []
    data = bytearray(struct.pack("=II", _GRXFHINDIR, size).ljust(8 + 4 * size, b"\0"))
    _command(asker, name, data)
    return list(struct.unpack_from(f"={size}I", data, 8))


def _strings(asker: socket.socket, name: str, which: int) -> list[str]:
    data = bytearray(struct.pack("=IIQI", _GSSET_INFO, 0, 1 << which, 0))
    _command(asker, name, data)
    _, _, known, count = struct.unpack("=IIQI", data)
    if not known or not 0 < count <= _LARGEST_TABLE:
        return []
    # The kernel writes as many as there are by then, whatever room there is.
    data = bytearray(
        struct.pack("=III", _GSTRINGS, which, count).ljust(12 + (count + _MORE) * _STRING, b"\0")
    )
    _command(asker, name, data)
    # The driver may have fewer by now than it said a moment ago.
    count = min(count, struct.unpack_from("=I", data, 8)[0])
    return [_text(bytes(data[12 + i * _STRING : 12 + (i + 1) * _STRING])) for i in range(count)]


def statistics(asker: socket.socket, name: str) -> dict[str, int]:
    """The driver's own counters by name; {} if it has none."""
    try:
        names = _strings(asker, name, _SS_STATS)
    except OSError as error:
        if error.errno in _NOT_ANSWERED:
            return {}
        raise
    if not names:
        return {}
    # The count must be the true one: newer kernels give nothing to who asks with another.
    data = bytearray(struct.pack("=II", _GSTATS, len(names)).ljust(8 + 8 * (len(names) + _MORE), b"\0"))
    _command(asker, name, data)
    count = min(len(names), struct.unpack_from("=I", data, 4)[0])
    values = struct.unpack_from(f"={count}Q", data, 8)
    return {key: value for key, value in zip(names, values, strict=False) if key}


def features(asker: socket.socket, name: str) -> dict[str, bool]:
    """Which offloads are on, by the kernel's names for them (`rx-gro`, `tx-checksum-ip-generic`, ...)."""
    return {key: on for key, (on, _) in feature_states(asker, name).items()}


def feature_states(asker: socket.socket, name: str) -> dict[str, tuple[bool, bool]]:
    """For each offload whether it is on, and whether it can be changed."""
    names = _strings(asker, name, _SS_FEATURES)
    blocks = -(-len(names) // 32)
    data = bytearray(struct.pack("=II", _GFEATURES, blocks).ljust(8 + 16 * blocks, b"\0"))
    _command(asker, name, data)
    states = {}
    for index, key in enumerate(names):
        if not key:
            continue
        available, _, active, never = struct.unpack_from("=4I", data, 8 + 16 * (index // 32))
        bit = 1 << (index % 32)
        states[key] = (bool(active & bit), bool(available & bit and not never & bit))
    return states


def set_features(asker: socket.socket, name: str, wanted: dict[str, bool]) -> dict[str, bool]:
    """Ask for offloads to be on or off. Returns those that have changed, with their values from *before*: give that
    back to this function to undo it. One offload may bring others with it (no segmentation without checksums).

    What the device cannot do it does not do, without an error: compare with `features`. ValueError: no such name.
    """
    names = _strings(asker, name, _SS_FEATURES)
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"{name}: no offload is called {unknown[0]!r}")
    before = features(asker, name)
    blocks = -(-len(names) // 32)
    words = [0] * (2 * blocks)
    for key, on in wanted.items():
        block, bit = divmod(names.index(key), 32)
        words[2 * block] |= 1 << bit
        words[2 * block + 1] |= on << bit
    data = bytearray(struct.pack(f"=II{2 * blocks}I", _SFEATURES, blocks, *words))
    _command(asker, name, data)
    after = features(asker, name)
    return {key: on for key, on in before.items() if after.get(key, on) != on}
