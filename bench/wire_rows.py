"""The rows about interfaces: raceway's AF_XDP ports, live frames and host rings against DPDK and the kernel's own ways.

Each row's lab, source, sink and counter are the same for both sides (stage.py). Where one piece of work has several
peers, they are measured in the same rounds, against the same figures of raceway's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bench import divert, driver, firewall, goodput, kernel_filters, rule_cost, wires
from bench.peers import Measurement, PeerUnavailable
from bench.peers.af_xdp import dpdk_echo, dpdk_forward, dpdk_receive, dpdk_transmit
from bench.peers.kernel_paths import linux_bridge, packet_send, tap_write, udp_ping_pong
from bench.row import Measure, Row, contest

GROUP = "nic"
_NFQUEUE = "nfqueue, NetfilterQueue of PyPI"
_AT_THE_DRIVER = "firewall: drop one UDP flood, in a driver's place, one processor"
_ENOUGH = 1.02
"""A source that offers less than this times what a receiver takes may be what bounds it."""


def wire_rows(rounds: int, seconds: float, wanted: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """Measure the rows that are wanted, each figure over `seconds`."""
    found = []
    for ours, peers in _contests(seconds):
        chosen = [(measure, rows) for measure, rows in peers if any(map(wanted, rows))]
        if chosen:
            found += contest(ours, chosen, rounds)
    for row in found:
        _judge_source(row)
    lone = Row(
        "round trip of a lone packet, 20 a second, median", "-", "us", None, better="lower", group=GROUP
    )
    if wanted(lone):
        found.append(lone.run(lambda: wires.lone_packets(seconds)[0].value, None, rounds))
    return found


def _contests(seconds: float) -> Sequence[tuple[Measure, Sequence[tuple[Measure, Sequence[Row]]]]]:
    peer = "DPDK af_xdp, testpmd "
    ping = "ping-pong round trip, "
    both = (f"{ping}median", f"{ping}99 %")
    pages = goodput.Goodput(seconds)
    socket_pages = goodput.Goodput(seconds, "socket")
    return [
        (
            partial(wires.transmit, 60, seconds),
            [(partial(dpdk_transmit, 60, seconds), [_row("TX, 60-byte frames", f"{peer}txonly", 5)])],
        ),
        (
            partial(wires.transmit, 1514, seconds),
            [(partial(dpdk_transmit, 1514, seconds), [_row("TX, 1,514-byte frames", f"{peer}txonly", 3)])],
        ),
        (
            partial(wires.receive, seconds),
            [(partial(dpdk_receive, seconds), [_row("RX and count, 60-byte frames", f"{peer}rxonly", 1.2)])],
        ),
        (
            partial(wires.receive, seconds, "@xdp:rx=memory"),
            [(partial(dpdk_receive, seconds), [_row("RX and count, `@xdp:rx=memory`", f"{peer}rxonly", 1.2)])],
        ),
        (
            partial(wires.forward, seconds),
            [
                (partial(dpdk_forward, seconds), [_row("forward, veth to veth", f"{peer}io", 1.2)]),
                (
                    _better(partial(linux_bridge, seconds), partial(linux_bridge, seconds, threaded=True)),
                    [_row("forward, veth to veth", "Linux bridge", None)],
                ),
            ],
        ),
        (
            partial(wires.ping_pong, seconds),
            [
                (partial(dpdk_echo, seconds), [_trip(work, "DPDK af_xdp, testpmd echoes") for work in both]),
                (partial(udp_ping_pong, seconds), [_trip(work, "kernel UDP sockets, blocking") for work in both]),
                (
                    partial(udp_ping_pong, seconds, spin=True),
                    [_trip(work, "kernel UDP sockets, spinning") for work in both],
                ),
            ],
        ),
        (
            partial(wires.ping_pong, seconds, "@xdp:rx=memory"),
            [
                (
                    partial(dpdk_echo, seconds),
                    [_trip(f"{work}, `@xdp:rx=memory`", "DPDK af_xdp, testpmd echoes") for work in both],
                )
            ],
        ),
        (
            partial(kernel_filters.ours, seconds),
            [
                (
                    partial(kernel_filters.theirs, seconds),
                    [_row("filter expression in the kernel, count or drop on veth",
                          "classic BPF on a raw socket", 1.5)],
                )
            ],
        ),
        (
            partial(firewall.drops, seconds),
            [
                (partial(firewall.nft_drops, seconds),
                 [_row("firewall: drop one UDP flood", "nft, netdev ingress", 3)]),
                (partial(firewall.iptables_drops, seconds), [_row("firewall: drop one UDP flood", "iptables, raw", 3)]),
            ],
        ),
        (
            partial(driver.drops, seconds),
            [
                (partial(driver.nft_drops, seconds), [_row(_AT_THE_DRIVER, "nft, netdev ingress", 3)]),
                (partial(driver.iptables_drops, seconds), [_row(_AT_THE_DRIVER, "iptables, raw", 3)]),
            ],
        ),
        (
            partial(firewall.established, seconds),
            [(partial(firewall.conntrack, seconds),
              [_row("firewall: drop what is of no established flow", "conntrack, iptables", None)])],
        ),
        (
            partial(firewall.blocked, seconds),
            [
                (partial(firewall.nft_blocked, seconds),
                 [_row("firewall: drop by a block-list of 200,000 prefixes", "nft, set of intervals", 1.5)]),
                (partial(firewall.ipset_blocked, seconds),
                 [_row("firewall: drop by a block-list of 200,000 prefixes", "ipset, in iptables raw", 1.5)]),
            ],
        ),
        *(
            (
                partial(firewall.rules_in_kernel, name, seconds),
                [(partial(firewall.nft_rules, name, seconds),
                  [_row(f"firewall: 10,000 rules in the kernel, {name}", "nft, netdev ingress", 10)])],
            )
            for name in ("acl1_10k", "fw1_10k")
        ),
        *(
            (
                partial(rule_cost.all_of, name, passing, seconds),
                [(partial(rule_cost.ten_of, name, passing, seconds),
                  [_cost(f"firewall: cost of 10,000 rules by traffic that differs, {fate}, {name}")])],
            )
            for name in ("acl1_10k", "fw1_10k")
            for passing, fate in ((False, "all dropped"), (True, "half dropped"))
        ),
        (
            partial(divert.diverted, divert.native, seconds),
            [(partial(divert.nfqueue, seconds),
              [_row("firewall: divert to a packet function and reinject", _NFQUEUE, 20)])],
        ),
        (
            partial(divert.diverted, divert.plain, seconds),
            [(partial(divert.nfqueue, seconds),
              [_row("firewall: divert to plain Python and reinject", _NFQUEUE, None)])],
        ),
        (
            partial(divert.stack, seconds),
            [(partial(divert.nfqueue, seconds), [_row("the host's stack, nobody looking", _NFQUEUE, None)])],
        ),
        (
            pages.ours,
            [
                (pages.nft, [_pages("under a flood", "nft, netdev ingress", 1),
                             _pages("without a flood", "nft, netdev ingress", None)]),
                (pages.nothing, [_pages("under a flood", "no firewall", None),
                                 _pages("without a flood", "no firewall", None)]),
            ],
        ),
        (
            socket_pages.ours,
            [(socket_pages.nft, [_pages("under a flood by a socket", "nft, netdev ingress", None)])],
        ),
        (
            partial(wires.inject, seconds),
            [
                (partial(tap_write, seconds), [_row("inject into the host stack", "TAP, write by one thread", 2)]),
                (partial(packet_send, seconds), [_row("inject into the host stack", "AF_PACKET, sendmmsg", 2)]),
            ],
        ),
    ]  # fmt: skip


def _row(work: str, peer: str, goal: float | None) -> Row:
    return Row(work, peer, "Mpps", goal, group=GROUP)


def _cost(work: str) -> Row:
    return Row(work, "ten of those rules", "ns/packet", 0.5, better="lower", group=GROUP)


def _pages(when: str, peer: str, goal: float | None) -> Row:
    return Row(f"firewall: goodput of a web server {when}", peer, "pages/s", goal, group=GROUP)


def _trip(work: str, peer: str) -> Row:
    return Row(work, peer, "us", 1, better="lower", group=GROUP)


def _better(*ways: Measure) -> Measure:
    """The way with the highest figure; PeerUnavailable if none gives one."""

    def measure() -> Sequence[Measurement]:
        found, reasons = [], []
        for way in ways:
            try:
                found.append(way())
            except PeerUnavailable as reason:
                reasons.append(str(reason))
        if not found:
            raise PeerUnavailable("; ".join(dict.fromkeys(reasons)))
        return max(found, key=lambda figures: figures[0].value)

    return measure


def _judge_source(row: Row) -> None:
    """Say so if a receiver took nearly all that there was: then the figure is the source's."""
    for side in ("raceway", "peer"):
        for detail in row.details:
            facts = detail[side]
            offered = float(facts.get("offered", 0))
            received = float(facts.get("received", facts.get("packets arrived", 0)))
            if 0 < offered < _ENOUGH * received:
                what = f"{side}: {received:.0f} of {offered:.0f} packets came through: the source bounds the figure"
                row.note = f"{row.note}; {what}" if row.note else what
                break
