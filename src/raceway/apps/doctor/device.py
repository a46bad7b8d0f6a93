"""One interface: what it is, what can be had of it, and what about it spoils what one sees or sends.

Everything here is read. Nothing is attached, opened or switched, for the interface may carry the very session in which
the question is asked; what only a try can tell is left to `trial`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from raceway.apps.doctor.findings import Finding, State
from raceway.apps.doctor.offloads import AREA, offload_findings, peer_of
from raceway.errors import NoSuchInterfaceError
from raceway.kernel import capabilities
from raceway.kernel.bpf.queries import tcx_programs
from raceway.kernel.interface import ARPHRD_ETHER, ARPHRD_LOOPBACK, Interface, Network

# Bytes before a frame in its buffer that XDP programs may use (XDP_PACKET_HEADROOM), and the smaller of the two buffer
# sizes that AF_XDP takes.
_HEADROOM, _BUFFER, _LARGER_BUFFER = 256, 2048, 4096
_HEADER = 18  # Ethernet, and a VLAN tag
_ROUTE_LIMIT = 1 << 20


def device_findings(network: Network, name: str) -> Iterator[Finding]:
    """Everything that can be read of an interface. NoSuchInterfaceError."""
    facts = network.interface(name)
    yield from _link(facts)
    yield _driver(network, facts)
    yield from _queues(network, facts)
    yield _mode(network, facts)
    yield from _live(network, facts)
    yield from _programs(network, facts)
    yield from offload_findings(network, facts)
    yield _frame_size(network, facts)
    yield _promiscuous(facts)
    yield from _ring_sizes(network, facts)
    yield from _interrupts(facts)
    yield from _route(facts)


def interfaces_in_short(network: Network) -> Iterator[Finding]:
    """A line for each interface of the namespace, when none was asked about."""
    for name in network.names():
        try:
            facts = network.interface(name)
            if name == "lo":
                continue
            mode = _mode(network, facts)
        except NoSuchInterfaceError:
            continue  # Gone since.
        queues = f"{facts.receive_queues} rx and {facts.transmit_queues} tx queues"
        state = "" if facts.up else ", down"
        what = f"{facts.driver or facts.kind or 'no driver'}{state}, {queues}; {mode.what}"
        yield Finding("interfaces", State.OK, name, what, f"raceway doctor {name}")


def _link(facts: Interface) -> Iterator[Finding]:
    subject = "link"
    if not facts.up:
        yield Finding(AREA, State.WARN, subject, "down", f"sudo ip link set {facts.name} up")
    elif not facts.running:
        what = "up, without a carrier" + (": the other end is down" if facts.kind == "veth" else "")
        yield Finding(AREA, State.WARN, subject, what, "the cable, the switch, or the other end")
    else:
        yield Finding(AREA, State.OK, subject, f"up, {facts.mac}")
    # The loopback's have Ethernet headers, filled with zeros.
    if facts.hardware_type not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
        what = f"its packets are no Ethernet frames (hardware type {facts.hardware_type})"
        yield Finding(AREA, State.NOTE, "kind", what, "tools that expect Ethernet headers misread them")


def _driver(network: Network, facts: Interface) -> Finding:
    driver = network.driver(facts.name)
    if driver is None or not driver.name:
        what = f"a virtual device of kind {facts.kind}" if facts.kind else "none that says so"
        return Finding(AREA, State.OK, "driver", what)
    # Drivers of the kernel's tree give its version as theirs, which says nothing more.
    words = [
        driver.name,
        f"firmware {driver.firmware}" if driver.firmware not in ("", "N/A") else "",
        f"at {driver.bus}" if driver.bus not in ("", "N/A") else "",
    ]
    return Finding(AREA, State.OK, "driver", ", ".join(filter(None, words)))


def _queues(network: Network, facts: Interface) -> Iterator[Finding]:
    subject = "queues"
    receive, transmit = facts.receive_queues, facts.transmit_queues
    what = f"{receive} rx, {transmit} tx, a ring pair each"
    processors = len(os.sched_getaffinity(0))
    most = min(processors, facts.maximum_receive_queues)
    if receive < most:
        combined = "combined" if facts.kind != "veth" else "rx"
        yield Finding(
            AREA, State.NOTE, subject, f"{what}; {processors} processors could serve more",
            f"sudo ethtool -L {facts.name} {combined} {most}",
        )  # fmt: skip
    else:
        yield Finding(AREA, State.OK, subject, what)
    peer = peer_of(network, facts)
    if peer is not None and peer.transmit_queues > receive:
        what = f"{peer.name} has {peer.transmit_queues} tx queues for the {receive} rx queues here: no XDP"
        remedy = f"sudo ethtool -L {peer.name} tx {receive}"
        yield Finding(AREA, State.WARN, "queues of the other end", what, remedy)
    if receive > 1:
        yield _spread(network, facts)


def _spread(network: Network, facts: Interface) -> Finding:
    """RSS: which queues flows go to."""
    subject = "spreading (RSS)"
    table = network.receive_table(facts.name)
    if not table:
        what = "the device tells nothing of how it spreads flows over queues"
        if facts.kind == "veth":
            what = "by the sender's queue: a sender with one queue fills one queue here"
        return Finding(
            AREA, State.NOTE, subject, what, "open all queues (without -N), or add tx queues at the sender"
        )
    counted = Counter(table)
    idle = [queue for queue in range(facts.receive_queues) if queue not in counted]
    remedy = f"sudo ethtool -X {facts.name} equal {facts.receive_queues}"
    if idle:
        what = f"no flows go to {_numbered('queue', idle)}"
        return Finding(AREA, State.WARN, subject, what, remedy)
    if max(counted.values()) > 2 * min(counted.values()):
        return Finding(
            AREA, State.NOTE, subject, "some queues get more than twice the flows of others", remedy
        )
    return Finding(AREA, State.OK, subject, "flows go to all queues alike")


def _mode(network: Network, facts: Interface) -> Finding:
    """The best XDP mode, by the driver's own word."""
    subject = "XDP mode"
    asked = network.xdp_features(facts.index)
    if asked is None:
        what = "this kernel does not tell (Linux 6.3 does)"
        return Finding(AREA, State.UNKNOWN, subject, what, f"sudo raceway doctor {facts.name} --try")
    words, segments = asked
    if "basic" not in words:
        what = "generic: the driver has no XDP, so every packet is an sk_buff first"
        return Finding(AREA, State.NOTE, subject, what, "another driver or device, if that is too slow")
    fragments = ", packets over several buffers" if "fragments" in words else ""
    if "zero-copy" in words:
        chained = f" ({segments} a packet)" if segments > 1 else ""
        return Finding(AREA, State.OK, subject, f"zero-copy by the driver's word{fragments}{chained}")
    return Finding(AREA, State.OK, subject, f"copy: XDP in the driver, no zero-copy{fragments}")


