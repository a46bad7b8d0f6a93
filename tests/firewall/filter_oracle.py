"""ClassBench-like filter sets, packets for them, and a linear search: what the classifier is compared with.

    filters (text)  --- read_classbench --->  the firewall's rules
          |
          +--- `table` here --->  numbers a filter  --- `first_match` --->  the first that matches, for each packet

Nothing here is shared with `raceway.compile.classifier`: an address is looked at as a prefix (a masked comparison of
two halves), not as a range, and one filter after the other.
"""

from __future__ import annotations

import ipaddress
import random
import re
import struct
from dataclasses import dataclass

import numba
import numpy as np

FAMILY, SOURCE, DESTINATION, PORTS, PROTOCOL = 0, 1, 3, 5, 7
"""Columns of a packet's key: family; high and low half of source and destination; two ports; protocol."""
COLUMNS = 8
_TEXT = re.compile(r"@(\S+)\s+(\S+)\s+(\d+)\s*:\s*(\d+)\s+(\d+)\s*:\s*(\d+)\s+0x(\w+)/0x(\w+)")
_HALF = (1 << 64) - 1
_PORTED = (6, 17, 33, 132, 136)


def made_filters(seed: int, count: int, *, six: float = 0.0) -> str:
    """Filters of the kinds that ClassBench's seeds give: few sites, nested prefixes, narrow or open on a side; some
    ranges of ports. six: the share that is about IPv6."""
    chance = random.Random(seed)
    open_source, open_destination = chance.choice(((0.02, 0.02), (0.5, 0.2), (0.1, 0.5)))
    sites = {
        4: [chance.getrandbits(16) << 16 for _ in range(12)],
        6: [0x2001 << 112 | chance.getrandbits(32) << 80 for _ in range(12)],
    }
    ports = [(0, 65535), (0, 65535), (1024, 65535), *((one, one) for one in chance.sample(range(10000), 25))]
    ports += [tuple(sorted(chance.sample(range(65536), 2))) for _ in range(3)]

    def side(family: int, share: float) -> str:
        bits = 32 if family == 4 else 128
        if chance.random() < share:
            return "0.0.0.0/0" if family == 4 else "::/0"
        length = chance.choice(
            (bits, bits, bits - 1, bits - 4, bits - 8, bits // 2, bits // 2 - 3, bits // 4)
        )
        number = chance.choice(sites[family]) | chance.getrandbits(bits // 2)
        number = number >> (bits - length) << (bits - length)
        return f"{ipaddress.IPv4Address(number) if family == 4 else ipaddress.IPv6Address(number)}/{length}"

    lines = []
    for _ in range(count):
        family = 6 if chance.random() < six else 4
        (a, b), (c, d) = chance.choice(ports[:6]), chance.choice(ports)
        protocol = chance.choice(
            ("0x06/0xFF", "0x06/0xFF", "0x11/0xFF", "0x01/0xFF", "0x00/0x00", "0x00/0x10")
        )
        lines.append(
            f"@{side(family, open_source)}\t{side(family, open_destination)}\t{a} : {b}\t{c} : {d}\t{protocol}\n"
        )
    return "".join(lines)


@dataclass
class Table:
    """Filters as numbers, a row each. numbers: uint64 (filters, 8), mask and value of the halves of source and
    destination; limits: int64 (filters, 7), family, then first and last of both ports, then value and mask of the
    protocol."""

    numbers: np.ndarray
    limits: np.ndarray


def table(text: str) -> Table:
    """Read filters once more, by themselves."""
    numbers, limits = [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        found = _TEXT.match(line)
        assert found is not None, line
        row = []
        for part in found.group(1, 2):
            network = ipaddress.ip_network(part)
            mask, value = int(network.netmask), int(network.network_address)
            row += [mask >> 64, mask & _HALF, value >> 64, value & _HALF]
        ports = [int(number) for number in found.group(3, 4, 5, 6)]
        value, mask = int(found[7], 16), int(found[8], 16)
        numbers.append(row)
        limits.append([network.version, *ports, value & mask, mask])
    return Table(np.array(numbers, np.uint64), np.array(limits, np.int64))


@numba.njit(nogil=True)
def _first_match(keys, numbers, limits, found):
    for index in range(keys.shape[0]):
        found[index] = -1
        for rule in range(numbers.shape[0]):
            if np.int64(keys[index, 0]) != limits[rule, 0]:
                continue
            inside = True
            for half in range(4):
                # Masks of source are in columns 0 and 1, its values in 2 and 3; those of the destination behind.
                at = half // 2 * 4 + half % 2
                if keys[index, 1 + half] & numbers[rule, at] != numbers[rule, at + 2]:
                    inside = False
                    break
            if not inside:
                continue
            first, second, protocol = (
                np.int64(keys[index, 5]),
                np.int64(keys[index, 6]),
                np.int64(keys[index, 7]),
            )
            if first < limits[rule, 1] or first > limits[rule, 2]:
                continue
            if second < limits[rule, 3] or second > limits[rule, 4]:
                continue
            if protocol & limits[rule, 6] != limits[rule, 5]:
                continue
            found[index] = rule
            break


def first_match(keys: np.ndarray, rules: Table) -> np.ndarray:
    """The first filter that each packet matches, -1 for none: int64 (packets,). keys: uint64 (packets, 8)."""
    found = np.zeros(len(keys), np.int64)
    _first_match(keys, rules.numbers, rules.limits, found)
    return found


def keys_for(rules: Table, count: int, seed: int, *, edges: float) -> np.ndarray:
    """Keys of packets: uint64 (count, 8). edges: the share that lies in some filter, on its borders or right beside
    them; the others are anywhere."""
    chance = np.random.default_rng(seed)
    rows = chance.integers(len(rules.numbers), size=count)
    numbers, limits = rules.numbers[rows], rules.limits[rows]
    keys = np.zeros((count, COLUMNS), np.uint64)
    keys[:, FAMILY] = limits[:, 0]
    for half in range(4):
        at = half // 2 * 4 + half % 2
        free = ~numbers[:, at]
        if half % 2 == 0:
            free[limits[:, 0] == 4] = 0
        else:
            free[limits[:, 0] == 4] &= np.uint64(0xFFFFFFFF)
        inside = chance.integers(1 << 64, size=count, dtype=np.uint64, endpoint=False) & free
        kind = chance.integers(6, size=count)
        inside[kind == 0] = 0
        inside[kind == 1] = free[kind == 1]
        keys[:, 1 + half] = numbers[:, at + 2] | inside
        if half % 2:
            # One beside the border, on either side.
            beside = chance.integers(12, size=count)
            narrow = np.where(limits[:, 0] == 4, np.uint64(0xFFFFFFFF), np.uint64(_HALF))
            keys[:, 1 + half] = (
                np.where(beside == 0, keys[:, 1 + half] + np.uint64(1), keys[:, 1 + half]) & narrow
            )
            keys[:, 1 + half] = (
                np.where(beside == 1, keys[:, 1 + half] - np.uint64(1), keys[:, 1 + half]) & narrow
            )
    for side in range(2):
        low, high = limits[:, 1 + 2 * side], limits[:, 2 + 2 * side]
        kind = chance.integers(8, size=count)
        port = chance.integers(low, high + 1)
        port = np.select([kind == 0, kind == 1, kind == 2, kind == 3], [low, high, low - 1, high + 1], port)
        keys[:, PORTS + side] = np.clip(port, 0, 65535)
    protocol = np.where(limits[:, 6] == 0xFF, limits[:, 5], chance.choice([1, 6, 6, 17, 17, 47], size=count))
    anything = chance.random(count) >= edges
    some = int(anything.sum())
    for column in (2, 4):
        keys[anything, column] = chance.integers(1 << 32, size=some)
    keys[anything, PORTS] = chance.integers(65536, size=some)
    keys[anything, PORTS + 1] = chance.integers(65536, size=some)
    protocol[anything] = chance.choice([1, 6, 17, 132, 136, 2, 255], size=some)
    keys[:, PROTOCOL] = protocol
    # ClassBench has ports 0 where a packet has none.
    keys[~np.isin(protocol, _PORTED), PORTS : PORTS + 2] = 0
    return keys


def frames(keys: np.ndarray) -> list[bytes]:
    """The packets of keys."""
    made = []
    for family, *row in keys.tolist():
        source, destination = row[0] << 64 | row[1], row[2] << 64 | row[3]
        first, second, protocol = row[4:]
        data = struct.pack("!HHIIHHHH", first, second, 0, 0, 0x5000, 0, 0, 0)
        if family == 4:
            head = struct.pack("!BBHHHBBHII", 0x45, 0, 40, 0, 0, 64, protocol, 0, source, destination)
            made.append(bytes(12) + b"\x08\x00" + head + data)
        else:
            head = struct.pack("!IHBB", 6 << 28, 20, protocol, 64)
            addresses = source.to_bytes(16, "big") + destination.to_bytes(16, "big")
            made.append(bytes(12) + b"\x86\xdd" + head + addresses + data)
    return made
