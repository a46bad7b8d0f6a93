"""The classifier gives the first rule that matches: the same as looking at one rule after the other."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

import raceway
from packet_cases import needs_native
from raceway.compile.classifier import groups, tables, walk
from raceway.compile.classifier.classifier import Classifier, Key
from raceway.compile.classifier.groups import TooComplexError
from raceway.compile.classifier.sets import (
    ANY_ADDRESS,
    ANY_ANSWER,
    ANY_IPV4,
    ANY_IPV6,
    ANY_PORT,
    ANY_PROTOCOL,
    LAST_4,
    LAST_6,
    NO_PORT,
    NO_PROTOCOL,
    Addresses,
    Box,
    Ranges,
    merged,
)


def signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def random_ranges(rng: random.Random, last: int, none: int) -> Ranges:
    pairs = []
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        first = rng.choice((0, 1, last, last - 1, rng.randint(0, last)))
        pairs.append((first, min(last, first + rng.choice((0, 0, 1, 10, last)))))
    if rng.random() < 0.3:
        pairs.append((none, none))
    return Ranges(pairs)


def random_addresses(rng: random.Random, pool: list[int]) -> Addresses:
    four, six = [], []
    for _ in range(rng.choice((1, 1, 1, 3, 12))):
        number = rng.choice(pool)
        if rng.random() < 0.7:
            rest = LAST_4 >> rng.choice((0, 4, 8, 15, 16, 17, 24, 30, 32, 32, 32))
            four.append((number & LAST_4 & ~rest, number & LAST_4 | rest))
        else:
            rest = LAST_6 >> rng.choice((0, 3, 16, 32, 48, 60, 64, 65, 96, 127, 128, 128))
            six.append((number & ~rest, number | rest))
    return Addresses(Ranges(four), merged(six), none=rng.random() < 0.2)


def random_box(rng: random.Random, pool: list[int]) -> Box:
    def side(any_, made, chance=0.5):
        return any_ if rng.random() < chance else made()

    answers = Ranges([(one, one) for one in range(64) if one & 5 == 1])
    return Box(
        side(ANY_ADDRESS, lambda: random_addresses(rng, pool)),
        side(ANY_ADDRESS, lambda: random_addresses(rng, pool)),
        side(ANY_PORT, lambda: random_ranges(rng, 65535, NO_PORT), 0.7),
        side(ANY_PORT, lambda: random_ranges(rng, 65535, NO_PORT)),
        side(ANY_PROTOCOL, lambda: random_ranges(rng, 255, NO_PROTOCOL)),
        side(ANY_ANSWER, lambda: answers, 0.9),
    )


def holds(ranges, number: int) -> bool:
    if isinstance(ranges, Ranges):
        return any(first <= number <= last for first, last in ranges.bounds.tolist())
    return any(first <= number <= last for first, last in ranges)


def in_addresses(addresses: Addresses, family: int, number: int) -> bool:
    if family == 4:
        return holds(addresses.ipv4, number)
    return holds(addresses.ipv6, number) if family == 6 else addresses.none


def oracle(rules, family, source, destination, ports, protocol, answers) -> int:
    for number, boxes in enumerate(rules):
        for box in boxes:
            if (
                in_addresses(box.source, family, source)
                and in_addresses(box.destination, family, destination)
                and holds(box.source_ports, NO_PORT if ports is None else ports[0])
                and holds(box.destination_ports, NO_PORT if ports is None else ports[1])
                and holds(box.protocols, NO_PROTOCOL if protocol is None else protocol)
                and holds(box.answers, answers)
            ):
                return number
    return -1


def edges(rng: random.Random, rules) -> int:
    """A number at the edge of some rule's prefix, or beside it."""
    box = rng.choice(rng.choice(rules))
    side = rng.choice((box.source, box.destination))
    pairs = [*side.ipv4.bounds.tolist(), *side.ipv6]
    if not pairs:
        return rng.getrandbits(128)
    return max(0, rng.choice(rng.choice(pairs)) + rng.choice((-1, 0, 0, 1)))


