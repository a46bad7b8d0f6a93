"""Packet functions out of a source of chance: `make(random)` gives a function, its source and its state.

What comes out uses all that the language has. Numbers are kept so small that none leaves 63 bits, for beyond those
Python's numbers and the targets' differ, as is written down; a variable holds 32 bits, an expression knows how many
bits it may have. The source goes where `inspect` looks for it, so errors show lines.
"""

from __future__ import annotations

import itertools
import linecache
from random import Random
from typing import Any

import raceway

_numbers = itertools.count()
_LOADS = {"load8": 8, "load16": 16, "load32": 32, "load16_little": 16, "load32_little": 32}
_STORES = ("store8", "store16", "store32", "store64", "store16_little", "store64_little")
_FIELDS = {
    "ethernet": ("ethertype",), "vlan": ("identifier", "priority", "ethertype"), "arp": ("operation",),
    "ipv4": ("ttl", "protocol", "total_length", "identification", "dscp", "fragment_offset"),
    "ipv6": ("hop_limit", "next_header", "flow_label", "payload_length"),
    "tcp": ("source_port", "destination_port", "window", "flags", "sequence_number"),
    "udp": ("source_port", "destination_port", "length"),
    "icmp": ("type", "code", "identifier"), "icmpv6": ("type", "sequence_number"),
}  # fmt: skip
_FLAGS = {
    "tcp": ("syn", "ack", "fin"),
    "ipv4": ("dont_fragment", "more_fragments"),
    "vlan": ("drop_eligible",),
}
_FACTS = ("ethertype", "protocol", "network_offset", "transport_offset", "payload_offset", "port", "ring")
_PREFIXES = ('"10.0.0.0/8"', '"192.168.7.9"', '"203.0.113.0/24"')
HEAD = """
import raceway
from raceway import DROP, PASS, TX

COUNT = raceway.Counters(4)
TABLE = raceway.HashTable(24, seed=7)
ROUTES = raceway.PrefixTable(8)
ROUTES.load({"10.0.0.0/8": 3, "192.168.0.0/16": 40, "2001:db8::/32": 5})
LIMIT = raceway.TokenBucket(2000, 3, 8, seed=9)
DICE = raceway.Random(21)
PORTS = (53, 80, 443, 1234)
"""


