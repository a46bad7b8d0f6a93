"""What a packet does to the flows (`layout`). Written once; interpreted and compiled code both run these functions.

Only what the host sends begins a flow. It is known, and safe from floods, once the other side has shown that it hears:
for TCP by acknowledging the sequence number that the host has sent (who forges addresses does not know it), for all
else by answers after `LASTING` seconds. A reset or a FIN shortens a flow's time and ends nothing by itself: whether it
counts, the host's own TCP knows (RFC 5961), and its next packet says so.

Looking up takes no lock; the bucket's lock is taken for what changes, and for the time once a second a flow.
"""

from __future__ import annotations

from typing import Any

from raceway.compile import locate
from raceway.compile.classifier.walk import (
    DESTINATION_HIGH,
    DESTINATION_LOW,
    FAMILY,
    NUMBER,
    PORT_OF_DESTINATION,
    PORT_OF_SOURCE,
    SOURCE_HIGH,
    SOURCE_LOW,
)
from raceway.compile.flows.layout import (
    AFTER_RESET,
    ANSWERED,
    DATAGRAMS,
    ENTRY,
    EVICTED,
    FLAGS,
    HALF,
    ICMP,
    IN_FIN,
    KEY_WORDS,
    LAST,
    LASTING,
    MASK,
    OPEN,
    OUT_FIN,
    PICKED,
    QUERIES,
    RESET,
    RESPONDER,
    TAG,
    TCP,
    TRANSITORY,
)
from raceway.compile.state.chains import (
    CAPACITY,
    HAND,
    HEADER,
    KEY,
    LOCK,
    LOOKS,
    TAG as NODE_TAG,
    VALUE,
    VERSION,
    bucket_of,
    find,
    insert,
    lock,
    refused,
    unlink,
)
from raceway.compile.state.words import compare_exchange, count, observe, publish

SECOND = 1_000_000_000
FLOW_WORDS = KEY_WORDS + 1
ANSWER = KEY_WORDS
"""The word behind a flow's key that says whether it is established."""

_OFFSET, _LATER = 0xFFFFF, 1 << 29
_NONE, _OF_FLOW, _ERROR = 0, 1, 2
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_SEQUENCE = 0xFFFFFFFF
_FIRST_DATA = 1 << 16
_WINDOW = 1 << 24
_CANDIDATES = 16


def arriving(known: Any, new: Any, packet: Any, words: Any, flow: Any, now: int) -> None:
    """Leave in `flow[ANSWER]` whether a packet that arrives belongs to a flow, or is an ICMP error about one.

    words: its key (`walk.key`); now: nanoseconds since 1970.
    """
    flow[ANSWER] = 0
    kind = _described(packet, words, flow, True)
    if kind == _NONE:
        return
    second = now // SECOND
    value = _look(known, flow, second)
    if value >= 0:
        flow[ANSWER] = 1
        if kind == _OF_FLOW:
            _note(known, flow, value, second, _ends(packet, words, IN_FIN))
        return
    value = _look(new, flow, second)
    if value < 0:
        return
    if kind == _ERROR:
        flow[ANSWER] = 1
    elif words[NUMBER] == TCP:
        _answered(known, new, packet, flow, value, second)
    else:
        flow[ANSWER] = 1
        _note(new, flow, value, second, ANSWERED)


def leaving(known: Any, new: Any, packet: Any, words: Any, flow: Any, now: int) -> None:
    """Note a packet that the host sends."""
    if _described(packet, words, flow, False) != _OF_FLOW:
        return
    second = now // SECOND
    number = words[NUMBER]
    flags, sequence = 0, second
    if number == TCP:
        start = locate.transport(packet) & _OFFSET
        flags = packet.load8(start + 13)
        sequence = packet.load32(start + 4)
    value = _look(known, flow, second)
    if value >= 0:
        if flags & (_SYN | _ACK) != _SYN:
            _note(known, flow, value, second, _ends(packet, words, OUT_FIN))
            return
        # The host has used the port again.
        _drop(known, flow)
    state = 0
    if number == TCP:
        state = HALF
        if flags & _SYN == 0:
            state = PICKED
        elif flags & _ACK:
            state = HALF | RESPONDER
    value = _look(new, flow, second)
    if value < 0:
        if flags & _RST == 0:
            _begin(new, flow, second << FLAGS | state, sequence)
    elif number != TCP:
        if value & ANSWERED and second - _last(new, flow) >= LASTING:
            confirm(known, new, flow, second << FLAGS)
        else:
            _note(new, flow, value, second, 0)
    elif flags & _RST:
        _drop(new, flow)
    elif value & ANSWERED and flags & _SYN == 0:
        confirm(known, new, flow, second << FLAGS | (OUT_FIN if flags & _FIN else 0))
    else:
        _change(new, flow, second << FLAGS | state, sequence)


