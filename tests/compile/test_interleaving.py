"""Another processor comes in between any two accesses to memory: every place of every operation, one after the other.

`Between` is a table's memory that does something else when the n-th access comes. A word that is read and then written
at once is one access, for that is how the five functions of `words` do what the processor does in one instruction.
"""

from __future__ import annotations

import itertools

import pytest

from raceway.compile.state import chains, hash_table, prefix_table, token_bucket
from raceway.compile.state.hash_table import HashTable
from raceway.compile.state.prefix_table import ROOT_4, PrefixTable
from raceway.compile.state.token_bucket import TokenBucket
from table_audit import audit, bucket_of, hold

ABSENT = -1


class Between:
    """Words, between two accesses of which something happens. reached: whether there were that many."""

    def __init__(self, memory, place, happens):
        self.memory, self.left, self.happens = memory, place, happens
        self.reached = False
        self.read = -1

    def _access(self):
        self.left -= 1
        if self.left == 0:
            self.reached = True
            self.happens()

    def __getitem__(self, index):
        self._access()
        self.read = index
        return self.memory[index]

    def __setitem__(self, index, value):
        if self.read != index:
            self._access()
        self.read = -1
        self.memory[index] = value


def run(table, name, key, memory, *more):
    words, size, tag, kind = table._key(key)
    function = getattr(hash_table, name)
    kinds = (kind,) if name in ("put", "add") else ()
    return function(memory, table.mask, table.entry, words, size, tag, *kinds, *more)


def crowded(capacity=4):
    """A table, and three keys in the same bucket of it."""
    table = HashTable(capacity, key_words=2, seed=3)
    first = bucket_of(table, 0)
    return table, [key for key in range(100) if bucket_of(table, key) == first][:3]


def places():
    return itertools.count(1)


