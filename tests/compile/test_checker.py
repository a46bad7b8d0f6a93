"""What cannot be a packet function is refused by name, with file, line, column, a caret, and what to write instead."""

from __future__ import annotations

import linecache
import subprocess
import sys
import textwrap

import pytest

from packet_cases import needs_native
from raceway.compile import verdicts
from raceway.compile.addresses import prefix
from raceway.compile.errors import PacketFunctionError
from raceway.compile.function import packet_function
from raceway.compile.state import Counters, HashTable, PrefixTable, TokenBucket

FILE = "<a user's file>.py"


def decorated(text, **scope):
    """Decorate the last function of a piece of source."""
    text = textwrap.dedent(text).strip() + "\n"
    linecache.cache[FILE] = (len(text), None, text.splitlines(keepends=True), FILE)
    names = {"PASS": verdicts.PASS, "DROP": verdicts.DROP, "raceway": verdicts, **scope}
    exec(compile(text, FILE, "exec"), names)
    return packet_function(names["f"])


def refusal(text, native=False, **scope):
    """Return the error that a function gets, and check that it points into the user's file."""
    if native:
        made = decorated(text, **scope)
        with pytest.raises(PacketFunctionError) as caught:
            made.native()
    else:
        with pytest.raises(PacketFunctionError) as caught:
            decorated(text, **scope)
    error = caught.value
    assert str(error).startswith(f"{FILE}:{error.line}:{error.column}: ")
    _first, shown, caret = str(error).splitlines()
    assert caret.strip() == "^"
    source = linecache.getlines(FILE)[error.line - 1]
    assert shown.strip() == source.strip()
    assert len(caret) - 5 == error.column - 1 - (len(source) - len(source.lstrip()))
    return error


def body(*lines):
    return "def f(packet):\n" + "".join(f"    {line}\n" for line in lines) + "    return PASS\n"


