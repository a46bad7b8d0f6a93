"""With --try: what the driver's word is worth, by attaching to the interface and opening a socket on it for a moment.

An XDP program that passes every packet is attached to the interface, and an AF_XDP socket that nothing is redirected to
is bound to its last queue; then both are taken away again, which they are also if the process is killed. Meanwhile some
drivers stop and restart the device, so that packets are lost and a link may go down for seconds; in zero-copy mode the
last queue has no buffers for some milliseconds. Hence only when asked for.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from raceway.apps.doctor.attempts import as_root, unknown
from raceway.apps.doctor.findings import Finding, State
from raceway.apps.doctor.kernel import returning
from raceway.apps.doctor.sockets import COPY, FRAGMENTS, ZERO_COPY, bound
from raceway.errors import PermissionNeededError, PortBusyError
from raceway.kernel.bpf.links import Link, attach_xdp
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import PROGRAM_XDP_FRAGMENTS, ProgramKind, XdpAction
from raceway.kernel.capabilities import missing
from raceway.kernel.interface import Interface

AREA = "trial"
NEEDED = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF")


def not_tried(name: str) -> Finding:
    """What stands in the trial's place when it was not asked for."""
    what = "not tried, which would attach XDP, bind an AF_XDP socket to the last queue, and undo both"
    return Finding(AREA, State.NOTE, "XDP and AF_XDP here", what, f"sudo raceway doctor {name} --try")


def trial_findings(facts: Interface) -> Iterator[Finding]:
    """Try it, from the best mode to the worst."""
    absent = missing(NEEDED)
    if absent:
        yield unknown(AREA, "XDP and AF_XDP here", absent)
        return
    if not facts.up:
        what, remedy = "not tried: the interface is down", f"sudo ip link set {facts.name} up"
        yield Finding(AREA, State.WARN, "XDP and AF_XDP here", what, remedy)
        return
    try:
        link, mode, reasons = _attached(facts)
    except PortBusyError as error:
        yield Finding(AREA, State.WARN, "XDP", str(error.strerror), "raceway ports says whose it is")
        return
    except PermissionNeededError as error:
        yield Finding(AREA, State.UNKNOWN, "XDP", str(error.strerror), as_root())
        return
    if link is None:
        yield Finding(AREA, State.BAD, "XDP", f"cannot be attached: {'; '.join(reasons)}", _remedy(facts))
        return
    with link:
        if mode == "driver":
            yield Finding(AREA, State.OK, "XDP", "attached in the driver, and off again")
        else:
            yield Finding(AREA, State.NOTE, "XDP", f"generic mode only: {'; '.join(reasons)}", _remedy(facts))
        yield _socket(facts, in_driver=mode == "driver")


def _attached(facts: Interface) -> tuple[Link | None, str, list[str]]:
    """The best attachment there is, its mode, and why better ones could not be had."""
    reasons: list[str] = []
    for mode, flags in (("driver", PROGRAM_XDP_FRAGMENTS), ("driver", 0), ("generic", 0)):
        try:
            with Program(ProgramKind.XDP, returning(XdpAction.PASS), name="doctor", flags=flags) as program:
                return attach_xdp(program, facts.index, mode), mode, reasons
        except (PortBusyError, PermissionNeededError):
            raise
        except OSError as error:
            several = " for packets in several buffers" if flags else ""
            reasons.append(f"{mode}{several}: {error.strerror}")
    return None, "", reasons


def _socket(facts: Interface, *, in_driver: bool) -> Finding:
    """The best mode of a socket on the last queue."""
    queue = max(facts.receive_queues, 1) - 1
    reasons: list[str] = []
    modes = [("zero-copy", ZERO_COPY)] if in_driver else []
    for mode, flag in [*modes, ("copy" if in_driver else "generic", COPY)]:
        for fragments in (FRAGMENTS, 0):
            try:
                bound(facts.index, queue, flag | fragments)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    what = f"queue {queue} has a socket already"
                    return Finding(AREA, State.WARN, "AF_XDP", what, "raceway ports says whose it is")
                if not fragments:
                    reasons.append(f"{mode}: {error.strerror}")
                continue
            chained = ", packets over several buffers too" if fragments else ""
            why = f" ({'; '.join(reasons)})" if reasons else ""
            return Finding(AREA, State.OK, "AF_XDP", f"{mode} on queue {queue}{chained}{why}")
    remedy = "raceway falls back to AF_PACKET by itself"
    return Finding(AREA, State.WARN, "AF_XDP", f"cannot be bound: {'; '.join(reasons)}", remedy)


def _remedy(facts: Interface) -> str:
    return f"often the MTU (here {facts.mtu}), LRO, or too few queues: sudo ip link set {facts.name} mtu 1500"
