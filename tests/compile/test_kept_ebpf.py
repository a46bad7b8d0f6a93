"""eBPF that was generated once is kept on disk; what is taken from there is exactly what would be generated."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

import raceway
from labs import needs_root
from raceway.compile.bpf import kept
from raceway.compile.bpf.generated import Generated, Part, Reference
from raceway.compile.recipe import recipe
from raceway.memory.jit import INTERPRETED

TEXT = """
import raceway
from labs import needs_root
from raceway import DROP, PASS, prefix

LIMIT = 5
PORTS = (22, 23)
HOME = prefix("10.0.0.0/8")
TABLE = raceway.HashTable(100)
COUNT = raceway.Counters("a", "b")
ROUTES = raceway.PrefixTable(10)
BUCKET = raceway.TokenBucket(10, 20)
WEB = raceway.expression("tcp port 80")


def helper(packet, number):
    return packet.load8(14) + number


@raceway.packet_function
def function(packet):
    if WEB(packet):
        COUNT["a"] += 1
    ip = packet.ipv4
    if not ip or ip.source == HOME or ip.destination == "192.0.2.0/24":
        return DROP
    if helper(packet, 3) > LIMIT or packet.udp and packet.udp.source_port in PORTS:
        TABLE.put(ip.source, min(LIMIT, 3))
        return PASS
    if ROUTES.lookup(ip.source) or not BUCKET.allow(packet):
        return DROP
    return PASS
"""
NATIVE_ONLY = pytest.mark.skipif(
    INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
)


@pytest.fixture
def written(tmp_path):
    """Imports a text as a module, each time as a new one."""

    def write(text: str = TEXT):
        name = f"kept_{len(list(tmp_path.iterdir()))}"
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        specification = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return write


def test_the_same_text_has_the_same_recipe_in_another_module(written):
    one, other = written(), written()
    first, second = recipe(one.function), recipe(other.function)
    assert first.text == second.text
    assert {*first.states} == {one.TABLE, one.COUNT, one.ROUTES, one.BUCKET}
    assert first.states != second.states
    # What state objects hold is no part of it.
    other.TABLE.put(5, 6)
    other.ROUTES["10.0.0.0/8"] = 7
    other.COUNT["a"] += 1
    assert recipe(other.function).text == first.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 5", "LIMIT = 6"),
        ("LIMIT = 5", "LIMIT = True"),
        ("PORTS = (22, 23)", "PORTS = (22, 24)"),
        ("PORTS = (22, 23)", "PORTS = (22, 23, 25)"),
        ("10.0.0.0/8", "10.0.0.0/9"),
        ('prefix("10.0.0.0/8")', 'raceway.Packet(bytes(40)).ethernet.source'),
        ("192.0.2.0/24", "192.0.2.0/25"),
        ("HashTable(100)", "HashTable(1000)"),
        ("HashTable(100)", "HashTable(100, key_words=6)"),
        ('Counters("a", "b")', 'Counters("b", "a")'),
        ('Counters("a", "b")', 'Counters("a", "b", "c")'),
        ("PrefixTable(10)", "PrefixTable(11)"),
        ("TokenBucket(10, 20)", "TokenBucket(11, 20)"),
        ("TokenBucket(10, 20)", "TokenBucket(10, 21)"),
        ("tcp port 80", "tcp port 81"),
        ("packet.load8(14) +", "packet.load8(15) +"),
        ("packet.load8(14) +", "packet.load16(14) +"),
        ("helper(packet, 3)", "helper(packet, 4)"),
        ("        return DROP", "        return PASS"),
        ("min(LIMIT, 3)", "max(LIMIT, 3)"),
        ("min(LIMIT, 3)", "int(LIMIT)"),
    ],
)  # fmt: skip
def test_whatever_a_function_depends_on_is_in_its_recipe(written, old, new):
    assert old in TEXT
    assert recipe(written(TEXT.replace(old, new, 1)).function).text != recipe(written().function).text


def test_a_global_that_changes_changes_the_recipe(written):
    module = written()
    before = recipe(module.function).text
    module.LIMIT = 6
    assert recipe(module.function).text != before
    module.LIMIT = 5
    assert recipe(module.function).text == before


def test_two_tables_are_not_one_table_twice(written):
    text = """
import raceway
from labs import needs_root
FIRST = raceway.Counters(4)
SECOND = {second}


def helper(packet):
    SECOND.add(1)
    return 1


@raceway.packet_function
def function(packet):
    FIRST.add(1)
    return helper(packet)