OTHERS = {
    "nothing": lambda table, a, b, c: None,
    "deletes it": lambda table, a, b, c: table.delete(a),
    "deletes the one before": lambda table, a, b, c: table.delete(b),
    "deletes all": lambda table, a, b, c: [table.delete(key) for key in (a, b, c)],
    "replaces it": lambda table, a, b, c: (table.delete(a), table.put((7, 7), 99), table.put(a, 2)),
    "uses its node for another": lambda table, a, b, c: (table.delete(a), table.put((7, 7), 99)),
    "adds to it": lambda table, a, b, c: table.add(a, 1),
    "puts a new one": lambda table, a, b, c: table.put((7, 8), 5),
    "deletes and puts it, many times": lambda table, a, b, c: [
        (table.delete(a), table.delete(c), table.put(c, 3), table.put(a, 2)) for _ in range(3)
    ],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("held", ["all", "last"])
def test_a_look_up_gives_the_answer_from_before_or_after(other, held):
    for place in places():
        table, (a, b, c) = crowded()
        for value, key in enumerate((a, b, c) if held == "all" else (a,), 1):
            table.put(key, value)
        before = table.get(a, ABSENT)
        memory = Between(table.memory, place, lambda: other(table, a, b, c))  # noqa: B023
        found = run(table, "get", a, memory, ABSENT)
        assert found in (before, table.get(a, ABSENT))
        assert table.busy == 0
        memory = Between(table.memory, place, lambda: other(table, a, b, c))  # noqa: B023
        was = a in table
        assert run(table, "contains", a, memory) in (was, a in table)
        audit(table)
        if not memory.reached:
            return


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("name", ["put", "add", "delete"])
@pytest.mark.parametrize("there", [True, False])
def test_a_change_is_made_before_or_after_another(other, name, there, monkeypatch):
    """Whatever comes in between, the outcome is one of the two orders; who finds the lock taken gives up, counted."""
    monkeypatch.setattr(chains, "ATTEMPTS", 3)
    more = {"put": (50,), "add": (10,), "delete": ()}[name]

    def made():
        table, (a, b, c) = crowded()
        table.put(b, 2)
        if there:
            table.put(a, 1)
        return table, a, b, c

    def state(table):
        return frozenset(table.items()), len(table)

    orders = []
    for first in (True, False):
        table, a, b, c = made()
        steps = [lambda: run(table, name, a, table.memory, *more), lambda: other(table, a, b, c)]  # noqa: B023
        results = [step() for step in (steps if first else reversed(steps))]
        orders.append((results[0 if first else 1], state(table)))
    for place in places():
        table, a, b, c = made()
        memory = Between(table.memory, place, lambda: other(table, a, b, c))  # noqa: B023
        result = run(table, name, a, memory, *more)
        audit(table)
        if not memory.reached:
            return
        if table.busy == 0:
            assert (result, state(table)) in orders, place


@pytest.mark.parametrize("deleted", [(), (10,), (10, 11), (11, 10)])
def test_no_node_is_lost_or_given_twice_by_two_who_take_and_give(deleted):
    for place in places():
        table = HashTable(3, key_words=1, seed=1)
        for key in range(3):
            table.put(key, key)
        table.delete(0)
        table.delete(1)

        def other(table=table):
            for key in (10, 11, 12):
                table.put(key, key)
            for key in deleted:
                table.delete(key)

        memory = Between(table.memory, place, other)
        run(table, "put", 20, memory, 1)
        run(table, "delete", 2, memory)
        audit(table)
        if not memory.reached:
            return


def test_a_bucket_table_that_makes_room_stays_whole(monkeypatch):
    monkeypatch.setattr(chains, "ATTEMPTS", 3)
    for place in places():
        bucket = TokenBucket(1000, 2, 3, key_words=1, seed=5)

        def ask(memory, key, now, bucket=bucket):
            words, size, tag, kind = bucket._key(key)
            return token_bucket.allow(
                memory, bucket.mask, bucket.entry, words, size, tag, kind, now, bucket.rate, bucket.burst, 1
            )

        for key in range(3):
            assert ask(bucket.memory, key, 0)

        def other(ask=ask, bucket=bucket):
            for key in (1, 5, 6):
                ask(bucket.memory, key, 10**9)

        memory = Between(bucket.memory, place, other)
        assert ask(memory, 4, 10**9) or bucket.full or bucket.busy
        audit(bucket)
        assert bucket.allowed + bucket.refused == (7 if memory.reached else 4)
        if not memory.reached:
            return


def test_a_prefix_look_up_gives_the_answer_from_before_or_after():
    """Nodes are taken out and used again in another branch while a look-up stands on them."""
    address = 0x0A010203 << 32
    for place in places():
        table = PrefixTable(4)
        table.load({"10.0.0.0/8": 1, "10.1.0.0/16": 2, "10.1.2.0/24": 3})
        legal = {1, 2, 3}

        def other(table=table):
            table.remove("10.1.2.0/24")
            table.remove("10.1.0.0/16")
            for number in range(40):
                table.add(f"{11 + number}.0.0.0/8", 70)
                table.add(f"{11 + number}.128.0.0/9", 80)
                table.remove(f"{11 + number}.128.0.0/9")
                table.remove(f"{11 + number}.0.0.0/8")
            table.add("10.1.0.0/17", 2)

        memory = Between(table.memory, place, other)
        assert prefix_table.lookup(memory, ROOT_4, address, 0, -1) in legal
        if not memory.reached:
            return


def test_who_finds_a_lock_that_is_never_released_gives_up():
    table, (a, b, _) = crowded()
    table.put(a, 1)
    hold(table, a)
    free = next(key for key in range(100) if bucket_of(table, key) != bucket_of(table, a))
    assert table.add(a) == 0
    assert not table.put(a, 5)
    assert not table.put(b, 5)
    assert not table.delete(a)
    assert table.busy == 4
    with pytest.raises(OverflowError, match="busy"):
        table[a] = 2
    assert table.full == 0
    assert table.get(a) == 1, "who only looks needs no lock"
    assert a in table
    assert table.put(free, 9)
    assert sorted(table.values()) == [1, 9]
    limit = TokenBucket(1000, 5)

    class Packet:
        time = 0

    hold(limit, 0)
    assert not limit.allow(Packet())
    assert (limit.busy, limit.refused, limit.allowed) == (1, 1, 0)
    table.clear()
    assert table.put(a, 1)
    audit(table)
