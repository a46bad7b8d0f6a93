"""Many packets are looked up at once as each by itself: in Python, and in machine code a function in stages."""

from __future__ import annotations

import random

import numpy as np
import pytest
from test_classifier import RULES as FEW, cases, edges, packet, packet6, random_box

import raceway
from packet_cases import needs_native
from raceway.compile.classifier import batches, tables, walk
from raceway.compile.classifier.classifier import Classifier
from raceway.compile.classifier.sets import Box, Ranges
from raceway.compile.function import Staged

SITE = 0x20010DB8 << 96


def random_rules(rng: random.Random, count: int) -> list[list[Box]]:
    pool = [rng.getrandbits(128) for _ in range(6)]
    pool += [one ^ 1 << rng.randrange(20) for one in pool]
    return [[random_box(rng, pool) for _ in range(rng.choice((1, 1, 2)))] for _ in range(count)]


def random_packets(rng: random.Random, rules, count: int) -> list[bytes]:
    """Packets at the edges of rules: of both families, tagged, cut off, later fragments, with options, and garbage."""
    made = []
    for _ in range(count):
        source, destination = edges(rng, rules), edges(rng, rules)
        ports = tuple(rng.choice((0, 1, 22, 65535, rng.randrange(65536))) for _ in range(2))
        protocol = rng.choice((6, 6, 17, 1, 33, 132, 136, 58, 0, 255, rng.randrange(256)))
        if rng.random() < 0.6:
            data = packet(
                source & 0xFFFFFFFF, destination & 0xFFFFFFFF, ports, protocol, tags=rng.choice((0, 0, 0, 1))
            )
        else:
            data = packet6(source & (1 << 128) - 1, destination & (1 << 128) - 1, ports, protocol)
        bent = bytearray(data + bytes(rng.choice((0, 6, 20))))
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            # Most of these make a packet malformed in some way.
            at = rng.choice((12, 13, 14, 16, 17, 20, 21, 23, 46, rng.randrange(len(bent))))
            bent[at] = rng.choice((0, 1, 6, 17, 0x45, 0x46, 0x50, 0x81, 0xFF, rng.randrange(256)))
        made.append(
            bytes(bent[: rng.choice((len(bent), len(bent), len(bent), rng.randrange(14, len(bent))))])
        )
    return made


@pytest.mark.parametrize("seed", range(6))
def test_a_chunk_of_keys_gets_the_rules_that_each_gets_by_itself(seed):
    rng = random.Random(seed)
    rules = random_rules(rng, rng.choice((1, 5, 40, 120)))
    classifier = Classifier(rules)
    assert classifier.joint
    for _ in range(4):
        count = rng.choice((1, 7, batches.CHUNK))
        words = np.zeros(batches.PLACES, np.int64)
        wanted = []
        for index, data in enumerate(random_packets(rng, rules, count)):
            key, answers = classifier.key(raceway.Packet(data)), rng.randrange(64)
            at = batches.KEYS + index * walk.KEY_WORDS
            words[at : at + walk.KEY_WORDS] = key
            words[batches.ANSWERS + index] = answers
            wanted.append(classifier.match(key, answers))
        batches.match_all(classifier.memory, memoryview(words), count)
        assert words[batches.ANSWERS : batches.ANSWERS + count].tolist() == wanted


@pytest.mark.parametrize("seed", range(3))
def test_the_key_of_an_ordinary_packet_is_that_of_any_packet(seed):
    rng = random.Random(seed)
    rules = random_rules(rng, 5)
    plain = 0
    for data in [*cases(), *random_packets(rng, rules, 1500)]:
        found, wanted = [0] * walk.KEY_WORDS, [0] * walk.KEY_WORDS
        one = raceway.Packet(data)
        walk.key(one, found)
        walk.key_of_any(one, wanted)
        assert found == wanted, data.hex()
        plain += found[walk.FAMILY] == 4 and found[walk.WRONG] == 0 and len(data) >= 54
    assert plain > 100


