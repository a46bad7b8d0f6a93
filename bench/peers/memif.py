"""DPDK's memif between two processes: `dpdk-testpmd` sends in one and counts and drops in the other.

    server process, core A                         client process, core B
    txonly  --->  net_memif0  == shared memory ==>  net_memif0  --->  rxonly
                                                          ^ measured here

The figure is the receiver's own: testpmd's `Rx-pps`, packets received between two `show port stats` over the
time between them by testpmd's clock. The difference of its packet counters over our clock stands beside it as
a check.

memif's client owns the shared memory. With `zero_copy` the server copies each packet straight into the
client's packet buffers, one copy in all; without it there is a second copy in the client. Zero copy is the
faster and the default.
"""

from __future__ import annotations

import re
import time

from .dpdk import RuntimeFolder, eal_options, runtime_folder, two_cores
from .measurement import Detail, Measurement, PeerUnavailable
from .process import Console, find_program, shown

_PROMPT = r"testpmd> "
_STATISTICS = r"#+ NIC statistics for port 0[^#]*#+[^#]+#{40,}"
_FIELD = re.compile(r"([RT]x?X?-[a-z]+):\s+(\d+)")
_COMMAND_TIME = 10.0  # seconds for an answer to a command
_MEGABYTES = 512
_PACKET_BUFFERS = 16384  # testpmd's own choice, 155,456, does not fit the memory above
_DISAGREEMENT = 0.05


def parse_port_statistics(text: str) -> dict[str, int]:
    """The fields of testpmd's `show port stats`, such as "RX-packets" and "Rx-pps", as integers."""
    return {name: int(value) for name, value in _FIELD.findall(text)}


def _command(
    role: str, folder: RuntimeFolder, cores: tuple[int, int], main: int, packet_bytes: int, zero_copy: bool
) -> list[str]:
    # The PMD wants an existing directory before the socket's name, spelt from the root.
    device = f"--vdev=net_memif0,role={role},socket={folder.path}/m.sock,socket-abstract=no"
    extra = [device]
    if role == "client":
        extra = ["--single-file-segments", device + (",zero-copy=yes" if zero_copy else "")]
    mode = (
        ["--forward-mode=txonly", f"--txpkts={packet_bytes}"]
        if role == "server"
        else ["--forward-mode=rxonly"]
    )
    return [
        find_program("dpdk-testpmd"),
        *eal_options(cores, main=main, megabytes=_MEGABYTES, prefix=f"{folder.prefix}-{role}", extra=extra),
        "--",
        "-i",
        f"--total-num-mbufs={_PACKET_BUFFERS}",
        *mode,
    ]


def dpdk_memif(
    packet_bytes: int = 64,
    seconds: float = 3.0,
    zero_copy: bool = True,
    cores: tuple[int, int] = (0, 1),
    warm_up: float = 1.0,
    timeout: float = 30.0,
) -> Measurement:
    """Packets a second of `packet_bytes` each that cross from one process to another, at the receiver.

    The sender forwards on `cores[0]`, the receiver on `cores[1]`. `timeout` bounds the start of each
    process, in seconds. Raises PeerUnavailable.
    """
    two_cores(cores)
    with runtime_folder() as folder:
        # A testpmd's main core waits for commands and only its other core forwards.
        server = _command("server", folder, cores, cores[1], packet_bytes, zero_copy)
        client = _command("client", folder, cores, cores[0], packet_bytes, zero_copy)
        with Console(server, cwd=folder.path, environment=folder.environment) as sender:
            sender.wait_for(_PROMPT, timeout)
            with Console(client, cwd=folder.path, environment=folder.environment) as receiver:
                receiver.wait_for(_PROMPT, timeout)
                _await_link(receiver, timeout)
                receiver.send("start")
                receiver.wait_for(_PROMPT, _COMMAND_TIME)
                sender.send("start")
                sender.wait_for(_PROMPT, _COMMAND_TIME)
                time.sleep(warm_up)
                before, began = _statistics(receiver), time.monotonic()
                time.sleep(seconds)
                after, ended = _statistics(receiver), time.monotonic()
        command = "; ".join(
            shown(words).replace(f"{folder.path}/", "").replace(folder.prefix, "peer")
            for words in (server, client)
        )
    return _measurement(before, after, ended - began, zero_copy, command)


def _await_link(console: Console, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        console.send("show port info 0")
        status = console.wait_for(r"Link status: (\w+)\s*\n|Invalid port", _COMMAND_TIME)
        if status[1] == "up":
            console.wait_for(_PROMPT, _COMMAND_TIME)
            return
        if status[1] is None:
            raise PeerUnavailable(
                "dpdk-testpmd made no memif port: is its memif driver (librte_net_memif) installed?"
            )
        time.sleep(0.05)
    raise PeerUnavailable(f"the memif link was not up after {timeout:g} s")


def _statistics(console: Console) -> dict[str, int]:
    console.send("show port stats all")
    fields = parse_port_statistics(console.wait_for(_STATISTICS, _COMMAND_TIME)[0])
    if not {"RX-packets", "Rx-pps"} <= fields.keys():
        raise PeerUnavailable(f"testpmd's port statistics lack RX-packets or Rx-pps: {sorted(fields)}")
    return fields


def _measurement(
    before: dict[str, int], after: dict[str, int], elapsed: float, zero_copy: bool, command: str
) -> Measurement:
    by_counters = (after["RX-packets"] - before["RX-packets"]) / elapsed
    rate = after["Rx-pps"]
    if by_counters <= 0:
        raise PeerUnavailable("the memif receiver got no packet in the measured interval")
    if abs(rate - by_counters) > _DISAGREEMENT * by_counters:
        raise PeerUnavailable(
            f"testpmd says {rate} packets/s, its counters say {by_counters:.0f}: not a clean run"
        )
    detail: Detail = {"zero copy": "yes" if zero_copy else "no", "packets/s by counters": round(by_counters)}
    for name in ("RX-missed", "RX-errors", "RX-nombuf"):
        detail[name] = after.get(name, 0) - before.get(name, 0)
    return Measurement("DPDK memif, testpmd to testpmd", float(rate), "packets/s", detail, command)