def _live(network: Network, facts: Interface) -> Iterator[Finding]:
    """Whether XDP frames can be sent out of it, which the fastest transmission rests on (ndo_xdp_xmit)."""
    subject = "live XDP frames"
    words = (network.xdp_features(facts.index) or (frozenset(), 0))[0]
    if "transmit" in words:
        yield Finding(AREA, State.OK, subject, "can leave by it")
    elif facts.kind == "veth":
        what = "vanish unless the other end has an XDP program, or GRO"
        peer = peer_of(network, facts)
        remedy = f"at the other end: sudo ethtool -K {peer.name if peer else 'PEER'} gro on"
        yield Finding(AREA, State.NOTE, subject, what, remedy)
    elif "basic" in words:
        what = "cannot leave by it now: many drivers take them only while a program is attached"
        remedy = f"to know: raceway pkt-gen -f tx -i netmap:{facts.name}@xdp:tx=live"
        yield Finding(AREA, State.NOTE, subject, what, remedy)


def _programs(network: Network, facts: Interface) -> Iterator[Finding]:
    for each in network.xdp_attached(facts.index):
        what = f"program {each.program} is attached in {each.mode} mode: no other can be, until it is gone"
        yield Finding(AREA, State.WARN, "XDP program", what, "raceway ports says whose it is")
    if capabilities.missing(["CAP_NET_ADMIN"]):
        return
    try:
        programs = tcx_programs(facts.index)
    except OSError:
        return
    for tcx in programs:
        what = f"program {tcx.program} sees what goes {'in' if tcx.direction == 'ingress' else 'out'}"
        yield Finding(AREA, State.NOTE, f"tcx {tcx.direction}", what, "raceway ports says whose it is")


