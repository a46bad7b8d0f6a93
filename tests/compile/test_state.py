"""State objects against dict, ipaddress and arithmetic."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given, settings, strategies as st

from conftest import scaled
from raceway.compile.addresses import IPv4Address, IPv6Address, MACAddress, signed64
from raceway.compile.packet import Packet
from raceway.compile.state.counters import Counters
from raceway.compile.state.hash_table import HashTable
from raceway.compile.state.prefix_table import PrefixTable
from raceway.compile.state.token_bucket import TokenBucket
from raceway.memory.jit import INTERPRETED
from table_audit import audit

keys = st.one_of(
    st.integers(-5, 40),
    st.integers(0, 40).map(IPv4Address),
    st.integers(0, 20).map(lambda n: IPv6Address(n << 64 | n)),
    st.tuples(st.integers(0, 5), st.integers(0, 5).map(IPv4Address)),
)
operations = st.lists(
    st.tuples(st.sampled_from(["put", "add", "delete", "get", "in"]), keys, st.integers(-100, 100)),
    max_size=200,
)


def as_dict_key(key):
    """To a dict the IPv6 address :: is the number 0, for both are Python integers; to a table they are two keys."""
    return ("ipv6", int(key)) if isinstance(key, IPv6Address) else key


@settings(max_examples=150, deadline=None)
@given(
    operations=operations, capacity=st.integers(1, 40), seed=st.integers(0, 1 << 62),
    joined=st.just(False) if INTERPRETED else st.booleans(),
)  # fmt: skip
def test_hash_table_is_a_dict_of_fixed_capacity(operations, capacity, seed, joined):
    """joined: as if compiled code wrote it too, so that Python's methods are machine code."""
    table, model, full = HashTable(capacity, seed=seed), {}, 0
    if joined:
        table.joined()
    for name, asked, value in operations:
        key = as_dict_key(asked)
        fits = key in model or len(model) < capacity
        if name == "put":
            assert table.put(asked, value) == fits
        elif name == "add":
            assert table.add(asked, value) == (model.get(key, 0) + value if fits else 0)
        elif name == "delete":
            assert table.delete(asked) == (model.pop(key, None) is not None)
        elif name == "get":
            assert table.get(asked, 7) == model.get(key, 7)
        else:
            assert (asked in table) == (key in model)
        if name in ("put", "add"):
            full += not fits
            if fits:
                model[key] = value if name == "put" else model.get(key, 0) + value
        assert len(table) == len(model)
        assert table.full == full
    assert {as_dict_key(key): value for key, value in table.items()} == model
    assert table.busy == 0
    audit(table)
    table.clear()
    audit(table)
    assert len(table) == len(table.items()) == table.full == 0


def test_hash_table_reads_like_a_dict():
    table = HashTable(4)
    table["10.0.0.1"] = 5
    table[IPv4Address("10.0.0.2")] = 6
    assert sorted(map(str, table)) == ["10.0.0.1", "10.0.0.2"]
    assert table["10.0.0.2"] == 6
    del table["10.0.0.1"]
    with pytest.raises(KeyError):
        _ = table["10.0.0.1"]
    for number in range(3):
        table[number] = 0
    with pytest.raises(OverflowError, match="4 keys"):
        table[77] = 1
    assert table.full == 1
    table.clear()
    assert len(table) == 0
    assert table.items() == []


def test_keys_of_different_kinds_differ():
    table = HashTable(16)
    flow = Packet(b"").five_tuple
    table.put(1, 1)
    table.put((0, 1), 2)
    table.put(IPv6Address(1), 3)
    table.put(flow, 4)
    table.put((0, 0, 0, 0, 0), 5)
    assert len(table) == 5
    assert table[flow] == 4
    assert table[(0, 1)] == 2
    table.put(MACAddress(1), 6)
    assert len(table) == 5, "an IPv4 or MAC address is the number that it is"
    assert table[1] == 6


