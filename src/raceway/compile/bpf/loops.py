"""Numbers that the kernel's verifier shall know nothing of, so that it comes to an end.

The verifier walks a program path by path, and a loop turn by turn, as long as it knows a number on which the way
depends; after a million instructions it gives up. What it does not know, it walks once: a loop that begins with
`may_goto` (Linux 6.9) looks the same to it in its second turn, and two paths that differ in a number go on as one. So
where paths join (`phi`, `select`), a constant comes in as that constant plus a word that is zero, which only we know.

`may_goto` itself is put in when there are instructions (`instructions.bounded`). It ends a loop that goes on for a
quarter of a second; the packet is ABORTED then, and counted as `loop_limit`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from raceway.compile.bpf.definitions import CONTROL, COUNTERS_AT, ZEROS_AT

_LABEL = re.compile(r"^(\"[^\"]+\"|[\w.$-]+):")
_PHI = re.compile(r"^(\s+%\S+ = phi (i64|i32|i16|i8) )(.*)$")
_INCOMING = re.compile(r"\[ ([^,\]]+), %(\"[^\"]+\"|[\w.$-]+) \]")
# A number made of a truth value: two constants to the verifier.
_FLAG = re.compile(
    r"\s+(%[\w.$-]+) = (?:select i1 %\S+, (i64|i32|i16|i8) -?\d+, \S+ -?\d+|[sz]ext i1 %\S+ to (i64|i32|i16|i8))\b"
)
_NUMBER = re.compile(r"-?\d+")
_ZEROS = (COUNTERS_AT - ZEROS_AT) // 8
_END = re.compile(r"\s+(br|switch|ret|unreachable)\b")


def _zero(number: int) -> str:
    # A word each: what the verifier learns of one of them, it must not take for the others too.
    return f"ptr getelementptr (i8, ptr @{CONTROL}, i64 {ZEROS_AT + number % _ZEROS * 8})"


def widened(text: str) -> str:
    """The same module of LLVM's language, in which no path brings a constant along."""
    made: list[str] = []
    body: list[str] | None = None
    numbers = itertools.count()
    for line in text.split("\n"):
        if body is None:
            made.append(line)
            if line.startswith("define "):
                body = []
        elif line == "}":
            made += [*_function(body, numbers), line]
            body = None
        else:
            body.append(line)
    return "\n".join(made)


_CONSTANT_OFFSET = re.compile(r"^( *)(%\S+) = (?:tail )?call i64 @raceway_offset\(i64 (-?\d+)\).*$", re.M)


_RESULT = re.compile(r"^( *)store i64 (\S+), ptr %retptr, (.*)$", re.M)


def hidden_more(text: str) -> str:
    """The same module, in which constant offsets and the results of functions are hidden as well: of large functions.

    What the verifier learns of a packet's length it remembers with the packet's own address, and walks on with each
    length apart. An address that a hidden number was added to is another, and it and its length are soon forgotten.
    """
    numbers = itertools.count(_ZEROS // 2)

    def hide(found: re.Match[str]) -> str:
        margin, name, value = found.groups()
        number = next(numbers)
        made = f"%raceway.offset{number}"
        return f"{margin}{made} = load i64, {_zero(number)}\n{margin}{name} = add i64 {made}, {value}"

    def hide_result(found: re.Match[str]) -> str:
        margin, value, rest = found.groups()
        number = next(numbers)
        made = f"%raceway.result{number}"
        return (
            f"{margin}{made}.zero = load i64, {_zero(number)}\n{margin}{made} = add i64 {made}.zero, {value}\n"
            f"{margin}store i64 {made}, ptr %retptr, {rest}"
        )

    return _RESULT.sub(hide_result, _CONSTANT_OFFSET.sub(hide, text))


def _function(body: list[str], numbers: Iterator[int]) -> list[str]:
    blocks: dict[str, list[str]] = {}
    # LLVM leaves out the first block's name where it is a number.
    name = "%first"
    for line in body:
        found = _LABEL.match(line)
        if found:
            name = found[1]
        blocks.setdefault(name, []).append(line)
    flags = 0
    for lines in blocks.values():
        for index in range(len(lines) - 1, -1, -1):
            flag = _FLAG.match(lines[index])
            if flag:
                name, kind, made = flag[1], flag[2] or flag[3], f"%raceway.flag{flags}"
                flags += 1
                lines[index : index + 1] = [
                    lines[index].replace(f"{name} =", f"{made} =", 1),
                    f"  {made}.zero = load {kind}, {_zero(next(numbers))}",
                    f"  {name} = add {kind} {made}.zero, {made}",
                ]
    hidden: dict[tuple[str, str, str], str] = {}
    for lines in blocks.values():
        for index, line in enumerate(lines):
            phi = _PHI.match(line)
            if phi is None:
                continue
            pieces = []
            for value, origin in _INCOMING.findall(phi[3]):
                if _NUMBER.fullmatch(value):
                    where = origin if origin in blocks else "%first"
                    value = hidden.setdefault((where, phi[2], value), f"%raceway.hidden{len(hidden)}")
                pieces.append(f"[ {value}, %{origin} ]")
            lines[index] = phi[1] + ", ".join(pieces)
    for (where, kind, value), made in hidden.items():
        lines = blocks[where]
        # A block may end in a switch of several lines.
        at = max(index for index, line in enumerate(lines) if _END.match(line))
        lines[at:at] = [
            f"  {made}.zero = load {kind}, {_zero(next(numbers))}",
            f"  {made} = add {kind} {made}.zero, {value}",
        ]
    return [line for lines in blocks.values() for line in lines]