def _described(packet: Any, words: Any, flow: Any, inward: bool) -> int:
    """Fill in the key of the flow that a packet is of, or is an error about; say which, or that it is neither."""
    family, number = words[FAMILY], words[NUMBER]
    if family == 0 or number < 0:
        return _NONE
    if inward:
        flow[0], flow[1] = words[DESTINATION_HIGH], words[DESTINATION_LOW]
        flow[2], flow[3] = words[SOURCE_HIGH], words[SOURCE_LOW]
        near, far = words[PORT_OF_DESTINATION], words[PORT_OF_SOURCE]
    else:
        flow[0], flow[1] = words[SOURCE_HIGH], words[SOURCE_LOW]
        flow[2], flow[3] = words[DESTINATION_HIGH], words[DESTINATION_LOW]
        near, far = words[PORT_OF_SOURCE], words[PORT_OF_DESTINATION]
    found = locate.transport(packet)
    if found < 0 or found & _LATER:
        return _NONE
    start = found & _OFFSET
    if number == 1 or number == 58:
        if (number == ICMP) != (family == 4) or start + 8 > len(packet):
            return _NONE
        kind = packet.load8(start)
        if inward and _is_error(number, kind):
            return _quoted(packet, start + 8, words, flow)
        if kind != _echo(number, inward):
            return _NONE
        near, far = packet.load16(start + 4), 0
    elif number == TCP:
        if start + 20 > len(packet):
            return _NONE
    elif near < 0:
        if number == 17 or number == 33 or number == 132 or number == 136:
            return _NONE
        near, far = 0, 0
    flow[4] = far << 32 | near << 16 | number << 8 | family
    return _OF_FLOW


def _is_error(number: int, kind: int) -> bool:
    """Tell whether an ICMP type is an error about a packet (RFC 792: 3, 11, 12; RFC 4443: 1 to 4)."""
    if number == ICMP:
        return kind == 3 or kind == 11 or kind == 12
    return 1 <= kind <= 4


def _echo(number: int, inward: bool) -> int:
    """The ICMP type of an echo's reply, or of its request (RFC 792, RFC 4443)."""
    if number == ICMP:
        return 0 if inward else 8
    return 129 if inward else 128


def _quoted(packet: Any, at: int, words: Any, flow: Any) -> int:
    """Fill in the key of the flow of the packet that an ICMP error quotes, if the host that gets it has sent that."""
    length = len(packet)
    family = words[FAMILY]
    if family == 4:
        if at + 28 > length:
            return _NONE
        first = packet.load8(at)
        behind = at + ((first & 15) << 2)
        if first < 0x45 or first > 0x4F or packet.load16(at + 6) & 0x1FFF or behind + 8 > length:
            return _NONE
        number = packet.load8(at + 9)
        flow[0], flow[1], flow[2], flow[3] = 0, packet.load32(at + 12), 0, packet.load32(at + 16)
    else:
        behind = at + 40
        if behind + 8 > length or packet.load8(at) >> 4 != 6:
            return _NONE
        number = packet.load8(at + 6)
        flow[0], flow[1] = packet.load64(at + 8), packet.load64(at + 16)
        flow[2], flow[3] = packet.load64(at + 24), packet.load64(at + 32)
    # RFC 5927, 4: an error goes to whoever has sent what it quotes.
    if flow[0] != words[DESTINATION_HIGH] or flow[1] != words[DESTINATION_LOW]:
        return _NONE
    near, far = 0, 0
    if number == 6 or number == 17 or number == 33 or number == 132 or number == 136:
        near, far = packet.load16(behind), packet.load16(behind + 2)
    elif number == 1 or number == 58:
        if packet.load8(behind) != _echo(number, False):
            return _NONE
        near = packet.load16(behind + 4)
    flow[4] = far << 32 | near << 16 | number << 8 | family
    return _ERROR


def _ends(packet: Any, words: Any, fin: int) -> int:
    """The flags that a packet of a known flow sets: of TCP, that this side has ended, or a reset."""
    if words[NUMBER] != TCP:
        return 0
    flags = packet.load8((locate.transport(packet) & _OFFSET) + 13)
    if flags & _RST:
        return RESET
    if flags & _FIN:
        return fin
    return 0


