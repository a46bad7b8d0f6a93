"""Filter sets to measure a classifier with: ClassBench's where they are at hand, and else sets of that kind.

ClassBench's acl1_10k and fw1_10k are looked for in a folder `shared/data/classbench` beside the project. The made ones
follow what such sets look like (Taylor, Turner 2005): sources and destinations from a few sites, most of them narrow on
both sides or on one, few kinds of ports; one constant seed.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "classbench"


def filter_set(name: str, count: int = 10_000) -> Path:
    """The file of a filter set: acl1_10k, fw1_10k."""
    found = _SHARED / name
    if found.exists():
        return found
    made = Path(tempfile.gettempdir()) / f"raceway-bench-{name}"
    made.write_text("".join(_lines(name, count)))
    return made


def _lines(name: str, count: int) -> list[str]:
    chance = random.Random(name)
    sites = [chance.getrandbits(32) & 0xFFFF0000 for _ in range(40)]
    open_source, open_destination = (0.02, 0.02) if name.startswith("acl") else (0.55, 0.2)
    ports = ["0 : 65535", *(f"{one} : {one}" for one in chance.sample(range(1, 10000), 60)), "1024 : 65535"]
    made = []
    for _ in range(count):
        source, destination = (_prefix(chance, sites, share) for share in (open_source, open_destination))
        wanted = ports[0], chance.choice(ports)
        if not name.startswith("acl"):
            wanted = chance.choice(ports[:8]), chance.choice(ports)
        protocol = chance.choice(("0x06/0xFF", "0x06/0xFF", "0x11/0xFF", "0x01/0xFF", "0x00/0x00"))
        made.append(f"@{source}\t{destination}\t{wanted[0]}\t{wanted[1]}\t{protocol}\t0x0000/0x0000\n")
    return made


def _prefix(chance: random.Random, sites: list[int], share_open: float) -> str:
    if chance.random() < share_open:
        return "0.0.0.0/0"
    length = chance.choice((32, 32, 32, 31, 30, 28, 24, 23))
    number = (chance.choice(sites) | chance.getrandbits(16)) & (0xFFFFFFFF << (32 - length))
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/{length}"