def one_sided(rng: random.Random, rules: list[list[Box]]) -> list[list[Box]]:
    """The same, each box with conditions on one side: so that many rules are the first for some packet."""
    sides = ("source", "destination", "source_ports", "destination_ports", "protocols")
    return [
        [Box(**{side: getattr(box, side)}) for box in boxes]
        for boxes in rules
        if (side := rng.choice(sides))
        and all(getattr(box, side) is not getattr(Box(), side) for box in boxes)
    ]


SOME = one_sided(random.Random(48), random_rules(random.Random(48), 60))
STAGED = Classifier(SOME)
FOUND = raceway.Counters(len(SOME) + 1)
WRONG = raceway.Counters(len(walk.WRONGS))
BUCKET = raceway.TokenBucket(1, burst=2)


def asked(packet):
    answers = 0
    if len(packet) > 70:
        answers = 1
    return answers


def decided(packet, wrong, rule):
    WRONG.add(wrong)
    FOUND.add(rule + 1)
    if rule == 3:
        return packet.load8(70)
    if rule < 0 and not BUCKET.allow(packet):
        return raceway.TX
    return raceway.PASS if rule & 1 else raceway.DROP


@raceway.packet_function
def in_stages(packet):
    key = STAGED.key(packet)
    return decided(packet, key.wrong, STAGED.match(key, asked(packet)))


in_stages.staged = Staged(STAGED, asked, decided, (FOUND,))


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
def test_a_function_in_stages_does_what_it_does_packet_by_packet():
    rng = random.Random(8)
    packets = random_packets(rng, SOME, 3 * batches.CHUNK + 5) + cases()
    whole = packet(1, 2, (3, 4))
    packets += [bytes(length) for length in range(14)] + [whole[:20] + b"\x00\x01" + whole[22:]]
    times = sorted(rng.randrange(1, 2_000_000_000) for _ in packets)
    results = []
    for where in ("interpreted", "native"):
        for state in (FOUND, WRONG, BUCKET):
            state.clear()
        done = raceway.simulate(in_stages, packets, where, times=times)
        results.append((done.verdicts, done.packets, done.reasons, FOUND.values(), WRONG.values()))
    assert results[0] == results[1]
    verdicts, _, reasons, _, wrongs = results[0]
    assert {raceway.PASS, raceway.DROP, raceway.TX, raceway.ABORTED} <= set(verdicts)
    assert reasons["out_of_bounds"] or reasons["bad_verdict"]
    assert all(wrongs)


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
def test_a_function_in_stages_goes_round_a_ring():
    from raceway.memory.layout import SLOT, Batch
    from raceway.memory.structures import allocate

    packets = random_packets(random.Random(5), SOME, 100)
    size, verdicts = 192, []
    for first in (0, 60):
        buffers, slots = np.zeros((100, size), np.uint8), np.zeros(100, SLOT)
        out = np.zeros(100, np.uint8)
        for index, data in enumerate(packets):
            at = (first + index) % 100
            buffers[at, 8 : 8 + len(data)] = np.frombuffer(data, np.uint8)
            slots[at] = (at, len(data), 8, 0)
        batch = allocate(Batch)
        values = {
            "slots": slots.ctypes.data, "buffers": buffers.ctypes.data, "buffer_size": size, "slot_count": 100,
            "first": first, "count": 100, "verdicts": out.ctypes.data, "now": 1,
        }  # fmt: skip
        for name, value in values.items():
            batch[name] = value
        BUCKET.clear()
        assert in_stages.native()(batch.ctypes.data) == 100
        verdicts.append(out.tolist())
    assert verdicts[0] == verdicts[1]


def test_combinations_that_are_too_many_for_one_table_are_looked_up_group_by_group(monkeypatch):
    monkeypatch.setattr(tables, "JOINT", 0)
    rng = random.Random(3)
    rules = random_rules(rng, 40)
    apart = Classifier(rules)
    monkeypatch.undo()
    joint = Classifier(rules)
    assert joint.joint
    assert not apart.joint
    for data in random_packets(rng, rules, 300):
        key, answers = joint.key(raceway.Packet(data)), rng.randrange(64)
        assert apart.match(key, answers) == joint.match(key, answers)


def test_rules_without_any_condition_on_ports_have_no_table_of_them():
    classifier = Classifier([[Box(protocols=Ranges([(6, 6)]))]])
    assert classifier.used < 4096
    assert len(FEW) == 6
