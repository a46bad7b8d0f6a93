"""The page says what may be written; here each of it is, on three targets, and what it says is not there is refused."""

from __future__ import annotations

import linecache
import types

import pytest

import raceway
from labs import needs_root
from packet_cases import made_packets, needs_native
from test_three_targets import assert_same_on_three_targets, seen_by_xdp

compiled = pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")

SUPPORTED = {
    "annotation": "x: int = len(packet)\nreturn x & 3",
    "bare annotation": "x: int\nx = 2\nreturn x",
    "unpacking": "a, b = len(packet), 3\na, b = b, a\nreturn a * 2 + b",
    "nested unpacking": "(a, b), c = (1, len(packet)), 3\nreturn a + b + c",
    "several targets": "a = b = len(packet)\nreturn a + b",
    "tuple of constants": "t = (1, 2, 3)\nreturn t[len(packet) & 1] + t[-1] + len(t)",
    "tuple of numbers": "t = (len(packet), packet.load8(0))\nreturn t[0] + t[1]",
    "tuples in a tuple": "return PAIRS[1][len(packet) & 1] + PAIRS[0][0]",
    "equal tuples": "return int((1, len(packet)) == (1, 60))",
    "while else": "i = 0\nwhile i < 3:\n    i += 1\n    if i > 60:\n        break\nelse:\n    return 2\nreturn 1",
    "for else": "for i in range(3):\n    if packet.load8(i) == 255:\n        break\nelse:\n    return 2\nreturn 1",
    "nested loops": "s = 0\nfor i in range(3):\n    for j in range(i):\n        if j == 1:\n            continue\n"
    "        s += packet.load8(j)\nreturn s",
    "range with a step": "s = 0\nfor i in range(10, 0, -3):\n    s += i\nreturn s",
    "chained comparison": "return int(3 < len(packet) <= 60 != 7)",
    "or of views": "if packet.tcp or packet.udp and not packet.ipv6:\n    return 1\nreturn 2",
    "or of numbers": "return (packet.load8(0) or 3) + (packet.load8(1) and 7)",
    "not as a value": "return int(not packet.tcp) + int(not packet.load8(1)) * 2 + int(not packet.five_tuple) * 4",
    "conditional": "return 1 if packet.tcp else 2",
    "keywords": "return two(b=1, a=len(packet))",
    "helper with a tuple": "a, b = pair(packet)\nreturn a + b",
    "helper with a view": "ip = network(packet)\nreturn hops(ip) if ip else 1",
    "helper without a value": "nothing(packet)\nreturn 1",
    "helper that calls": "return outer(packet)",
    "packet function as helper": "return other(packet)",
    "another module": "return elsewhere.two(1, len(packet)) + elsewhere.CONSTANT",
    "built-ins": "return min((3, len(packet))) + max(1, len(packet)) + abs(-2) + int(bool(len(packet)))",
    "address as number": "return int(packet.ipv4.source) & 0xFFFF if packet.ipv4 else 1",
    "invert": "return ~len(packet) & 0xFFFF",
    "set in place": "ip = packet.ipv4\nif ip:\n    ip.ttl ^= 5\n    packet.ipv4.ttl -= 1\nreturn 2",
    "enum": "return raceway.Verdict.PASS + PASS",
    "address order": "ip = packet.ipv4\nreturn int(ip.source < ip.destination) if ip else 1",
    "prefix of IPv6": "ip = packet.ipv6\nreturn int(ip.source == '2001:db8::/32') if ip else 1",
    "text in a variable": "n = '10.0.0.0/8'\nip = packet.ipv4\nreturn int(ip.source == n) if ip else 1",
    "counters": "COUNT['a'] += 2\nCOUNT['b'] -= 1\nCOUNT['b'] *= 3\nreturn COUNT['a'] & 0xFF",
    "floor": "return (-7 // (1 + packet.load8(0))) * 16 + -7 % (1 + packet.load8(1))",
    "shift": "return (1 << (len(packet) & 70)) & 0xFFFF",
    "variable of outside": "return OUTSIDE & 3",
    "five-tuples": "f = packet.five_tuple\nreturn int(f == f.reverse) + f.source_port",
    "other names": "p = packet\na = p.ipv4\nb = a\nreturn len(b.packet) + int(bool(b))",
    "truth values": "return (len(packet) > 3) + (len(packet) > 5) + ((len(packet) > 60) ^ (len(packet) > 50))",
    "packet.time": "return packet.time & 1",
    "filter": "return WEB(packet) & 7",
}  # fmt: skip