"""
    one = recipe(written(text.format(second="FIRST")).function)
    two = recipe(written(text.format(second="raceway.Counters(4)")).function)
    assert one.text != two.text
    assert len(one.states) == 1
    assert len(two.states) == 2


def test_what_cannot_be_written_down_has_no_recipe(written):
    module = written()

    class Odd(raceway.Counters):
        pass

    module.COUNT = Odd("a", "b")
    assert recipe(module.function) is None
    module.COUNT = raceway.Counters("a", "b")
    assert recipe(module.function) is not None
    module.COUNT.lock = threading.Lock()
    assert recipe(module.function) is None
    module.COUNT = raceway.Counters("a", "b")
    module.LIMIT = [5]
    assert recipe(module.function) is None


def generated(module) -> Generated:
    from raceway.kernel.functions.loading import generated_for

    return generated_for(module.function)


@pytest.fixture
def compiled(monkeypatch):
    """The names of the functions that were compiled."""
    from raceway.compile.bpf import generate as generating

    names: list[str] = []
    real = generating.generate

    def generate(function, *arguments, **options):
        names.append(function.name)
        return real(function, *arguments, **options)

    monkeypatch.setattr(generating, "generate", generate)
    return names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of the test's own."""
    made = tmp_path / "cache" / "compiled-test"
    made.mkdir(parents=True)
    monkeypatch.setattr(kept, "cache_directory", lambda: made)
    return made / "ebpf"


@NATIVE_ONLY
def test_the_second_time_is_the_first_over_again_bound_to_new_objects(written, folder, compiled):
    one, other = written(), written()
    first, second = generated(one), generated(other)
    assert compiled == ["function"]
    assert second.instructions == first.instructions
    assert (second.name, second.processors, second.ir) == (first.name, first.processors, first.ir)
    names = ("TABLE", "COUNT", "ROUTES", "BUCKET")
    of_first = {id(getattr(one, name)): name for name in names}
    of_second = {id(getattr(other, name)): name for name in names}
    assert [of_first[id(state)] for state in first.states] == [
        of_second[id(state)] for state in second.states
    ]
    assert len(second.states) == 4
    for left, right in zip(first.references, second.references, strict=True):
        assert (left.instruction, left.offset) == (right.instruction, right.offset)
        if isinstance(left.wanted, str):
            assert left.wanted == right.wanted
        else:
            assert of_first[id(left.wanted)] == of_second[id(right.wanted)]


@NATIVE_ONLY
def test_constants_of_an_earlier_compilation_are_not_kept_as_todays(written, folder, compiled):
    module = written()
    module.function.native()
    module.LIMIT = 6
    generated(module)
    changed = written(TEXT.replace("LIMIT = 5", "LIMIT = 6"))
    generated(changed)
    assert compiled == ["function", "function"]


@pytest.fixture
def stored(written, folder):
    """A recipe and what is kept for it, which nobody has generated."""
    made = recipe(written().function)
    code = bytes.fromhex("1800000000000000") + bytes(8) + bytes.fromhex("9500000000000000")
    references = (Reference(0, made.states[1], 8),)
    parts = (Part(0, None), Part(2, ("context", 80, "number")))
    kept.store(made, Generated("function", code, references, made.states[1:2], 2, "ir", (), parts))
    found = kept.load(made, 2)
    assert found.references == references
    assert found.parts == parts
    return made, folder


