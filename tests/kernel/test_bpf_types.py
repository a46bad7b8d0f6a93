"""The kernel's own type information: a function's number is found, and what is no BTF is no reason to fall over."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from raceway.kernel.bpf import btf

VMLINUX = Path("/sys/kernel/btf/vmlinux")


def made(*types: tuple[bytes, int, int, int, bytes], strings: bytes | None = None) -> bytes:
    """BTF data with these types: name, kind, members, the third word, and what stands behind the three words."""
    names = b"\0" + b"".join(name + b"\0" for name, *_ in types) if strings is None else strings
    body = b""
    for name, kind, members, word, behind in types:
        body += (
            struct.pack("=III", names.index(b"\0" + name + b"\0") + 1, kind << 24 | members, word) + behind
        )
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(names)) + body + names


# One of every kind (Documentation/bpf/btf.rst, section 2.2), each with as much behind it as its kind has.
EVERY_KIND = [
    (b"int", 1, 0, 4, bytes(4)), (b"pointer", 2, 0, 1, b""), (b"array", 3, 0, 0, bytes(12)),
    (b"struct", 4, 2, 8, bytes(24)), (b"union", 5, 3, 8, bytes(36)), (b"enum", 6, 2, 4, bytes(16)),
    (b"forward", 7, 0, 0, b""), (b"typedef", 8, 0, 1, b""), (b"volatile", 9, 0, 1, b""), (b"const", 10, 0, 1, b""),
    (b"restrict", 11, 0, 1, b""), (b"prototype", 13, 2, 1, bytes(16)), (b"variable", 14, 0, 1, bytes(4)),
    (b"section", 15, 2, 0, bytes(24)), (b"float", 16, 0, 8, b""), (b"tag", 17, 0, 1, bytes(4)),
    (b"type tag", 18, 0, 1, b""), (b"enum64", 19, 2, 8, bytes(24)),
]  # fmt: skip


@pytest.mark.parametrize("before", range(len(EVERY_KIND) + 1))
def test_a_function_has_the_number_of_its_place(before):
    data = made(*EVERY_KIND[:before], (b"wanted", 12, 1, 1, b""), *EVERY_KIND[before:])
    assert btf.find_function(data, "wanted") == before + 1


def test_only_a_function_of_just_that_name_is_one():
    data = made((b"wanted", 8, 0, 1, b""), (b"wanted_too", 12, 0, 1, b""), (b"not_wanted", 12, 0, 1, b""))
    assert btf.find_function(data, "wanted") is None
    assert btf.find_function(data, "wanted_too") == 2
    assert btf.find_function(data, "") is None
    assert btf.find_function(data, "nothing") is None


def test_hostile_data_has_no_functions_and_hurts_nobody():
    data = made(*EVERY_KIND, (b"wanted", 12, 0, 1, b""))
    dice = random.Random(1)
    for raw in (b"", b"\0", data[:23], data[:24], b"\x7fELF" + data[4:]):
        assert btf.find_function(raw, "wanted") is None
    for _ in range(3000):
        spoilt = bytearray(data)
        for _ in range(dice.randint(1, 6)):
            spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
        found = btf.find_function(
            bytes(spoilt[: dice.choice((len(spoilt), dice.randrange(len(spoilt))))]), "wanted"
        )
        assert found is None or 0 < found < len(data)


@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel tells nothing of its types")
def test_the_running_kernels_functions_are_found():
    assert btf.kernel_function("bpf_get_nothing_of_the_kind") is None
    numbers = {
        name: btf.kernel_function(name) for name in ("netif_rx", "register_netdevice", "eth_type_trans")
    }
    assert len(set(numbers.values()) - {None}) == len(numbers)


def test_a_kernel_that_tells_nothing_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(btf, "_VMLINUX", tmp_path / "nothing")
    assert btf.kernel_function.__wrapped__("netif_rx") is None
