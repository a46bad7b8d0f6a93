"""What tests of diverted packets on live interfaces share: who decides at host b, and whether all are counted."""

from __future__ import annotations

import raceway
from labs import until
from raceway import DROP, PASS

RULES = "divert inspector udp dst port 10, 11\ndrop udp dst port 12"


@raceway.packet_function
def not_eleven(packet):
    if packet.udp.destination_port == 11:
        return DROP
    return PASS


def to_ten(packet):
    """What is for port 11 is for port 10 from now on."""
    packet.udp.destination_port = 10
    return PASS


def passes(packet):
    return PASS


def firewall_on(place, host: str, interface: str, rules: str, function=passes):
    with place.inside(host):
        return raceway.Firewall(interface, rules, divert={"inspector": function})


def firewall_at(two, rules: str = RULES, function=passes, **options):
    with two.inside("b"):
        return raceway.Firewall(two.interface("b"), rules, divert={"inspector": function}, **options)


def conserved(status) -> bool:
    """The sums of docs/firewall.md, when nothing is under way."""
    divert = status.divert
    decided = sum(one.packets + one.limited for one in status.rules)
    named = divert.names.values()
    into = sum(one.passed + one.dropped + one.failed + one.too_long for one in named)
    lost_in = sum(count for name, count in divert.lost.items() if not name.startswith("host_"))
    lost_out = sum(divert.lost.values()) - lost_in
    return (
        status.seen
        == decided + status.default_packets + sum(status.malformed.values()) + status.gone + status.aborted
        and divert.queued == 0
        and divert.diverted == lost_in + divert.foreign + into
        and sum(one.passed for one in named) == divert.reinjected + lost_out
    )


def settled(firewall):
    """The status once nothing is under way."""
    assert until(lambda: firewall.status().divert.queued == 0)
    assert until(lambda: conserved(firewall.status())), firewall.status()
    return firewall.status()
