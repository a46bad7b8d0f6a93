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


def examples() -> dict:
    """The names that the document's examples leave behind, run one after the other."""
    scope: dict = {}
    for index, example in enumerate(re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M)):
        file = f"<example {index} of {DOCUMENT.name}>"
        linecache.cache[file] = (len(example), None, example.splitlines(keepends=True), file)
        exec(compile(example, file, "exec"), scope)
    return scope


def tunnelled() -> list[bytes]:
    """IPv4 in IPv4, with options and without, cut at every length; and what is behind a tag."""
    inner = bytes.fromhex("4500001c 00010000 4011 0000 0a010203 c0a80709 0035 9c40 0008 0000")
    ether = bytes.fromhex("020000000002 020000000001")
    outer = bytes.fromhex("45000034 00010000 4004 a6f5 c0000201 c0000202")
    options = bytes.fromhex("46000038 00010000 4004 a5f0 c0000201 c0000202 01010100")
    whole = [ether + b"\x08\x00" + one + inner for one in (outer, options)]
    whole.append(ether + b"\x81\x00\x20\x07\x08\x00" + outer + inner)
    return [one[:size] for one in whole for size in range(14, len(one) + 1)]


STATES = {"keep_web": ["SEEN"], "counts": ["COUNT", "TABLE", "LIMIT"]}


def test_examples_run(capsys):
    from packet_cases import assert_same_in_both_worlds, made_packets
    from raceway.compile.function import PacketFunction
    from raceway.memory.jit import INTERPRETED

    scope = examples()
    assert "TCP 10.1.2.3 port 1234 > 192.168.7.9 port 80" in capsys.readouterr().out
    functions = [one for one in scope.values() if isinstance(one, PacketFunction)]
    names = ["keep_web", "push_tag", "pop_tag", "enter_tunnel", "leave_tunnel", "compares", "counts"]
    assert [one.name for one in functions] == names
    if INTERPRETED:
        return
    for one in functions:
        kept = [scope[name] for name in STATES.get(one.name, ())]
        assert_same_in_both_worlds(one, (*made_packets(), *tunnelled()), *kept)


def test_a_packet_that_goes_through_the_documents_tunnel_comes_out_as_it_went_in():
    from packet_cases import made_packets
    from raceway.compile.packet import Packet

    scope = examples()
    went = 0
    for data in made_packets():
        packet = Packet(data)
        if not packet.ipv4 or packet.vlan:
            continue
        went += 1
        assert scope["enter_tunnel"](packet) == 2
        assert len(packet) == len(data) + 20
        words = [packet.load16(14 + at) for at in range(0, 20, 2)]
        assert sum(words) % 0xFFFF == 0, "the outer header's checksum (RFC 791)"
        assert bytes(packet)[34:] == data[14:]
        assert scope["leave_tunnel"](packet) == 2
        assert bytes(packet) == data
    assert went > 5


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
