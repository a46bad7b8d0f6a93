"""How flows lie in memory: two tables (`compile.state.chains`) one behind the other, keys of five words.

    known   flows in which both sides have spoken, and the other side has shown that it hears: never given up before
            their time is over, whatever else comes
    new     all others; when there is no room, the one that is least likely to become anything makes room

So a flood of new flows, from inside or outside, meets its own kind only.

    key     local address | local address | remote address | remote address | remote port, local port, protocol, family
    value   second when it was last seen << 8 | flags
    last    of TCP: the sequence number that the other side is to acknowledge; else the second in which it began

Among the new ones are datagrams that arrive in fragments and of which the first was of a flow:

    key     as above, but the last word: identification, of IPv4 the protocol, family | DATAGRAM
    value   second in which the first fragment came << 8
"""

from __future__ import annotations

from raceway.compile.state import chains

KEY_WORDS = 5
TAG = 0b01_01_01_01_01
"""Five numbers, as a table's tag says it."""
ENTRY = chains.KEY + KEY_WORDS + 1
LAST = ENTRY - 1
MASK = chains.KINDS
"""The header's word that has the number of buckets - 1: no key of flows is shown by kind."""
EVICTED = chains.ALLOWED
"""The header's word that counts flows that made room for others."""

OUT_FIN, IN_FIN, RESET, ANSWERED, RESPONDER, HALF, PICKED = (1 << bit for bit in range(7))
"""Flags: either side has ended its half; a reset was seen; the other side has answered; the host itself has answered a
connection; its SYN was not acknowledged yet; the flow was there before it was tracked."""
FLAGS = 8
DATAGRAM = 8
"""The bit beside the family that tells a datagram's key from a flow's."""

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58

# Seconds without a packet after which a flow is over.
OPEN = 7440
"""TCP, established: RFC 5382, REQ-5: not less than 2 hours 4 minutes."""
TRANSITORY = 240
"""TCP, partly open or closing: the same, not less than 4 minutes."""
DATAGRAMS = 120
"""UDP and whatever else: RFC 4787, REQ-5: not less than 2 minutes."""
QUERIES = 60
"""ICMP: RFC 5508, REQ-2: not less than 60 seconds."""
FRAGMENTS = 60
"""A datagram in fragments: RFC 8200, 4.5; RFC 1122, 3.3.2: no host waits longer for the rest of IPv6, few of IPv4."""
AFTER_RESET = 10
LASTING = 2
"""Seconds after which a UDP or ICMP flow with answers is known. A question and its answer are not worth it."""


def words(capacity: int) -> tuple[int, int]:
    """How many words a table of so many flows takes, and the number of its buckets - 1."""
    mask = (1 << max((capacity + capacity // 4).bit_length(), 3)) - 1
    return chains.HEADER + mask + 1 + capacity * ENTRY, mask