def _frame_size(network: Network, facts: Interface) -> Finding:
    subject = "MTU and buffers"
    longest, room = facts.mtu + _HEADER, _BUFFER - _HEADROOM
    if longest <= room:
        return Finding(AREA, State.OK, subject, f"frames of up to {longest:,} bytes fit a buffer's {room:,}")
    asked = network.xdp_features(facts.index)
    if asked is not None and ("fragments" in asked[0] or "basic" not in asked[0]):
        slots = -(-longest // room)
        what = f"frames of up to {longest:,} bytes take {slots} slots of {room:,}"
        return Finding(
            AREA, State.NOTE, subject, what, f"for one slot a frame: sudo ip link set {facts.name} mtu 1500"
        )
    larger = _LARGER_BUFFER - _HEADROOM
    what = (
        f"frames of up to {longest:,} bytes, and XDP in this driver takes only what fits a buffer's {room:,}"
    )
    remedy = f"sudo ip link set {facts.name} mtu 1500"
    if longest <= larger:
        remedy = f"{facts.name}@conf:buffer-size={_LARGER_BUFFER}, or {remedy}"
    return Finding(AREA, State.WARN, subject, what, remedy)


def _promiscuous(facts: Interface) -> Finding:
    subject = "promiscuous"
    if facts.promiscuous:
        return Finding(AREA, State.OK, subject, "takes every frame on the wire")
    if facts.kind in ("veth", "tun") or facts.hardware_type == ARPHRD_LOOPBACK:
        return Finding(AREA, State.OK, subject, "no, but this kind of device passes on every frame")
    what = "no: only frames to its own address, and to groups, arrive"
    return Finding(AREA, State.NOTE, subject, what, f"sudo ip link set {facts.name} promisc on")


def _ring_sizes(network: Network, facts: Interface) -> Iterator[Finding]:
    sizes = network.ring_sizes(facts.name)
    if sizes is None:
        return
    subject = "descriptors"
    what = f"{sizes.receive:,} rx, {sizes.transmit:,} tx, a queue"
    if sizes.receive < sizes.maximum_receive:
        remedy = f"if packets are missed: sudo ethtool -G {facts.name} rx {sizes.maximum_receive}"
        yield Finding(AREA, State.NOTE, subject, f"{what}; up to {sizes.maximum_receive:,} rx", remedy)
    else:
        yield Finding(AREA, State.OK, subject, what)


# -- where its interrupts go -----------------------------------------------------------------------------------


def _interrupts(facts: Interface) -> Iterator[Finding]:
    """On which processors the device's interrupts are handled. For hardware only: others have none."""
    subject = "interrupts"
    device = Path("/sys/class/net") / facts.name
    # This /sys may be another namespace's, and its interface of this name another one.
    if (
        _number(device / "ifindex") != facts.index
        or _mac(device) != facts.mac
        or not (device / "device").exists()
    ):
        return
    placed: dict[int, str] = {}
    for folder in (device / "device" / "msi_irqs", device / "device" / ".." / "msi_irqs"):
        try:
            numbers = sorted(int(name) for name in os.listdir(folder))
        except OSError:
            continue
        for number in numbers:
            where = _text(Path(f"/proc/irq/{number}/effective_affinity_list")) or _text(
                Path(f"/proc/irq/{number}/smp_affinity_list")
            )
            if where and _fired(number):
                placed[number] = where
        break
    if not placed:
        return
    where = ", ".join(f"{number} on processor {place}" for number, place in placed.items())
    if len(placed) > 1 and len(set(placed.values())) == 1 and len(os.sched_getaffinity(0)) > 1:
        remedy = f"echo CPU | sudo tee /proc/irq/{next(iter(placed))}/smp_affinity_list, another CPU for each"
        yield Finding(AREA, State.NOTE, subject, f"all on one processor: {where}", remedy)
        return
    yield Finding(
        AREA, State.OK, subject, where if len(placed) <= 8 else f"{len(placed)} over several processors"
    )


def _fired(number: int) -> bool:
    """Whether an interrupt has ever come."""
    for line in _text(Path("/proc/interrupts")).splitlines():
        words = line.split()
        if words and words[0] == f"{number}:":
            return any(word.isdigit() and int(word) for word in words[1 : 1 + (os.cpu_count() or 1)])
    return False


def _route(facts: Interface) -> Iterator[Finding]:
    """A port on the interface takes the host's packets away from it: that matters most where the way out is."""
    net = Path("/proc/thread-self/net")
    four = (line.split() for line in _text(net / "route").splitlines()[1:])
    six = (line.split() for line in _text(net / "ipv6_route").splitlines())
    # Columns: interface, destination; destination, its length, ..., metric (all ones: unreachable), ..., interface.
    if any(words[:2] == [facts.name, "00000000"] for words in four) or any(
        words[:2] == ["0" * 32, "00"] and words[-1] == facts.name and words[5] != "f" * 8
        for words in six
        if len(words) == 10
    ):
        what = (
            "the host's default route: a port on it takes the host's packets too, an SSH session's among them"
        )
        remedy = f"raceway bridge -i netmap:{facts.name} -i netmap:{facts.name}^ lets the host have them"
        yield Finding(AREA, State.NOTE, "route", what, remedy)


def _numbered(word: str, numbers: list[int]) -> str:
    listed = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"{word} {listed}" if len(numbers) == 1 else f"{word}s {listed}"


def _text(path: Path) -> str:
    try:
        with path.open() as file:
            return file.read(_ROUTE_LIMIT).strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0


def _mac(device: Path) -> str:
    return _text(device / "address")
