"""numba's errors in the user's terms: their file, their line, one plain sentence. Only imported to compile."""

from __future__ import annotations

import re
from typing import Any

from numba.core import errors

from raceway.compile.errors import PacketFunctionError
from raceway.compile.source import Source

_NAMES = [
    (r"Literal\[(?:int|bool)\]\((.*?)\)", r"the number \1"),
    (r"\bint64\b", "a number"),
    (r"\bbool(ean)?\b", "a truth value"),
    (r"\bfloat64\b", "a float"),
    (r"\bnone\b", "nothing"),
    (r"packet\.(\w+)", r"a view of the \1 header"),
    (r"\bpacket\b(?! \w)", "a packet"),
    (r"prefix\((\S+?)\)", r"the constant \1"),
    (r"\bipv4 address\b", "an IPv4 address"),
    (r"\bipv6 address\b", "an IPv6 address"),
    (r"\bmac address\b", "a MAC address"),
    (r"\bip address\b", "an IP address"),
    (r"\bfive-tuple\b", "a five-tuple"),
]
_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "and_": "&", "or_": "|", "xor": "^",
    "lshift": "<<", "rshift": ">>", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "contains": "in", "invert": "~", "neg": "-", "pos": "+", "getitem": "[ ]", "setitem": "[ ] =",
    "iadd": "+=", "isub": "-=", "imul": "*=", "iand": "&=", "ior": "|=", "ixor": "^=", "ifloordiv": "//=", "imod": "%=",
}  # fmt: skip


_TOLD = re.compile(r"\[raceway: (.*?) :raceway\]", re.S)


def told(sentence: str) -> Exception:
    """Make an error that numba passes on, whose sentence the user shall read."""
    error: Exception = errors.TypingError(f"[raceway: {sentence} :raceway]")
    return error


def plain(kind: Any) -> str:
    """Name a compiled type in words."""
    text = str(kind).removeprefix("moving ")
    for pattern, words in _NAMES:
        changed = re.sub(f"^{pattern}$", words, text)
        if changed != text:
            return changed
    return text


def _list(text: str) -> str:
    return " and ".join(
        plain(one.strip()) for one in re.split(r",\s*(?![^()\[\]]*[)\]])", text) if one.strip()
    )


def _sentence(text: str) -> str:
    if found := _TOLD.search(text):
        return " ".join(found[1].split())
    if found := re.search(r"Unknown attribute '(\w+)' of type (.+)", text):
        return f"{plain(found[2].strip())} has no attribute {found[1]!r}"
    if found := re.search(r"Cannot unify (.+?) and (.+?) for '(\w+?)(?:\.\d+)?'", text):
        kinds = f"{plain(found[1])} on one path and {plain(found[2])} on another"
        return f"{found[3]!r} is {kinds}; use a name for each"
    if found := re.search(r"Cannot unify (.+?) and (.+?) for '\$phi", text):
        kinds = f"{plain(found[1])} on one path and {plain(found[2])} on another"
        return f"this is {kinds}, and a value has one kind; write an if, and a name for each"
    if found := re.search(r"Can't unify return type from the following types: (.+)", text):
        return f"the function returns different kinds on different paths ({_list(found[1])}); return one kind"
    if found := re.search(r"No conversion from (.+?) to (.+?) for", text):
        return f"{plain(found[1])} cannot be used as {plain(found[2])} here"
    operator = r"Function\(<built-in function (\w+)>\).*?signature:\s*>>> \w+\((.*?)\)\n"
    if found := re.search(operator, text, re.S):
        sign = _OPERATORS.get(found[1], found[1])
        return f"{sign} does not work with {_list(found[2])}"
    if found := re.search(
        r"Function\(<(?:intrinsic|class|function) '?(\w+)[^)]*\).*?signature:\s*>>> \w+\((.*?)\)\n",
        text,
        re.S,
    ):
        name = {"among": "in (a tuple)", "number": "int()"}.get(found[1], found[1])
        return f"{name} does not work with {_list(found[2])}"
    if found := re.search(r"BoundFunction\((\S+?)[ )].*?(?:signature:\s*>>> [^(]+\((.*?)\)\n|$)", text, re.S):
        kinds = f" with {_list(found[2])}" if found[2] else " with these arguments"
        return f"{found[1]}() cannot be called{kinds}"
    if found := re.search(r"[Cc]annot resolve setattr: \((.+?)\)\.(\w+) = (.+)", text):
        return f"field {found[2]!r} of {plain(found[1])} cannot be set to {plain(found[3].strip())}"
    if found := re.search(r"missing a required argument: '(\w+)'|too many positional arguments", text):
        return f"a function is called with the wrong number of arguments ({found[0]})"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Failed in", "During:", "File ", "<source"))]
    return f"this cannot be compiled: {lines[0] if lines else 'the compiler gives no reason'}"


def explained(error: Exception, sources: list[Source]) -> PacketFunctionError:
    """Return the error to raise instead of numba's; `sources`: the packet function and its helpers."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    source, line = sources[0], getattr(getattr(error, "loc", None), "line", None)
    # The innermost place comes first.
    for found in re.finditer(r'File "(.+?)", line (\d+)|\bat (\S.*?) \((\d+)\)', text):
        file, number = found[1] or found[3], int(found[2] or found[4])
        inside = [
            one for one in sources if one.file.endswith(file) and 0 <= number - one.first < len(one.lines)
        ]
        if inside:
            source, line = inside[0], number
            break
    try:
        source.refuse_line(line or source.tree.lineno, _sentence(text))
    except PacketFunctionError as made:
        return made