REFUSED = {
    "walrus": ("if (n := len(packet)) > 4:\n    return 1\nreturn 2", ":= is not supported"),
    "two kinds": ("v = packet.tcp or packet.udp\nreturn 1", "a view of the tcp header on one path"),
    "order of IPv6": ("return int(packet.ipv6.source < packet.ipv6.destination)", "< does not work with an IPv6"),
    "table by index": ("return TABLE[1]", "does not work with HashTable"),
    "table by keyword": ("TABLE.put(key=1, value=2)\nreturn 1", r"put\(\) cannot be called"),
    "recursion": ("return again(3)", "calls itself"),
    "text": ("x = 'abc'\nreturn 1", "not an address or prefix"),
    "five-tuple by index": ("return packet.five_tuple[0]", "does not work with a five-tuple"),
}  # fmt: skip

HEAD = """
import raceway
from raceway import PASS
PAIRS = ((1, 2), (3, 0))
COUNT = raceway.Counters("a", "b")
TABLE = raceway.HashTable(10)
WEB = raceway.expression("tcp port 80 or ip6 protochain 17")
OUTSIDE = 7
def two(a, b): return a + b
def pair(packet): return len(packet), packet.load8(0)
def network(packet): return packet.ipv4
def hops(ip): return ip.ttl
def nothing(packet): COUNT.add("a")
def outer(packet): return two(len(packet), 1)
def again(n): return again(n - 1)
@raceway.packet_function
def other(packet):
    return PASS
"""


def made(text: str):
    """The names of a file with this text behind `HEAD`."""
    text = HEAD + text
    file = f"<language {abs(hash(text))}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = types.ModuleType("elsewhere")
    scope: dict = {"__name__": "language", "elsewhere": module}
    exec(compile(text, file, "exec"), scope)
    module.two, module.CONSTANT = scope["two"], 3  # type: ignore[attr-defined]
    return scope


def indented(body: str) -> str:
    return "".join(f"    {line}\n" for line in body.split("\n"))


@compiled
@needs_root
@pytest.mark.parametrize("part", range(4))
def test_what_may_be_written_means_the_same_on_three_targets(part):
    names = list(SUPPORTED)[part::4]
    text = "".join(
        f"def case{index}(packet):\n{indented(SUPPORTED[name])}" for index, name in enumerate(names)
    )
    text += "SAID = raceway.HashTable(100)\n@raceway.packet_function\ndef all_of_it(packet):\n    said = 0\n"
    for index in range(len(names)):
        text += f"    said = (said * 31 + case{index}(packet)) & 0xFFFFFFFF\n"
    text += "    SAID.put(SAID.get(0, 0) + 1, said)\n    SAID.add(0)\n    return PASS\n"
    scope = made(text)
    packets = [*seen_by_xdp(made_packets())[:20], bytes(60)]
    outcome = assert_same_on_three_targets(scope["all_of_it"], packets, scope["SAID"], scope["COUNT"])
    assert not any(outcome.reasons.values())


@compiled
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_there_is_refused(name):
    body, words = REFUSED[name]
    with pytest.raises(raceway.PacketFunctionError, match=words):
        made(f"@raceway.packet_function\ndef wrong(packet):\n{indented(body)}")["wrong"].native()
