"""The ground floor: records at addresses, looking at many slots at once, and a cache that is never stale."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import raceway
from raceway.errors import RegionError
from raceway.memory import sources
from raceway.memory.jit import INTERPRETED, entry
from raceway.memory.layout import SLOT, Kring
from raceway.memory.region import Region
from raceway.memory.scanning import RESULT, Scan, scan_slots
from raceway.memory.sources import sources_hash
from raceway.memory.structures import allocate, structure
from raceway.memory.timers import precise_timers

PACKAGE = Path(raceway.__file__).parent
CALL = np.dtype([("slots", "<i8"), ("count", "<i8"), ("limits", "<i8"), ("result", "<i8")])
Call = structure("Call", CALL)

PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30  # linux/prctl.h
libc = ctypes.CDLL(None)


def timer_slack() -> int:
    """How late the kernel may wake the calling thread, in nanoseconds."""
    return libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)


@entry
def scan_once(address: int) -> int:
    call = Call(address)
    scan_slots(call.slots, call.count, call.limits, call.result)
    return 0


small = st.integers(-3, 70)
wild = st.integers(-(2**31), 2**31 - 1)
slot = st.tuples(*[st.one_of(small, wild)] * 4)


@settings(max_examples=300, deadline=None)
@given(slots=st.lists(slot, max_size=40))
def test_a_scan_finds_what_a_look_at_each_slot_finds(slots):
    array = np.zeros(len(slots) + 1, SLOT)
    for index, values in enumerate(slots):
        array[index] = values
    scan = allocate(Scan)
    scan["lowest_buffer"], scan["highest_buffer"] = 1, 50
    scan["highest_length"] = scan["highest_offset"] = 64
    scan["highest_flags"] = 2**31 - 1
    call = allocate(Call)
    base = scan.ctypes.data
    call[0] = (array.ctypes.data, len(slots), base, base + RESULT)
    scan_once(call.ctypes.data)
    limits = ((1, 50), (0, 64), (0, 64), (0, 2**31 - 1))
    bad = any(
        not low <= value <= high
        for values in slots
        for value, (low, high) in zip(values, limits, strict=True)
    ) or any(length + offset > 64 for _, length, offset, _ in slots)
    found = scan[0]
    assert (min(found["bad_buffer"], found["bad_length"], found["bad_offset"], found["bad_flags"]) < 0) == bad
    union = 0
    for values in slots:
        union |= values[3]
    assert found["union_flags"] == union
    assert (int(found["sum_length"]) - sum(values[1] for values in slots)) % 2**32 == 0


def test_a_record_has_only_signed_64_bit_numbers_and_no_field_called_address():
    with pytest.raises(TypeError, match="signed 64-bit"):
        structure("Wrong", np.dtype([("a", "<u8")]))
    with pytest.raises(TypeError, match=r"Wrong\.address"):
        structure("Wrong", np.dtype([("address", "<i8")]))
    record = allocate(Kring)
    view = Kring(record.ctypes.data)
    view.head = -5
    assert record["head"][0] == -5
    assert record.ctypes.data % 64 == 0
    assert "head=-5" in repr(view)


Twin = structure("Twin", np.dtype([("first", "<i8")]))
OtherTwin = structure("Twin", np.dtype([("second", "<i8"), ("first", "<i8")]))


@entry
def add_twins(address: int) -> int:
    return Twin(address).first * 100 + OtherTwin(address).first


def test_two_records_of_one_name_keep_their_own_fields():
    words = np.array([3, 4], np.int64)
    assert add_twins(words.ctypes.data) == 304


def test_a_region_gives_what_it_has_and_says_when_it_has_no_more():
    region = Region(buffer_size=64, buffers=10)
    first = region.allocate_buffers(10)
    assert first == 1
    region.buffer(10)[:3] = b"abc"
    with pytest.raises(IndexError, match="buffer 11 is not one of this region's buffers 1 to 10"):
        region.buffer(11)
    with pytest.raises(RegionError, match="buffers left"):
        region.allocate_buffers(1 << 20)
    with pytest.raises(RegionError, match="no room left"):
        region.allocate(1 << 30)
    region.close()


def test_a_descriptor_that_is_no_sealed_region_is_refused():
    for make in (
        lambda: os.memfd_create("unsealed"),
        lambda: os.open("/dev/null", os.O_RDWR),
        lambda: os.pipe()[0],
    ):
        descriptor = make()
        with pytest.raises(RegionError, match="the other end's"):
            Region(descriptor=descriptor)
        os.close(descriptor)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("magic", 1),
        ("size", 5),
        ("buffer_size", 7),
        ("buffers_end", 1 << 40),
        ("rings_next", -1),
        ("holdings", 1 << 20),
    ],
)
def test_a_region_whose_header_lies_is_refused(field, value):
    region = Region(buffers=4)
    region.header[field] = value
    with pytest.raises(RegionError, match="header"):
        Region(descriptor=region.descriptor)
    region.close()


def test_precise_timers_are_precise_for_their_thread_alone_and_only_meanwhile():
    """In a thread of its own, whose slack is first made one that is nobody's default."""
    slack: list[int] = []
    inside, looked = threading.Event(), threading.Event()

    def live() -> None:
        libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(70_000), 0, 0, 0)
        slack.append(timer_slack())
        with precise_timers():
            slack.append(timer_slack())
            inside.set()
            looked.wait(20)
        slack.append(timer_slack())
        with pytest.raises(KeyError), precise_timers():
            raise KeyError
        slack.append(timer_slack())

    mine = timer_slack()
    thread = threading.Thread(target=live)
    thread.start()
    assert inside.wait(20)
    assert timer_slack() == mine
    looked.set()
    thread.join()
    assert slack == [70_000, 1000, 70_000, 70_000]
    assert timer_slack() == mine


