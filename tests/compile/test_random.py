"""Random numbers: SplitMix64's, the same on every target, of the range that was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

import raceway
from labs import needs_root
from packet_cases import needs_native
from raceway import PASS
from test_three_targets import assert_same_on_three_targets

MASK = (1 << 64) - 1
compiled = pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")


def splitmix64(seed):
    """The paper's three lines, on Python's own numbers."""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        value = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        yield value ^ (value >> 31)


@given(seed=st.integers(-(1 << 63), MASK), asked=st.lists(st.integers(1, 63), min_size=1, max_size=20))
def test_numbers_are_the_upper_bits_of_splitmix64(seed, asked):
    random, expected = raceway.Random(seed), splitmix64(seed & MASK)
    for bits in asked:
        assert random.getrandbits(bits) == next(expected) >> (64 - bits)
    random.seed(seed)
    again = splitmix64(seed & MASK)
    for stop in (1, 2, 3, 1_000, 1 << 31):
        assert random.randrange(stop) == ((next(again) >> 32) * stop) >> 32
    first = random.getrandbits(63)
    random.clear()
    assert random.getrandbits(63) == next(splitmix64(seed & MASK)) >> 1
    assert 0 <= first < 1 << 63


def test_the_first_numbers_for_a_seed_are_those_that_others_publish():
    # https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    random = raceway.Random(1234567)
    assert [random.getrandbits(63) for _ in expected] == [value >> 1 for value in expected]


def test_without_a_seed_two_are_different():
    assert raceway.Random().getrandbits(63) != raceway.Random().getrandbits(63)


def test_every_number_comes_about_as_often_as_the_others():
    random, found = raceway.Random(3), [0] * 10
    for _ in range(20_000):
        found[random.randrange(10)] += 1
    # Chi-squared with nine degrees of freedom is below 27.9 in 999 of 1,000 cases; the seed makes it one of them.
    assert sum((count - 2_000) ** 2 / 2_000 for count in found) < 27.9


@pytest.mark.parametrize("bits", [0, -1, 64, 1 << 70])
def test_a_number_of_bits_that_there_is_not_is_a_value_error(bits):
    random = raceway.Random(1)
    with pytest.raises(ValueError, match="1 to 63 bits"):
        random.getrandbits(bits)
    assert random.getrandbits(5) == raceway.Random(1).getrandbits(5), "nothing was drawn"


@pytest.mark.parametrize("stop", [0, -5, (1 << 31) + 1])
def test_a_range_that_there_is_not_is_a_value_error(stop):
    with pytest.raises(ValueError, match="from 1 to"):
        raceway.Random(1).randrange(stop)


@pytest.mark.parametrize("seed", ["7", 1.5, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(TypeError, match="seed must be a whole number"):
        raceway.Random(seed)


DICE = raceway.Random(7)
DRAWN = raceway.Counters(4)


@raceway.packet_function
def draws(packet):
    DRAWN[0] = DRAWN[0] ^ DICE.getrandbits(packet.load8(0) - 2)
    DRAWN[1] = DRAWN[1] ^ DICE.randrange(packet.load8(1) - 1)
    DRAWN[2] = DICE.getrandbits(63)
    DRAWN[3] = DICE.randrange(1 << 31)
    if DICE.randrange(3) == 0:
        return DICE.getrandbits(1)
    return PASS


@compiled
@needs_root
def test_every_target_draws_the_same_numbers_and_refuses_the_same():
    packets = [bytes([bits, stop]) + bytes(20) for bits in range(70) for stop in range(4)]
    made = assert_same_on_three_targets(draws, packets, DICE, DRAWN)
    # 0 to 2 and 66 to 69 are no number of bits; of the others, stops of -1 and 0 are none.
    assert made.reasons["other_error"] == 7 * 4 + 63 * 2


@compiled
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DICE.random()", "has no attribute 'random'"),
        ("DICE.getrandbits()", r"getrandbits\(\) cannot be called with nothing; it takes one number"),
        ("DICE.randrange(1, 2)", "it takes one number"),
        ("DICE.randrange(packet)", r"randrange\(\) cannot be called with a packet; it takes one number"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_place(text, said):
    from function_generator import make

    function = make(HEAD + text + "\n")[0]
    with pytest.raises(raceway.PacketFunctionError, match=said):
        function.native()


HEAD = """
import raceway

COUNT = TABLE = LIMIT = raceway.Counters(1)
DICE = raceway.Random()


@raceway.packet_function
def generated(packet):
    return """
