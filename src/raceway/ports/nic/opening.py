"""From `netmap:eth0-2/t@xdp:mode=copy` to a port: which queues, which directions, and which of the kernel's ways."""

from __future__ import annotations

import errno
from dataclasses import replace

from raceway.errors import RacewayError
from raceway.kernel.xsk import XdpModeError
from raceway.memory.region import Region
from raceway.ports.geometry import Geometry
from raceway.ports.names import PortFlag, PortName, RegistrationMode
from raceway.ports.nic.port import MODES, NicOptions, NicPort
from raceway.ports.port import Port

PACKET_MODE = "packet"
_WAYS, _RECEIVING = ("live", "socket"), ("memory", "socket")


def open_interface(name: str, parsed: PortName, geometry: Geometry, region: Region | None) -> Port:
    """AF_XDP on every queue of the interface, or on one (`-N`); AF_PACKET where the kernel has no AF_XDP.

    `/t` (or `/T`) opens only the transmit rings, `/r` (or `/R`) only the receive rings.
    """
    options = nic_options(name, parsed)
    transmit_only = bool(parsed.flags & (PortFlag.NR_TX_RINGS_ONLY | PortFlag.NR_MONITOR_TX))
    receive_only = bool(parsed.flags & (PortFlag.NR_RX_RINGS_ONLY | PortFlag.NR_MONITOR_RX))
    if transmit_only and receive_only:
        raise ValueError(
            f"{name}: flags for only transmit and for only receive rings; expected one of them, or none"
        )
    outgoing = parsed.options.get("xdp", {}).get("outgoing", "no")
    if outgoing not in ("yes", "no") or (outgoing == "yes" and options.mode != PACKET_MODE):
        raise ValueError(
            f"{name}: outgoing {outgoing!r}: expected yes or no, and yes only with mode={PACKET_MODE}"
        )
    if transmit_only:
        geometry = replace(geometry, receive_rings=0)
    if receive_only:
        geometry = replace(geometry, transmit_rings=0)
    if options.mode == PACKET_MODE:
        return _open_packet(name, parsed, geometry, region, options)
    try:
        return NicPort(name, parsed.port, geometry, region, options)
    except XdpModeError:
        if options.mode or options.transmit == "live" or options.receive == "memory":
            raise
        return _open_packet(name, parsed, geometry, region, options)
    except OSError as error:
        if options.mode or error.errno not in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOSYS):
            raise
        return _open_packet(name, parsed, geometry, region, options)


def nic_options(name: str, parsed: PortName) -> NicOptions:
    """What the name says after `@xdp:`, and which queue; ValueError for what cannot be."""
    given = parsed.options.get("xdp", {})
    mode, way, busy_poll = given.get("mode", ""), given.get("tx", ""), given.get("busy_poll", "0")
    if mode not in ("", PACKET_MODE, *MODES):
        raise ValueError(f"{name}: mode {mode!r}: expected {', '.join(MODES)} or {PACKET_MODE}")
    if way not in ("", *_WAYS):
        raise ValueError(f"{name}: tx {way!r}: expected {' or '.join(_WAYS)}")
    receive = given.get("rx", "")
    if receive not in ("", *_RECEIVING):
        raise ValueError(f"{name}: rx {receive!r}: expected {' or '.join(_RECEIVING)}")
    if receive == "memory" and mode not in ("", "copy"):
        raise ValueError(f"{name}: rx=memory and mode={mode}: the program copies frames in mode=copy only")
    if not busy_poll.isdecimal() or int(busy_poll) > 1_000_000:
        raise ValueError(f"{name}: busy-poll {busy_poll!r}: expected microseconds, 0 to 1000000")
    queue = parsed.ring if parsed.mode == RegistrationMode.NR_REG_ONE_NIC else None
    return NicOptions(mode, way, int(busy_poll), queue, receive)


def _open_packet(
    name: str, parsed: PortName, geometry: Geometry, region: Region | None, options: NicOptions
) -> Port:
    from raceway.ports.packet.port import PacketPort

    if options.queue is not None:
        raise RacewayError(
            f"{name}: AF_PACKET shows no single queue of an interface; open {parsed.port} as a whole"
        )
    outgoing = parsed.options.get("xdp", {}).get("outgoing") == "yes"
    return PacketPort(name, parsed.port, geometry, region, outgoing=outgoing)