def run(code: str, package: Path, cache: Path, **environment: str) -> str:
    """Run a program with a copy of the package and a cache of its own."""
    variables = (
        os.environ | {"PYTHONPATH": str(package.parent), "RACEWAY_CACHE_DIR": str(cache)} | environment
    )
    variables.pop("NUMBA_DISABLE_JIT", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables | environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


COUNT = """
import raceway
with raceway.open('null:') as port:
    port.rxsync()
    print(port.rx[0].packets, port.rx[0].space)
"""


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
def test_a_change_in_a_callee_of_another_file_is_never_answered_from_the_cache(tmp_path):
    package = tmp_path / "raceway"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    cache = tmp_path / "cache"
    packets, space = run(COUNT, package, cache).split()
    assert packets == space
    assert run(COUNT, package, cache) == f"{packets} {space}"
    assert len(list(cache.glob("compiled-*"))) == 1
    callee = package / "memory" / "ring.py"
    text = callee.read_text()
    assert "    ring.packets += count\n" in text
    stamp = callee.stat()
    callee.write_text(text.replace("    ring.packets += count\n", "    ring.packets += 2 * count\n"))
    # Not even a file that pretends to be as old as before is believed.
    os.utime(callee, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(COUNT, package, cache) == f"{2 * int(packets)} {space}"
    assert len(list(cache.glob("compiled-*"))) == 2


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
def test_without_a_place_for_a_cache_everything_works_all_the_same(tmp_path):
    packets, space = run(COUNT, PACKAGE, Path("/proc/nowhere")).split()
    assert packets == space


def test_interpreted_the_compiler_is_not_even_imported(tmp_path):
    code = COUNT + "\nimport sys\nprint('numba' in sys.modules)"
    assert run(code, PACKAGE, tmp_path, NUMBA_DISABLE_JIT="1").split()[-1] == "False"


def test_help_imports_neither_numba_nor_numpy(tmp_path):
    code = (
        "import sys\nsys.argv = ['raceway', '--help']\nfrom raceway.faces.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numba', 'numpy'} & set(sys.modules)))"
    )
    assert run(code, PACKAGE, tmp_path).splitlines()[-1] == "[]"


def test_the_hash_over_the_sources_is_the_same_each_time():
    assert sources_hash() == sources_hash()
    assert len(sources_hash()) == 24


def test_the_noted_hash_is_that_of_the_files_and_no_longer_when_one_changes(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    file = package / "inner" / "one.py"
    file.write_text("1\n")
    (package / "two.py").write_text("2\n")
    monkeypatch.setattr(sources, "_PACKAGE", package)
    monkeypatch.setattr(sources, "_SETTLED", -(1 << 62))
    reads = []
    read_all = sources._read_all
    monkeypatch.setattr(sources, "_read_all", lambda: reads.append(1) or read_all())
    first = sources_hash(tmp_path)
    assert (sources_hash(tmp_path), sources_hash(), len(reads)) == (first, first, 2)
    # The same size, and a time set back: the kernel notes the change all the same.
    before = file.stat()
    time.sleep(0.02)
    file.write_text("3\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = sources_hash(tmp_path)
    assert second != first
    assert (sources_hash(tmp_path), len(reads)) == (second, 3)
    (package / "three.py").write_text("")
    assert sources_hash(tmp_path) not in (first, second)
    # A note that others could have written, or that is not whole, is none.
    (note,) = tmp_path.glob("sources-*")
    third = sources_hash(tmp_path)
    for text in ("", "what", note.read_text().split()[0], f"{'0' * 32} {'0' * 32}"):
        note.write_text(text)
        assert sources_hash(tmp_path) == third
    note.write_text(f"{note.read_text().split()[0]} {'0' * 32}\n")
    note.chmod(0o666)
    assert sources_hash(tmp_path) == third


def test_what_changed_a_moment_ago_is_not_noted(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "one.py").write_text("1\n")
    monkeypatch.setattr(sources, "_PACKAGE", package)
    sources_hash(tmp_path)
    assert not list(tmp_path.glob("sources-*"))
