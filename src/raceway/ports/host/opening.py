"""From `eth0^1@conf:host-rings=4@host:tx=tap` or `eth0*` to a port."""

from __future__ import annotations

from raceway.memory.region import Region
from raceway.ports.geometry import Geometry
from raceway.ports.host.both import NicAndHostPort
from raceway.ports.host.port import WAYS, HostOptions, HostPort
from raceway.ports.names import PortFlag, PortName, RegistrationMode
from raceway.ports.nic.opening import PACKET_MODE, nic_options
from raceway.ports.port import Port


def open_host_rings(name: str, parsed: PortName, geometry: Geometry, region: Region | None) -> Port:
    """`^` the host rings, `^N` one of them, `*` the NIC's and the host's. `/t` (or `/T`) opens only transmit rings, and
    so leaves what the host sends alone; `/r` (or `/R`) only receive rings."""
    transmit_only = bool(parsed.flags & (PortFlag.NR_TX_RINGS_ONLY | PortFlag.NR_MONITOR_TX))
    receive_only = bool(parsed.flags & (PortFlag.NR_RX_RINGS_ONLY | PortFlag.NR_MONITOR_RX))
    if transmit_only and receive_only:
        raise ValueError(
            f"{name}: flags for only transmit and for only receive rings; expected one of them, or none"
        )
    options = _options(name, parsed, geometry)
    receive, transmit = not transmit_only, not receive_only
    if parsed.mode != RegistrationMode.NR_REG_NIC_SW:
        return HostPort(name, parsed.port, geometry, region, options, receive=receive, transmit=transmit)
    of_nic = nic_options(name, parsed)
    if of_nic.mode == PACKET_MODE:
        raise ValueError(
            f"{name}: mode {PACKET_MODE!r}: the host gets the NIC's packets as well; NIC and host rings take AF_XDP"
        )
    return NicAndHostPort(
        name, parsed.port, geometry, region, of_nic, options, receive=receive, transmit=transmit
    )


def _options(name: str, parsed: PortName, geometry: Geometry) -> HostOptions:
    way = parsed.options.get("host", {}).get("tx", "")
    if way not in ("", *WAYS):
        raise ValueError(f"{name}: tx {way!r}: expected {' or '.join(WAYS)}")
    conf = {key: int(value) for key, value in parsed.options.get("conf", {}).items() if "host" in key}
    both = conf.get("host_rings", 0)
    counts = {conf.get("host_tx_rings") or both, conf.get("host_rx_rings") or both}
    if len(counts) > 1:
        raise ValueError(f"{name}: host rings come in pairs: expected as many host-tx-rings as host-rx-rings")
    (rings,) = counts
    if not rings and parsed.mode != RegistrationMode.NR_REG_NIC_SW:
        # All the rings that there are, are host rings.
        rings = geometry.receive_rings or geometry.transmit_rings or 0
    ring = parsed.ring if parsed.mode == RegistrationMode.NR_REG_ONE_SW else None
    return HostOptions(rings or 1, ring, way)
