"""Rules that were spoiled are refused with their file, line and column, or read whole; and a reload by them changes
nothing.

RACEWAY_SOAK_ROUNDS: so many times ten spoiled files of each kind.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from firewall_world import conserved, received, receiver, send
from spoiling import FILES, spoiled, written

import raceway
from conftest import scaled
from labs import lab as lab, needs_root
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.importing.classbench import read_classbench
from raceway.apps.firewall.rules.importing.nftables import read_nftables
from raceway.apps.firewall.rules.language import read_rules
from raceway.memory.jit import INTERPRETED

ROUNDS = int(os.environ.get("RACEWAY_SOAK_ROUNDS", "0")) * 10 or scaled(150, 60)
READERS = {
    "wall.rules": ("wall.rules", read_rules),
    "below/more.rules": ("wall.rules", read_rules),
    "bad.netset": ("wall.rules", read_rules),
    "filters": ("filters", read_classbench),
    "host.nft": ("host.nft", read_nftables),
}
"""For each file the one that is read, and how."""


def chance_of(name: str) -> random.Random:
    return random.Random(f"{name} {os.getpid() if 'RACEWAY_SOAK_ROUNDS' in os.environ else 1}")


def refusal(reads, path: Path, make: bool = True):
    """What a reader says of a file: the error, or None if it reads it, and makes a program of it if asked to."""
    try:
        found = reads(path)
        assert all(rule.alternatives is not None for rule in found.rules)
        if make:
            Program(found)
    except raceway.RulesError as error:
        return error
    return None


@pytest.mark.parametrize("name", list(READERS))
def test_a_spoiled_file_is_refused_where_it_is_wrong_or_read_whole(name, tmp_path):
    written(tmp_path)
    read, reads = READERS[name]
    assert refusal(reads, tmp_path / read) is None
    chance, refused = chance_of(name), 0
    for number in range(ROUNDS):
        data = spoiled(name, chance)
        (tmp_path / name).write_bytes(data)
        error = refusal(reads, tmp_path / read, make=number % 10 == 0)
        if error is None:
            continue
        refused += 1
        where = Path(error.file)
        assert where.is_relative_to(tmp_path), (error, data)
        assert error.line >= 1, data
        assert error.column >= 1, data
        text = where.read_bytes().decode(errors="replace").splitlines() or [""]
        assert error.line <= len(text) + 1, (str(error), data)
        assert str(error).startswith(str(where)), data
        assert str(error).isprintable() or "\n" in str(error), data
    assert refused > ROUNDS // 10


@pytest.mark.skipif(INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off")
@needs_root
def test_a_reload_by_spoiled_files_leaves_the_old_rules_in_force_whole(lab, tmp_path):
    two = lab()
    written(tmp_path)
    rules = "drop udp dst port 9\npass udp dst port 10"
    chance, refused = chance_of("live"), 0
    with two.inside("b"), raceway.Firewall(two.interface("b"), rules) as firewall:
        attached = firewall.attachment.function
        with receiver(two, 9) as nine, receiver(two, 10) as ten:
            while refused < 25:
                name = chance.choice(("wall.rules", "below/more.rules", "bad.netset"))
                written(tmp_path)
                (tmp_path / name).write_bytes(spoiled(name, chance))
                if refusal(read_rules, tmp_path / "wall.rules", make=False) is None:
                    continue
                with pytest.raises(raceway.RulesError):
                    firewall.reload(tmp_path / "wall.rules")
                assert firewall.attachment.function is attached
                refused += 1
                send(two, 9, b"x")
                send(two, 10, b"x")
            assert received(ten) == [b"x"] * refused
            assert received(nine) == []
        status = firewall.status()
    assert [one.packets for one in status.rules] == [refused, refused]
    assert (status.gone, status.aborted) == (0, 0)
    assert conserved(status)


@pytest.mark.parametrize("name", list(FILES))
def test_a_file_of_nothing_but_noise_is_refused(name, tmp_path):
    written(tmp_path)
    read, reads = READERS[name]
    chance = chance_of(f"noise {name}")
    for size in (1, 7, 300, 5000):
        (tmp_path / name).write_bytes(b"\xfe" + bytes(chance.randrange(256) for _ in range(size)))
        assert refusal(reads, tmp_path / read) is not None
