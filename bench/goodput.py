"""Pages a second that a web server gives while its interface is flooded: behind raceway, behind nft, behind nothing.

    a: pkt-gen floods, sixteen clients ask  =====  b: the rules on the interface, the server behind them

The flood is pkt-gen's at up to 200,000 packets a second (what arrived stands in the detail), as an attacker's rate is
not the defender's to choose: UDP of 60 bytes to a port that the rules drop. It is sent as live frames, which arrive
without an sk_buff, as from a card, so that XDP looks at them before there is one. (A socket's packets have one, and
veth copies each into a frame for XDP: that is more work than dropping it, and only raceway's. A row of its own shows
that.) b's interface has a NAPI thread on the server's processor, which goes before the server as an interrupt would:
every packet that is dropped costs the server what dropping it costs. (At the priority of others it would wait for
whole time slices, in which veth's ring of 256 packets overflows: 50 pages a second were left then, whatever the
firewall.) The flood and the clients share the other processor. Both firewalls have the same three rules: ARP and the
web pass, everything else is dropped. The sides are measured in slices that alternate in one lab, and the median of
each side's slices counts, for the machine is never equally quick.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import raceway
from bench.firewall import _feed, _needs, _table
from bench.kernel_filters import prepared
from bench.peers.measurement import Detail, Measurement, PeerUnavailable
from bench.peers.process import pinned
from bench.stage import SECONDS, SOURCE_CPU, WORK_CPU, Stage, interrupt

RULES = "default drop\npass arp\npass tcp dst port 80\n"
NFT_RULES = "meta protocol arp accept\ntcp dport 80 accept\ncounter drop"
RATE = 200_000
_SIDES = {"raceway": "raceway firewall", "nft": "nft, netdev ingress", "nothing": "no firewall"}
_SLICES = 5
_WEB = str(Path(__file__).with_name("web.py"))
_START = 60.0


class Goodput:
    """Pages a second behind raceway, behind nft and behind nothing, under the flood and without it.

    `ours` measures all three, in slices that alternate in one lab: what else goes on in the machine slows them alike.
    `nft` and `nothing` say what came out. seconds: of two slices; frames: how the flood is sent, "live" or "socket".
    """

    def __init__(self, seconds: float = SECONDS, frames: str = "live") -> None:
        self._seconds, self._frames = seconds / 2, frames
        self._found: dict[str, list[Measurement]] = {}

    def ours(self) -> Sequence[Measurement]:
        """Under the flood, and without it, behind raceway."""
        sides = [name for name in _SIDES if name != "nft" or shutil.which(name)]
        with _served() as stage:
            quiet = self._slices(stage, sides)
            arrived = stage.arrivals("b")
            with _flood(stage, arrived, self._frames):
                before, began = arrived(), time.monotonic()
                flooded = self._slices(stage, sides)
                rate = (arrived() - before) / (time.monotonic() - began)
        detail: Detail = {"packets a second that arrived": rate}
        self._found = {
            name: [
                Measurement(_SIDES[name], flooded[name], "pages/s", detail),
                Measurement(_SIDES[name], quiet[name], "pages/s"),
            ]
            for name in sides
        }
        return self._found["raceway"]

    def nft(self) -> Sequence[Measurement]:
        """The same behind nft, in a netdev ingress chain. Raises PeerUnavailable."""
        _needs("nft")
        return self._found["nft"]

    def nothing(self) -> Sequence[Measurement]:
        """The same without a firewall."""
        return self._found["nothing"]

    def _slices(self, stage: Stage, sides: Sequence[str]) -> dict[str, float]:
        """The median of each side's slices."""
        pages: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(_SLICES):
            # There and back, so that no side is always behind the same one.
            for name in sides if turn % 2 == 0 else reversed(sides):
                with _behind(stage, name):
                    pages[name].append(_pages(stage, self._seconds))
        return {name: median(found) for name, found in pages.items()}


@contextlib.contextmanager
def _behind(stage: Stage, side: str) -> Iterator[None]:
    """A side's rules on b's interface, for as long as that."""
    name = stage.lab.interface("b")
    if side == "raceway":
        with stage.lab.inside("b"), raceway.Firewall(name, RULES):
            yield
    elif side == "nft":
        _feed(stage, ["nft", "-f", "-"], _table(name, NFT_RULES))
        yield
        stage.command("b", "nft", "delete", "table", "netdev", "bench")
    else:
        yield


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
def _flood(stage: Stage, arrived: Callable[[], int], frames: str) -> Iterator[None]:
    """pkt-gen, through a port that only transmits: the host's own traffic goes on beside it."""
    command = [
        *pinned(SOURCE_CPU), sys.executable, "-m", "raceway", "pkt-gen", "-f", "tx",
        "-i", f"netmap:{stage.lab.interface('a')}/T@xdp:tx={frames}", "-d", f"{stage.lab.address('b')}:9",
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