def test_broken_and_strange_files_are_as_if_not_there(stored):
    made, folder = stored
    (file,) = folder.iterdir()
    whole = file.read_bytes()

    def ignored(content: bytes) -> bool:
        file.write_bytes(content)
        return kept.load(made, 2) is None

    assert not ignored(whole)
    for broken in (b"", whole[:-1], whole[: len(whole) // 2], whole[:20], whole + b"x", b"\0" * len(whole)):
        assert ignored(broken)
    for at in range(len(whole)):
        assert ignored(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    # Whole by its checksum, and not what was ever written.
    state = {
        "name": "function", "instructions": "18" + "00" * 15, "references": [], "states": [], "ir": "", "parts": [],
    }  # fmt: skip

    def with_checksum(content: bytes) -> bytes:
        rest = zlib.compress(content)
        return kept._MAGIC + kept._checksum(file, rest) + rest

    assert not ignored(with_checksum(json.dumps(state).encode()))
    for content in (b"", b"[]", b"{}", b'{"name": 1}', b"[" * 100_000):
        assert ignored(with_checksum(content))
    for wrong in (
        {"instructions": "18"}, {"instructions": "x"}, {"instructions": 5}, {"references": [[0, 77, 0]]},
        {"references": [[0, -1, 0]]}, {"references": [[0, True, 0]]}, {"references": [[1, 0, 0]]},
        {"references": [[-1, 0, 0]]}, {"references": [[0, "any_map", 0]]}, {"references": [[0, 0, -1]]},
        {"references": [[0, 0]]}, {"parts": [[2, None]]}, {"parts": [[-1, None]]}, {"parts": [[True, None]]},
        {"parts": [[0]]}, {"parts": [[0, ["memory"]]]}, {"parts": [[0, [0]]]}, {"parts": [[0, [1 << 20]]]},
        {"parts": None}, {"states": [4]}, {"states": ["a"]}, {"states": None},
    ):  # fmt: skip
        assert ignored(with_checksum(json.dumps(state | wrong).encode())), wrong


def test_another_functions_file_under_this_ones_name_is_not_believed(stored, written):
    made, folder = stored
    (file,) = folder.iterdir()
    other = recipe(written(TEXT.replace("LIMIT = 5", "LIMIT = 77")).function)
    kept.store(other, Generated("function", bytes(16), (), (), 2, "ir"))
    (another,) = [one for one in folder.iterdir() if one != file]
    file.write_bytes(another.read_bytes())
    assert kept.load(made, 2) is None
    assert kept.load(other, 2) is not None
    assert kept.load(other, 4) is None


def test_what_is_not_this_users_alone_is_not_believed(stored):
    made, folder = stored
    (file,) = folder.iterdir()
    file.chmod(0o622)
    assert kept.load(made, 2) is None
    file.chmod(0o600)
    assert kept.load(made, 2) is not None
    folder.chmod(0o777)
    assert kept.load(made, 2) is None
    folder.chmod(0o700)
    real = file.rename(folder / "real")
    file.symlink_to(real)
    assert kept.load(made, 2) is None
    file.unlink()
    os.mkfifo(file)
    assert kept.load(made, 2) is None
    file.unlink()
    file.mkdir()
    assert kept.load(made, 2) is None
    file.rmdir()
    real.rename(file)
    assert kept.load(made, 2) is not None
    if os.geteuid() == 0:
        os.chown(file, 12345, 12345)
        assert kept.load(made, 2) is None


def test_the_functions_used_last_stay(written, folder, monkeypatch):
    monkeypatch.setattr(kept, "KEPT", 2)
    made = [recipe(written(TEXT.replace("LIMIT = 5", f"LIMIT = {number}")).function) for number in range(4)]
    abandoned = folder / ".new-1"
    for number, one in enumerate(made):
        kept.store(one, Generated("function", bytes(16), (), (), 2, ""))
        for path in folder.iterdir():
            os.utime(path, ns=(0, max(path.stat().st_mtime_ns - 10**10, 0)))
        if number:
            assert kept.load(made[0], 2) is not None
        else:
            abandoned.write_text("")
            os.utime(abandoned, (0, 0))
    assert [kept.load(one, 2) is not None for one in made] == [True, False, False, True]
    assert not abandoned.exists()


def test_a_cache_that_cannot_be_written_is_none(written, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "cache_directory", lambda: None)
    made = recipe(written().function)
    assert kept.load(made, 2) is None
    kept.store(made, Generated("function", bytes(16), (), (), 2, ""))
    monkeypatch.setattr(kept, "cache_directory", lambda: tmp_path / "a file" / "no folder")
    (tmp_path / "a file").write_text("")
    assert kept.load(made, 2) is None
    kept.store(made, Generated("function", bytes(16), (), (), 2, ""))


FRESH = """
import sys
sys.path.insert(0, {folder!r})
from fresh import function
from raceway.kernel.functions.loading import generated_for
generated = generated_for(function)
print(len(generated.instructions), "numba" in sys.modules, "llvmlite" in sys.modules)
"""


@NATIVE_ONLY
def test_a_fresh_process_needs_no_compiler(tmp_path):
    (tmp_path / "fresh.py").write_text(TEXT)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RACEWAY_CACHE_DIR": str(tmp_path / "cache"),
    }

    def fresh() -> list[str]:
        command = [sys.executable, "-c", FRESH.format(folder=str(tmp_path))]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.split()

    first = fresh()
    assert first[1:] == ["True", "True"]
    assert fresh() == [first[0], "False", "False"]
    (file,) = Path(tmp_path / "cache").glob("compiled-*/ebpf/*")
    assert file.stat().st_mode & 0o777 == 0o600


@NATIVE_ONLY
@needs_root
def test_state_of_a_program_that_was_kept_is_known_to_have_other_writers(written, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "cache_directory", lambda: tmp_path)
    for known in (False, True):
        module = written()
        assert module.TABLE.alone
        raceway.simulate(module.function, [bytes(60)], "kernel")
        assert (module.function.typed is None) == known
        assert not module.TABLE.alone
