"""Rules and lists that are read quickly mean what they mean read slowly."""

from __future__ import annotations

import gc
import ipaddress
import random
import struct

import numpy as np
import pytest

import raceway
from raceway.apps.firewall import judging
from raceway.apps.firewall.judging import matched
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.conditions import Conditions
from raceway.apps.firewall.rules.expression import Named, read
from raceway.apps.firewall.rules.language import parse_rules, read_rules
from raceway.apps.firewall.rules.lists import load_prefixes
from raceway.apps.firewall.rules.matching import boxes
from raceway.apps.firewall.rules.text import Place
from raceway.compile.classifier.classes import distinct_rows
from raceway.compile.classifier.sets import Addresses, Ranges, merged
from raceway.compile.recipe import recipe
from raceway.memory.collection import without_collection

LINES = [
    "192.0.2.1", "10.0.0.0/8", "10.1.2.3/8", "255.255.255.255/32", "0.0.0.0/32", "198.51.100.7/08", "2001:db8::/32",
    "2001:db8::1", "::ffff:192.0.2.1", "198.51.100.7-198.51.100.9", "2001:db8::5 - 2001:db8::9", "# a comment", "",
    "  192.0.2.77 ; why", "203.0.113.0/24\t# since Monday", "# é",
]  # fmt: skip
WRONG = [
    "192.0.2", "192.0.2.", "192.0.2.256", "192.0.2.1.1", "192.0.02.1", "192.0.2.1/", "192.0.2.1/33", "192.0.2.1/0032",
    "192/0.2.1", "1.2/3.4.5", "/8", "192.0.2.1/2/4", "...", "2001:db8::1/32", "1::2::3", "00:11:22:33:44:55", "x",
    "198.51.100.9-198.51.100.7", "192.0.2.1 192.0.2.2", "\u0661.2.3.4",
]  # fmt: skip


def pair(line: str) -> tuple[int, int, int]:
    """Version, first and last of a line, by Python's own library."""
    said = line.split("#")[0].split(";")[0].strip()
    if "-" in said:
        first, last = (ipaddress.ip_address(one.strip()) for one in said.split("-"))
        return first.version, int(first), int(last)
    address, _, length = said.partition("/")
    network = ipaddress.ip_network(f"{address}/{int(length)}" if length else address, strict=False)
    return network.version, int(network[0]), int(network[-1])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x0c"])
def test_a_list_holds_what_its_lines_say(tmp_path, end):
    chance = random.Random(end)
    path = tmp_path / "list"
    for _ in range(60):
        lines = [chance.choice(LINES) for _ in range(chance.randrange(30))]
        path.write_bytes((end.join(lines) + chance.choice(("", end, end * 2))).encode())
        found = load_prefixes(path)
        wanted = [pair(line) for line in lines if line and line[0] != "#"]
        assert found.ipv4 == Ranges([one[1:] for one in wanted if one[0] == 4])
        assert found.ipv6 == merged([one[1:] for one in wanted if one[0] == 6])


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("end", ["\n", "\x0c"])
def test_a_line_of_a_list_that_is_nothing_of_the_kind_is_said(tmp_path, wrong, end):
    path = tmp_path / "list"
    lines = ["10.0.0.0/8", "# ü", "2001:db8::1", "192.0.2.1", wrong, "192.0.2.9"]
    path.write_text(end.join(lines) + end)
    with pytest.raises(raceway.RulesError) as caught:
        load_prefixes(path)
    assert (caught.value.line, caught.value.column) == (5, 1)
    assert f"\n  {wrong}\n" in str(caught.value)


NAMES = {
    "bad": Named("bad", addresses=Addresses.of_prefixes([raceway.prefix("10.0.0.0/8")])),
    "web": Named("web", ports=Ranges([(80, 80), (443, 443)])),
}
ADDRESSES = [
    "10.0.0.1",
    "10.0.0.0/8",
    "2001:db8::1",
    "2001:db8::/32",
    "::/0",
    "0.0.0.0/0",
    "::ffff:192.0.2.1",
]
ADDRESSES += [
    "10.0.0.1/8",
    "10.1",
    "10.0.0",
    "1.2.3.400",
    "1.2.3.04",
    "::1/129",
    "1::2::3",
    "bad",
    "web",
    "2001:DB8::5",
]
PORTS = ["80", "443", "80-90", "9-5", "http", "99999", "0x50", "web", "80, 443", "80,443 , 8000-8080", "bad"]


