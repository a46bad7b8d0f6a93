"""`raceway.open`: from a name to a port. Control plane."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace

from raceway.errors import NotBuiltYetError
from raceway.memory.region import Region
from raceway.ports.geometry import Geometry
from raceway.ports.names import PortFlag, PortKind, PortName, RegistrationMode, parse
from raceway.ports.port import Port

_CONF_KEYS = {
    "slots", "tx_slots", "rx_slots", "rings", "tx_rings", "rx_rings", "buffer_size", "extra_buffers",
}  # fmt: skip
_OWN_OPTIONS: dict[str, tuple[PortKind, set[str]]] = {
    "xdp": (PortKind.NETMAP, {"mode", "tx", "rx", "busy_poll", "outgoing"}),
    "tap": (PortKind.TAP, {"mtu", "offload", "persist", "up"}),
    "host": (PortKind.NETMAP, {"tx"}),
}
"""Options of one kind of port: the kind, and the option's keys."""
_HOST_KEYS = {"host_rings", "host_tx_rings", "host_rx_rings"}
"""Of `@conf:`, for names that mean host rings."""
_regions: weakref.WeakValueDictionary[int, Region] = weakref.WeakValueDictionary()
"""Regions that ports of this process share by netmap's memory identifier (`netmap:x{1@2`)."""


def open(
    name: str,
    *,
    slots: int | None = None,
    rings: int | None = None,
    buffer_size: int | None = None,
    extra_buffers: int = 0,
    region: Region | None = None,
    write: bool = False,
) -> Port:
    """Open a port by its name, as netmap writes it: `netmap:x{1`, `pcap:FILE`, `null:`; options after `@conf:`.

    slots: slots a ring, 2 to 1,048,576 (one always stays empty); rings: ring pairs, 1 to 64; buffer_size: bytes,
    a multiple of 64 from 64 to 65,536; extra_buffers: buffers that no ring holds (`port.extra_buffers`);
    region: another port's `region`, so that packets move between the two by swapping buffer indexes
    (a pipe whose other end was opened first lies in that end's region all the same);
    write: for pcap:FILE, make or empty the file and write it, instead of reading it.
    Options in the name (`@conf:slots=512`, see netmap(4)) win over keywords.

    Raises PortNameError for a name that is wrong, NotBuiltYetError for a kind of port that this version has not,
    PortBusyError (EBUSY) for an end that is open already, ValueError for impossible numbers, OSError from files.
    """
    parsed = parse(name)
    geometry = Geometry(slots, slots, rings, rings, buffer_size, extra_buffers)
    geometry = _configured(geometry, parsed)
    if parsed.memory_id is not None and region is None:
        region = _regions.get(parsed.memory_id)
    if parsed.kind == PortKind.PCAP:
        port = _open_pcap(name, parsed, geometry, region, write)
    else:
        port = _openers(parsed)(name, parsed, geometry, region)
    if parsed.memory_id is not None:
        _regions.setdefault(parsed.memory_id, port.region)
    return _restricted(port, parsed)


def prepare(name: str) -> None:
    """Compile, or load, what a port of this name will run on. Opening an interface then takes no longer than the kernel
    takes, which counts where its host's packets wait meanwhile. For other ports it does nothing."""
    parsed = parse(name)
    if parsed.kind != PortKind.NETMAP or parsed.pipe is not None:
        return
    if parsed.mode in (*_OF_NIC, RegistrationMode.NR_REG_NIC_SW):
        from raceway.ports.nic.sync import nic_sync

        nic_sync.prepare()
    if parsed.mode in _OF_HOST:
        from raceway.ports.host.sync import host_sync

        host_sync.prepare()


def _configured(geometry: Geometry, parsed: PortName) -> Geometry:
    """The geometry with what `@conf:` says: netmap's keys, and buffer-size."""
    allowed = _allowed_options(parsed)
    for option, keys in parsed.options.items():
        if option not in allowed:
            words = " or ".join(f"@{name}:" for name in allowed)
            raise ValueError(f"{parsed.name}: no option @{option} here; expected {words}")
        if unknown := set(keys) - allowed[option]:
            words = ", ".join(sorted(key.replace("_", "-") for key in allowed[option]))
            raise ValueError(f"{parsed.name}: no option {min(unknown)!r} here; @{option}: takes {words}")
    conf = {key: _number(parsed.name, key, value) for key, value in parsed.options.get("conf", {}).items()}

    def first(*keys: str) -> int | None:
        return next((conf[key] for key in keys if conf.get(key)), None)

    return replace(
        geometry,
        transmit_slots=first("tx_slots", "slots") or geometry.transmit_slots,
        receive_slots=first("rx_slots", "slots") or geometry.receive_slots,
        transmit_rings=first("tx_rings", "rings") or geometry.transmit_rings,
        receive_rings=first("rx_rings", "rings") or geometry.receive_rings,
        buffer_size=first("buffer_size") or geometry.buffer_size,
        extra_buffers=first("extra_buffers") or geometry.extra_buffers,
    )