@pytest.mark.parametrize("seed", range(12))
def test_every_key_gets_the_rule_that_looking_at_one_after_the_other_gives(seed):
    rng = random.Random(seed)
    pool = [rng.getrandbits(128) for _ in range(6)]
    pool += [one ^ 1 << rng.randrange(20) for one in pool]
    rules = [
        [random_box(rng, pool) for _ in range(rng.choice((1, 1, 2)))]
        for _ in range(rng.choice((1, 5, 40, 120)))
    ]
    classifier = Classifier(rules)
    for _ in range(400):
        family = rng.choice((4, 4, 6, 6, 0))
        mask = LAST_4 if family == 4 else LAST_6 if family == 6 else 0
        source, destination = (
            (edges(rng, rules) if rng.random() < 0.8 else rng.choice(pool)) & mask for _ in range(2)
        )
        protocol = rng.choice((6, 17, 255, 0, rng.randrange(256))) if family else None
        ports = None
        if protocol is not None and rng.random() < 0.7:
            ports = tuple(rng.choice((0, 1, 65535, 65534, rng.randrange(65536))) for _ in range(2))
        answers = rng.randrange(64)
        key = Key([
            family, signed(source >> 64), signed(source), signed(destination >> 64), signed(destination),
            *(ports or (-1, -1)), -1 if protocol is None else protocol, 0,
        ])  # fmt: skip
        found = classifier.match(key, answers)
        assert found == oracle(rules, family, source, destination, ports, protocol, answers), (
            seed,
            key,
            answers,
        )


KINDS_OF_ADDRESSES = (
    ANY_ADDRESS,
    ANY_IPV4,
    ANY_IPV6,
    ANY_IPV4 | ANY_IPV6,
    Addresses(ANY_IPV4.ipv4, none=True),
    Addresses(Ranges(), none=True),
)


def random_box_without_addresses(rng: random.Random) -> Box:
    return Box(
        rng.choice(KINDS_OF_ADDRESSES),
        rng.choice(KINDS_OF_ADDRESSES),
        rng.choice((ANY_PORT, ANY_PORT, Ranges([(0, 9)]), Ranges([(NO_PORT, NO_PORT)]))),
        rng.choice((ANY_PORT, random_ranges(rng, 65535, NO_PORT))),
        rng.choice((ANY_PROTOCOL, random_ranges(rng, 255, NO_PROTOCOL), Ranges([(6, 6)]))),
        rng.choice((ANY_ANSWER, ANY_ANSWER, Ranges([(2, 2), (7, 9)]))),
    )


def test_rules_that_look_at_no_address_are_one_look_and_say_the_same():
    rng = random.Random(7)
    seen = 0
    for _ in range(60):
        boxes = rng.choice((1, 1, 2, 9))
        rules = [
            [random_box_without_addresses(rng) for _ in range(rng.choice((0, 1, 1, 2)))] for _ in range(boxes)
        ]
        classifier = Classifier(rules)
        seen += classifier.flat
        for _ in range(60):
            family = rng.choice((4, 6, 0))
            protocol = rng.choice((6, 17, 255, 0, rng.randrange(256))) if family else None
            ports = None
            if protocol is not None and rng.random() < 0.7:
                ports = tuple(rng.choice((0, 1, 65535, 65534, rng.randrange(65536))) for _ in range(2))
            numbers = *(ports or (-1, -1)), -1 if protocol is None else protocol
            answers = rng.randrange(12)
            found = classifier.match(Key([family, 0, 1, 0, 2, *numbers, 0]), answers)
            assert found == oracle(rules, family, 1, 2, ports, protocol, answers), (rules, family, numbers)
    assert seen > 40


def test_a_rule_with_an_address_and_combinations_beyond_a_table_are_looked_up_in_all_steps(monkeypatch):
    rule = [Box(destination_ports=Ranges([(9, 9)]))]
    assert Classifier([rule]).flat
    assert not Classifier([]).flat
    assert not Classifier([rule, [Box(source=host("10.1.0.0/16"))]]).flat
    monkeypatch.setattr(tables, "FLAT", 1)
    assert not Classifier([rule]).flat


def packet(source: int, destination: int, ports, protocol: int = 6, *, tags: int = 0) -> bytes:
    transport = struct.pack("!HH", *ports) + bytes(8) + b"\x50" + bytes(7)
    header = struct.pack(
        "!BBHHHBBHII", 0x45, 0, 20 + len(transport), 0, 0, 64, protocol, 0, source, destination
    )
    return bytes(12) + b"\x81\x00\x00\x05" * tags + b"\x08\x00" + header + transport


def packet6(source: int, destination: int, ports, protocol: int = 17) -> bytes:
    transport = struct.pack("!HHHH", *ports, 8, 0)
    header = struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64)
    return (
        bytes(12)
        + b"\x86\xdd"
        + header
        + source.to_bytes(16, "big")
        + destination.to_bytes(16, "big")
        + transport
    )


