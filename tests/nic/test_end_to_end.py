"""`raceway bridge` between two NICs, and through it what people run: ping, iperf3, curl. A process like theirs.

a ══ left [ m: raceway bridge ] right ══ b
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import scaled
from labs import lab as lab, needs, needs_root, reaches
from nic_world import until

pytestmark = [needs_root, needs("ping", "iperf3", "curl")]
RACEWAY = [sys.executable, "-m", "raceway"]


@contextmanager
def bridge(place: Any, way: str = "") -> Iterator[None]:
    """The bridge in the middle, from when packets go through to Ctrl-C."""
    command = [*RACEWAY, "bridge", "-i", f"netmap:left{way}", "-i", f"netmap:right{way}", "--json"]
    with place.popen("m", command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert until(lambda: process.poll() is not None or reaches(place, "a", place.address("b")), 120)
            assert process.poll() is None, "the bridge has ended"
            yield
        finally:
            process.send_signal(2)
            said, _ = process.communicate(timeout=30)
        report = json.loads(said.splitlines()[-1])
        assert process.returncode == 0
        for each in report["ways"]:
            assert each["packets"] == each["sent"] + sum(each["drops"].values())
            assert not each["drops"]


@contextmanager
def server(place: Any, command: list[str], sign: str) -> Iterator[None]:
    """A server at `b`, from when it says that it listens."""
    with place.popen("b", command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            while sign not in (line := process.stdout.readline()):
                assert line, f"{command[0]} ended"
            yield
        finally:
            process.kill()


def iperf(place: Any, *options: str) -> dict[str, Any]:
    """What the client at `a` reports."""
    command = ["iperf3", "-J", "-c", place.address("b"), *options]
    with server(place, ["iperf3", "-s", "-1", "--forceflush"], "listening"):
        done = place.run("a", command, capture_output=True, text=True, timeout=120)
    report: dict[str, Any] = json.loads(done.stdout)
    assert "error" not in report, report["error"]
    return report["end"]


@pytest.mark.parametrize(
    ("mtu", "vlan", "queues", "way"),
    [(1500, 0, 1, ""), (9000, 0, 1, ""), (1500, 5, 1, ""), (1500, 0, 2, ""), (1500, 0, 1, "@xdp:mode=generic"),
     (1500, 0, 1, "@xdp:tx=socket"), (1500, 0, 1, "@xdp:mode=packet"), (1500, 0, 1, "@xdp:rx=memory")],
    ids=["1500", "9000", "vlan", "two-queues", "generic", "socket", "packet", "memory"],
)  # fmt: skip
def test_real_traffic_between_two_hosts_through_a_bridge(lab, tmp_path, mtu, vlan, queues, way):
    # In generic mode XDP sees what segmentation offload has left whole, and docs/kernel-ports.md says so.
    offloads = False if "generic" in way else None
    place = lab(hosts=3, mtu=mtu, vlan=vlan, queues=queues, offloads=offloads)
    data = bytes(range(256)) * scaled(150_000, 8_000)  # 38 MB, twenty times all slots of both rings
    (tmp_path / "file").write_bytes(data)
    wanted = hashlib.sha256(data).hexdigest()
    del data
    serve = Path(__file__).with_name("file_server.py")
    with bridge(place, way):
        for version in (4, 6):
            assert until(lambda version=version: reaches(place, "a", place.address("b", version)), 20)
            # Whole packets of the MTU, not fragmented.
            assert reaches(place, "a", place.address("b", version), mtu - (28 if version == 4 else 48))
        received = iperf(place, "-t", "1")["sum_received"]["bytes"]
        assert received > scaled(10_000_000, 10_000)
        udp = iperf(place, "-u", "-b", "2M", "-t", "1", "-l", "1200")["sum"]
        assert udp["packets"] > 100
        # Two megabits a second are nothing: whatever is missing then has been lost by somebody.
        assert udp["lost_packets"] <= udp["packets"] * 0.02
        for version in (4, 6):
            address = place.address("b", version)
            host = address if version == 4 else f"[{address}]"
            with server(place, [sys.executable, str(serve), str(tmp_path / "file"), address], "ready"):
                done = place.run(
                    "a", ["sh", "-c", f"curl -s -m 100 'http://{host}:8080/' | sha256sum"],
                    capture_output=True, text=True, timeout=120,
                )  # fmt: skip
            assert done.stdout.split()[0] == wanted
    assert not reaches(place, "a", place.address("b")), "something goes on without the bridge"