def _allowed_options(parsed: PortName) -> dict[str, set[str]]:
    """The options that a name may have, and the keys of each."""
    allowed = {"conf": _CONF_KEYS | (_HOST_KEYS if parsed.mode in _OF_HOST else set())}
    if parsed.pipe is None:
        allowed |= {name: keys for name, (kind, keys) in _OWN_OPTIONS.items() if kind == parsed.kind}
        if parsed.mode not in _OF_HOST:
            allowed.pop("host", None)
        elif parsed.mode != RegistrationMode.NR_REG_NIC_SW:
            allowed.pop("xdp", None)
    return allowed


def _number(name: str, key: str, value: str) -> int:
    try:
        return int(value, 0)
    except ValueError:
        raise ValueError(f"{name}: option {key.replace('_', '-')} is {value!r}, expected a number") from None


_OF_NIC = (RegistrationMode.NR_REG_ALL_NIC, RegistrationMode.NR_REG_ONE_NIC)
_OF_HOST = (RegistrationMode.NR_REG_SW, RegistrationMode.NR_REG_ONE_SW, RegistrationMode.NR_REG_NIC_SW)


def _openers(parsed: PortName) -> Callable[[str, PortName, Geometry, Region | None], Port]:
    if parsed.kind == PortKind.NULL:
        return _open_null
    if parsed.kind == PortKind.NETMAP and parsed.pipe is not None:
        return _open_pipe
    if parsed.kind == PortKind.NETMAP and parsed.mode in _OF_NIC:
        return _open_nic
    if parsed.kind == PortKind.NETMAP and parsed.mode in _OF_HOST:
        return _open_host
    if parsed.kind == PortKind.TAP:
        return _open_tap
    return _not_built


def _open_null(name: str, parsed: PortName, geometry: Geometry, region: Region | None) -> Port:
    from raceway.ports.null.port import NullPort

    return NullPort(name, geometry, region)


def _open_pcap(name: str, parsed: PortName, geometry: Geometry, region: Region | None, write: bool) -> Port:
    from raceway.ports.pcap.port import CapturePort

    return CapturePort(name, parsed.path or "", geometry, region, write)


def _open_pipe(name: str, parsed: PortName, geometry: Geometry, region: Region | None) -> Port:
    from raceway.ports.pipe.port import PipePort

    assert parsed.pipe is not None
    return PipePort(name, parsed.pipe.base, parsed.pipe.id, parsed.pipe.end, geometry, region)


def _open_nic(name: str, parsed: PortName, geometry: Geometry, region: Region | None) -> Port:
    """AF_XDP; AF_PACKET where that cannot be had at all, or if the name says so."""
    from raceway.ports.nic.opening import open_interface

    return open_interface(name, parsed, geometry, region)


def _open_host(name: str, parsed: PortName, geometry: Geometry, region: Region | None) -> Port:
    from raceway.ports.host.opening import open_host_rings

    return open_host_rings(name, parsed, geometry, region)


def _open_tap(name: str, parsed: PortName, geometry: Geometry, region: Region | None) -> Port:
    from raceway.ports.tap.port import TapOptions, TapPort

    options = TapOptions.of(name, parsed.options.get("tap", {}))
    return TapPort(name, parsed.device or "", geometry, region, options)


def _not_built(name: str, parsed: PortName, geometry: Geometry, region: Region | None) -> Port:
    what = {
        PortKind.VALE: "switch ports (vale)",
        PortKind.NETMAP: "network interfaces and host rings",
    }
    raise NotBuiltYetError(
        f"{name}: the name is right, but {what.get(parsed.kind, 'ports of this kind')} are not built yet; this version "
        "has pipes (netmap:x{1 and netmap:x}1), pcap:FILE and null:"
    )


def _restricted(port: Port, parsed: PortName) -> Port:
    """Keep only the rings that the name asks for: `-2` one ring pair, `/T` and `/R` one direction."""
    if parsed.kind == PortKind.NETMAP and parsed.pipe is None:
        # An interface opens no more than was asked for.
        return port
    try:
        if parsed.mode == RegistrationMode.NR_REG_ONE_NIC:
            if parsed.ring >= max(len(port.tx), len(port.rx)):
                raise ValueError(
                    f"{port.name}: there is no ring {parsed.ring}; the port has {len(port.tx)} tx and {len(port.rx)} rx"
                )
            port._keep(parsed.ring)
        elif parsed.mode in (RegistrationMode.NR_REG_SW, RegistrationMode.NR_REG_NIC_SW):
            raise ValueError(f"{port.name}: only a network interface has host rings")
        if parsed.flags & (PortFlag.NR_MONITOR_RX | PortFlag.NR_MONITOR_TX | PortFlag.NR_ZCOPY_MON):
            raise NotBuiltYetError(f"{port.name}: the name is right, but monitors are not built yet")
        if parsed.flags & PortFlag.NR_TX_RINGS_ONLY:
            port._keep_direction(transmit=True)
        if parsed.flags & PortFlag.NR_RX_RINGS_ONLY:
            port._keep_direction(transmit=False)
        port.refresh_card(now=True)
    except BaseException:
        port.close()
        raise
    return port
