"""What tests of live firewalls share: streams through a lab, the commands, and whether every packet is accounted for.

a (attacker, client)  =====  b (the firewall on its interface, and the server behind it)
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from labs import reaches

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
SO_RCVBUFFORCE = 33


@contextlib.contextmanager
def receiver(two, port: int, family: int = 4, size: int = 1 << 24):
    """A UDP socket at host b."""
    with two.inside("b"), socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
        one.bind((two.address("b", family), port))
        one.settimeout(0.5)
        yield one


def send(two, port: int, *texts: bytes, family: int = 4, options: tuple[int, ...] = ()) -> None:
    with two.inside("a"), socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as one:
        for option in options:
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        for text in texts:
            one.sendto(text, (two.address("b", family), port))


def received(one: socket.socket, count: int = -1) -> list[bytes]:
    """What has come: `count` datagrams if so many come, or all until none comes for a while."""
    found: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        while len(found) != count:
            found.append(one.recv(1 << 16))
    return found


def conserved(status) -> bool:
    decided = sum(one.packets + one.limited for one in status.rules)
    return status.seen == (
        decided + status.default_packets + sum(status.malformed.values()) + status.gone + status.aborted
    )


def command(two, *words: str, check: bool = True, host: str = "b"):
    """Run raceway firewall at a host to its end."""
    done = two.run(
        host,
        [sys.executable, "-m", "raceway", "firewall", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@contextlib.contextmanager
def running(two, path, *words: str, host: str = "b"):
    """A `raceway firewall run` at a host."""
    told = [sys.executable, "-m", "raceway", "firewall", "run", two.interface(host), "-f", str(path), *words]
    process = two.popen(host, told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert "in force" in line, line + process.stderr.read()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def inside_mounts(two, mounts: int, *words: str, folder: Path) -> subprocess.Popen[str]:
    """A raceway command at host b, in `folder`, which sees the BPF file system of the fixture `mounts`."""
    enter = ["nsenter", f"--mount=/proc/{mounts}/ns/mnt", f"--wdns={folder}", sys.executable, "-m", "raceway"]
    # In the lab's network namespace alone: its own /sys has no BPF file system.
    with two.inside("b"):
        return subprocess.Popen([*enter, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@dataclass
class Stream:
    """What `numbered_stream.py` said, when it has ended: how many it sent of each kind, and what came."""

    sent: int = 0
    found: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Every number came, once, in order."""
        found = self.found
        return found["found"] == self.sent > 0 and not found["lost"] + found["twice"] + found["unordered"]


@contextlib.contextmanager
def stream(two, family: int = 4, rate: int = 10_000):
    """Numbered packets from a to b while the `with` goes on; afterwards the `Stream` that it gave is filled in."""
    assert reaches(two, "a", two.address("b", family), patience=5)
    told = [sys.executable, "-S", str(Path(__file__).with_name("numbered_stream.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    made = Stream()
    with two.popen("b", [*told, "receive", two.address("b", family)], **pipes) as sink:
        try:
            assert sink.stdout.readline() == "ready\n"
            with two.popen("a", [*told, "send", two.address("b", family), str(rate)], **pipes) as source:
                try:
                    assert source.stdout.readline() == "sending\n"
                    yield made
                    made.sent = int(source.communicate(timeout=30)[0])
                finally:
                    source.kill()
            made.found = json.loads(sink.communicate(timeout=30)[0])
        finally:
            sink.kill()


def accounted(counted: dict) -> bool:
    """The same as `conserved`, of what `raceway firewall status --json` prints."""
    decided = sum(one["packets"] + one["limited"] for one in counted["rules"])
    rest = counted["default_packets"] + sum(counted["malformed"].values())
    return counted["seen"] == decided + rest + counted["gone"] + counted["aborted"]