def patience(flow: Any, at: int, value: int) -> int:
    """Seconds that a flow may be silent. flow, at: where its key begins."""
    number = (flow[at + 4] >> 8) & 0xFF
    if number == TCP:
        if value & RESET:
            return AFTER_RESET
        if value & (OUT_FIN | IN_FIN | HALF | PICKED):
            return TRANSITORY
        return OPEN
    if number == 1 or number == 58:
        return QUERIES
    return DATAGRAMS


def _look(table: Any, flow: Any, second: int) -> int:
    """Return a flow's value, -1 if there is none whose time is not over."""
    mask = table[MASK]
    bucket = bucket_of(table, mask, flow, 0, KEY_WORDS, TAG)
    for _ in range(LOOKS):
        word = observe(table, bucket)
        at = find(table, mask, ENTRY, word, flow, KEY_WORDS, TAG)
        value = -1
        if at > 0:
            value = table[at + VALUE]
        if observe(table, bucket) >> VERSION == word >> VERSION:
            if value >= 0 and second - (value >> FLAGS) > patience(flow, 0, value):
                return -1
            return value
    return -1


def _last(table: Any, flow: Any) -> int:
    """Return a flow's last word; 0 if there is no such flow."""
    mask = table[MASK]
    bucket = bucket_of(table, mask, flow, 0, KEY_WORDS, TAG)
    word = lock(table, bucket)
    if word < 0:
        return 0
    at = find(table, mask, ENTRY, word, flow, KEY_WORDS, TAG)
    last = 0
    if at > 0:
        last = table[at + LAST]
    publish(table, bucket, word)
    return last


def _note(table: Any, flow: Any, value: int, second: int, flags: int) -> None:
    """Note that a flow was seen, and more flags of it, if there is something to note."""
    if second > value >> FLAGS or value & flags != flags or (flags == 0 and value & RESET):
        _touch(table, flow, second << FLAGS | flags)


def _touch(table: Any, flow: Any, seen: int) -> None:
    """Note when a flow was seen, and flags of it."""
    mask = table[MASK]
    bucket = bucket_of(table, mask, flow, 0, KEY_WORDS, TAG)
    word = lock(table, bucket)
    if word < 0:
        return
    at = find(table, mask, ENTRY, word, flow, KEY_WORDS, TAG)
    if at > 0:
        before = table[at + VALUE]
        kept = (before | seen) & ((1 << FLAGS) - 1)
        if seen & RESET == 0:
            # Whoever goes on has not taken the reset for one.
            kept &= ~RESET
        table[at + VALUE] = max(seen >> FLAGS, before >> FLAGS) << FLAGS | kept
    publish(table, bucket, word)


def _change(table: Any, flow: Any, value: int, last: int) -> None:
    """Set what is known of a flow."""
    mask = table[MASK]
    bucket = bucket_of(table, mask, flow, 0, KEY_WORDS, TAG)
    word = lock(table, bucket)
    if word < 0:
        return
    at = find(table, mask, ENTRY, word, flow, KEY_WORDS, TAG)
    if at > 0:
        table[at + VALUE] = value | table[at + VALUE] & ANSWERED
        table[at + LAST] = last
    publish(table, bucket, word)


def _drop(table: Any, flow: Any) -> None:
    """Forget a flow."""
    mask = table[MASK]
    bucket = bucket_of(table, mask, flow, 0, KEY_WORDS, TAG)
    word = lock(table, bucket)
    if word < 0:
        return
    at = find(table, mask, ENTRY, word, flow, KEY_WORDS, TAG)
    if at > 0:
        unlink(table, mask, ENTRY, bucket, word, at)
    else:
        publish(table, bucket, word)


def _answered(known: Any, new: Any, packet: Any, flow: Any, value: int, second: int) -> None:
    """Say whether a TCP packet that arrives answers what the host has sent in a new flow, and what comes of it."""
    start = locate.transport(packet) & _OFFSET
    flags = packet.load8(start + 13)
    ahead = (packet.load32(start + 8) - _last(new, flow)) & _SEQUENCE
    if value & HALF == 0:
        # The flow was there before: anything about as far as a window (RFC 7323) from what the host last sent.
        hears = flags & _ACK != 0 and (ahead + _WINDOW) & _SEQUENCE < 2 * _WINDOW
        if hears and flags & (_SYN | _RST) == 0:
            flow[ANSWER] = 1
            confirm(known, new, flow, second << FLAGS | (IN_FIN if flags & _FIN else 0))
        elif hears or flags & (_SYN | _RST) == _RST:
            flow[ANSWER] = 1
        return
    # What was acknowledged begins with the SYN itself; some data may have come with it (RFC 7413).
    hears = flags & _ACK != 0 and 1 <= ahead <= _FIRST_DATA
    if value & RESPONDER:
        if flags & _SYN:
            return
        if flags & _RST:
            flow[ANSWER] = 1
        elif hears:
            flow[ANSWER] = 1
            confirm(known, new, flow, second << FLAGS | (IN_FIN if flags & _FIN else 0))
    elif hears and flags & (_SYN | _RST):
        flow[ANSWER] = 1
        if flags & _RST:
            _note(new, flow, value, second, RESET)
        else:
            _note(new, flow, value, second, ANSWERED)
    elif value & ANSWERED and hears:
        # The other side's second packet was quicker than the host's.
        flow[ANSWER] = 1


