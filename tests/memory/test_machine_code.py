"""Machine code that is kept on disk: loaded without a compiler, made anew where what was kept is not sound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raceway.memory import machine_code
from raceway.memory.jit import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="about machine code")

DOUBLE = """
define i64 @double(i64 %number) {
  %sum = add i64 %number, %number
  ret i64 %sum
}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_code, "cache_directory", lambda: tmp_path)
    return tmp_path


def never():
    raise AssertionError("was asked to compile")


def test_what_was_compiled_once_is_loaded_from_then_on(place):
    assert machine_code.kept("test", b"double", lambda: DOUBLE).function("double")(21) == 42
    again = machine_code.kept("test", b"double", never)
    assert again.function("double")(-4) == -8
    with pytest.raises(KeyError):
        again.address("triple")
    with pytest.raises(AssertionError):
        machine_code.kept("test", b"another key", never)
    assert [path.suffix for path in place.iterdir()] == [".object"]


@pytest.mark.parametrize("harm", ["cut", "empty", "changed", "missing"])
def test_a_kept_file_that_is_not_sound_is_made_anew(place, harm):
    machine_code.kept("test", b"double", lambda: DOUBLE)
    (path,) = place.iterdir()
    whole = path.read_bytes()
    if harm == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "changed":
        for at in (3, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(AssertionError):
                machine_code.kept("test", b"double", never)
    else:
        path.unlink()
    assert machine_code.kept("test", b"double", lambda: DOUBLE).function("double")(1) == 2
    assert path.read_bytes() == whole


def test_where_nothing_can_be_kept_it_is_compiled_each_time(monkeypatch):
    monkeypatch.setattr(machine_code, "cache_directory", lambda: None)
    assert machine_code.kept("test", b"double", lambda: DOUBLE).function("double")(5) == 10


def test_kept_files_do_not_pile_up(place, monkeypatch):
    monkeypatch.setattr(machine_code, "_KEPT", 3)
    for number in range(6):
        machine_code.kept("test", bytes([number]), lambda: DOUBLE)
    assert len(list(place.iterdir())) == 3
    machine_code.kept("test", bytes([5]), never)


def test_a_warm_filter_run_imports_no_numba(tmp_path):
    """The start is most of what a small file costs."""
    capture = Path(__file__).parent.parent / "data" / "captures" / "tcp-options.pcap"
    words = ["filter", "-r", str(capture), "-w", str(tmp_path / "out.pcap"), "tcp"]
    code = (
        "import sys\n"
        f"sys.argv = ['raceway', *{words!r}]\n"
        "from raceway.faces.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('numba' in sys.modules)"
    )
    for _ in range(2):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
        assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"
