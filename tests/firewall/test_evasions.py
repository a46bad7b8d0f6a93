"""Packets that try to be taken for something else: each has one meaning, in Python, machine code and the kernel.

The meanings are those of docs/firewall.md, "Evasions".
"""

from __future__ import annotations

import os
import random

import pytest
from evasion_cases import CASES, PASSING, RULES, Case
from packet_meaning import Meaning, meaning

import raceway
from conftest import own_captures, scaled
from labs import needs_root
from packet_cases import needs_native
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.language import parse_rules
from raceway.compile.classifier.classifier import Classifier
from raceway.compile.classifier.walk import WRONGS
from raceway.ports.pcap.capture import load_capture

compiled = pytest.mark.skipif(bool(needs_native), reason=needs_native)
TARGETS = [
    "interpreted",
    pytest.param("native", marks=compiled),
    pytest.param("kernel", marks=[compiled, needs_root]),
]
ROUNDS = 200 * int(os.environ.get("RACEWAY_SOAK_ROUNDS", "10"))
NAMES = [one.name for one in CASES]
KEYS = Classifier([])


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_each_packet_has_the_meaning_that_is_written_down(case: Case):
    found = meaning(case.frame)
    assert found.wrong == case.wrong
    assert list(KEYS.key(raceway.Packet(case.frame))) == found.words
    program = Program(parse_rules(RULES.format(malformed="match")))
    assert program.judge(raceway.Packet(case.frame)).rule == case.rule


def test_rules_can_ask_for_ip_options_and_odd_flags():
    """The two rules that docs/firewall.md gives."""
    program = Program(parse_rules("malformed pass\ndrop ip[0] & 15 > 5\ndrop tcp[13] & 3 == 3"))
    found = {case.name: program.judge(raceway.Packet(case.frame)).rule for case in CASES}
    assert found["source route"] == found["options, all padding"] == 0
    assert found["every TCP flag, and none"] == 1
    assert found["tiny first fragment (RFC 1858)"] == found["802.1Q"] == -1


@pytest.mark.parametrize("malformed", ["drop", "match"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_each_packet_the_same_end(target, malformed):
    program = Program(parse_rules(RULES.format(malformed=malformed)))
    done = raceway.simulate(program.function, [case.frame for case in CASES], target)
    wrongs = [0] * len(WRONGS)
    # There are more counters than rules: code for one rule set serves the next.
    rules = [0] * len(program.counts.values())
    for case, verdict in zip(CASES, done.verdicts, strict=True):
        if case.wrong and malformed != "match":
            wrongs[case.wrong] += 1
            wanted = malformed.upper()
        else:
            rules[case.rule] += 1
            wanted = "PASS" if case.rule in PASSING else "DROP"
        assert verdict.name == wanted, case.name
    assert list(program.others.values()) == wrongs
    assert list(program.counts.values())[: len(rules)] == rules
    assert not any(done.reasons.values())


@pytest.mark.parametrize("target", TARGETS)
def test_a_packet_that_is_cut_off_anywhere_has_one_meaning(target):
    """Every packet of the table, cut at every length that the kernel sees, and one byte longer."""
    frames = [case.frame[:200][:size] for case in CASES for size in range(14, 200) if size <= len(case.frame)]
    frames = list(dict.fromkeys([*frames, *(case.frame + b"\x7f" for case in CASES)]))
    compare(frames[:: scaled(2, 5)], target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_packet_that_was_spoiled_anywhere_has_one_meaning(target):
    rng = random.Random(os.getpid() if "RACEWAY_SOAK_ROUNDS" in os.environ else 4)
    compare([spoiled(rng) for _ in range(ROUNDS * (1 if target == "interpreted" else 6))], target)


def captured() -> list[bytes]:
    made: list[bytes] = []
    for path in own_captures():
        loaded = load_capture(path, packets=60)
        if set(loaded.link_types.tolist()) <= {1}:
            made += [bytes(one)[:300] for one in loaded if len(one) >= 14]
    return made


CAPTURED = captured()


def spoiled(rng: random.Random) -> bytes:
    """A packet of the table or of a capture, a few bytes of its headers changed, cut off or made longer."""
    frame = bytearray(rng.choice(CAPTURED) if rng.random() < 0.3 else rng.choice(CASES).frame[:400])
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(12, min(len(frame), 110)) if len(frame) > 12 else 0
        frame[at] = rng.choice(
            (0, 1, 4, 6, 8, 17, 43, 44, 51, 60, 0x45, 0x60, 0x81, 0xFF, rng.randrange(256))
        )
    if rng.random() < 0.3:
        del frame[rng.randrange(14, len(frame) + 1) :]
    elif rng.random() < 0.2:
        frame += bytes(rng.randrange(1, 30))
    return bytes(frame)


PROBES = """malformed match
drop ip and tcp and src port 1000 and dst port 80
drop ip6 and tcp and src port 1000 and dst port 80
drop tcp dst port 0-255
drop udp dst port 53
drop port 256-9999
drop port 0-65535
drop src 10.0.0.1 and tcp
drop src 10.0.0.1 and dst 10.0.0.2
drop dst ::2
drop tcp
drop udp
drop ip6 and not icmp6
drop proto 58 or proto 60 or proto 44
drop ip
"""


def expected(one: Meaning) -> int:
    """The first of the probes that a packet matches, -1 if none does."""
    a, b = one.ports or (-1, -1)
    tests = [
        one.family == 4 and one.protocol == 6 and a == 1000 and b == 80,
        one.family == 6 and one.protocol == 6 and a == 1000 and b == 80,
        one.protocol == 6 and 0 <= b <= 255,
        one.protocol == 17 and b == 53,
        one.protocol in (6, 17, 132) and (256 <= a <= 9999 or 256 <= b <= 9999),
        one.protocol in (6, 17, 132) and a >= 0,
        one.family == 4 and one.source == 0x0A000001 and one.protocol == 6,
        one.family == 4 and one.source == 0x0A000001 and one.destination == 0x0A000002,
        one.family == 6 and one.destination == 2,
        one.protocol == 6,
        one.protocol == 17,
        one.family == 6 and one.protocol != 58,
        one.protocol in (58, 60, 44),
        one.family == 4,
    ]
    return tests.index(True) if True in tests else -1


PROBING = Program(parse_rules(PROBES)).classifier


@raceway.packet_function
def probe(packet):
    key = PROBING.key(packet)
    packet.store32(0, PROBING.match(key) + 1)
    packet.store8(4, key.wrong)
    return raceway.PASS


def compare(frames: list[bytes], target: str) -> None:
    """That a target sees in each frame what `meaning` does: the rule that it finds, and what is wrong."""
    frames = [one for one in frames if len(one) >= 14]
    done = raceway.simulate(probe, frames, target)
    for frame, after in zip(frames, done.packets, strict=True):
        wanted = meaning(frame)
        found = int.from_bytes(after[:4], "big") - 1, after[4]
        assert found == (expected(wanted), wanted.wrong), frame.hex()
        if target == "interpreted":
            assert list(KEYS.key(raceway.Packet(frame))) == wanted.words, frame.hex()
