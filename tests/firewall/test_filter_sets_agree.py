"""Filter sets of thousands of rules, packets at their edges and anywhere: each target finds what a linear search does.

RACEWAY_SOAK_PACKETS: so many packets a set instead (script/soak says a million). The sets are made here; ClassBench's
own are taken then, too, where they lie beside the project.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filter_oracle import first_match, frames, keys_for, made_filters, table

import raceway
from conftest import SHARED
from labs import needs_root
from packet_cases import needs_native
from raceway.apps.firewall.judging import matched
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.importing.classbench import read_classbench
from raceway.memory.jit import INTERPRETED

PACKETS = int(os.environ.get("RACEWAY_SOAK_PACKETS", "0"))
PIECE = 100_000
SEED = os.getpid() if PACKETS else 3
MADE = {
    "narrow": (2, 300, 0.0),
    "open": (5, 2_000, 0.0),
    "both families": (7, 1_000, 0.5),
    "IPv6": (11, 600, 1.0),
}
SAMPLE = 150


def found_sets() -> list[Path]:
    folder = SHARED / "data" / "classbench"
    return sorted(folder.iterdir()) if PACKETS and folder.is_dir() else []


SETS = [*MADE, *found_sets()]


def filters(name: str | Path) -> str:
    if isinstance(name, Path):
        return name.read_text()
    seed, count, six = MADE[name]
    return made_filters(seed, 60 if INTERPRETED else count, six=six)


def numbered(program: Program):
    """A function that writes the number of the rule that a packet matches, from 1 on, over its first bytes."""
    rules = program.classifier

    @raceway.packet_function
    def number(packet):
        key = rules.key(packet)
        packet.store32(0, rules.match(key) + 1)
        return raceway.PASS

    return number


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@needs_root
@pytest.mark.parametrize("name", SETS, ids=str)
def test_every_target_finds_the_rule_that_a_linear_search_finds(name, tmp_path):
    text = filters(name)
    (tmp_path / "filters").write_text(text)
    program = Program(read_classbench(tmp_path / "filters"))
    rules, number = table(text), numbered(program)
    assert len(rules.limits) == len(program.rule_set.rules)
    hits = 0
    for piece in range(max(1, PACKETS // PIECE)):
        keys = keys_for(rules, PIECE if PACKETS else 6_000, SEED + piece, edges=0.8)
        wanted = first_match(keys, rules)
        packets = frames(keys)
        for target in ("native", "kernel"):
            done = raceway.simulate(number, packets, target)
            found = np.array([int.from_bytes(one[:4], "big") for one in done.packets], np.int64) - 1
            differ = np.flatnonzero(found != wanted)
            assert not len(differ), (target, packets[differ[0]].hex(), found[differ[0]], wanted[differ[0]])
        assert matched(program, packets[:SAMPLE]) == wanted[:SAMPLE].tolist()
        hits += int((wanted >= 0).sum())
    # The trace is no trace of misses.
    assert hits > 0.3 * max(PACKETS, 6_000)


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@needs_root
@pytest.mark.parametrize("target", ["native", "kernel"])
def test_the_whole_firewall_gives_the_verdicts_and_counts_of_a_linear_search(target, tmp_path):
    text = filters("both families")
    (tmp_path / "filters").write_text(text)
    read = read_classbench(tmp_path / "filters")
    actions = ("drop", "pass")
    mixed = tuple(replace(rule, action=actions[number % 2]) for number, rule in enumerate(read.rules))
    program = Program(replace(read, rules=mixed, default="drop"))
    keys = keys_for(table(text), PIECE if PACKETS else 10_000, SEED, edges=0.7)
    wanted = first_match(keys, table(text))
    done = raceway.simulate(program.function, frames(keys), target)
    verdicts = np.where((wanted >= 0) & (wanted % 2 == 1), raceway.PASS, raceway.DROP)
    assert done.verdicts == verdicts.tolist()
    counts = list(program.counts.values())
    assert counts == np.bincount(wanted[wanted >= 0], minlength=len(counts)).tolist()
    assert program.others.values()[0] == (wanted < 0).sum()


@pytest.mark.parametrize("name", list(MADE))
def test_plain_python_finds_the_rule_that_a_linear_search_finds(name, tmp_path):
    text = filters(name)
    (tmp_path / "filters").write_text(text)
    program = Program(read_classbench(tmp_path / "filters"))
    rules = table(text)
    for edges in (0.0, 1.0):
        keys = keys_for(rules, 150, SEED, edges=edges)
        assert matched(program, frames(keys)) == first_match(keys, rules).tolist()
