"""The firewall against the kernel's own: one flood dropped, ten thousand rules, a reload; and the classifier alone.

    source at a  =====  b     raceway:  the rules as XDP in b's driver
                              nft:      the same in a netdev ingress chain of b's interface
                              iptables: the same in the raw table

The source sends one UDP packet again and again, for another host's MAC address where rules let it pass, so that b's
stack ends it at once. What is compared is how many packets a second each gets through (all of it on b's processor).
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

import raceway
from bench.filter_sets import filter_set
from bench.kernel_filters import prepared, source
from bench.peers.measurement import Detail, Measurement, PeerUnavailable
from bench.stage import SECONDS, Stage, in_millions, rate, settled
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.importing.classbench import read_classbench
from raceway.apps.firewall.rules.rule_set import RuleSet
from raceway.kernel.interface import Network

_FLOOD = "drop udp dst port 9"
_BATCH = 1 << 16


def drops(seconds: float = SECONDS) -> list[Measurement]:
    """Packets a second of a flood that raceway drops."""
    return _raceway(_FLOOD, seconds)


def rules_in_kernel(name: str, seconds: float = SECONDS) -> list[Measurement]:
    """Packets a second that go through ten thousand rules."""
    return _raceway(_mixed(name), seconds)


def _raceway(
    rules: RuleSet | str, seconds: float, verdicts: tuple[str, ...] = ("DROP", "PASS")
) -> list[Measurement]:
    with (
        prepared() as stage,
        stage.lab.inside("b"),
        raceway.Firewall(stage.lab.interface("b"), rules) as wall,
    ):

        def count() -> int:
            return sum(wall.attachment.counters[name] for name in verdicts)

        with source(stage) as one:
            value = rate(count, seconds)
            made = one.stop()
        detail: Detail = {"offered": made, "received": settled(count)}
        return [in_millions("raceway firewall", value, detail, "raceway firewall run IFACE -f RULES")]


def nft_drops(seconds: float = SECONDS) -> list[Measurement]:
    """The same by nft, in a netdev ingress chain. Raises PeerUnavailable."""
    return _nft("udp dport 9 counter drop", seconds)


def nft_rules(name: str, seconds: float = SECONDS) -> list[Measurement]:
    """The same by nft, with the same rules. Raises PeerUnavailable."""
    return _nft(nft_text(_mixed(name)), seconds)


def _nft(rules: str, seconds: float, sets: str = "") -> list[Measurement]:
    _needs("nft")
    with prepared() as stage:
        name = stage.lab.interface("b")
        _feed(stage, ["nft", "-f", "-"], _table(name, rules, sets))
        count = _received(stage)
        with source(stage) as one:
            value = rate(count, seconds)
            made = one.stop()
        detail: Detail = {"offered": made, "received": settled(count)}
        return [in_millions("nft, netdev ingress", value, detail, "nft -f RULES")]


def _table(interface: str, rules: str, sets: str = "") -> str:
    head = f"table netdev bench {{\n{sets}\nchain every {{ type filter hook ingress device {interface} priority 0;"
    return f"{head}\n{rules}\n}}\n}}\n"


def iptables_drops(seconds: float = SECONDS) -> list[Measurement]:
    """The same by iptables, in the raw table. Raises PeerUnavailable."""
    return _iptables("-p udp --dport 9", seconds, lambda _: None, "iptables, raw")


def established(seconds: float = SECONDS) -> list[Measurement]:
    """Packets a second of a flood that raceway finds to be of no flow of the host, and drops."""
    return _raceway("default drop\npass established\npass arp", seconds, ("DROP",))


def conntrack(seconds: float = SECONDS) -> list[Measurement]:
    """The same by the kernel's conntrack. Raises PeerUnavailable."""

    def ready(stage: Stage) -> None:
        state = "-m conntrack --ctstate ESTABLISHED,RELATED"
        stage.command("b", "iptables", "-t", "mangle", "-A", "PREROUTING", *state.split(), "-j", "ACCEPT")

    return _iptables("-p udp", seconds, ready, "conntrack, iptables mangle", "mangle")


def _iptables(
    match: str, seconds: float, ready: Callable[[Stage], None], name: str, table: str = "raw"
) -> list[Measurement]:
    with prepared() as stage:
        ready(stage)
        count = iptables_rule(stage, match, table)
        # Its rule is about b's own packets.
        with source(stage, mac=stage.lab.mac("b")) as one:
            value = rate(count, seconds)
            made = one.stop()
        detail: Detail = {"offered": made, "received": settled(count)}
        return [in_millions(name, value, detail, f"iptables -t {table} -A PREROUTING {match} -j DROP")]


def iptables_rule(stage: Stage, match: str, table: str) -> Callable[[], int]:
    """Let iptables drop at b what matches; a function that says how many it has dropped. Raises PeerUnavailable."""
    _needs("iptables")
    stage.command("b", "iptables", "-t", table, "-A", "PREROUTING", *match.split(), "-j", "DROP")

    def count() -> int:
        text = stage.command("b", "iptables", "-t", table, "-vnxL", "PREROUTING")
        found = re.search(r"^\s*(\d+)\s+\d+\s+DROP", text, re.M)
        return int(found[1]) if found else 0

    return count


