"""Reloads while a numbered stream goes through: nothing is lost, nothing misjudged, and every packet is counted once.

RACEWAY_SOAK_RELOADS: so many, however long they take (script/soak says 1,000).
"""

from __future__ import annotations

import itertools
import os
import time

import pytest
from firewall_world import conserved, stream

import raceway
from labs import lab as lab, needs_root
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]

RELOADS = int(os.environ.get("RACEWAY_SOAK_RELOADS", "0"))
SECONDS = 5.0
FEWEST = 3
"""That many even where others keep the machine busy: one takes a third of a second on a quiet one."""
ALWAYS = "drop udp dst port 9\npass udp dst port 10\n"
SETS = [
    f"{ALWAYS}default drop\nmalformed pass\npass icmp\npass icmp6\npass arp\n",
    "set bad = 192.0.2.0/24, 2001:db8:77::/48\ndrop src in bad\n"
    + "".join(f"drop tcp dst port {port}\n" for port in range(100, 400, 3))
    + ALWAYS,
    f"drop src port 1-9\n{ALWAYS}pass ip6\n",
]
if RELOADS:
    # Their programs take the kernel's verifier longer.
    SETS += [
        f"limit 5/h per src tcp dst port 22\n{ALWAYS}",
        f"drop tcp[13] & 2 != 0 and dst port 23\n{ALWAYS}drop udp src port 1\n",
    ]
REFUSED = ["drop udp dst port", f"{ALWAYS}drop udp dst port 65536", 'set x = prefixes "/nowhere"']


@pytest.mark.parametrize("family", [4, 6])
def test_no_packet_is_lost_misjudged_or_counted_twice(lab, family):
    two = lab()
    done = 0
    with two.inside("b"), raceway.Firewall(two.interface("b"), SETS[0]) as firewall:
        for rules in SETS:
            firewall.reload(rules)  # From then on their programs are made.
        with stream(two, family) as flow:
            deadline = time.monotonic() + SECONDS
            for number in itertools.count(1):
                firewall.reload(SETS[number % len(SETS)])
                done += 1
                if number % 3 == 0:
                    with pytest.raises(raceway.RulesError):
                        firewall.reload(REFUSED[number // 3 % len(REFUSED)])
                if done >= RELOADS and (RELOADS or time.monotonic() > deadline):
                    break
        status = firewall.status()
    assert done >= FEWEST
    assert flow.whole, flow
    assert flow.found["forbidden"] == 0
    assert conserved(status)
    counted = {one.text: one.packets for one in status.rules}
    assert counted["drop udp dst port 9"] == counted["pass udp dst port 10"] == flow.sent
    print(f"{done:,} reloads, {flow.sent:,} packets of each kind")
