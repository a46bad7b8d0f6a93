"""Where packets were lost, stage by stage, on their way from an interface to a program:

    NIC --> XDP --> host's stack (backlog)
              `---> socket --> ring --> program

    NIC       the interface's own counters (IFLA_STATS64), and the driver's that speak of losses (ethtool -S)
    XDP       the driver's counters of XDP
    backlog   what the host's stack drops before it has looked at it (/proc/net/softnet_stat)
    socket    AF_XDP sockets: no room in the ring, no buffer to fill (struct xdp_statistics)
    ring      raceway's ports on the interface: packets, and drops by name
    program   how far the program behind a ring has got: packets that wait for it, and what it did wrong

Counters tell of all the time since the interface or the machine was started, so a loss may be old. `Counters` looks
twice, and says which have grown meanwhile: those are worth an alarm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from raceway.apps.doctor.findings import Finding, State
from raceway.errors import NoSuchInterfaceError
from raceway.kernel.interface import Network

AREA = "counters"

_LOSS = re.compile(r"drop|err|miss|discard|fifo|no_?buf|out_of_buf|nodesc|overrun|fail|full", re.IGNORECASE)
_LINK = (
    "rx_dropped", "rx_missed_errors", "rx_over_errors", "rx_fifo_errors", "rx_crc_errors", "rx_frame_errors",
    "rx_length_errors", "rx_nohandler", "tx_dropped", "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors",
)  # fmt: skip
_QUEUE = re.compile(r"^(rx|tx)_?(queue)?_?\d+[_.]?|\[\d+\]")

_REMEDIES = {
    "NIC": "packets come faster than they are taken: larger descriptor rings, more queues, or faster programs",
    "XDP": "the XDP program dropped them, or what it redirects to was full: see socket and ring",
    "backlog": "sudo sysctl net.core.netdev_max_backlog=10000 net.core.netdev_budget=600",
    "socket": "larger rings (@conf:slots=4096), or a program that takes packets faster",
}


class Counters:
    """Two looks at an interface's counters. Make it early, ask `findings` late."""

    def __init__(self, network: Network, name: str) -> None:
        self._network, self._name = network, name
        self._before = self._look()

    def findings(self) -> Iterator[Finding]:
        """Stage by stage."""
        now = self._look()
        for stage in ("NIC", "XDP", "backlog"):
            yield self._judged(stage, self._before[stage], now[stage])
        yield from self._sockets()
        yield from self._rings()

    def _look(self) -> dict[str, dict[str, int]]:
        link = self._network.link_counters(self._name)
        own = self._network.statistics(self._name)
        nic = {name: link[name] for name in _LINK if link.get(name)}
        packets = {name: link.get(name, 0) for name in ("rx_packets", "tx_packets")}
        xdp: dict[str, int] = {}
        for name, value in own.items():
            if "xdp" in name.lower():
                # By queue in most drivers: added up, for a table of 64 queues helps nobody.
                key = _QUEUE.sub("", name).lstrip("_.")
                xdp[key] = xdp.get(key, 0) + value
            elif value and _LOSS.search(name):
                key = _QUEUE.sub("", name).lstrip("_.") or name
                nic[key] = nic.get(key, 0) + value
        return {"NIC": packets | nic, "XDP": xdp, "backlog": _softnet()}

    def _judged(self, stage: str, before: dict[str, int], now: dict[str, int]) -> Finding:
        """A stage's counters in words: ok without losses, a note with old ones, a warning with new ones."""
        lost = {name: count for name, count in now.items() if count and _LOSS.search(name)}
        passed = {
            name: count for name, count in now.items() if name not in lost and (count or stage == "NIC")
        }
        growing = [name for name in lost if lost[name] > before.get(name, 0)]
        if not now:
            return Finding(AREA, State.OK, stage, "counts nothing")
        words = [f"{name} {count:,}" for name, count in (passed | lost).items()]
        what = ", ".join(words) or "nothing lost"
        if growing:
            return Finding(
                AREA, State.WARN, stage, f"{what}; growing: {', '.join(growing)}", _REMEDIES[stage]
            )
        return Finding(AREA, State.NOTE if lost else State.OK, stage, what, _REMEDIES[stage] if lost else "")

    def _sockets(self) -> Iterator[Finding]:
        from raceway.apps.port_list.ports import is_region
        from raceway.kernel.processes import survey
        from raceway.kernel.xdp_sockets import xdp_sockets

        try:
            index = self._network.interface(self._name).index
        except NoSuchInterfaceError:
            return
        seen = survey(lambda target: target.startswith("socket:[") or is_region(target))
        ours = {file.process for file in seen.files if is_region(file.target)}
        # Where the kernel does not tell, only raceway's own processes are looked into: others are none of our business.
        found, every = xdp_sockets(file for file in seen.files if file.process in ours)
        here = [each for each in found if each.index in (index, 0)]
        if not here:
            what = "no AF_XDP socket" if every else "no AF_XDP socket of a raceway program that can be seen"
            yield Finding(AREA, State.OK, "socket", what)
        for each in here:
            lost = {name: count for name, count in each.statistics.items() if count}
            # An empty transmit ring is a sender that has nothing to send: no loss.
            lost.pop("tx_ring_empty_descs", None)
            who = f"pid {each.process.pid}" if each.process else "a process that cannot be seen"
            queue = f" queue {each.queue}" if each.queue >= 0 else ""
            what = f"{who}{queue}: " + (
                ", ".join(f"{name} {count:,}" for name, count in lost.items()) or "nothing lost"
            )
            state = State.NOTE if lost else State.OK
            yield Finding(AREA, state, "socket", what, _REMEDIES["socket"] if lost else "")

    def _rings(self) -> Iterator[Finding]:
        from raceway.apps.port_list.ports import interface_of, is_region, open_ports
        from raceway.kernel.processes import survey
        from raceway.memory.identity import network_namespace

        here = network_namespace()
        ports = [
            port
            for port in open_ports(survey(is_region).files)
            if port.card.network == here and interface_of(port.card.name) == self._name
        ]
        if not ports:
            yield Finding(AREA, State.OK, "ring", "no raceway port on this interface that can be seen")
        for port in ports:
            who = f"{port.card.name} of pid {port.process.pid}"
            counted = f"{who}: rx {port.rx_packets:,}, tx {port.tx_packets:,} packets"
            lost = ", ".join(f"{name} {count:,}" for name, count in port.card.drops.items())
            if lost:
                yield Finding(AREA, State.NOTE, "ring", f"{counted}; drops {lost}", _REMEDIES["socket"])
            else:
                yield Finding(AREA, State.OK, "ring", counted)
            receive = [ring for ring in port.card.rings if not ring.transmit]
            full = [ring.number for ring in receive if ring.slots > 1 and not ring.used]
            errors = sum(ring.errors for ring in port.card.rings)
            if full:
                what = (
                    f"{who} has read nothing of {len(full)} full receive ring{'s' if len(full) > 1 else ''}"
                )
                yield Finding(
                    AREA, State.WARN, "program", what, "the program does not keep up, or does not read"
                )
            elif errors:
                what = f"{who} has used its rings wrongly {errors:,} times"
                yield Finding(AREA, State.NOTE, "program", what, "its own errors (RingError) say how")
            else:
                yield Finding(AREA, State.OK, "program", f"{who}: nothing waits unread in its rings")


def _softnet() -> dict[str, int]:
    """/proc/net/softnet_stat over all processors: hexadecimal columns: processed, dropped, squeezed."""
    names = ("processed", "dropped", "squeezed")
    totals = dict.fromkeys(names, 0)
    try:
        lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        for name, word in zip(names, line.split(), strict=False):
            totals[name] += int(word, 16)
    return totals
