"""How long it takes until ten thousand rules and a block-list of 200,000 prefixes are in force, beside nft.

Both read text from files: raceway its rules, of which one names the list's file, as a program of its own from its start
to the line that says that the rules are in force; nft -f the same rules, and the list as an interval set. Of what the
kernel does not take from nft the list is halved until it does; how much that was is in the details.
"""

from __future__ import annotations

import random
import select
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from bench.peers.measurement import Measurement, PeerUnavailable
from bench.programs import RACEWAY
from bench.row import Row
from bench.stage import Stage

RULES, PREFIXES = 10_000, 200_000
_PATIENCE = 100.0
_PORTS = (22, 25, 53, 80, 443, 8080)


@cache
def _made() -> tuple[list[str], list[tuple[str, str, int, str, str]]]:
    """The list, and the rules: action, protocol, port, source, destination. The same each time."""
    chance = random.Random(1)
    sites = [chance.getrandbits(32) & 0xFFFF0000 for _ in range(30)]

    def host() -> str:
        return _text(chance.choice(sites) | chance.getrandbits(16))

    prefixes: dict[str, None] = {}
    while len(prefixes) < PREFIXES:
        length = chance.choice((24, 28, 32, 32, 32))
        number = chance.randrange(1 << 24, 224 << 24) >> (32 - length) << (32 - length)
        prefixes[f"{_text(number)}/{length}"] = None
    rules = [
        (
            chance.choice(("pass", "drop")),
            chance.choice(("tcp", "udp")),
            chance.choice(_PORTS),
            host(),
            host(),
        )
        for _ in range(RULES)
    ]
    return list(prefixes), rules


def _text(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def rows() -> list[Row]:
    """The rows: eBPF that was made before, and for the first time."""
    work = f"firewall: {RULES:,} rules and a list of {PREFIXES:,} prefixes, from their files to in force (goal: 5 s)"
    return [
        Row(work, "nft -f", "s", None, better="lower", group="nic"),
        Row(
            "the same for the first time, its eBPF made, too",
            "nft -f",
            "s",
            None,
            better="lower",
            group="nic",
        ),
    ]


def ours() -> list[Measurement]:
    """Seconds of `raceway firewall run`, until the rules are in force; and in a new cache."""
    prefixes, rules = _made()
    with tempfile.TemporaryDirectory() as folder, Stage() as stage:
        where = Path(folder)
        (where / "bad.netset").write_text("".join(f"{one}\n" for one in prefixes))
        lines = [
            f"{action} {protocol} dst port {port} and src host {source} and dst host {destination}\n"
            for action, protocol, port, source, destination in rules
        ]
        (where / "wall.rules").write_text(
            "".join(['set bad = prefixes "bad.netset"\n', "drop src in bad\n", *lines])
        )
        environment = ["env", f"RACEWAY_CACHE_DIR={where / 'cache'}"]
        first = _seconds(stage, where / "wall.rules", environment)
        again = _seconds(stage, where / "wall.rules", environment)
    command = "raceway firewall run IFACE -f wall.rules"
    return [Measurement("raceway firewall", one, "s", command=command) for one in (again, first)]


def _seconds(stage: Stage, rules: Path, environment: list[str]) -> float:
    command = [*environment, *RACEWAY, "firewall", "run", stage.lab.interface("b"), "-f", str(rules)]
    began = time.perf_counter()
    process = stage.lab.popen("b", command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
        line = process.stdout.readline() if ready else "nothing was said\n"
        took = time.perf_counter() - began
        if "are in force" not in line:
            raise RuntimeError(f"raceway firewall run: {line}")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=_PATIENCE)
        return took
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def nft() -> list[Measurement]:
    """Seconds of `nft -f` with the same. Raises PeerUnavailable."""
    prefixes, rules = _made()
    lines = [
        f"ip saddr {source} ip daddr {destination} {protocol} dport {port} {'drop' if action == 'drop' else 'accept'}\n"
        for action, protocol, port, source, destination in rules
    ]
    count = PREFIXES
    with tempfile.TemporaryDirectory() as folder, ExitStack() as kept:
        while True:
            # One that was refused may leave something behind; so each has a lab of its own.
            stage = kept.enter_context(Stage())
            path = Path(folder) / "wall.nft"
            path.write_text(
                "table netdev bench {\nset bad { type ipv4_addr; flags interval; auto-merge; elements = {\n"
                + ",\n".join(prefixes[:count])
                + "\n} }\nchain every { type filter hook ingress device "
                + f"{stage.lab.interface('b')} priority 0;\nip saddr @bad drop\n{''.join(lines)}}}\n}}\n"
            )
            began = time.perf_counter()
            try:
                done = stage.lab.run(
                    "b", ["nft", "-f", str(path)], capture_output=True, text=True, timeout=_PATIENCE
                )
            except FileNotFoundError:
                raise PeerUnavailable("nft is not here") from None
            except subprocess.TimeoutExpired:
                raise PeerUnavailable(f"nft -f took more than {_PATIENCE:.0f} s") from None
            took = time.perf_counter() - began
            if done.returncode == 0:
                break
            count //= 2
            if count < 1000:
                raise PeerUnavailable(f"nft: {done.stderr.strip()[:200]}")
    made = Measurement("nft -f", took, "s", {"prefixes": count, "rules": len(rules)}, "nft -f wall.nft")
    return [made, made]