def condition(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.45:
        side = chance.choice(
            ["src ", "dst ", "", "src or dst ", "src and dst ", "tcp src ", "ip dst ", "ip6 src "]
        )
        return side + chance.choice(["host ", "net ", "", "in "]) + chance.choice(ADDRESSES)
    if kind < 0.8:
        protocol = chance.choice(["", "tcp ", "udp ", "icmp ", "ip ", "ip6 "])
        side = chance.choice(["src ", "dst ", "", "src or dst "])
        return protocol + side + chance.choice(["port ", "portrange ", "port in ", ""]) + chance.choice(PORTS)
    if kind < 0.95:
        return chance.choice(["tcp", "udp", "icmp", "ip", "ip6", "TCP", "any", "pim", "esp"])
    return chance.choice(["80", "10.0.0.1", "not tcp", "(udp or tcp)", "proto 17", "", "src"])


def test_an_expression_read_by_its_parts_is_the_one_read_as_a_whole():
    chance = random.Random(3)
    conditions = Conditions(NAMES)
    read_so_far = 0
    for _ in range(500):
        words = [condition(chance)]
        for _ in range(chance.choice((0, 0, 1, 2, 3))):
            words += [
                chance.choice([" and ", " and ", "  and\t", " or ", " && ", " AND ", " and not "]),
                condition(chance),
            ]
        text = "".join(words)
        place = Place("x", 3, f"drop {text}", 6)
        wanted, refusal = [], ""
        try:
            wanted = boxes(read(text, place, NAMES))
        except raceway.RulesError as error:
            refusal = str(error)
        if refusal:
            with pytest.raises(raceway.RulesError) as caught:
                conditions.read(text, place)
            assert str(caught.value) == refusal
            continue
        tree, found = conditions.read(text, place)
        assert found == wanted == boxes(tree), text
        read_so_far += 1
    assert read_so_far > 100


def test_many_rules_and_a_long_list_find_what_looking_at_each_finds(tmp_path):
    chance = random.Random(4)

    def text(number: int) -> str:
        return str(ipaddress.IPv4Address(number)) if number < 1 << 32 else str(ipaddress.IPv6Address(number))

    sites = [chance.getrandbits(32) & 0xFFFF0000 for _ in range(10)]
    sites += [0x20010DB8 << 96 | chance.getrandbits(16) << 80 for _ in range(10)]
    bad = [
        ipaddress.ip_network((chance.getrandbits(32), chance.choice((20, 24, 32))), strict=False)
        for _ in range(5000)
    ]
    (tmp_path / "bad").write_text("\n".join(map(str, bad)))
    rules = []
    for _ in range(1000):
        site = chance.choice(sites)
        ends = [
            (
                chance.choice([one for one in sites if (one < 1 << 32) == (site < 1 << 32)])
                | chance.getrandbits(4)
            )
            for _ in "sd"
        ]
        rules.append((chance.choice((6, 17)), chance.choice((53, 80)), *ends))
    lines = [
        f"pass {'tcp' if protocol == 6 else 'udp'} dst port {port} and src host {text(one)} and dst {text(other)}"
        for protocol, port, one, other in rules
    ]
    (tmp_path / "wall").write_text("\n".join(['set bad = prefixes "bad"', *lines, "drop src in bad"]))
    classifier = Program(read_rules(tmp_path / "wall")).classifier
    starts = np.array(sorted((int(one[0]), int(one[-1])) for one in bad))
    firsts: dict[tuple[int, ...], int] = {}
    for number, rule in enumerate(rules):
        firsts.setdefault(rule, number)
    hits = 0
    for _ in range(400):
        protocol, port, one, other = chance.choice(rules)
        one, other = one ^ chance.choice((0, 0, 1)), other ^ chance.choice((0, 0, 1))
        if chance.random() < 0.3:
            one = int(chance.choice(bad)[chance.choice((0, -1))]) if one < 1 << 32 else one
        wanted = firsts.get((protocol, port, one, other), -1)
        if wanted < 0 and one < 1 << 32 and ((starts[:, 0] <= one) & (one <= starts[:, 1])).any():
            wanted = len(rules)
        mask = (1 << 64) - 1
        halves = [
            half - (half >> 63 << 64) for end in (one, other) for half in (end >> 64 & mask, end & mask)
        ]
        key = [4 if one < 1 << 32 else 6, *halves, 1000, port, protocol, 0]
        assert classifier.match(key) == wanted, (protocol, port, text(one), text(other))
        hits += wanted >= 0
    assert 100 < hits < 400


def test_other_rules_of_the_same_kinds_have_the_same_code():
    def code(count: int) -> str:
        text = "\n".join(
            f"{('drop', 'pass')[number % 2]} tcp dst port {1000 + number}" for number in range(count)
        )
        found = recipe(Program(parse_rules(text)).function)
        assert found is not None
        return found.text

    assert code(17) == code(31)
    assert code(3) == code(9)


def test_many_packets_match_the_rules_that_few_do(monkeypatch):
    rules = "drop tcp dst port 80 and src 10.0.0.1\npass udp\ndrop src net 10.0.0.0/8"
    program = Program(parse_rules(rules))

    def packet(source: int, protocol: int, port: int) -> bytes:
        header = struct.pack("!BBHHHBBHII", 0x45, 0, 40, 0, 0, 64, protocol, 0, source, 1)
        return bytes(12) + b"\x08\x00" + header + struct.pack("!HHIIHHHH", 1, port, 0, 0, 0x5000, 0, 0, 0)

    packets = [
        packet(source, protocol, port)
        for source in (0x0A000001, 0x0A000002, 0x0B000000)
        for protocol in (6, 17, 1)
        for port in (80, 81)
    ]
    packets += [b"", packets[0][:20]]
    few = matched(program, packets)
    assert set(few) == {-1, 0, 1, 2}
    monkeypatch.setattr(judging, "MANY", 1)
    monkeypatch.setattr(judging, "_AT_ONCE", 7)
    assert matched(program, iter(packets)) == few


def test_distinct_rows_are_those_that_numpy_finds():
    chance = np.random.default_rng(1)
    for high in (1, 3, 1 << 40):
        columns = [chance.integers(0, high, 200) for _ in range(3)]
        rows, numbers = distinct_rows(columns)
        wanted, inverse = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
        assert rows.tolist() == wanted.tolist()
        assert numbers.tolist() == inverse.reshape(-1).tolist()
    assert distinct_rows([np.zeros(0, np.int64)] * 2)[0].shape == (0, 2)


def test_the_collector_is_as_it_was_behind_an_error_too():
    assert gc.isenabled()
    with pytest.raises(raceway.RulesError):
        parse_rules("drop nonsense nonsense")
    assert gc.isenabled()
    with without_collection():
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
