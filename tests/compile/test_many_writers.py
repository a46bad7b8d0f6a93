"""Native threads, the kernel and Python write the same state at once: nothing is lost, nothing is there twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import raceway
from labs import needs_root
from packet_cases import needs_native
from raceway import DROP, PASS
from raceway.memory.jit import INTERPRETED
from table_audit import audit, bucket_of, hold

compiled = pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")
PACKET = bytes(range(64))
BATCH = 2_000
KEYS, LASTING = 40, 1_000
# Half of the keys are there at any time: so the table is full now and then.
TABLE = raceway.HashTable(8 + KEYS // 2, key_words=2, seed=11)
SUMS = raceway.HashTable(8, seed=12)
COUNT = raceway.Counters("made", "refused", "deleted", "missed", "one", "asked")
DICE = raceway.Random(99)
LIMIT = raceway.TokenBucket(1, 1_000, seed=13)
LIMITS = raceway.TokenBucket(1_000_000_000, 1, 8, seed=14)
TIME = 1_700_000_000_000_000_000


@raceway.packet_function
def churns(packet):
    """Adds or deletes one of 40 keys, and looks for eight that are always there."""
    key = DICE.randrange(KEYS)
    lasting = LASTING + (key & 7)
    if TABLE.get(lasting) != lasting or lasting not in TABLE:
        COUNT.add("missed")
    if DICE.getrandbits(1) == 0:
        made = TABLE.add(key)
        if made == 1:
            COUNT.add("made")
        elif made == 0:
            COUNT.add("refused")
    elif TABLE.delete(key):
        COUNT.add("deleted")
    return PASS


@raceway.packet_function
def sums(packet):
    """Adds to two keys: one of five words, one of one."""
    if SUMS.add(packet.five_tuple) == 0:
        COUNT.add("refused")
    if SUMS.add(7) == 0:
        COUNT.add("refused")
    COUNT.add("one")
    return PASS


@raceway.packet_function
def asks(packet):
    COUNT.add("asked")
    if LIMIT.allow(packet):
        COUNT.add("one")
        return PASS
    return DROP


@raceway.packet_function
def asks_for_many(packet):
    COUNT.add("asked")
    if LIMITS.allow(packet, DICE.randrange(32)):
        COUNT.add("one")
    return PASS


def native(function, at=0) -> Callable[[], int]:
    """Something that runs a function over 2,000 packets as machine code; it returns how many."""
    from raceway.memory.layout import SLOT, Batch
    from raceway.memory.structures import allocate

    kernel = function.native()
    buffers = np.frombuffer(PACKET, np.uint8).copy()
    slots, verdicts = np.zeros(BATCH, SLOT), np.zeros(BATCH, np.uint8)
    slots["length"] = len(PACKET)
    batch = allocate(Batch)
    fields = {
        "slots": slots.ctypes.data, "buffers": buffers.ctypes.data, "buffer_size": len(PACKET),
        "slot_count": BATCH, "count": BATCH, "verdicts": verdicts.ctypes.data,
    }  # fmt: skip
    for name, value in fields.items():
        batch[name] = value

    def run() -> int:
        batch["now"] = at or time.time_ns()
        assert kernel(batch.ctypes.data) == BATCH
        assert verdicts.all()
        return len(slots) * bool(len(buffers))

    return run


def in_kernel(loaded, *, at=0) -> Callable[[], int]:
    """The same in the kernel."""
    from raceway.compile.bpf import definitions

    loaded.record[definitions.SIMULATED // 8], loaded.record[definitions.TIME // 8] = int(at > 0), at

    def run() -> int:
        loaded.program.test_run(PACKET, repeat=BATCH)
        return BATCH

    return run


def interpreted(function, at=0) -> Callable[[], int]:
    """The same in Python, a hundred packets at once."""

    def run() -> int:
        for _ in range(100):
            function.run(raceway.Packet(PACKET, time=at or time.time_ns()))
        return 100

    return run


def at_once(*runs: Callable[[], int], seconds: float = 1.0) -> int:
    """Call all for a while, each in a thread of its own; return the sum of what they returned."""
    end = time.monotonic() + seconds
    totals, errors = [], []

    def loop(run: Callable[[], int]) -> None:
        total = 0
        try:
            while time.monotonic() < end:
                total += run()
        except BaseException as error:
            errors.append(error)
        totals.append(total)

    threads = [threading.Thread(target=loop, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(totals)


def everywhere(function, *, at=0) -> int:
    """Run a function in two native threads, the kernel and Python at once; return how many packets it saw."""
    from raceway.kernel.functions.loading import LoadedFunction

    with LoadedFunction(function) as loaded:
        runs = (
            native(function, at),
            native(function, at),
            in_kernel(loaded, at=at),
            interpreted(function, at),
        )
        return at_once(*runs)


@pytest.fixture(autouse=True)
def afresh():
    for state in (TABLE, SUMS, COUNT, DICE, LIMIT, LIMITS):
        state.clear()
    for key in range(LASTING, LASTING + 8):
        TABLE.put(key, key)


@compiled
@needs_root
def test_inserting_and_deleting_from_everywhere_keeps_a_table_whole():
    before = DICE.items()[0][1]
    packets = everywhere(churns)
    audit(TABLE)
    assert COUNT["missed"] == 0
    assert len(TABLE) == 8 + COUNT["made"] - COUNT["deleted"]
    assert COUNT["refused"] <= TABLE.full + TABLE.busy
    assert TABLE.full > 0
    # Each number was drawn once: the state has gone on by as many steps as there were draws.
    drawn = raceway.Random(before & (1 << 64) - 1)
    gamma = 0x9E3779B97F4A7C15
    drawn.seed((before + gamma * 2 * packets) & (1 << 64) - 1)
    assert DICE.items() == drawn.items()
    assert set(TABLE.keys()) <= {*range(KEYS), *range(LASTING, LASTING + 8)}


@compiled
@needs_root
def test_adding_from_everywhere_loses_nothing():
    packets = everywhere(sums)
    audit(SUMS)
    assert COUNT["one"] == packets
    assert sum(SUMS.values()) + COUNT["refused"] == 2 * packets
    assert COUNT["refused"] == SUMS.busy
    assert SUMS.full == 0


@compiled
@needs_root
def test_a_token_bucket_gives_each_token_once():
    everywhere(asks, at=TIME)
    assert COUNT["one"] == LIMIT.allowed == 1_000
    assert LIMIT.allowed + LIMIT.refused == COUNT["asked"]


@compiled
@needs_root
def test_buckets_change_places_while_everybody_asks():
    everywhere(asks_for_many)
    audit(LIMITS)
    assert LIMITS.allowed + LIMITS.refused == COUNT["asked"]
    assert LIMITS.allowed == COUNT["one"] > 0


def test_python_threads_lose_nothing():
    table, counters, random = raceway.HashTable(4), raceway.Counters(1), raceway.Random(5)

    def run() -> int:
        for _ in range(50):
            table.add("10.0.0.1")
            counters.add(0)
            random.getrandbits(8)
        return 50

    total = at_once(run, run, run, seconds=0.5)
    assert table["10.0.0.1"] == counters[0] == total
    last = raceway.Random((5 + 0x9E3779B97F4A7C15 * total) & (1 << 64) - 1)
    assert random.items() == last.items()


ROUTES = raceway.PrefixTable(8)
ROUTES["10.0.0.0/8"] = 1


@raceway.packet_function
def looks_up(packet):
    found = ROUTES.lookup("10.1.2.3")
    COUNT.add(0 if 1 <= found <= 3 else 1)
    COUNT.add(0 if ROUTES.lookup("10.200.0.1") == 1 else 1)
    COUNT.add(0 if ROUTES.lookup("192.0.2.1", 5) == 5 else 1)
    return PASS


def change_routes() -> int:
    for number in range(10):
        ROUTES["10.1.0.0/16"] = 2
        ROUTES["10.1.2.0/24"] = 3
        for first in (11, 12 + number):
            ROUTES[f"{first}.0.0.0/8"] = 99
            ROUTES[f"{first}.128.0.0/9"] = 98
        for first in (11, 12 + number):
            del ROUTES[f"{first}.0.0.0/8"]
            del ROUTES[f"{first}.128.0.0/9"]
        del ROUTES["10.1.0.0/16"]
        del ROUTES["10.1.2.0/24"]
    return 1


def test_look_ups_of_prefixes_that_come_and_go_give_one_of_the_legal_answers():
    run = interpreted(looks_up) if INTERPRETED else native(looks_up)
    at_once(run, change_routes, seconds=1.0)
    assert ROUTES.items() == [(raceway.prefix("10.0.0.0/8"), 1)]
    assert COUNT["made"] > 0
    assert COUNT["refused"] == 0


@compiled
@needs_root
def test_the_same_in_the_kernel():
    from raceway.kernel.functions.loading import LoadedFunction

    with LoadedFunction(looks_up) as loaded:
        at_once(in_kernel(loaded), change_routes, seconds=1.0)
    assert COUNT["made"] > 0
    assert COUNT["refused"] == 0


HELD = raceway.HashTable(64, seed=3)
HELD_LIMIT = raceway.TokenBucket(1_000, 5, 4, seed=3)


@raceway.packet_function
def meets_a_lock(packet):
    key = packet.load8(0)
    found = 0
    if HELD.put(key, 5):
        found |= 1
    if HELD.add(key) != 0:
        found |= 2
    if HELD.delete(key):
        found |= 4
    if HELD_LIMIT.allow(packet, key):
        found |= 8
    if key in HELD and HELD.get(key) == 77:
        found |= 16
    COUNT[0] = found
    return PASS


@pytest.mark.parametrize(
    "target",
    [
        "interpreted",
        pytest.param("native", marks=compiled),
        pytest.param("kernel", marks=[compiled, needs_root]),
    ],
)
def test_a_lock_that_nobody_releases_is_given_up_on(target):
    """As in a program that has interrupted the holder on the holder's own processor."""
    held = [PACKET[:1] + bytes([number]) + PACKET[2:] for number in range(3)]
    HELD.clear()
    HELD_LIMIT.clear()
    HELD.put(PACKET[0], 77)
    HELD_LIMIT.allow(raceway.Packet(PACKET, time=TIME), PACKET[0])
    hold(HELD, PACKET[0])
    hold(HELD_LIMIT, PACKET[0])
    made = raceway.simulate(meets_a_lock, held, target, times=TIME)
    assert made.verdicts == [PASS] * 3
    assert COUNT[0] == 16, "changes give up, looking does not"
    assert (HELD.busy, HELD.full, len(HELD)) == (9, 0, 1)
    assert (HELD_LIMIT.busy, HELD_LIMIT.allowed, HELD_LIMIT.refused) == (3, 1, 3)
    other = next(key for key in range(100) if bucket_of(HELD, key) != bucket_of(HELD, PACKET[0]))
    assert HELD.put(other, 1), "all others go on"
    assert not HELD.put(PACKET[0], 1)


def test_a_million_flows_fit_exactly():
    table = raceway.HashTable(1 << 20, seed=1)
    fill = 2_000 if INTERPRETED else 20_000
    for number in range(fill):
        assert table.put((number, 1, 2, 3, 4), number)
    assert len(table) == fill
    assert table[(fill - 1, 1, 2, 3, 4)] == fill - 1
    assert len(table.items()) == fill