WRONG_BODIES = {
    "try": (["try:", "    x = 1", "finally:", "    x = 2"], "try is not supported", 2),
    "raise": (["raise ValueError"], "raise is not supported in a packet function; return raceway.ABORTED", 2),
    "assert": (["assert packet.tcp"], "assert is not supported", 2),
    "with": (["with open('x') as y:", "    pass"], "with is not supported", 2),
    "lambda": (["x = lambda y: y"], "lambda is not supported in a packet function; define a function", 2),
    "inner function": (["def g(x):", "    return x"], "a function inside a function", 2),
    "class": (["class A:", "    pass"], "a class is not supported", 2),
    "comprehension": (["x = [i for i in range(3)]"], "a list comprehension is not supported", 2),
    "generator": (["x = sum(i for i in range(3))"], r"sum\(\) is not supported in a packet function; add in a loop", 2),
    "dict comprehension": (["x = {i: 1 for i in range(3)}"], "use for i in range", 2),
    "f-string": (["x = f'{packet}'"], "an f-string is not supported", 2),
    "list": (["x = [1, 2]"], "a list is not supported in a packet function; use a tuple", 2),
    "dict": (["x = {}"], "a dict is not supported in a packet function; use a raceway.HashTable", 2),
    "set": (["x = {1}"], "a set is not supported", 2),
    "star": (["x = (*packet, 1)"], r"\* in a call", 2),
    "global": (["global y"], "global is not supported", 2),
    "del": (["x = 1", "del x"], "del is not supported", 3),
    "import": (["import os"], "import at the top", 2),
    "match": (["match packet:", "    case 1:", "        pass"], "use if and elif", 2),
    "yield": (["yield 1"], "yield is not supported", 2),
    "slice": (["x = packet.ipv4", "y = x[1:2]"], "a slice is not supported", 3),
    "division": (["x = len(packet) / 2"], "write //", 2),
    "power": (["x = len(packet) ** 2"], "write a shift", 2),
    "matrix": (["x = len(packet) @ 2"], "integers only", 2),
    "augmented division": (["x = 4", "x /= 2"], "write //", 3),
    "is": (["x = 1", "if x is packet.ipv4:", "    pass"], "is is not supported in a packet function; write ==", 3),
    "print": (["print(packet)"], r"print\(\) is not supported in a packet function; count", 2),
    "divmod": (["x = divmod(4, 2)"], "use // and %", 2),
    "hash": (["x = hash(4)"], "there are len, range", 2),
    "none": (["x = None"], "None is not supported", 2),
    "float": (["x = 1.5"], "integers only", 2),
    "bytes": (["x = b'1'"], "bytes are not supported", 2),
    "ellipsis": (["..."], "this expression does nothing", 2),
    "too large": (["x = 0xffffffffffffffff"], "does not fit in 64 bits", 2),
    "nothing": (["len(packet) == 3"], "this expression does nothing", 2),
    "for": (["for x in (1, 2):", "    pass"], "write for i in range", 2),
    "for packet": (["for x in packet:", "    pass"], "write for i in range", 2),
    "step": (["for i in range(1, 5, len(packet)):", "    pass"], "step of range", 2),
    "index": (["x = packet[3]"], "write packet.load8", 2),
    "packet attribute": (["x = packet.ipv44"], "a packet has no attribute 'ipv44'; did you mean 'ipv4'", 2),
    "field": (["ip = packet.ipv4", "x = ip.sorce"], "ipv4 header has no attribute 'sorce'; did you mean 'source'", 3),
    "far field": (["x = packet.tcp.zzzz"], "the tcp header has no attribute 'zzzz'; it has source_port", 2),
    "five-tuple": (["x = packet.five_tuple.port"], "a five-tuple has no attribute 'port'; did you mean", 2),
    "inner field": (["x = packet.vlan.inner.idetifier"], "did you mean 'identifier'", 2),
    "set packet": (["packet.time = 3"], "packet.time cannot be set", 2),
    "set view": (["packet.ipv4 = 3"], "packet.ipv4 cannot be set", 2),
    "set length": (["packet.ipv4.header_length = 3"], "field 'header_length' cannot be set", 2),
    "arguments": (["x = packet.load8()"], r"called as packet.load8\(offset\)", 2),
    "store": (["packet.store8(1)"], r"called as packet.store8\(offset, value\)", 2),
    "grow": (["packet.grow_head()"], r"called as packet.grow_head\(size\)", 2),
    "shrink": (["packet.shrink_head(4, 5)"], r"called as packet.shrink_head\(size\)", 2),
    "grow by name": (["packet.grow_head(size=4)"], r"called as packet.grow_head\(size\)", 2),
    "grow head": (["packet.growhead(4)"], "did you mean 'grow_head'", 2),
    "prefix": (["x = packet.ipv4.source == '10.0.0.1/8'"], "did you mean '10.0.0.0/8'", 2),
    "no address": (["if packet.ipv4.source in ('10.0.0.0/8', 'lan'):", "    pass"], "'lan' is not an address", 2),
    "in text": (["if packet.ipv4.source in '10.0.0.0/8':", "    pass"], "write == '10.0.0.0/8'", 2),
    "chain": (["x = 1 < len(packet) in (3, 4)"], "chain of comparisons", 2),
    "call of a variable": (["x = 1", "x(2)"], "'x' is a variable", 3),
    "unassigned": (["if packet.tcp:", "    x = 1", "y = x"], "'x' has no value on some path", 4),
    "loop variable": (["for i in range(3):", "    pass", "y = i"], "'i' has no value on some path", 4),
    "augmented unassigned": (["x += 1"], "'x' has no value on some path", 2),
    "return nothing": (["if packet.tcp:", "    return"], "this return has no value", 3),
    "no use": (["x = 1", "x: int", "packet.tcpp"], "this expression does nothing", 4),
    "walrus": (["if (n := len(packet)) > 4:", "    pass"], ":= is not supported in a packet function; assign on", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_BODIES)
def test_construct_is_refused_when_decorated(name):
    lines, words, line = WRONG_BODIES[name]
    error = refusal(body(*lines))
    assert error.line == line
    with pytest.raises(PacketFunctionError, match=words):
        raise error


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("def f(packet, more):\n    return PASS\n", "has one parameter, the packet; f has 2", 1),
        ("def f():\n    return PASS\n", "has one parameter", 1),
        ("def f(*packet):\n    return PASS\n", r"\*packet", 1),
        ("def f(packet=1):\n    return PASS\n", "default value", 1),
        ("def f(*, packet):\n    return PASS\n", "without / and", 1),
        ("async def f(packet):\n    return PASS\n", "async function", 1),
        ("def f(packet):\n    if packet.tcp:\n        return PASS\n", "f can end here without a return", 2),
        (
            "def f(packet):\n    if packet.tcp:\n        return PASS\n    else:\n        x = 1\n",
            "end here",
            5,
        ),
        ("def f(packet):\n    while len(packet) > 3:\n        return PASS\n", "end here", 2),
        ("def f(packet):\n    x = 1\n", "end here", 2),
    ],
)
def test_shape_of_the_function_is_checked(text, words, line):
    error = refusal(text)
    assert error.line == line
    with pytest.raises(PacketFunctionError, match=words):
        raise error


def test_what_is_no_function_is_refused():
    for wrong in (3, len, "text"):
        with pytest.raises(PacketFunctionError, match="ordinary function"):
            packet_function(wrong)
    with pytest.raises(PacketFunctionError, match="cannot be a lambda"):
        packet_function(lambda packet: 1)
    scope = {}
    exec("def f(packet):\n    return 1\n", scope)
    with pytest.raises(PacketFunctionError, match="cannot be read"):
        packet_function(scope["f"])


def test_column_and_caret_in_an_indented_line_with_other_letters():
    error = refusal("if True:\n    def f(packet):\n        ö = packet.ipv4.sorce\n        return ö\n")
    assert (error.line, error.column) == (3, 13)
    assert error.source == "        ö = packet.ipv4.sorce"


