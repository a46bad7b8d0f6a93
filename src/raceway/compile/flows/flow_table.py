"""`FlowTable`: the state object that tells a packet function whether a packet belongs to what the host has begun."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from raceway.compile.addresses import IPv4Address, IPv6Address, signed64
from raceway.compile.classifier import walk
from raceway.compile.flows import changes, layout, tracking
from raceway.compile.state import chains
from raceway.compile.state.words import State, whole_number

_LARGEST = 1 << 24
_SHARE, _FEWEST = 8, 1 << 10


class Flow(NamedTuple):
    """A flow. protocol: IP's number; ports: 0 where there are none, of ICMP the echo's identifier; seen: when it was
    last seen, in seconds since 1970; known: both sides have spoken, and it is safe from floods."""

    protocol: int
    local: IPv4Address | IPv6Address
    local_port: int
    remote: IPv4Address | IPv6Address
    remote_port: int
    seen: int
    known: bool


class FlowTable(State):
    """Flows of a host: which packets that arrive belong to what it has begun or answered.

    flows: how many are known at once, made up to a power of two; an eighth as many (at least 1,024) may be new. In
    packet functions: `FLOWS.leaving(packet)` for what the host sends, then `FLOWS.arriving(packet)` is whether a
    packet belongs to a flow or is an ICMP error about one; who has a `Classifier.key` hands it on. What makes a flow
    known and how long it stays is written in `flows.layout` and `flows.tracking`. When all places of known flows are
    taken, further ones stay new, and are counted in `full`; a new flow that gives way to another one is counted in
    `evicted`. Any number of processors may ask and write at once.
    """

    CONTENT = State.CONTENT

    def __init__(self, flows: int = 1 << 20, *, seed: int | None = None) -> None:
        wanted = whole_number(flows, "flows", 1, _LARGEST)
        self.known_capacity = 1 << (wanted - 1).bit_length()
        self.new_capacity = max(self.known_capacity // _SHARE, _FEWEST)
        count, mask = layout.words(self.known_capacity)
        # The second table begins on a cache line.
        self.new_at = -(-count // 8) * 8
        self.new_words, new_mask = layout.words(self.new_capacity)
        super().__init__(self.new_at + self.new_words)
        self._known = self.memory[: self.new_at]
        self._new = self.memory[self.new_at :]
        for table, capacity, bits in (
            (self._known, self.known_capacity, mask),
            (self._new, self.new_capacity, new_mask),
        ):
            table[chains.CAPACITY] = capacity
            table[chains.SEED] = signed64(secrets.randbits(63) if seed is None else seed)
            table[layout.MASK] = bits

    def shape(self) -> tuple[Any, ...] | None:
        """What compiled code of it depends on."""
        return type(self).__qualname__, len(self.words), self.new_at, self.new_words

    def arriving(self, packet: Any, key: Any = None) -> bool:
        """Whether a packet that arrives belongs to a flow of the host, or is an ICMP error about one."""
        flow = self._ask(tracking.arriving, packet, key)
        return flow[tracking.ANSWER] != 0

    def leaving(self, packet: Any, key: Any = None) -> bool:
        """Note a packet that the host sends. Always true."""
        self._ask(tracking.leaving, packet, key)
        return True

    def _ask(self, function: Any, packet: Any, key: Any) -> list[int]:
        flow = [0] * tracking.FLOW_WORDS
        if key is None:
            key = [0] * walk.KEY_WORDS
            walk.key(packet, key)
        with self.writing:
            if not self.alone:
                raise RuntimeError(
                    "compiled code writes these flows too; interpreted functions cannot do that at the same time"
                )
            function(self._known, self._new, packet, key, flow, packet.time)
        return flow

    def adopt(self, connections: Iterable[tuple[Any, int, Any, int]], now: int) -> int:
        """Make TCP connections known that were there before; only before compiled code runs. Return how many there was
        room for.

        connections: local address (`raceway.prefix(...).address`), local port, remote address, remote port; now:
        nanoseconds since 1970.
        """
        taken = 0
        value = now // tracking.SECOND << layout.FLAGS
        if not self.alone:
            raise RuntimeError("compiled code writes these flows already")
        for local, local_port, remote, remote_port in connections:
            family = 6 if isinstance(local, IPv6Address) else 4
            halves = [(one.high, one.low) if family == 6 else (0, int(one)) for one in (local, remote)]
            last = remote_port << 32 | local_port << 16 | layout.TCP << 8 | family
            flow = [*halves[0], *halves[1], last, 0]
            before = self._known[chains.COUNT]
            changes.confirm(self._known, self._new, flow, value)
            taken += self._known[chains.COUNT] - before
        return taken

    @property
    def known(self) -> int:
        """Flows in which both sides have spoken, with those whose time is over and whose place nobody wanted yet."""
        return self._known[chains.COUNT]

    @property
    def new(self) -> int:
        """Flows that are not known yet, and datagrams of which more fragments may come."""
        return self._new[chains.COUNT]

    @property
    def full(self) -> int:
        """How often a flow would have become known, and there was no place."""
        return self._known[chains.FULL]

    @property
    def evicted(self) -> int:
        """New flows (and datagrams in fragments) that gave way to others."""
        return self._new[layout.EVICTED]

    @property
    def busy(self) -> int:
        """How often somebody gave up because others were at the same flow for too long."""
        return self._known[chains.BUSY] + self._new[chains.BUSY]

    def flows(self, now: int) -> list[Flow]:
        """All flows whose time is not over. now: nanoseconds since 1970. Under change, some may be missing."""
        found = []
        second = now // tracking.SECOND
        for table, capacity, is_known in (
            (self._known, self.known_capacity, True),
            (self._new, self.new_capacity, False),
        ):
            mask = table[layout.MASK]
            used = min(table[chains.FRESH], capacity)
            words = np.asarray(table)[chains.HEADER + mask + 1 :][: used * layout.ENTRY].reshape(
                -1, layout.ENTRY
            )
            rows = words[words[:, chains.TAG] == layout.TAG].tolist()
            for row in rows:
                value = row[chains.VALUE]
                key = row[chains.KEY : chains.KEY + layout.KEY_WORDS]
                if key[4] & layout.DATAGRAM:
                    continue
                if second - (value >> layout.FLAGS) <= changes.patience(key, 0, value):
                    found.append(_flow(key, value >> layout.FLAGS, is_known))
        return found

    def __len__(self) -> int:
        return self.known + self.new

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<FlowTable: {self.known:,} of {self.known_capacity:,} known flows, {self.new:,} new>"


def _flow(key: list[int], seen: int, known: bool) -> Flow:
    last = key[4]
    if last & 0xFF == 4:
        addresses: list[Any] = [IPv4Address(key[1]), IPv4Address(key[3])]
    else:
        mask = (1 << 64) - 1
        addresses = [IPv6Address((key[at] & mask) << 64 | key[at + 1] & mask) for at in (0, 2)]
    local_port, remote_port = last >> 16 & 0xFFFF, last >> 32 & 0xFFFF
    return Flow(last >> 8 & 0xFF, addresses[0], local_port, addresses[1], remote_port, seen, known)