# A block-list that the flood's source is on.

PREFIXES = 200_000
_SOURCE = "10.0.0.99"
"""Where source.py's packets come from, in the lab."""
_LENGTHS, _SHARES = (24, 25, 28, 29, 30, 31, 32), (20, 2, 3, 4, 4, 5, 62)


@cache
def _block_list() -> list[str]:
    """Prefixes that lie apart, of lengths as block-lists have, and the address that the flood comes from."""
    chance = random.Random(6)
    # In blocks of 256 addresses, of which none is in the lab's network.
    blocks = chance.sample([one for one in range(1 << 16, 224 << 16) if one >> 16 != 10], PREFIXES - 1)
    made = [_SOURCE]
    for block, length in zip(blocks, chance.choices(_LENGTHS, _SHARES, k=len(blocks)), strict=True):
        number = (block << 8 | chance.randrange(256)) >> (32 - length) << (32 - length)
        made.append(f"{socket.inet_ntoa(number.to_bytes(4, 'big'))}/{length}")
    return made


def blocked(seconds: float = SECONDS) -> list[Measurement]:
    """Packets a second of a flood whose source raceway finds in a list of 200,000 prefixes."""
    with tempfile.NamedTemporaryFile("w", suffix=".netset") as file:
        file.write("\n".join(_block_list()))
        file.flush()
        return _raceway(f'set bad = prefixes "{file.name}"\ndrop src in bad', seconds, ("DROP",))


def nft_blocked(seconds: float = SECONDS) -> list[Measurement]:
    """The same by nft, in a set of intervals. Raises PeerUnavailable."""
    elements = ", ".join(_block_list())
    listed = f"set bad {{ type ipv4_addr; flags interval; elements = {{ {elements} }} }}"
    return _nft("ip saddr @bad counter drop", seconds, listed)


def ipset_blocked(seconds: float = SECONDS) -> list[Measurement]:
    """The same by iptables in the raw table, with an ipset of type hash:net. Raises PeerUnavailable."""
    _needs("ipset")
    lines = [f"create bad hash:net maxelem {2 * PREFIXES}", *(f"add bad {one}" for one in _block_list())]

    def ready(stage: Stage) -> None:
        _feed(stage, ["ipset", "restore"], "\n".join(lines) + "\n")

    return _iptables("-m set --match-set bad src", seconds, ready, "ipset, hash:net, in iptables raw")


def _received(stage: Stage) -> Callable[[], int]:
    """Packets that b's interface has handed on: all that were judged there."""
    name = stage.lab.interface("b")

    def count() -> int:
        with stage.lab.inside("b"), Network() as network:
            return network.link_counters(name)["rx_packets"]

    return count


def _needs(program: str) -> None:
    if shutil.which(program) is None:
        raise PeerUnavailable(f"{program} is not here")


