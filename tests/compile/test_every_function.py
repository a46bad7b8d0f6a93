"""Every packet function that stands anywhere in the project (tests, documents, examples, benchmarks, the demo) does the
same on three targets, over packets cut at every length, tags in tags, chains of extension headers.

Functions are found by reading: from each file its imports, constants, state objects and functions are taken, and
nothing else is run. Those of `worlds` have more packets of their own, in `test_three_targets`.
"""

from __future__ import annotations

import ast
import linecache
import re
from pathlib import Path
from typing import Any

import pytest
from test_documentation import tunnelled

import raceway
from labs import needs_root
from packet_cases import TIME, made_packets, needs_native, truncated_packets
from test_three_targets import assert_same_on_three_targets, seen_by_xdp

pytestmark = [pytest.mark.skipif(bool(needs_native), reason=needs_native or "-"), needs_root]

ROOT = Path(__file__).parents[2]
FOLDERS = ("README.md", "docs", "src", "tests", "bench")
ELSEWHERE = {
    "tests/compile/worlds.py": "test_three_targets",
    "tests/compile/moving_worlds.py": "test_three_targets, test_moving_heads",
    "tests/compile/test_moving_heads.py": "there, where its program is written",
    "tests/compile/test_language.py": "there",
    "tests/compile/test_generated_functions.py": "there",
    "tests/compile/worlds_extra.py": "differs from Python on purpose: -2**63 // -1",
    "tests/compile/test_refusals_and_explanations.py": "are refused by the verifier, or never end",
    "tests/compile/test_checker.py": "are refused",
    "tests/compile/test_random.py": "there",
    "tests/compile/test_kept_ebpf.py": "are kept there, and made anew",
    "tests/nic/test_functions_sudden_death.py": "are attached there, and killed",
    "tests/compile/test_classifier.py": "there",
    "tests/compile/test_flows.py": "there",
    "tests/compile/test_many_keys.py": "there",
    "tests/firewall/test_evasions.py": "there",
    "docs/firewall.md": "test_flows",
}
"""Files whose functions are not for this test, and who looks at them, or why nobody can."""
STATE = (raceway.Counters, raceway.HashTable, raceway.TokenBucket, raceway.Random)
_DECORATED = re.compile(r"^@(?:raceway\.)?packet_function$", re.M)


def places() -> list[tuple[str, str, str]]:
    """(name, file as it is shown, text) of each piece of source that has packet functions."""
    found = []
    for folder in FOLDERS:
        path = ROOT / folder
        files = [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.md")])
        for file in files:
            name = str(file.relative_to(ROOT))
            text = file.read_text()
            if name in ELSEWHERE or file == Path(__file__) or not _DECORATED.search(text):
                continue
            if file.suffix == ".md":
                # What an example uses stands in the examples before it.
                blocks = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
                found.append((name, f"<examples of {name}>", "\n".join(blocks)))
                continue
            found.append((name, str(file), text))
            # Files that a test writes.
            texts = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
            found += [
                (name, f"<line {node.lineno} of {name}>", node.value.lstrip())
                for node in texts
                if _DECORATED.search(str(node.value))
            ]
    return [one for one in found if decorated(one[2])]


def decorated(text: str) -> list[str]:
    """Names of the packet functions of a piece of source."""
    made = [
        node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.decorator_list
    ]
    return [node.name for node in made if _is_taken(node)]


def _is_taken(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.FunctionDef):
        return not node.decorator_list or "packet_function" in ast.unparse(node.decorator_list[0])
    if isinstance(node, ast.Assign):
        called = {
            getattr(one.func, "attr", getattr(one.func, "id", ""))
            for one in ast.walk(node)
            if isinstance(one, ast.Call)
        }
        known = {
            "Counters", "HashTable", "PrefixTable", "TokenBucket", "Random", "expression", "prefix", "range",
        }  # fmt: skip
        return called <= known
    # A table that is filled where it is made.
    return isinstance(node, ast.Expr) and ast.unparse(node).split("(")[0].endswith(".load")


def functions_of(file: str, text: str) -> tuple[list[Any], list[Any]]:
    """Packet functions and state objects of a piece of source."""
    linecache.cache.setdefault(file, (len(text), None, text.splitlines(keepends=True), file))
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if _is_taken(node)]
    scope: dict[str, Any] = {"__name__": "found", "__file__": file}
    exec(compile(tree, file, "exec", dont_inherit=True), scope)
    functions = [one for one in scope.values() if isinstance(one, type(raceway.packet_function(_nothing)))]
    written = [one for one in functions if one.source.file == file]
    return written, [one for one in scope.values() if isinstance(one, STATE)]


def _nothing(packet):
    return raceway.PASS


PLACES = places()


@pytest.mark.parametrize("place", PLACES, ids=[name for name, _, _ in PLACES])
def test_every_packet_function_of_the_project(place):
    _, file, text = place
    functions, states = functions_of(file, text)
    assert [one.name for one in functions] == decorated(text)
    packets = [*seen_by_xdp([*made_packets(), *truncated_packets()[::5]]), *tunnelled()]
    times = [TIME + (index // 3) * 400_000 for index in range(len(packets))]
    for function in functions:
        assert_same_on_three_targets(function, packets, *states, times=times)


def test_the_files_that_are_left_out_are_there():
    for name in ELSEWHERE:
        assert (ROOT / name).is_file(), name