def host(text: str) -> Addresses:
    return Addresses.of_prefixes([raceway.prefix(text)])


RULES = Classifier([
    [Box(source=host("10.1.0.0/16"), destination_ports=Ranges([(22, 22)]))],
    [Box(destination=host("2001:db8::/32"), protocols=Ranges([(17, 17)]))],
    [Box(source=host("10.1.2.0/24")), Box(source=host("10.9.0.0/16"))],
    [Box(answers=Ranges([(1, 1), (3, 3)]))],
    [Box(source=ANY_IPV4, protocols=Ranges([(6, 6)]))],
    [Box(source=ANY_IPV6)],
])  # fmt: skip
FOUND = raceway.Counters(8)
WRONG = raceway.Counters(len(walk.WRONGS))


@raceway.packet_function
def classify(packet):
    key = RULES.key(packet)
    WRONG.add(key.wrong)
    answers = 0
    if len(packet) > 200:
        answers = 1
    rule = RULES.match(key, answers)
    FOUND.add(rule + 1)
    if rule < 0:
        return raceway.PASS
    return raceway.DROP


def cases() -> list[bytes]:
    made = []
    for source in (0x0A010101, 0x0A010203, 0x0A090000, 0x0A0A0000, 0xFFFFFFFF, 0):
        for ports in ((1, 22), (22, 1), (0, 65535)):
            made += [packet(source, 1, ports), packet(source, 1, ports, 17, tags=2)]
            made.append(packet(source, 1, ports) + bytes(200))
    site = 0x20010DB8 << 96
    made += [
        packet6(1, site | last, (1, 2), protocol)
        for last in (0, (1 << 96) - 1, 1 << 96)
        for protocol in (17, 6)
    ]
    whole = packet(0x0A010101, 1, (1, 22))
    return (
        made
        + [whole[:length] for length in range(14, len(whole))]
        + [packet6(1, site, (1, 2))[:50], bytes(60)]
    )


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@pytest.mark.parametrize("target", ["native", "kernel"])
def test_machine_code_and_the_kernel_find_what_python_finds(target):
    results = []
    for where in ("interpreted", target):
        FOUND.clear()
        WRONG.clear()
        done = raceway.simulate(classify, cases(), where)
        results.append((done.verdicts, done.reasons, FOUND.values(), WRONG.values()))
    assert results[0] == results[1]
    assert all(results[0][2][1:7])


WITHOUT_ADDRESSES = Classifier([
    [Box(ANY_IPV4, ANY_IPV4, destination_ports=Ranges([(22, 22)]), protocols=Ranges([(6, 6)]))],
    [Box(ANY_IPV6, ANY_IPV6, protocols=Ranges([(17, 17)]), answers=Ranges([(1, 1)]))],
    [Box(ANY_IPV6, ANY_IPV6, protocols=Ranges([(6, 6)])), Box(source_ports=Ranges([(22, 23)]))],
    [Box(answers=Ranges([(1, 1)]))],
    [Box(Addresses(Ranges(), none=True))],
    [Box(ANY_IPV4, protocols=Ranges([(17, 17)]))],
])  # fmt: skip


@raceway.packet_function
def classify_without_addresses(packet):
    key = WITHOUT_ADDRESSES.key(packet)
    answers = 0
    if len(packet) > 200:
        answers = 1
    FOUND.add(WITHOUT_ADDRESSES.match(key, answers) + 1)
    return raceway.PASS


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@pytest.mark.parametrize("target", ["native", "kernel"])
def test_machine_code_and_the_kernel_find_the_same_where_no_rule_looks_at_addresses(target):
    assert WITHOUT_ADDRESSES.flat
    given = [*cases(), packet6(1, 2, (3, 4)) + bytes(200), bytes(12) + b"\x08\x06" + bytes(46)]
    results = []
    for where in ("interpreted", target):
        FOUND.clear()
        done = raceway.simulate(classify_without_addresses, given, where)
        results.append((done.verdicts, done.reasons, FOUND.values()))
    assert results[0] == results[1]
    assert all(results[0][2][:7])


MANY = [
    Classifier([[Box(source=host(f"10.{number}.0.0/16"))], [Box(destination_ports=Ranges([(22, 22)]))]])
    for number in range(1, 7)
]
ONE, TWO, THREE, FOUR, FIVE, SIX = MANY