def _feed(stage: Stage, command: list[str], text: str) -> None:
    done = stage.lab.run("b", command, input=text, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise PeerUnavailable(f"{command[0]}: {done.stderr.strip()[:200]}")


@cache
def _mixed(name: str) -> RuleSet:
    """A filter set whose rules drop and pass in turn."""
    found = read_classbench(filter_set(name))
    rules = tuple(
        replace(rule, action="pass" if number % 2 else "drop") for number, rule in enumerate(found.rules)
    )
    return replace(found, rules=rules, notes=())


def nft_text(rules: RuleSet) -> str:
    """ClassBench's rules in nft's words."""
    return "\n".join(_nft_rule(rule.text, rule.action) for rule in rules.rules)


def _nft_rule(text: str, action: str) -> str:
    found = re.match(r"@(\S+)\s+(\S+)\s+(\d+) : (\d+)\s+(\d+) : (\d+)\s+0x(\w+)/0x(\w+)", text)
    assert found is not None
    words = [f"ip saddr {found[1]}"] * (not found[1].endswith("/0")) + [f"ip daddr {found[2]}"] * (
        not found[2].endswith("/0")
    )
    protocol = int(found[7], 16) if found[8] != "00" else None
    if protocol is not None:
        words.append(f"ip protocol {protocol}")
    for side, low, high in (("sport", found[3], found[4]), ("dport", found[5], found[6])):
        if (low, high) != ("0", "65535"):
            words.append(f"th {side} {low}" if low == high else f"th {side} {low}-{high}")
    return " ".join([*words, "drop" if action == "drop" else "accept"])


# The classifier alone, over a trace in memory.


@cache
def _trace(name: str, chosen: tuple[int, ...] = ()) -> list[bytes]:
    """Packets at the edges of rules and inside them, in no order. chosen: of these rules, and not of all."""
    chance = random.Random(5)
    rows = _rows(name)
    if chosen:
        rows = rows[list(chosen)]
    made = []
    for _ in range(_BATCH):
        row = rows[chance.randrange(len(rows))].tolist()
        values = [
            chance.choice((low, high, chance.randint(low, high)))
            for low, high in zip(row[::2], row[1::2], strict=True)
        ]
        source_, destination, source_port, destination_port, protocol = values
        if protocol not in (1, 6, 17):
            protocol = 6
        rest = struct.pack("!HHIIHHHH", source_port, destination_port, 0, 0, 0x5000, 0, 0, 0)
        header = struct.pack("!BBHHHBBHII", 0x45, 0, 40, 0, 0, 64, protocol, 0, source_, destination)
        made.append(bytes(12) + b"\x08\x00" + header + rest)
    return made


@cache
def _rows(name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """First and last of each rule's five sides: int64 (rules, 10)."""
    made = []
    for rule in read_classbench(filter_set(name)).rules:
        box = rule.alternatives[0].box
        sides = [
            box.source.ipv4,
            box.destination.ipv4,
            box.source_ports,
            box.destination_ports,
            box.protocols,
        ]
        made.append([number for side in sides for number in side.bounds[0].tolist()])
    rows = np.array(made, np.int64)
    rows[:, 9] = np.minimum(rows[:, 9], 255)
    rows[:, 5], rows[:, 7] = np.minimum(rows[:, 5], 65535), np.minimum(rows[:, 7], 65535)
    return rows


@contextlib.contextmanager
def _batch(name: str) -> Iterator[Any]:
    from raceway.memory.layout import SLOT, Batch
    from raceway.memory.structures import allocate

    packets = _trace(name)
    buffers = np.zeros((len(packets), 64), np.uint8)
    slots, verdicts = np.zeros(len(packets), SLOT), np.zeros(len(packets), np.uint8)
    for index, data in enumerate(packets):
        buffers[index, : len(data)] = np.frombuffer(data, np.uint8)
        slots[index] = (index, len(data), 0, 0)
    batch = allocate(Batch)
    values = {
        "slots": slots.ctypes.data, "buffers": buffers.ctypes.data, "buffer_size": 64, "slot_count": len(packets),
        "count": len(packets), "verdicts": verdicts.ctypes.data,
    }  # fmt: skip
    for field, value in values.items():
        batch[field] = value
    yield batch, verdicts
    del buffers, slots


@cache
def _program(name: str) -> Program:
    return Program(_mixed(name))


def native(name: str) -> float:
    """Millions of packets a second of the firewall's function, native, over the trace."""
    kernel = _program(name).function.native()
    with _batch(name) as (batch, _):
        return _best(lambda: kernel(batch.ctypes.data), _BATCH)


def linear(name: str) -> Measurement:
    """The same by looking at one rule after the other, compiled; over a part of the trace."""
    import numba

    @numba.njit(nogil=True, boundscheck=False)  # type: ignore[untyped-decorator,unused-ignore]
    def search(keys: Any, rows: Any, found: Any) -> None:
        for index in range(keys.shape[0]):
            found[index] = -1
            for rule in range(rows.shape[0]):
                inside = True
                for side in range(5):
                    number = keys[index, side]
                    if number < rows[rule, 2 * side] or number > rows[rule, 2 * side + 1]:
                        inside = False
                        break
                if inside:
                    found[index] = rule
                    break

    rows, keys = _rows(name), _keys(name)[:4096]
    found = np.zeros(len(keys), np.int64)
    value = _best(lambda: search(keys, rows, found), len(keys))
    program = _program(name)
    wanted = [
        program.classifier.match(program.classifier.key(raceway.Packet(one))) for one in _trace(name)[:500]
    ]
    if found[:500].tolist() != wanted:
        raise AssertionError("the classifier and the linear search differ")
    return Measurement("linear search, compiled", value, "Mpps")


@cache
def _keys(name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    made = []
    for data in _trace(name):
        source_, destination = struct.unpack_from("!II", data, 26)
        ports = struct.unpack_from("!HH", data, 34) if data[23] != 1 else (0, 0)
        made.append((source_, destination, *ports, data[23]))
    return np.array(made, np.int64)


def _best(run: Callable[[], object], count: int) -> float:
    run()
    best = float("inf")
    for _ in range(7):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return count / best / 1e6


# A reload.


def reload(name: str) -> float:
    """Seconds from a file of ten thousand rules to their being in force."""
    with Stage() as stage, stage.lab.inside("b"):
        firewall = raceway.Firewall(stage.lab.interface("b"), _mixed(name))
        with firewall:
            firewall.reload(_mixed(name))
            began = time.perf_counter()
            found = read_classbench(filter_set(name))
            firewall.reload(found)
            return time.perf_counter() - began


def nft_reload(name: str) -> Measurement:
    """Seconds of nft -f with the same rules, those before flushed in the same transaction. Raises PeerUnavailable."""
    _needs("nft")
    with Stage() as stage:
        interface = stage.lab.interface("b")
        text = _table(interface, nft_text(_mixed(name)))
        _feed(stage, ["nft", "-f", "-"], text)
        began = time.perf_counter()
        _feed(stage, ["nft", "-f", "-"], f"flush table netdev bench\n{text}")
        return Measurement("nft -f", time.perf_counter() - began, "s")
