"""The same pcap filter in the kernel, raceway's eBPF against the kernel's own classic BPF on a raw socket.

    source at a  =====  b     raceway: XDP in b's driver drops what the expression accepts, and veth counts it
                              kernel:  AF_PACKET at b with SO_ATTACH_FILTER counts it (PACKET_STATISTICS)

Both run libpcap's program for one expression, on the same frames, in the NAPI thread of b's interface, so that the
source has a processor for itself; what is compared is how many packets a second each gets through. The socket's buffer
is of the smallest size and nobody reads it, so that an accepted packet is counted and not copied; and the frames are
for another host's MAC address, so that b's own stack ends them at its first look. What the socket cannot do without is
an skb for every packet.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.peers.measurement import Detail, Measurement
from bench.peers.process import pinned
from bench.stage import SECONDS, SOURCE_CPU, WORK_CPU, Source, Stage, in_millions, rate, settled
from raceway.compile.pcap_filter.libpcap import compile_expression
from raceway.compile.pcap_filter.program import Program
from raceway.kernel.bpf.links import attach_xdp
from raceway.kernel.bpf.programs import Program as Loaded
from raceway.kernel.bpf.system import ProgramKind, XdpAction
from raceway.kernel.pcap_filter import translate

EXPRESSION = "udp and port 9 and net 10.0.0.0/8"
"""What every frame of the source is: the whole program runs for each."""
ELSEWHERE = "02:00:00:00:00:77"
"""Another host's MAC address, so that b's stack ends what rules let pass at its first look."""
_START = 30.0
_ALL_PROTOCOLS = 3
_SO_ATTACH_FILTER, _SOL_PACKET, _PACKET_STATISTICS = 26, 263, 6


@contextlib.contextmanager
def prepared() -> Iterator[Stage]:
    """b's interface with a NAPI thread on the worker's processor."""
    with Stage() as stage:
        name = stage.lab.interface("b")
        stage.command("b", "ethtool", "-K", name, "gro", "on")
        stage.command("b", "sh", "-c", f"echo 1 >/sys/class/net/{name}/threaded")
        thread = f"for one in $(pgrep 'napi/{name}'); do taskset -p -c {WORK_CPU} $one; done"
        stage.command("b", "sh", "-c", thread)
        yield stage


@contextlib.contextmanager
def source(stage: Stage, mac: str = ELSEWHERE, flows: int = 1) -> Iterator[Source]:
    """The source at a, sending for a MAC address, from so many ports."""
    command = [
        *pinned(SOURCE_CPU), sys.executable, str(Path(__file__).with_name("source.py")),
        stage.lab.interface("a"), mac, stage.lab.address("b"), "60", str(flows),
    ]  # fmt: skip
    with stage.console("a", command, name="the source") as console:
        console.wait_for(r"sending\r?\n", _START)
        yield Source(console)


def ours(seconds: float = SECONDS) -> list[Measurement]:
    """Packets a second that the translated program drops in the driver."""
    code = translate(compile_expression(EXPRESSION), XdpAction.DROP, XdpAction.PASS)
    with prepared() as stage:
        count = stage.deliveries("b", "xdp_drops")
        with (
            Loaded(ProgramKind.XDP, code, name="bench_filter") as program,
            stage.lab.inside("b"),
            attach_xdp(program, stage.lab.index("b"), "driver"),
            source(stage) as one,
        ):
            value = rate(count, seconds)
            made = one.stop()
            arrived = settled(count)
        detail: Detail = {"offered": made, "received": arrived}
        return [in_millions("raceway.kernel.pcap_filter", value, detail, EXPRESSION)]


def theirs(seconds: float = SECONDS) -> list[Measurement]:
    """Packets a second that the socket's filter accepts. Raises PeerUnavailable."""
    with prepared() as stage:
        with stage.lab.inside("b"):
            listener = _listening(compile_expression(EXPRESSION), stage.lab.interface("b"))
        with listener:
            total = 0

            def count() -> int:
                nonlocal total
                # Asking sets the kernel's own count back to nothing.
                packets, _ = struct.unpack("II", listener.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
                total += packets
                return total

            with source(stage) as one:
                value = rate(count, seconds)
                made = one.stop()
            detail: Detail = {"offered": made, "received": settled(count)}
        return [in_millions("AF_PACKET, SO_ATTACH_FILTER", value, detail, EXPRESSION)]


def _listening(program: Program, interface: str) -> socket.socket:
    """A raw socket on an interface, of which the kernel has the program."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        rows = b"".join(struct.pack("HBBI", *one) for one in program)
        held = ctypes.create_string_buffer(rows)
        # struct sock_fprog: how many instructions, and where they are.
        told = struct.pack("HP", len(program), ctypes.addressof(held))
        made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, told)
        made.bind((interface, _ALL_PROTOCOLS))
    except OSError:
        made.close()
        raise
    return made
