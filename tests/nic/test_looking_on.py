"""`raceway dump INTERFACE` looks on: the host keeps its packets, and what it sends is seen too."""

from __future__ import annotations

import json
import subprocess
import sys

from labs import lab as lab, needs_root, reaches
from nic_world import until

pytestmark = needs_root


def test_dump_sees_both_directions_and_takes_nothing(lab, tmp_path):
    place = lab(ipv6=False)
    file = tmp_path / "seen.pcapng"
    dump = place.popen(
        "b", [sys.executable, "-m", "raceway", "dump", "veth0", "-w", str(file), "-c", "4", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with dump:
        assert dump.stderr is not None
        first = dump.stderr.readline()
        assert "the host keeps its packets" in first
        # ARP there and back, or nothing if that was known; then echo requests and their replies.
        assert until(lambda: reaches(place, "a", place.address("b")) and dump.poll() is not None, 60)
        assert dump.stdout is not None
        said = json.loads(dump.stdout.read().splitlines()[-1])
    assert said["packets"] == 4
    import raceway

    packets = list(raceway.load_capture(file))
    sources = {bytes(packet)[6:12] for packet in packets}
    assert len(sources) == 2, "one direction only"