def test_everything_that_is_allowed_is_accepted():
    decorated(
        """
        def f(packet):
            '''Says what it does.'''
            x: int = 3
            y = z = x if packet.tcp else 4
            while True:
                x += 1
                if x > 10 and not packet.udp:
                    break
            for i in range(2, 10, -1):
                pass
            else:
                y ^= ~z
            if len(packet) > 4:
                return len(packet) & 1
            a, b = 1, 2
            return PASS if a < b <= 3 else DROP
        """
    )


native_only = pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")
TABLE, NAMED, ROUTES, BUCKET = (
    HashTable(4, key_words=1),
    Counters("a", "b"),
    PrefixTable(4),
    TokenBucket(1, 1),
)
OUTSIDE = {"TABLE": TABLE, "NAMED": NAMED, "ROUTES": ROUTES, "BUCKET": BUCKET, "LIST": [1], "DICT": {}, "HALF": 0.5,
           "HUGE": 1 << 64, "MODULE": sys, "WRONG": "nowhere", "LAN": prefix("10.0.0.0/8"), "OBJECT": object(),
           "TEXT": "10.0.0.0/8"}  # fmt: skip

COMPILED = {
    "undefined": (["x = MISSING"], "the name 'MISSING' is not defined", 2),
    "undefined call": (["x = missing(3)"], "the name 'missing' is not defined", 2),
    "list from outside": (["x = 1 in LIST"], "'LIST' is a list; use a tuple", 2),
    "dict from outside": (["x = 1 in DICT"], "use a tuple, or a raceway.HashTable", 2),
    "float from outside": (["x = HALF"], "is a float", 2),
    "huge from outside": (["x = HUGE"], "does not fit in 64 bits", 2),
    "module": (["x = MODULE"], "is the module sys", 2),
    "module member": (["x = MODULE.nothing"], "module sys has no 'nothing'", 2),
    "verdict": (["return raceway.Verdict.DROPP"], "Verdict has no 'DROPP'", 2),
    "object": (["x = OBJECT"], "is a object, which", 2),
    "text from outside": (["x = packet.ipv4.source == WRONG"], "'nowhere' is not an address", 2),
    "in text from outside": (["x = packet.ipv4.source in TEXT"], "write == instead of in", 2),
    "counter": (["NAMED['c'] += 1"], "there is no counter 'c'; there are a, b", 2),
    "counter add": (["NAMED.add('c')"], "there is no counter 'c'", 2),
    "shift": (["x = 1 << 64"], "outside 0 to 63", 2),
    "key too wide": (["TABLE.add(packet.five_tuple)"], r"add\(\) cannot be called with a five-tuple", 2),
    "wrong method": (["TABLE.push(1)"], "no attribute 'push'", 2),
    "wrong lookup": (["ROUTES.lookup(packet.ethernet.source)"], r"lookup\(\) cannot be called with a MAC address", 2),
    "wrong allow": (["BUCKET.allow(3)"], r"allow\(\) cannot be called", 2),
    "view plus number": (["x = packet.tcp + 1"], r"\+ does not work with a view of the tcp header and", 2),
    "unify": (["if packet.tcp:", "    x = packet.tcp", "else:", "    x = 3", "x.window = 1"], "on one path and", None),
    "mixed returns": (["if packet.tcp:", "    return packet.tcp"], "returns|different kinds|return", None),
    "wrong family": (["packet.ipv4.source = '::1'"], "::1", 2),
    "prefix as value": (["packet.ipv4.source = '10.0.0.0/8'"], "10.0.0.0/8", 2),
    "other call": (["x = OBJECT(3)"], "not a function that a packet function can call", 2),
}  # fmt: skip


@native_only
@pytest.mark.parametrize("name", COMPILED)
def test_what_only_compiling_finds_is_told_in_the_users_terms(name):
    lines, words, line = COMPILED[name]
    error = refusal(body(*lines), native=True, **OUTSIDE)
    assert line is None or error.line == line
    assert "numba" not in str(error)
    with pytest.raises(PacketFunctionError, match=words):
        raise error


@native_only
def test_helpers_are_checked_too_and_cannot_recurse():
    error = refusal("def g(x):\n    return [x]\ndef f(packet):\n    return g(1)\n", native=True)
    assert error.line == 2
    assert "a list" in error.reason
    error = refusal("def g(x):\n    return g(x - 1)\ndef f(packet):\n    return g(1)\n", native=True)
    assert "calls itself" in error.reason
    error = refusal("def g(x):\n    if x:\n        return 1\ndef f(packet):\n    return g(1)\n", native=True)
    assert "g can end here without a return" in error.reason


@native_only
def test_a_function_that_returns_no_number_is_refused():
    assert (
        "returns a view of the tcp header"
        in refusal("def f(packet):\n    return packet.tcp\n", native=True).reason
    )


@native_only
def test_wrong_line_inside_a_helper_is_shown():
    error = refusal(
        "def g(view):\n    a = 1\n    return view + a\ndef f(packet):\n    return g(packet.tcp)\n",
        native=True,
    )
    assert error.line == 3


def test_decorating_imports_no_compiler():
    code = (
        "import sys, raceway.compile.function, raceway.compile.state, raceway.compile.packet;"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
