"""DPDK's af_xdp driver under testpmd: sending, receiving, forwarding and echoing on the labs of stage.py.

testpmd forwards on one core of its own, which never sleeps; its main core waits for commands. The driver opens one
queue, as veth has one, and falls back to AF_XDP's copy mode by itself, as everybody must on veth: what differs from
raceway is the user-space side. Its memory is without huge pages (`--no-huge`), which costs little here, where the
kernel's work for a packet is a hundred times that of a TLB miss.

Preferred busy polling, which the driver asks for by default, does not come about on veth with Linux 6.18: the kernel's
counter BusyPollRxPackets stays at 0, for raceway's sockets as for DPDK's. So there is one way to receive, not two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.stage import (
    SECONDS,
    SOURCE_CPU,
    WORK_CPU,
    Stage,
    in_millions,
    outcome,
    rate,
    received_all,
    settled,
)

from .dpdk import eal_options, runtime_folder, two_cores
from .measurement import Detail, Measurement, PeerUnavailable
from .memif import parse_port_statistics
from .process import Console, find_program, shown

_PROMPT = r"testpmd> "
_START, _COMMAND_TIME = 30.0, 10.0
_MEGABYTES = 512
_PACKET_BUFFERS = 16384  # testpmd's own choice does not fit the memory above
_ENVIRONMENT = {"LIBXDP_SKIP_DISPATCHER": "1"}
"""One program needs no dispatcher, and libxdp's would be pinned in /sys/fs/bpf, if that is mounted, and stay there."""


class Testpmd:
    """A running testpmd."""

    def __init__(self, console: Console, command: str) -> None:
        self._console, self.command = console, command

    def say(self, command: str) -> None:
        """Type a command and wait until it is done."""
        self._console.send(command)
        self._console.wait_for(_PROMPT, _COMMAND_TIME)

    def statistics(self, port: int = 0) -> dict[str, int]:
        """The fields of `show port stats`."""
        self._console.send(f"show port stats {port}")
        block = rf"#+ NIC statistics for port {port}\s[^#]*#+[^#]+#{{40,}}"
        fields = parse_port_statistics(self._console.wait_for(block, _COMMAND_TIME)[0])
        self._console.wait_for(_PROMPT, _COMMAND_TIME)
        if not {"RX-packets", "RX-missed", "TX-packets", "TX-errors"} <= fields.keys():
            raise PeerUnavailable(f"testpmd's port statistics lack a counter: {sorted(fields)}")
        return fields


def command_line(mode: str, interfaces: Sequence[str], prefix: str, options: Sequence[str] = ()) -> list[str]:
    """testpmd on AF_XDP sockets, forwarding on WORK_CPU: `mode` is that of `--forward-mode`.

    The burst is testpmd's own, 32, which is also what the kernel sends a call in copy mode.
    """
    devices = [
        f"--vdev=net_af_xdp{number},iface={interface},start_queue=0,queue_count=1"
        for number, interface in enumerate(interfaces)
    ]
    cores = two_cores((SOURCE_CPU, WORK_CPU))
    return [
        find_program("dpdk-testpmd"),
        *eal_options(cores, main=SOURCE_CPU, megabytes=_MEGABYTES, prefix=prefix, extra=devices),
        "--", "-i", f"--total-num-mbufs={_PACKET_BUFFERS}", f"--forward-mode={mode}", *options,
    ]  # fmt: skip


@contextmanager
def _testpmd(
    stage: Stage, host: str, mode: str, interfaces: Sequence[str], *options: str
) -> Iterator[Testpmd]:
    """Start one at a host; leaving kills it. Its XDP programs go with the lab."""
    with runtime_folder() as folder:
        command = command_line(mode, interfaces, folder.prefix, options)
        environment = {**folder.environment, **_ENVIRONMENT}
        with stage.console(host, command, cwd=folder.path, environment=environment) as console:
            console.wait_for(_PROMPT, _START)
            check_ports(console.output, len(interfaces))
            yield Testpmd(console, shown(command).replace(folder.prefix, "peer"))


def check_ports(output: str, wanted: int) -> None:
    """PeerUnavailable if testpmd said of fewer ports than wanted what their address is, with its reason."""
    there = len(re.findall(r"^Port \d+: [0-9A-F]{2}(?::[0-9A-F]{2}){5}", output, re.MULTILINE))
    if there >= wanted:
        return
    complaint = re.search(r"^.*(?:failed|cannot|Failed|Cannot|error).*$", output, re.MULTILINE)
    raise PeerUnavailable(
        f"dpdk-testpmd opened {there} of {wanted} af_xdp ports: {complaint[0].strip() if complaint else 'no reason'}"
        " (is the driver, librte_net_af_xdp, installed?)"
    )


def dpdk_transmit(length: int = 60, seconds: float = SECONDS) -> list[Measurement]:
    """`txonly` at a; packets a second that arrive at b. Raises PeerUnavailable."""
    with Stage() as stage:
        stage.drop("b")
        count = stage.arrivals("b")
        interface = stage.lab.interface("a")
        with _testpmd(stage, "a", "txonly", [interface], f"--txpkts={length}") as testpmd:
            testpmd.say("start")
            value = rate(count, seconds)
            testpmd.say("stop")
            sent = testpmd.statistics()["TX-packets"]
            arrived = settled(count)
        return [in_millions("DPDK af_xdp, txonly", value, outcome(sent, arrived), testpmd.command)]


def dpdk_receive(seconds: float = SECONDS) -> list[Measurement]:
    """`rxonly` at b; packets a second that it gets, and it must count them all. Raises PeerUnavailable."""
    with Stage() as stage:
        count = stage.deliveries("b")
        with _testpmd(stage, "b", "rxonly", [stage.lab.interface("b")]) as testpmd:
            testpmd.say("start")
            with stage.source("b") as source:
                value = rate(count, seconds)
                made = source.stop()
            testpmd.say("stop")
            fields = testpmd.statistics()
            received_all("testpmd", fields["RX-packets"], count())
        detail: Detail = {
            "offered": made,
            "received": fields["RX-packets"],
            "missed": fields["RX-missed"],
        }
        return [in_millions("DPDK af_xdp, rxonly", value, detail, testpmd.command)]


def dpdk_forward(seconds: float = SECONDS) -> list[Measurement]:
    """`io` between two ports in the middle; packets a second that arrive at b. Raises PeerUnavailable."""
    with Stage(3) as stage:
        stage.drop("b")
        count = stage.arrivals("b")
        interfaces = [stage.lab.interface("m", towards) for towards in "ab"]
        with _testpmd(stage, "m", "io", interfaces) as testpmd:
            testpmd.say("start")
            with stage.source("b") as source:
                value = rate(count, seconds)
                made = source.stop()
            testpmd.say("stop")
            sent, missed = testpmd.statistics(1)["TX-packets"], testpmd.statistics(0)["RX-missed"]
            arrived = settled(count)
        detail = outcome(sent, arrived, offered=made, missed=missed)
        return [in_millions("DPDK af_xdp, io between two ports", value, detail, testpmd.command)]


def dpdk_echo(seconds: float = SECONDS) -> list[Measurement]:
    """`macswap` at b, and raceway's own pinger at a: the round trip's median and 99th percentile.

    The pinger is that of raceway's row, so all that differs is who echoes. Raises PeerUnavailable.
    """
    from bench.wires import ping

    with Stage() as stage, _testpmd(stage, "b", "macswap", [stage.lab.interface("b")]) as testpmd:
        testpmd.say("start")
        return ping(stage, "raceway ping, DPDK af_xdp echo", seconds)
