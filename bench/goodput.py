"""Pages a second that a web server gives while its interface is flooded: behind raceway, behind nft, behind nothing.

    a: pkt-gen floods, sixteen clients ask  =====  b: the rules on the interface, the server behind them

The flood is pkt-gen's at 200,000 packets a second, as an attacker's rate is not the defender's to choose: UDP of 60
bytes to a port that the rules drop. b's interface has a NAPI thread on the server's processor, which goes before the
server as an interrupt would: every packet that is dropped costs the server what dropping it costs. (At the priority of
others it would wait for whole time slices, in which veth's ring of 256 packets overflows: 50 pages a second were left
then, whatever the firewall.) The flood and the clients share the other processor. Both firewalls have the same three
rules: ARP and the web pass, everything else is dropped.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import raceway
from bench.firewall import _feed, _needs, _table
from bench.kernel_filters import prepared
from bench.peers.measurement import Detail, Measurement, PeerUnavailable
from bench.peers.process import pinned
from bench.stage import SECONDS, SOURCE_CPU, WORK_CPU, Stage, interrupt

RULES = "default drop\npass arp\npass tcp dst port 80\n"
NFT_RULES = "meta protocol arp accept\ntcp dport 80 accept\ncounter drop"
RATE = 200_000
_WEB = str(Path(__file__).with_name("web.py"))
_START = 60.0


def ours(seconds: float = SECONDS) -> Sequence[Measurement]:
    """Under the flood, and without it, behind raceway."""
    with _served() as stage, stage.lab.inside("b"), raceway.Firewall(stage.lab.interface("b"), RULES):
        return _both(stage, "raceway firewall", seconds)


def nft(seconds: float = SECONDS) -> Sequence[Measurement]:
    """The same behind nft, in a netdev ingress chain. Raises PeerUnavailable."""
    _needs("nft")
    with _served() as stage:
        _feed(stage, ["nft", "-f", "-"], _table(stage.lab.interface("b"), NFT_RULES))
        return _both(stage, "nft, netdev ingress", seconds)


def nothing(seconds: float = SECONDS) -> Sequence[Measurement]:
    """The same without a firewall."""
    with _served() as stage:
        return _both(stage, "no firewall", seconds)


@contextlib.contextmanager
def _served() -> Iterator[Stage]:
    """A stage whose b has a web server."""
    with prepared() as stage:
        # Else what the kernel's own path takes is not handed to the NAPI thread, but to the sender's processor.
        stage.command("a", "ethtool", "-K", stage.lab.interface("a"), "tso", "off")
        thread = f"for one in $(pgrep 'napi/{stage.lab.interface('b')}'); do chrt -f -p 50 $one; done"
        stage.command("b", "sh", "-c", thread)
        command = [*pinned(WORK_CPU), sys.executable, "-S", _WEB, "serve", "80"]
        with stage.console("b", command, name="the web server") as console:
            console.wait_for(r"serving\r?\n", _START)
            yield stage


def _both(stage: Stage, name: str, seconds: float) -> list[Measurement]:
    quiet = _pages(stage, seconds)
    arrived = stage.arrivals("b")
    with _flood(stage, arrived):
        before, began = arrived(), time.monotonic()
        flooded = _pages(stage, seconds)
        rate = (arrived() - before) / (time.monotonic() - began)
    detail: Detail = {"packets a second that arrived": rate}
    return [Measurement(name, flooded, "pages/s", detail), Measurement(name, quiet, "pages/s")]


def _pages(stage: Stage, seconds: float) -> float:
    command = [
        *pinned(SOURCE_CPU),
        sys.executable,
        "-S",
        _WEB,
        "ask",
        stage.lab.address("b"),
        "80",
        f"{seconds}",
    ]
    done = stage.lab.run("a", command, capture_output=True, text=True, timeout=seconds + 30)
    if done.returncode:
        raise PeerUnavailable(f"the clients: {done.stderr.strip()[-200:]}")
    return int(done.stdout) / seconds


@contextlib.contextmanager
def _flood(stage: Stage, arrived: Callable[[], int]) -> Iterator[None]:
    """pkt-gen, through a port that only transmits: the host's own traffic goes on beside it."""
    command = [
        *pinned(SOURCE_CPU), sys.executable, "-m", "raceway", "pkt-gen", "-f", "tx",
        "-i", f"netmap:{stage.lab.interface('a')}/T", "-d", f"{stage.lab.address('b')}:9",
        "-D", stage.lab.mac("b"), "-T", "0", "-R", str(RATE),
    ]  # fmt: skip
    with stage.console("a", command, name="pkt-gen") as console:
        before, waited = arrived(), 0.0
        while arrived() - before < 10_000:
            if waited > _START:
                raise PeerUnavailable("pkt-gen sends nothing")
            with contextlib.suppress(PeerUnavailable):
                console.wait_for(r"(?!)", 0.2)
            waited += 0.2
        yield
        interrupt(console)
