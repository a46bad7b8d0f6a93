"""When the kernel's verifier refuses a function: the user's own line, what could not be proven, how to write it.

The verifier names an instruction. The function is generated once more with the lines of its instructions noted, and
refused once more, with the verifier's steps written down; the last one is the instruction that it stopped at.

Not so where it has given up after a million steps, which takes seconds, and several times as many to write them down:
the place is then the innermost of the function's loops, for the ways through a function multiply there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from raceway.kernel.bpf.programs import said
from raceway.kernel.bpf.system import VerifierError

if TYPE_CHECKING:
    from raceway.compile.bpf.generated import Generated
    from raceway.compile.function import PacketFunction

_STOPPED_AT = re.compile(r"^(\d+): \(", re.M)
_TOO_MUCH = r"too large|too complex|too many|jumps is"
_REASONS = (
    (
        r"stack|fp-?\d+ .*limit|off=-\d+ size=\d+$",
        "the function keeps more than the kernel's 512 bytes of stack at once",
        "keep fewer values until later, above all five-tuples and keys of many words (40 bytes and more each)",
    ),
    (
        _TOO_MUCH,
        "the function has more ways through it than the verifier walks (a million instructions)",
        "leave loops early, nest fewer of them, ask for a header once and keep the view, or attach it as two "
        "functions, which run one after the other",
    ),
    (
        r"invalid access to packet|pkt pointer|packet",
        "it could not be proven that these bytes are inside the packet",
        "test len(packet) or the header (if packet.tcp:) right before, and keep the offset in a variable of its own",
    ),
    (
        r"map_value|map value",
        "it could not be proven that an index is inside a state object",
        "mask the index (i & 15) or compare it with len(...) right before it is used",
    ),
    (
        r"infinite loop|back-edge",
        "it could not be proven that a loop ends",
        "count it: for i in range(bound)",
    ),
    (
        r"unknown func|unknown opcode|reserved fields|JCOND|may_goto|invalid func",
        "this kernel does not know an instruction that the function needs (raceway's eBPF wants Linux 6.9)",
        "run the function native, beside a port",
    ),
)


class FunctionRefusedError(VerifierError):
    """The kernel's verifier refused a packet function.

    file, line: of the user's source ("", 0 where none can be told); reason: what could not be proven; log: what the
    verifier said, of its steps the last ones.
    """

    def __init__(self, text: str, log: str, *, file: str, line: int, reason: str) -> None:
        super().__init__(text, log)
        self.file, self.line, self.reason = file, line, reason


def too_complex(error: VerifierError) -> bool:
    """Whether the verifier gave up, rather than found something that cannot be proven."""
    return re.search(_TOO_MUCH, (said(error.log) or [""])[-1]) is not None


def explained(
    function: PacketFunction,
    error: VerifierError,
    generate: Callable[[], Generated],
    load: Callable[[Generated], None],
) -> FunctionRefusedError:
    """Make the error that the user shall see of the one that loading raised.

    generate: the function's eBPF with the places of its instructions; load: tries it, and raises again.
    """
    source = function.source
    file, line = "", 0
    words = (said(error.log) or [""])[-1]
    if re.search(_TOO_MUCH, words):
        file, line = source.file, _innermost_loop(source.tree)
    else:
        generated = generate()
        try:
            load(generated)
        except VerifierError as again:
            error = again
            words = (said(error.log) or [words])[-1]
            stops = _STOPPED_AT.findall(error.log)
            if stops:
                # What stands before the first line is done for what comes then.
                later = [place for place in generated.places[int(stops[-1]) :] if place[1]]
                file, line = later[0] if later else (source.file, source.tree.lineno)
    reason, advice = "something could not be proven", "see the verifier's own words"
    for pattern, what, how in _REASONS:
        if re.search(pattern, words):
            reason, advice = what, how
            break
    shown = ""
    if line:
        text = source.text(line) if source.file.endswith(file) or file.endswith(source.file) else ""
        shown = f"{file}:{line}: " + (f"\n    {text.strip()}" if text else "")
    where = shown.split("\n")[0]
    body = "\n".join(shown.split("\n")[1:])
    message = f"{where}the kernel's verifier refuses {function.name}: {reason}; {advice}"
    if body:
        message += f"\n{body}"
    return FunctionRefusedError(
        f"{message}\n  the verifier's own words: {words.strip()[:300]}",
        error.log,
        file=file,
        line=line,
        reason=reason,
    )


def _innermost_loop(tree: ast.FunctionDef) -> int:
    """The line of the loop that stands in the most others, the first of such; the function's own if it has none."""
    deepest, found = 0, tree.lineno
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, ast.For | ast.While):
            depth += 1
            if depth > deepest or (depth == deepest and node.lineno < found):
                deepest, found = depth, node.lineno
        waiting += [(child, depth) for child in ast.iter_child_nodes(node)]
    return found