def confirm(known: Any, new: Any, flow: Any, value: int) -> None:
    """Make a new flow a known one, if there is room; else it stays what it is."""
    if _enter(known, flow, value):
        _drop(new, flow)


def _enter(known: Any, flow: Any, value: int) -> bool:
    """Put a flow in, or set its value; False if there is no room."""
    mask = known[MASK]
    bucket = bucket_of(known, mask, flow, 0, KEY_WORDS, TAG)
    for attempt in range(2):
        word = lock(known, bucket)
        if word < 0:
            return False
        at = find(known, mask, ENTRY, word, flow, KEY_WORDS, TAG)
        if at > 0:
            known[at + VALUE] = value
            publish(known, bucket, word)
            return True
        found = insert(known, mask, ENTRY, bucket, word, flow, KEY_WORDS, TAG, 0, value, 0)
        if found > 0:
            return True
        if attempt == 1 or found < 0 or not _room(known, value >> FLAGS, True):
            refused(known, found)
            return False
    return False


def _begin(new: Any, flow: Any, value: int, last: int) -> None:
    """Put a new flow in, in place of another one if there is no room."""
    mask = new[MASK]
    bucket = bucket_of(new, mask, flow, 0, KEY_WORDS, TAG)
    for attempt in range(2):
        word = lock(new, bucket)
        if word < 0:
            return
        at = find(new, mask, ENTRY, word, flow, KEY_WORDS, TAG)
        if at > 0:
            new[at + VALUE] = value
            new[at + LAST] = last
            publish(new, bucket, word)
            return
        found = insert(new, mask, ENTRY, bucket, word, flow, KEY_WORDS, TAG, 0, value, last)
        if found > 0:
            return
        if attempt == 1 or found < 0 or not _room(new, value >> FLAGS, False):
            refused(new, found)
            return


def _room(table: Any, second: int, over: bool) -> bool:
    """Make room in a full table: take out the least promising of the few flows that the hand comes to. over: only one
    whose time is over. Whoever calls this holds no lock."""
    mask = table[MASK]
    hand = count(table, HAND, _CANDIDATES)
    worst, place = -1, 0
    for step in range(_CANDIDATES):
        node = (hand + step) & (table[CAPACITY] - 1)
        at = HEADER + mask + 1 + node * ENTRY
        if observe(table, at + NODE_TAG) == TAG:
            value = table[at + VALUE]
            age = second - (value >> FLAGS)
            # Those whose time is over; then connections that somebody wants of the host and has not confirmed; then
            # those that nobody has answered.
            rank = 0
            if age > patience(table, at + KEY, value):
                rank = 3
            elif value & RESPONDER and value & ANSWERED == 0:
                rank = 2
            elif value & ANSWERED == 0:
                rank = 1
            score = rank << 32 | min(max(age, 0), 0xFFFFFFFF)
            if score > worst and (rank == 3 or not over):
                worst, place = score, at
    if place == 0:
        return False
    bucket = bucket_of(table, mask, table, place + KEY, KEY_WORDS, TAG)
    word = observe(table, bucket)
    if word & LOCK or not compare_exchange(table, bucket, word, word | LOCK):
        return False
    value = table[place + VALUE]
    if over and second - (value >> FLAGS) <= patience(table, place + KEY, value):
        # It was seen again, or is another one by now.
        publish(table, bucket, word)
        return False
    if not unlink(table, mask, ENTRY, bucket, word, place):
        return False
    if worst >> 32 != 3:
        count(table, EVICTED, 1)
    return True


SELDOM = (_look, _last, _touch, _change, _drop, _enter, _begin, _room)
"""Functions that are called rather than put in line: each is asked for in several places."""
