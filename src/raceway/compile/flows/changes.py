"""What is done to one flow in one of the two tables (`layout`). Written once, and run interpreted and compiled.

Looking up takes no lock; the bucket's lock is taken for what changes, and for the time once a second a flow.
"""

from __future__ import annotations

from typing import Any

from raceway.compile.flows.layout import (
    AFTER_RESET,
    ANSWERED,
    DATAGRAM,
    DATAGRAMS,
    ENTRY,
    EVICTED,
    FLAGS,
    FRAGMENTS,
    HALF,
    IN_FIN,
    KEY_WORDS,
    LAST,
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

_CANDIDATES = 16


def patience(flow: Any, at: int, value: int) -> int:
    """Seconds that a flow may be silent. flow, at: where its key begins."""
    if flow[at + 4] & DATAGRAM:
        return FRAGMENTS
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


def look(table: Any, flow: Any, second: int) -> int:
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


def last_of(table: Any, flow: Any) -> int:
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


def note(table: Any, flow: Any, value: int, second: int, flags: int) -> None:
    """Note that a flow was seen, and more flags of it, if there is something to note."""
    if second > value >> FLAGS or value & flags != flags or (flags == 0 and value & RESET):
        touch(table, flow, second << FLAGS | flags)


def touch(table: Any, flow: Any, seen: int) -> None:
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


def change(table: Any, flow: Any, value: int, last: int) -> None:
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


def drop(table: Any, flow: Any) -> None:
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


def confirm(known: Any, new: Any, flow: Any, value: int) -> None:
    """Make a new flow a known one, if there is room; else it stays what it is."""
    if enter(known, flow, value):
        drop(new, flow)


def enter(known: Any, flow: Any, value: int) -> bool:
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


def begin(new: Any, flow: Any, value: int, last: int) -> None:
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


SELDOM = (look, last_of, touch, change, drop, enter, begin, _room)
"""Functions that are called rather than put in line: each is asked for in several places."""
