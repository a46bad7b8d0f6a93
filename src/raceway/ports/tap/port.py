"""Opening `tap:NAME`: a TAP device's queues, a ring pair each.

Without `@tap:offload=on` everything that is received is complete and no longer than the device's MTU: the kernel has
segmented it and made its checksums, as it does before a NIC that can do nothing. What is sent goes as it is.

With it, packets cross whole. The kernel hands over TCP as large as it has it, up to 64 KB, with the checksum left to
be made; the port makes it, so that what stands in a slot is a right packet, if a large one, and may go anywhere that
takes its length: into a file, a pipe, another function. How large its segments were to be travels in the slot's
metadata. When it is sent to a TAP device, and is longer than that device's MTU or its segments' size, the kernel is
asked to cut it if it has to; in the same machine it never has to. A packet that comes without metadata (through a pipe
that carries none) is cut to the device's MTU. UDP is never joined: where a datagram ends means something.

A packet sent with a wrong checksum stays wrong and is for the kernel to drop, whole or cut.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

import numpy as np

from raceway.errors import RacewayError
from raceway.kernel.tap import TapDevice, TapGoneError
from raceway.memory.region import LARGEST_BUFFER, Region
from raceway.memory.structures import allocate
from raceway.memory.waiting import PACKETS
from raceway.ports.geometry import Geometry
from raceway.ports.port import Port, Watch
from raceway.ports.tap.records import (
    DROPS,
    HEADERS,
    IOVEC,
    IOVECS,
    LARGEST,
    OVERFLOW,
    VNET_ROOM,
    Tap,
)
from raceway.ports.tap.sync import tap_sync

LOOK = 0.25
"""Seconds between two looks at whether the device is still there, what it is called and what its MTU is."""
_PATIENCE = 1.0
"""Seconds that `flush` gives the kernel to take what it had no room for."""
_SLOTS_OF_64K = 256


@dataclass(frozen=True)
class TapOptions:
    """What `@tap:` in a name says.

    offload: large packets cross whole; up: bring the device up; mtu: set it (None: leave it); persist: let the device
    stay when it is closed, or not (None: leave it as it is).
    """

    offload: bool = False
    up: bool = True
    mtu: int | None = None
    persist: bool | None = None

    @classmethod
    def of(cls, name: str, keys: Mapping[str, str]) -> Self:
        """From the keys and values of the option; ValueError names the one that is wrong."""
        chosen: dict[str, Any] = {}
        for key, value in keys.items():
            if key == "mtu":
                if not (value.isascii() and value.isdigit()):
                    raise ValueError(f"{name}: @tap:mtu is {value!r}, expected a number of bytes")
                chosen[key] = int(value)
            elif key in ("offload", "up", "persist"):
                words = {"on": True, "yes": True, key: True, "off": False, "no": False}
                if value not in words:
                    raise ValueError(f"{name}: @tap:{key} is {value!r}, expected on or off")
                chosen[key] = words[value]
            else:
                raise ValueError(f"{name}: no key {key!r}; @tap: takes mtu, offload, persist, up")
        return cls(**chosen)


class TapPort(Port):
    """A TAP device's queues as ring pairs.

    device: the device's name; "" lets the kernel choose, "rw%d" its number; or an open `TapDevice`, which the port
    then closes. `port.device` has the name, `port.tap` the device (its `index`, `mtu`, ...), `port.mode` says in words
    what was got.
    """

    adapter = tap_sync
    record: Any = Tap
    """What a ring's data plane works on; an adapter that is built upon this one may have a longer one."""

    def __init__(
        self,
        name: str,
        device: str | TapDevice = "",
        geometry: Geometry | None = None,
        region: Region | None = None,
        options: TapOptions | None = None,
    ) -> None:
        geometry, options = geometry or Geometry(), options or TapOptions()
        offload = device.offload if isinstance(device, TapDevice) else options.offload
        if offload and region is None and geometry.buffer_size is None:
            geometry = replace(
                geometry,
                buffer_size=LARGEST_BUFFER,
                transmit_slots=geometry.transmit_slots or _SLOTS_OF_64K,
                receive_slots=geometry.receive_slots or _SLOTS_OF_64K,
            )
        self.tap: TapDevice
        self._records: list[Any] = []
        self._kept: list[Any] = []
        self._next_look = 0.0
        try:
            super().__init__(name, geometry, region)
        except BaseException:
            if isinstance(device, TapDevice):
                device.close()
            raise
        try:
            if isinstance(device, TapDevice):
                self.tap = device
                rings = len(device.descriptors)
                self.geometry = replace(self.geometry, receive_rings=rings, transmit_rings=rings)
            else:
                # A queue that nobody reads would swallow the flows that the kernel sends there.
                queues = max(self.geometry.receive_rings or 0, 1)
                self.tap = TapDevice(device, queues=queues, offload=offload)
            self._configure(options)
            self.mode = self._in_words()
            self._make_rings()
            self._make_records()
            if options.up:
                self.tap.bring_up()
        except BaseException:
            self.close()
            raise

    def _configure(self, options: TapOptions) -> None:
        if options.mtu is not None:
            self.tap.set_mtu(options.mtu)
        if options.persist is not None and options.persist != self.tap.persistent:
            self.tap.set_persistent(options.persist)

    def _make_records(self) -> None:
        for rings in (self.tx, self.rx):
            for number, ring in enumerate(rings):
                record = allocate(self.record)
                iovecs = np.zeros(IOVECS, dtype=IOVEC)
                headers = np.zeros(VNET_ROOM + HEADERS, dtype=np.uint8)
                overflow = np.zeros(0 if ring.transmit else OVERFLOW, dtype=np.uint8)
                descriptors = self.tap.descriptors
                record["descriptor"] = descriptors[number % len(descriptors)]
                record["vnet"] = self.tap.vnet_header
                record["iovecs"], record["headers"] = iovecs.ctypes.data, headers.ctypes.data
                record["overflow"] = overflow.ctypes.data
                self._records.append(record[0])
                self._kept.append((record, iovecs, headers, overflow))
                ring._kring["adapter"] = record.ctypes.data
                ring._kring["metadata_used"] = self.tap.offload
        self._tell_mtu()

    def _tell_mtu(self) -> None:
        largest = LARGEST if self.tap.offload else min(self.tap.mtu + 14 + 8, LARGEST)
        for record in self._records:
            record["mtu"], record["largest"] = self.tap.mtu, largest

    @property
    def device(self) -> str:
        """The device's name; if somebody renames it, the new one (within a second, if the port is used)."""
        return self.tap.name

    def _in_words(self) -> str:
        """What was got: "new tap, 2 queues, virtio header, checksum tso4 tso6 ecn"."""
        queues = len(self.tap.descriptors)
        words = ["existing tap" if self.tap.existed else "new tap", f"{queues} queue{'s' * (queues > 1)}"]
        if self.tap.persistent:
            words.append("persistent")
        if self.tap.vnet_header:
            order = ("checksum", "tso4", "tso6", "ecn")
            words += ["virtio header", " ".join(word for word in order if word in self.tap.offloads)]
        return ", ".join(word for word in words if word)

    # -- what Port asks of an adapter ----------------------------------------------------------------------

    def service(self) -> None:
        """Notice a deleted device, a new name, another MTU. RacewayError if packets can come and go no more."""
        for record in self._records:
            if record["error"]:
                self._raise(int(record["error"]))
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        try:
            self.tap.refresh()
        except TapGoneError as error:
            raise TapGoneError(f"{self.name}: {error}") from None
        self._tell_mtu()

    def _raise(self, code: int) -> NoReturn:
        if code == errno.EBADFD:
            raise TapGoneError(f"{self.name}: the TAP device {self.device} was deleted")
        raise RacewayError(f"{self.name}: the TAP device {self.device}: {os.strerror(code)}")

    def descriptors(self) -> list[Watch]:
        if self.closed:
            return []
        queues = self.tap.descriptors
        return [Watch(queues[number % len(queues)], PACKETS) for number in range(len(self.rx))]

    def drops(self) -> dict[str, int]:
        """Packets that ended here, by name.

        Sent: `down` (the device is), `invalid` (no Ethernet frame), `too_long` (in more than 1,022 buffers, in a chain
        that fills its ring, or more than the kernel takes), `no_memory`, `refused`. Received: `too_long` (more than
        the ring holds), `not_taken`: the host had them for the device, and its queue was full.
        """
        counts = {name: sum(int(record[name]) for record in self._records) for name in DROPS}
        if not self.closed:
            counts["not_taken"] = self.tap.not_taken()
        return {name: count for name, count in counts.items() if count}

    @property
    def segmented(self) -> int:
        """Packets sent whole for the kernel to cut if it has to."""
        return sum(int(record["segmented"]) for record in self._records)

    def _always_ready(self) -> bool:
        return False

    def flush(self) -> None:
        """Give the kernel what it had no room for before, for at most a second."""
        super().flush()
        deadline = time.monotonic() + _PATIENCE
        for ring in self.tx:
            ring.sync()
            while ring._kring["pending"] and time.monotonic() < deadline:
                queue = self.tap.descriptors[ring.number % len(self.tap.descriptors)]
                select.select([], [queue], [], 0.001)
                ring.sync()

    def _keep(self, number: int) -> None:
        super()._keep(number)
        if len(self.tap.descriptors) > 1:
            self.tap.keep_queue(number)

    def _close(self) -> None:
        if hasattr(self, "tap"):
            self.tap.close()
