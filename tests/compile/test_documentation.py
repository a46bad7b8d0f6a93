"""docs/packet-functions.md: its examples run, and its tables are what the code has.

`python tests/compile/test_documentation.py` writes the tables anew.
"""

from __future__ import annotations

import linecache
import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "packet-functions.md"


def tables() -> dict[str, str]:
    """The generated parts of the document."""
    from raceway.compile import headers

    given = [f"| `packet.{name}` | {meaning} |" for name, meaning in headers.GIVEN.items()]
    facts = [f"| `packet.{name}` | {meaning} |" for name, (meaning, _) in headers.FACTS.items()]
    parts = []
    for header in headers.HEADERS.values():
        rows = [
            f"### `packet.{header.name}`\n",
            f"{header.meaning} {header.standard}; {header.size} bytes.\n",
        ]
        rows += ["| field | bits | |", "|---|---|---|"]
        for field in header.fields:
            notes = [
                field.kind if field.kind != "number" else "",
                "" if field.writable else "read only",
                field.meaning,
            ]
            first = f"{field.bit}" if field.bits == 1 else f"{field.bit} to {field.bit + field.bits - 1}"
            rows.append(f"| `{field.name}` | {first} | {'; '.join(note for note in notes if note)} |")
        parts.append("\n".join(rows) + "\n")
    return {
        "facts": "\n".join(["| attribute | what it is |", "|---|---|", *given, *facts]) + "\n",
        "headers": "\n".join(parts),
    }


def filled_in(text: str) -> str:
    """The document with its tables made anew."""
    for name, table in tables().items():
        begin, end = f"<!-- {name} begin -->\n", f"<!-- {name} end -->"
        text = re.sub(f"{begin}.*?{end}", lambda _, made=f"{begin}{table}{end}": made, text, flags=re.S)
    return text


def test_tables_are_those_of_the_code():
    text = DOCUMENT.read_text()
    assert text == filled_in(text)


def test_examples_run(capsys):
    from packet_cases import assert_same_in_both_worlds, made_packets
    from raceway.compile.function import PacketFunction
    from raceway.memory.jit import INTERPRETED

    examples = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M)
    scope: dict = {}
    for index, example in enumerate(examples):
        file = f"<example {index} of {DOCUMENT.name}>"
        linecache.cache[file] = (len(example), None, example.splitlines(keepends=True), file)
        exec(compile(example, file, "exec"), scope)
    assert "TCP 10.1.2.3 port 1234 > 192.168.7.9 port 80" in capsys.readouterr().out
    functions = [one for one in scope.values() if isinstance(one, PacketFunction)]
    assert len(functions) == 3
    if INTERPRETED:
        return
    for function, states in zip(functions, (["SEEN"], [], ["COUNT", "TABLE", "LIMIT"]), strict=True):
        assert_same_in_both_worlds(function, made_packets(), *(scope[name] for name in states))


def test_the_error_in_the_document_is_the_one_that_comes():
    from raceway.compile.errors import PacketFunctionError
    from raceway.compile.function import packet_function

    shown = re.findall(r"^```text\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M)[0]
    text = (
        "\n" * 6
        + 'def f(packet):\n    ip = packet.ipv4\n    if ip.sorce == "10.0.0.0/8":\n        return 1\n    return 2\n'
    )
    linecache.cache["filter.py"] = (len(text), None, text.splitlines(keepends=True), "filter.py")
    scope: dict = {}
    exec(compile(text, "filter.py", "exec"), scope)
    with pytest.raises(PacketFunctionError) as caught:
        packet_function(scope["f"])
    assert str(caught.value).strip() == shown.strip()


if __name__ == "__main__":
    DOCUMENT.write_text(filled_in(DOCUMENT.read_text()))
