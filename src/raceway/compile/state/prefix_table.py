"""A longest-prefix table for IPv4 and IPv6: a binary trie that skips what has no branch (Patricia; Sedgewick, ch. 17).

A node is eight words; node 0 is "nothing", nodes 1 and 2 are the roots of IPv4 and IPv6 (the prefix of length 0)::

    | address high | low | length | has value | value | child 0 | child 1 | - |

An IPv4 address stands in the upper half of `high`. Looking up walks from the root, as far as prefixes match,
and remembers the last value. Adding and removing are Python's; they store a node whole before they link it, and take it
out by one store, so whoever looks up meanwhile, on any processor, sees the table before or after. A node that was taken
out stays as it was until it is used again, which is told first (`REUSES`, a word of node 0): who may have stood on it
looks again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from raceway.compile.addresses import Address, IPv4Address, IPv6Address, Prefix, prefix, signed64
from raceway.compile.state.words import State, observe, publish, whole_number

NODE = 8
HIGH, LOW, LENGTH, HAS_VALUE, VALUE, CHILD = 0, 1, 2, 3, 4, 5
ROOT_4, ROOT_6 = 1, 2
REUSES = 0
_DEEPEST = 129
_LOOKS = 64


def lookup(table: memoryview[int], root: int, high: int, low: int, default: int) -> int:
    """Return the value of the longest prefix that the address begins with, or the default."""
    found = default
    for _ in range(_LOOKS):
        before = observe(table, REUSES)
        found = walk(table, root, high, low, default)
        if observe(table, REUSES) == before:
            return found
    return found


def walk(table: memoryview[int], root: int, high: int, low: int, default: int) -> int:
    """Return the same, if no node was used again meanwhile."""
    best = default
    node = root
    for _ in range(_DEEPEST):
        at = node * NODE
        length = table[at + LENGTH]
        if length > 64:
            if high != table[at + HIGH] or (low ^ table[at + LOW]) >> (128 - length):
                return best
        elif length > 0 and (high ^ table[at + HIGH]) >> (64 - length):
            return best
        # A value is stored before it is said that there is one.
        if observe(table, at + HAS_VALUE):
            best = table[at + VALUE]
        if length >= 128:
            return best
        bit = (high >> (63 - length)) & 1 if length < 64 else (low >> (127 - length)) & 1
        node = table[at + CHILD + bit]
        if node == 0:
            return best
    return best


class PrefixTable(State):
    """At most `capacity` prefixes of IPv4 and IPv6 with a signed 64-bit number each.

    In a packet function: `ROUTES.lookup(ip.destination, default)`. In Python: `add`, `remove`, `load` for many, and
    `table["10.0.0.0/8"] = 3`, which sets; reading with [] wants exactly that prefix, `lookup` the longest one. A
    lookup gives the answer from before or from after whatever Python changes meanwhile.
    """

    CONTENT = State.CONTENT | {"_next", "_free", "_count", "full"}

    def __init__(self, capacity: int) -> None:
        self.capacity = whole_number(capacity, "capacity", 1, 1 << 26)
        # A prefix brings at most its own node and one where two branches part.
        self._nodes = 2 * self.capacity + 3
        super().__init__(self._nodes * NODE)
        self._next = 3
        self._free: deque[int] = deque()
        self._count = 0
        self.full = 0

    # From here on, prefixes are (root, 128-bit number, length).

    @staticmethod
    def _read(which: Any) -> tuple[int, int, int]:
        if isinstance(which, str):
            which = prefix(which)
        if isinstance(which, Address):
            which = Prefix(which.family, int(which), which.bits)
        if not isinstance(which, Prefix):
            text = str(which)
            try:
                which = prefix(text)
            except ValueError:
                raise TypeError(f"a prefix table holds IPv4 and IPv6 prefixes, got {which!r}") from None
        if which.family == "mac":
            raise ValueError(f"a prefix table holds IPv4 and IPv6 prefixes, got the MAC address {which}")
        if which.family == "ipv4":
            return ROOT_4, which.value << 96, which.length
        return ROOT_6, which.value, which.length

    def _bits(self, node: int) -> int:
        at = node * NODE
        mask = (1 << 64) - 1
        return (self.memory[at + HIGH] & mask) << 64 | self.memory[at + LOW] & mask

    def _make(self, bits: int, length: int) -> int:
        if self._next < self._nodes:
            node = self._next
            self._next += 1
        else:
            node = self._free.popleft()
            publish(self.memory, REUSES, signed64(self.memory[REUSES] + 1))
        at = node * NODE
        self.words[at : at + NODE] = 0
        self.memory[at + HIGH] = signed64(bits >> 64)
        self.memory[at + LOW] = signed64(bits)
        self.memory[at + LENGTH] = length
        return node

    def _path(self, root: int, bits: int, length: int) -> list[int]:
        """Return the nodes from the root whose prefixes the given one begins with."""
        memory = self.memory
        path = [root]
        while True:
            at = path[-1] * NODE
            here = memory[at + LENGTH]
            if here == length:
                return path
            child = memory[at + CHILD + (bits >> (127 - here) & 1)]
            if child == 0:
                return path
            deeper = memory[child * NODE + LENGTH]
            if deeper > length or (bits ^ self._bits(child)) >> (128 - deeper):
                return path
            path.append(child)

    def add(self, which: Any, value: int) -> bool:
        """Set a prefix's value; False, and counted in `full`, if it is new and the table full."""
        root, bits, length = self._read(which)
        with self.writing:
            return self._add(root, bits, length, signed64(int(value)))

    def _add(self, root: int, bits: int, length: int, value: int) -> bool:
        path = self._path(root, bits, length)
        at = path[-1] * NODE
        if self.memory[at + LENGTH] == length:
            if not self.memory[at + HAS_VALUE]:
                if self._refuse():
                    return False
                self._count += 1
            self.memory[at + VALUE] = value
            publish(self.memory, at + HAS_VALUE, 1)
            return True
        if self._refuse():
            return False
        made = self._make(bits, length)
        self.memory[made * NODE + VALUE] = value
        self.memory[made * NODE + HAS_VALUE] = 1
        link = at + CHILD + (bits >> (127 - self.memory[at + LENGTH]) & 1)
        below = self.memory[link]
        if below:
            made = self._above(below, made, bits, length)
        publish(self.memory, link, made)
        self._count += 1
        return True

    def _above(self, below: int, made: int, bits: int, length: int) -> int:
        """Return the node to link where `below` was: `made` itself, or a new one under which both hang."""
        other = self._bits(below)
        common = min(length, 128 - (bits ^ other).bit_length())
        if common == length:
            self.memory[made * NODE + CHILD + (other >> (127 - length) & 1)] = below
            return made
        branch = self._make(bits >> (128 - common) << (128 - common) if common else 0, common)
        at = branch * NODE + CHILD
        self.memory[at + (bits >> (127 - common) & 1)] = made
        self.memory[at + (other >> (127 - common) & 1)] = below
        return branch

    def _refuse(self) -> bool:
        if self._count < self.capacity:
            return False
        self.full += 1
        return True

    def remove(self, which: Any) -> bool:
        """Remove exactly this prefix; False if it was not there."""
        root, bits, length = self._read(which)
        with self.writing:
            path = self._path(root, bits, length)
            at = path[-1] * NODE
            if self.memory[at + LENGTH] != length or not self.memory[at + HAS_VALUE]:
                return False
            self.memory[at + HAS_VALUE] = 0
            self._count -= 1
            self._unlink(path)
        return True

    def _unlink(self, path: list[int]) -> None:
        """Take out nodes that neither hold a value nor part two branches."""
        while len(path) > 1:
            node = path.pop()
            at = node * NODE
            left, right = self.memory[at + CHILD], self.memory[at + CHILD + 1]
            if self.memory[at + HAS_VALUE] or (left and right):
                return
            above = path[-1] * NODE + CHILD
            publish(self.memory, above + (self.memory[above + 1] == node), left or right)
            self._free.append(node)
            if left or right:
                return

    def load(self, prefixes: Mapping[Any, int] | Iterable[tuple[Any, int]]) -> int:
        """Add many prefixes with their values; return how many the table took."""
        pairs = prefixes.items() if isinstance(prefixes, Mapping) else prefixes
        return sum(self.add(which, value) for which, value in pairs)

    def lookup(self, address: Any, default: int = 0) -> int:
        """Return the value of the longest prefix that an address belongs to, or `default`."""
        root, bits, length = self._read(address)
        if length != (32 if root == ROOT_4 else 128):
            raise ValueError(f"{address} is a prefix; look up one address")
        return lookup(self.memory, root, signed64(bits >> 64), signed64(bits), default)

    def _exact(self, which: Any) -> int | None:
        root, bits, length = self._read(which)
        at = self._path(root, bits, length)[-1] * NODE
        if self.memory[at + LENGTH] != length or not self.memory[at + HAS_VALUE]:
            return None
        return self.memory[at + VALUE]

    def __getitem__(self, which: Any) -> int:
        value = self._exact(which)
        if value is None:
            raise KeyError(str(which))
        return value

    def __setitem__(self, which: Any, value: int) -> None:
        if not self.add(which, value):
            raise OverflowError(f"the table is full: {self.capacity} prefixes")

    def __delitem__(self, which: Any) -> None:
        if not self.remove(which):
            raise KeyError(str(which))

    def __contains__(self, which: Any) -> bool:
        return self._exact(which) is not None

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return True

    def items(self) -> list[tuple[Prefix, int]]:
        """Return all prefixes and their values, IPv4 first, in the order of their addresses."""
        found = []
        for root, family, drop in ((ROOT_4, "ipv4", 96), (ROOT_6, "ipv6", 0)):
            waiting = [root]
            while waiting:
                node = waiting.pop()
                at = node * NODE
                if self.memory[at + HAS_VALUE]:
                    one = Prefix(family, self._bits(node) >> drop, self.memory[at + LENGTH])
                    found.append((one, self.memory[at + VALUE]))
                waiting += [
                    child for child in (self.memory[at + CHILD + 1], self.memory[at + CHILD]) if child
                ]
        return found

    def __iter__(self) -> Iterator[Prefix]:
        return iter([one for one, _ in self.items()])

    def __repr__(self) -> str:
        return f"<PrefixTable: {len(self)} of {self.capacity} prefixes>"


__all__ = ["IPv4Address", "IPv6Address", "PrefixTable"]
