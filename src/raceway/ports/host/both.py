"""`eth0*`: an interface's NIC rings and its host rings in one port, as netmap has them.

    port.rx   NIC queue 0, 1, ... | host ring 0, ...        port.tx the same

A ring goes on working by its own adapter's sync; this port has the rings in one row, which is what loops see, and looks
after both parts. They lie in one region, so a packet goes from the one side to the other by a swap of buffers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raceway.memory.layout import KRING_SIZE, Kring
from raceway.memory.region import Region
from raceway.memory.structures import allocate
from raceway.ports.geometry import Geometry
from raceway.ports.host.port import HostOptions, HostPort
from raceway.ports.nic.port import NicOptions, NicPort
from raceway.ports.port import Port, Watch
from raceway.ports.port_ring import PortRing


class NicAndHostPort(Port):
    """The NIC's and the host's rings of an interface. `port.nic` and `port.host` are the two parts, ports themselves,
    whose facts can be asked (`port.nic.sockets`, `port.host.tap`) but which are not to be used as ports.

    receive, transmit: False opens no rings of that direction. Raises what both parts raise.
    """

    def __init__(
        self,
        name: str,
        device: str,
        geometry: Geometry,
        region: Region | None = None,
        nic_options: NicOptions | None = None,
        host_options: HostOptions | None = None,
        *,
        receive: bool = True,
        transmit: bool = True,
    ) -> None:
        parts: list[Port] = []
        try:
            wanted = replace(
                geometry, receive_rings=None if receive else 0, transmit_rings=None if transmit else 0
            )
            self.nic = NicPort(name, device, wanted, region, nic_options)
            parts.append(self.nic)
            self.host = HostPort(
                name, device, replace(geometry, extra_buffers=0), self.nic.region, host_options,
                receive=receive, transmit=transmit,
            )  # fmt: skip
            parts.append(self.host)
            super().__init__(name, replace(self.nic.geometry, extra_buffers=0), self.nic.region)
        except BaseException:
            for part in reversed(parts):
                part.close()
            raise
        self.extra_buffers = self.nic.extra_buffers
        self.tx, self._transmit_krings = _in_a_row(self.nic.tx, self.host.tx)
        self.rx, self._receive_krings = _in_a_row(self.nic.rx, self.host.rx)
        self._point_at_rings()
        self.mode = f"{self.nic.mode}; {self.host.mode}"

    @property
    def description(self) -> str:
        return f"{self.nic.description}; {self.host.description}"

    def service(self) -> None:
        """What both parts have to do."""
        self.nic.service()
        self.host.service()

    def refresh_card(self, *, now: bool = False) -> None:
        """Each part has a card of its own."""
        self.nic.refresh_card(now=now)
        self.host.refresh_card(now=now)

    def drops(self) -> dict[str, int]:
        """Both parts' together; what ended on the host's side begins with "host_"."""
        found = self.nic.drops()
        for name, count in self.host.drops().items():
            found[name if name.startswith("host_") else f"host_{name}"] = count
        return found

    def check_source(self, source: Port) -> None:
        self.host.check_source(source)

    def descriptors(self) -> list[Watch]:
        return [*self.nic.descriptors(), *self.host.descriptors()]

    def flush(self) -> None:
        """Push until the kernel has everything, at most a second for each part."""
        self._check_open()
        self.nic.flush()
        self.host.flush()

    def _always_ready(self) -> bool:
        return False

    def _close(self) -> None:
        try:
            self.host.close()
        finally:
            self.nic.close()


def _in_a_row(first: tuple[PortRing, ...], second: tuple[PortRing, ...]) -> tuple[tuple[PortRing, ...], Any]:
    """Let the rings' private records lie one behind the other, which is how loops find them, and count them on."""
    rings = first + second
    krings = allocate(Kring, max(len(rings), 1))
    for number, ring in enumerate(rings):
        krings[number] = ring._kring
        ring._kring, ring.address = krings[number], krings.ctypes.data + number * KRING_SIZE
        ring.number = ring._record["number"] = number
    return rings, krings