def test_hash_table_refuses_what_cannot_be_a_key():
    table = HashTable(4, key_words=1)
    for key in ((1, 2), IPv6Address(1), None, 1.5, (), "10.0.0.0/8"):
        with pytest.raises(TypeError):
            table.put(key, 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HashTable(0), "capacity must be from 1"),
        (lambda: HashTable(1 << 40), "capacity must be from 1"),
        (lambda: HashTable("4"), "capacity must be a whole number"),
        (lambda: HashTable(4, key_words=0), "key_words"),
        (lambda: Counters(0), "number of counters"),
        (lambda: Counters("a", "a"), "name of its own"),
        (lambda: Counters([]), "names"),
        (lambda: Counters(3, "a"), "number, or names"),
        (lambda: Counters(1.5), "whole number"),
        (lambda: PrefixTable(-1), "capacity"),
        (lambda: TokenBucket(0, 1), "rate"),
        (lambda: TokenBucket(1, 0), "burst"),
        (lambda: TokenBucket(1, 1 << 40), "burst"),
        (lambda: TokenBucket(1, 1, 0), "capacity"),
    ],
)
def test_wrong_arguments_are_named(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_counters_by_name_and_index():
    counters = Counters("web", "dns")
    counters["web"] += 2
    counters.add("dns")
    counters[1] += 1
    assert counters.items() == [("web", 2), ("dns", 2)]
    assert list(counters) == ["web", "dns"]
    for wrong in (2, -1):
        with pytest.raises(IndexError):
            counters[wrong] += 1
    with pytest.raises(KeyError, match="there are web, dns"):
        counters.add("ssh")
    counters[0] = (1 << 63) - 1
    assert counters.add(0) == -(1 << 63), "counters wrap around at 64 bits"
    if not INTERPRETED:
        counters.joined()
        assert counters.add("web", -5) == (1 << 63) - 5
        with pytest.raises(IndexError):
            counters.add(2)


def _network(version, number, length):
    bits = 32 if version == 4 else 128
    kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    return kind((number >> (bits - length) << (bits - length) if length else 0, length))


networks = st.one_of(
    st.builds(_network, st.just(4), st.integers(0, 15).map(lambda n: n * 0x11111111), st.integers(0, 32)),
    st.builds(
        _network,
        st.just(6),
        st.integers(0, 7).map(lambda n: n * (((1 << 128) - 1) // 15)),
        st.integers(0, 128),
    ),
)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(st.booleans(), networks, st.integers(0, 99)), max_size=60),
    capacity=st.integers(1, 40),
)
def test_prefix_table_finds_the_longest(steps, capacity):
    table, model = PrefixTable(capacity), {}
    for adds, network, value in steps:
        if adds:
            fits = network in model or len(model) < capacity
            assert table.add(str(network), value) == fits
            if fits:
                model[network] = value
        else:
            assert table.remove(str(network)) == (model.pop(network, None) is not None)
        assert len(table) == len(model)
    assert {str(one): value for one, value in table.items()} == {
        str(one).removesuffix("/32" if one.version == 4 else "/128"): value for one, value in model.items()
    }
    for network in {one for _, one, _ in steps}:
        for address in (network[0], network[-1]):
            inside = [one for one in model if one.version == address.version and address in one]
            expected = model[max(inside, key=lambda one: one.prefixlen)] if inside else -1
            kind = IPv4Address if address.version == 4 else IPv6Address
            assert table.lookup(kind(int(address)), -1) == expected


def test_prefix_table_reads_like_a_dict():
    table = PrefixTable(2)
    table["10.0.0.0/8"] = 1
    assert table["10.0.0.0/8"] == 1
    assert "10.0.0.0/9" not in table
    assert table.lookup("10.1.1.1") == 1
    table["10.0.0.0/8"] = 2
    table["::/0"] = 3
    with pytest.raises(OverflowError):
        table["11.0.0.0/8"] = 1
    assert table.full == 1
    assert len(table) == 2
    del table["10.0.0.0/8"]
    with pytest.raises(KeyError):
        del table["10.0.0.0/8"]
    with pytest.raises(ValueError, match="MAC"):
        table.add("02:00:00:00:00:01", 1)
    with pytest.raises(ValueError, match="one address"):
        table.lookup("10.0.0.0/8")


def test_many_prefixes_are_loaded_and_found():
    chance = random.Random(7)
    prefixes = {}
    wanted = scaled(200_000, 20_000)
    while len(prefixes) < wanted:
        length = chance.choice([16, 20, 22, 24, 24, 24, 24])
        prefixes[f"{ipaddress.IPv4Address(chance.getrandbits(length) << (32 - length))}/{length}"] = len(
            prefixes
        )
    table = PrefixTable(wanted)
    assert table.load(prefixes) == wanted
    assert len(table) == wanted
    for text in chance.sample(list(prefixes), 200):
        assert table[text] == prefixes[text]


class At:
    """A packet of which only the time matters."""

    def __init__(self, nanoseconds):
        self.time = nanoseconds


@settings(max_examples=100, deadline=None)
@given(
    rate=st.integers(1, 10**7), burst=st.integers(1, 1000),
    gaps=st.lists(st.tuples(st.integers(0, 3 * 10**9), st.integers(0, 5)), max_size=60),
    joined=st.just(False) if INTERPRETED else st.booleans(),
)  # fmt: skip
def test_token_bucket_is_exact(rate, burst, gaps, joined):
    bucket = TokenBucket(rate, burst)
    if joined:
        bucket.joined()
    now, tokens = 10**18, burst * 10**9
    for gap, cost in gaps:
        now += gap
        tokens = min(burst * 10**9, tokens + gap * rate)
        expected = cost <= burst and cost * 10**9 <= tokens
        tokens -= cost * 10**9 if expected else 0
        assert bucket.allow(At(now), 0, cost) == expected
    assert bucket.allowed + bucket.refused == len(gaps)


def test_time_that_goes_back_gives_nothing():
    bucket = TokenBucket(1000, 1)
    assert bucket.allow(At(10**18))
    assert not bucket.allow(At(10**18 - 10**12))
    assert bucket.allow(At(10**18 + 10**6))


@pytest.mark.parametrize("joined", [False] if INTERPRETED else [False, True])
def test_full_bucket_table_reuses_what_has_filled_up(joined):
    bucket = TokenBucket(1000, 1, 2)
    if joined:
        bucket.joined()
    assert bucket.allow(At(0), 1)
    assert bucket.allow(At(0), 2)
    assert not bucket.allow(At(0), 3)
    assert bucket.full == 1
    assert len(bucket) == 2
    assert bucket.allow(At(10**9), 4)
    assert len(bucket) == 2
    assert bucket.full == 1
    audit(bucket)


def test_signed64_is_what_64_bits_hold():
    assert [signed64(n) for n in (1 << 63, (1 << 64) + 5, -1, -(1 << 63) - 1)] == [
        -(1 << 63),
        5,
        -1,
        (1 << 63) - 1,
    ]