class _Writer:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.lines: list[str] = []
        self.variables: list[str] = []
        self.loops = 0
        self.helpers = 0
        self.moves = self.chance(3)
        """Whether the function moves its packet's head."""
        self.views: list[str] = []
        self.plain = False
        """Inside a loop: no headers, for the verifier walks a loop and all that it asks for several times."""

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def pick(self, of: Any) -> Any:
        return self.random.choice(list(of))

    # Expressions: text, and how many bits its magnitude has at most.

    def constant(self) -> tuple[str, int]:
        value = self.pick(
            (0, 1, 2, 3, 5, 7, 13, 16, 40, 60, 255, 256, 1500, 0x0800, 65535, 0x7FFFFFFF, -1, -2, -7)
        )
        return str(value), abs(value).bit_length()

    def leaf(self) -> tuple[str, int]:
        kind = self.random.randrange(6 if self.plain else 8)
        if kind == 0 or (kind == 1 and not self.variables):
            return self.constant()
        if kind <= 3 and self.variables:
            return self.pick(self.variables), 32
        if kind == 4:
            return "len(packet)", 16
        if kind == 5:
            name = self.pick(_LOADS)
            return f"packet.{name}({self.offset()})", _LOADS[name]
        if kind == 6:
            return f"packet.{self.pick(_FACTS)}", 21
        header = self.pick(_FIELDS)
        return f"packet.{header}.{self.pick(_FIELDS[header])}", 32

    def offset(self) -> str:
        if self.chance(3) and self.variables:
            return f"{self.pick(self.variables)} & {self.pick((15, 63, 127))}"
        return str(self.pick((0, 1, 3, 12, 13, 14, 20, 23, 26, 30, 34, 36, 40)))

    def number(self, depth: int = 3) -> tuple[str, int]:
        if depth == 0 or self.chance(4):
            return self.leaf()
        kind = self.random.randrange(11)
        left, bits = self.number(depth - 1)
        if kind == 8:
            return f"int({self.truth(depth - 1)})", 1
        if kind == 9:
            right, more = self.number(depth - 1)
            return f"({left} if {self.truth(depth - 1)} else {right})", max(bits, more)
        if kind == 10 and self.helpers and not self.plain:
            right, more = self.number(depth - 1)
            name = f"helper{self.random.randrange(self.helpers)}"
            return f"{name}(packet, ({left}) & 0xFFFF, ({right}) & 0xFFFF)", 32
        right, more = self.number(depth - 1)
        if kind == 0:
            sign = self.pick("+-")
            return self.fitting(f"({left} {sign} {right})", max(bits, more) + 1)
        if kind == 1 and bits + more <= 60:
            return f"({left} * {right})", bits + more
        if kind == 2:
            return f"({left} // {right})", bits + 1
        if kind == 3:
            return f"({left} % {right})", more
        if kind == 4:
            return f"({left} {self.pick('&|^')} {right})", max(bits, more) + 1
        if kind == 5 and bits <= 40:
            return f"({left} << ({right} & 15))", bits + 15
        if kind == 6:
            count = f"({right} | 0)" if self.chance(4) else f"({right} & 31)"
            return f"({left} >> {count})", bits
        if kind == 7:
            return f"{self.pick(('min', 'max'))}({left}, {right})", max(bits, more)
        return f"abs({left})", bits

    def fitting(self, text: str, bits: int) -> tuple[str, int]:
        return (f"({text} & 0xFFFFFFFF)", 32) if bits > 58 else (text, bits)

    def truth(self, depth: int = 2) -> str:
        kind = self.random.randrange(5, 8) if self.plain else self.random.randrange(8)
        if kind == 0:
            return f"bool(packet.{self.pick(_FIELDS)})"
        if kind == 1 and depth:
            joined = f"({self.truth(depth - 1)} {self.pick(('and', 'or'))} {self.truth(depth - 1)})"
            return f"bool{joined}" if self.chance(3) else joined
        if kind == 2 and depth:
            return f"(not {self.truth(depth - 1)})"
        if kind == 3:
            header = self.pick(_FLAGS)
            return f"(bool(packet.{header}) and packet.{header}.{self.pick(_FLAGS[header])})"
        if kind == 4:
            field = self.pick(("source", "destination"))
            return f"(bool(packet.ipv4) and packet.ipv4.{field} == {self.pick(_PREFIXES)})"
        left = self.number(min(depth, 2))[0]
        right = self.number(min(depth, 1))[0]
        signs = ("==", "!=", "<", "<=", ">", ">=")
        if kind == 5:
            return f"({left} in PORTS)"
        if kind == 6:
            return f"({self.number(1)[0]} {self.pick(signs)} {left} {self.pick(signs)} {right})"
        return f"({left} {self.pick(signs)} {right})"

    # Statements.

    def put(self, indent: int, text: str) -> None:
        self.lines.append("    " * indent + text)

    def block(self, indent: int, depth: int, *, inside_loop: bool = False) -> None:
        for _ in range(self.random.randrange(1, 3)):
            self.statement(indent, depth, inside_loop)

    def inside(self, indent: int, depth: int) -> None:
        self.plain = True
        self.block(indent, depth, inside_loop=True)
        self.plain = False

    def assign(self, indent: int) -> None:
        text = self.number()[0]
        if self.variables and not self.chance(3):
            name = self.pick(self.variables)
            if self.chance(3):
                operation = self.pick(("+", "-", "^", "|", "&"))
                self.put(indent, f"{name} {operation}= {text}")
                self.put(indent, f"{name} &= 0xFFFFFFFF")
                return
        else:
            name = f"v{len(self.variables)}"
            if indent > 1:
                name = self.pick(self.variables)
            else:
                self.variables.append(name)
        self.put(indent, f"{name} = ({text}) & 0xFFFFFFFF")

    def statement(self, indent: int, depth: int, inside_loop: bool) -> None:
        kind = self.random.randrange(14)
        if kind <= 3 or depth == 0:
            self.assign(indent)
        elif kind <= 5:
            self.put(indent, f"if {self.truth()}:")
            self.block(indent + 1, depth - 1, inside_loop=inside_loop)
            if self.chance(2):
                self.put(indent, "else:")
                self.block(indent + 1, depth - 1, inside_loop=inside_loop)
        elif kind == 6 and self.loops < 1 and not inside_loop:
            self.loops += 1
            name = f"i{self.loops}"
            self.put(
                indent,
                f"for {name} in range({self.pick(('3', '9, 1, -2', 'len(packet) & 31', '2, 70, 7'))}):",
            )
            self.variables.append(name)
            self.inside(indent + 1, depth - 1)
            self.variables.remove(name)
        elif kind == 7 and self.loops < 1 and not inside_loop:
            self.loops += 1
            name = f"w{self.loops}"
            self.put(indent, f"{name} = {self.number(1)[0]} & 31")
            self.put(indent, f"while {name} > 0:")
            self.put(indent + 1, f"{name} -= 1")
            self.inside(indent + 1, depth - 1)
        elif kind == 8 and inside_loop:
            self.put(indent, f"if {self.truth(1)}:")
            self.put(indent + 1, self.pick(("break", "continue")))
        elif kind == 9:
            self.put(indent, f"packet.{self.pick(_STORES)}({self.offset()}, {self.number(2)[0]})")
        elif kind == 10 and not inside_loop:
            header = self.pick(_FIELDS)
            self.put(indent, f"if packet.{header}:")
            self.put(indent + 1, f"packet.{header}.{self.pick(_FIELDS[header])} = {self.number(2)[0]}")
            if header == "ipv4" and self.chance(2):
                self.put(indent + 1, f"packet.ipv4.{self.pick(('source', 'destination'))} = {_PREFIXES[1]}")
        elif kind == 11 and not inside_loop:
            self.state(indent)
        elif kind >= 12 and self.moves:
            self.move(indent, inside_loop)
        elif kind == 12 and self.chance(3):
            self.put(indent, f"if {self.truth(1)}:")
            self.put(indent + 1, f"return {self.verdict()}")
        else:
            self.assign(indent)

    def move(self, indent: int, inside_loop: bool) -> None:
        """The packet's head moves, or a view is made that it will move away from, or looked at."""
        kind = self.random.randrange(2 if inside_loop else 5)
        size = self.pick(("4", "14", "20", "128", "-1", f"{self.number(1)[0]} & 63", f"{self.number(1)[0]}"))
        call = f"packet.{self.pick(('grow_head', 'shrink_head'))}({size})"
        if kind == 0:
            self.put(indent, call)
        elif kind == 1 or (kind > 2 and not self.views):
            self.put(indent, f"if {self.pick(('', 'not '))}{call}:")
            self.block(indent + 1, 0, inside_loop=inside_loop)
        elif kind == 2 and indent == 1:
            header = self.pick(_FIELDS)
            name = f"{header}_{len(self.views)}"
            self.put(indent, f"{name} = packet.{header}")
            self.views.append(name)
        elif self.views:
            name = self.pick(self.views)
            field = self.pick(_FIELDS[name.split("_")[0]])
            self.put(indent, f"if {name}:")
            self.put(
                indent + 1,
                self.pick(
                    (f"{name}.{field} = {self.number(1)[0]}", f"COUNT.add(1, {name}.{field} + {name}.offset)")
                ),
            )
        else:
            self.put(indent, call)

    def state(self, indent: int) -> None:
        key = self.pick(
            (f"{self.number(1)[0]} & 31", "packet.five_tuple", "(len(packet) & 3, packet.protocol)")
        )
        kind = self.random.randrange(10)
        if kind == 8:
            count = self.pick((1, 7, 32, 63, f"({self.number(1)[0]}) & 63"))
            self.put(indent, f"{self.pick(self.variables)} = DICE.getrandbits({count}) & 0xFFFFFFFF")
        elif kind == 9:
            stop = self.pick((2, 1000, 1 << 31, self.number(1)[0]))
            self.put(indent, f"{self.pick(self.variables)} = DICE.randrange({stop})")
        elif kind == 0:
            self.put(indent, f"COUNT[({self.number(1)[0]}) & {self.pick((3, 7))}] += 1")
        elif kind == 1:
            self.put(indent, f"COUNT.add({self.random.randrange(4)}, {self.number(1)[0]})")
        elif kind == 2:
            self.put(indent, f"TABLE.put({key}, {self.number(2)[0]})")
        elif kind == 3:
            self.put(indent, f"TABLE.add({key})")
        elif kind == 4:
            self.put(indent, f"if {key} in TABLE:" if "&" not in key else f"if ({key}) in TABLE:")
            self.put(indent + 1, f"TABLE.delete({key})")
        elif kind == 5:
            self.put(
                indent, f"{self.pick(self.variables)} = TABLE.get({key}, {self.constant()[0]}) & 0xFFFFFFFF"
            )
        elif kind == 6:
            self.put(indent, "if packet.ipv4 and not LIMIT.allow(packet, packet.ipv4.source):")
            self.put(indent + 1, f"return {self.verdict()}")
        else:
            address = self.pick(("packet.five_tuple.source", "packet.five_tuple.destination"))
            self.put(indent, f"{self.pick(self.variables)} = ROUTES.lookup({address}, 9)")

    def verdict(self) -> str:
        kind = self.random.randrange(4)
        if kind == 0:
            return f"({self.number(2)[0]}) % 5"
        if kind == 1:
            return f"(DROP, PASS, TX)[({self.number(1)[0]}) & {self.pick((1, 3))}]"
        return self.pick(("DROP", "PASS", "TX", "4", f"({self.number(1)[0]}) & 7"))

    def whole(self) -> str:
        for number in range(self.random.randrange(2)):
            self.variables, self.views = ["a", "b"], []
            self.put(0, f"def helper{number}(packet, a, b):")
            self.block(1, 1)
            if self.chance(2):
                self.put(1, f"if {self.truth(1)}:")
                self.put(2, f"return ({self.number(2)[0]}) & 0xFFFFFFFF")
            self.put(1, f"return ({self.number(2)[0]}) & 0xFFFFFFFF")
            self.put(0, "")
            self.helpers += 1
        self.variables, self.views = [], []
        self.put(0, "@raceway.packet_function")
        self.put(0, "def generated(packet):")
        self.assign(1)
        self.assign(1)
        for _ in range(self.random.randrange(2, 5)):
            self.statement(1, 2, False)
        self.put(1, f"return {self.verdict()}")
        return HEAD + "\n" + "\n".join(self.lines) + "\n"


def source(random: Random) -> str:
    """A file with a packet function, `generated`."""
    return _Writer(random).whole()


def make(text: str) -> tuple[Any, list[Any]]:
    """The function of such a file, and its state objects."""
    file = f"<generated {next(_numbers)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"__name__": "generated"}
    exec(compile(text, file, "exec"), scope)
    assert raceway
    return scope["generated"], [scope[name] for name in ("COUNT", "TABLE", "LIMIT", "DICE")]