@raceway.packet_function
def asks_six_classifiers_and_writes_between(packet):
    first = ONE.key(packet)
    found = ONE.match(first) + TWO.match(first) * 4 + THREE.match(first) * 16
    if len(packet) > 14:
        packet.store8(26, 10)
        packet.store8(27, 5)
    second = ONE.key(packet)
    found += FOUR.match(second) * 64 + FIVE.match(second) * 256 + SIX.match(second) * 1024
    WRONG.add(first.wrong)
    FOUND[1] = found + 1365
    return raceway.PASS


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@pytest.mark.parametrize("target", ["native", "kernel"])
def test_six_walks_in_one_function_are_not_too_much_for_the_verifier_and_see_what_was_written(target):
    for data in cases():
        results = []
        for where in ("interpreted", target):
            FOUND.clear()
            done = raceway.simulate(asks_six_classifiers_and_writes_between, [data], where)
            results.append((done.verdicts, done.reasons, FOUND.values()))
        assert results[0] == results[1]


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        (1, bytes(12) + b"\x81\x00\x00\x01" * 5 + b"\x08\x00" + bytes(40)),
        (1, bytes(12) + b"\x81\x00\x00"),
        (2, packet(1, 2, (3, 4))[:30]),
        (2, packet(1, 2, (3, 4)).replace(b"\x45", b"\x44", 1)),
        (2, packet6(1, 2, (3, 4))[:50]),
        (3, packet(1, 2, (3, 4))[:-1]),
        (3, packet6(1, 2, (3, 4))[:-1]),
        (4, packet6(1, 2, (3, 4)).replace(b"\x11\x40", b"\x00\x40", 1)[:58] + b"\x00\xff" + bytes(3)),
        (5, packet(1, 2, (3, 4))[:16] + b"\x00\x1c" + packet(1, 2, (3, 4))[18:42]),
        (6, packet(1, 2, (3, 4))[:20] + b"\x00\x01" + packet(1, 2, (3, 4))[22:]),
        (0, packet(1, 2, (3, 4))[:20] + b"\x00\x02" + packet(1, 2, (3, 4))[22:]),
        (0, packet(1, 2, (3, 4), tags=4)),
        (0, bytes(60)),
    ],
)
def test_a_malformed_packet_is_said_to_be(reason, data):
    assert RULES.key(raceway.Packet(data)).wrong == reason, walk.WRONGS[reason]


def test_no_rules_match_nothing_and_a_rule_without_boxes_neither():
    key = RULES.key(raceway.Packet(packet(1, 2, (3, 4))))
    assert Classifier([]).match(key) == -1
    assert Classifier([[], [Box()], []]).match(key) == 1
    assert Classifier([[Box(protocols=Ranges())]]).match(key) == -1


def test_prefixes_of_a_list_cost_one_class_however_many_they_are():
    many = Addresses(Ranges(np.stack((np.arange(50_000) * 1000, np.arange(50_000) * 1000 + 3), axis=1)))
    classifier = Classifier([[Box(source=many)], [Box(source=host("10.0.0.0/8"))]])
    for number in (0, 3, 4, 999, 1000, 49_999_000, 49_999_004, 0x0A000000, 0x0AFFFFFF, 0x0B000000):
        key = RULES.key(raceway.Packet(packet(number, 2, (3, 4))))
        wanted = 0 if number % 1000 < 4 and number < 50_000_000 else 1 if number >> 24 == 10 else -1
        assert classifier.match(key) == wanted, number


def crossing_ranges(count: int) -> list[list[Box]]:
    rng = random.Random(1)
    rules = []
    for _ in range(count):
        first, second = (sorted(rng.sample(range(65536), 2)) for _ in range(2))
        rules.append([Box(source_ports=Ranges([first]), destination_ports=Ranges([second]))])
    return rules


def test_ranges_that_cross_are_parted_into_groups():
    rules = crossing_ranges(500)
    classifier = Classifier(rules)
    rng = random.Random(2)
    for _ in range(200):
        ports = rng.randrange(65536), rng.randrange(65536)
        key = RULES.key(raceway.Packet(packet(1, 2, ports)))
        assert classifier.match(key) == oracle(rules, 4, 1, 2, ports, 6, 0)


def test_ranges_that_cross_in_too_many_ways_are_refused_with_a_reason(monkeypatch):
    monkeypatch.setattr(groups, "GROUPS", 2)
    with pytest.raises(TooComplexError, match="overlap in too many ways"):
        Classifier(crossing_ranges(500))
