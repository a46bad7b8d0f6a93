"""Looks over the words of a table: every node is in one chain or free, every key is once in its own bucket."""

from __future__ import annotations

from raceway.compile.state import chains
from raceway.compile.state.hash_table import Table
from raceway.compile.state.words import words_of_tag


def node_at(table: Table, node: int) -> int:
    """Where a node's words begin."""
    return chains.HEADER + table.mask + 1 + (node - 1) * table.entry


def bucket_of(table: Table, key: object) -> int:
    """The index of a key's bucket."""
    words, size, tag, _ = table._key(key)
    return chains.bucket_of(table.memory, table.mask, words, 0, size, tag)


def hold(table: Table, key: object) -> None:
    """Lock the bucket of a key, as somebody does who never comes back."""
    table.memory[bucket_of(table, key)] |= chains.LOCK


def audit(table: Table) -> None:
    """Assert that a table at rest is whole."""
    memory, used, keys = table.memory, [], []
    for bucket in range(chains.HEADER, chains.HEADER + table.mask + 1):
        assert memory[bucket] & chains.LOCK == 0
        node = memory[bucket] & chains.INDEX
        while node:
            at = node_at(table, node)
            tag = memory[at + chains.TAG]
            size = words_of_tag(tag)
            assert tag
            assert chains.bucket_of(memory, table.mask, memory, at + chains.KEY, size, tag) == bucket
            used.append(node)
            keys.append((tag, *memory[at + chains.KEY : at + chains.KEY + size]))
            assert len(used) <= table.capacity
            node = memory[at + chains.NEXT] & chains.INDEX
    free = []
    node = memory[chains.FREE] & chains.INDEX
    while node:
        free.append(node)
        assert len(free) <= table.capacity
        assert memory[node_at(table, node) + chains.TAG] == 0
        node = memory[node_at(table, node) + chains.VALUE] & chains.INDEX
    never = list(range(memory[chains.FRESH] + 1, table.capacity + 1))
    assert sorted(used + free + never) == list(range(1, table.capacity + 1))
    assert len(set(keys)) == len(keys) == len(table)
