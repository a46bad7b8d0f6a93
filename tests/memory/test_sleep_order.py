"""Publishing and going to sleep, at the same moment: one of the two always sees the other.

The litmus test called store buffering (Sewell et al., x86-TSO, 2010): two threads store each its own word
and then load the other's. Without what orders the two, both loads come before both stores now and then, which here is
a packet that nobody wakes for. The game of ping-pong in `tests/ports` sleeps for real, but meets that moment seldom.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

import raceway
from conftest import scaled
from raceway.memory import barriers
from raceway.memory.access import load_acquire, sched_yield, store_release
from raceway.memory.jit import entry, inner
from raceway.memory.layout import Kring, Ring
from raceway.memory.ring import peer_is_waiting, peer_published, publish, set_waiting
from raceway.memory.structures import allocate, structure

LITMUS = np.dtype(
    {
        # Each thread's words on a line of their own.
        "names": ["rounds", "sender", "receiver", "sender_at", "woken", "lost", "receiver_at", "seen"],
        "formats": ["<i8"] * 8,
        "offsets": [0, 8, 16, 64, 72, 80, 128, 136],
        "itemsize": 192,
    }
)
Litmus = structure("Litmus", LITMUS)
SENDER_AT, RECEIVER_AT = LITMUS.fields["sender_at"][1], LITMUS.fields["receiver_at"][1]


@inner
def _meet(mine: int, other: int, number: int) -> None:
    """Go on when both threads are here."""
    store_release(mine, number)
    spins = 0
    while load_acquire(other) < number:
        spins += 1
        if spins & 1023 == 0:
            sched_yield()


@inner
def _pause(address: int, count: int) -> None:
    """So many loads of one's own, because neither thread shall always be the first."""
    for _ in range(count):
        load_acquire(address)


@entry
def send(address: int) -> int:
    """Publish one slot more in each round, and look whether the other end sleeps; count the rounds it is lost in."""
    litmus = Litmus(address)
    kring = Kring(litmus.sender)
    ring = Ring(kring.ring)
    for number in range(1, litmus.rounds + 1):
        kring.head = number & 1
        _meet(address + SENDER_AT, address + RECEIVER_AT, 2 * number - 1)
        _pause(address, number % 37)
        publish(kring, ring)
        litmus.woken = peer_is_waiting(kring, ring)
        _meet(address + SENDER_AT, address + RECEIVER_AT, 2 * number)
        if litmus.woken == 0 and litmus.seen != number & 1:
            litmus.lost += 1
    return 0


@entry
def receive(address: int) -> int:
    """Say in each round that this end goes to sleep, and look whether anything has been published."""
    litmus = Litmus(address)
    kring = Kring(litmus.receiver)
    for number in range(1, litmus.rounds + 1):
        set_waiting(kring.ring, 0)
        _meet(address + RECEIVER_AT, address + SENDER_AT, 2 * number - 1)
        _pause(address, number % 41)
        set_waiting(kring.ring, 1)
        litmus.seen = peer_published(kring)
        _meet(address + RECEIVER_AT, address + SENDER_AT, 2 * number)
    return 0


@pytest.mark.alone
@pytest.mark.parametrize("membarrier", [True, False])
def test_a_packet_published_while_the_other_end_goes_to_sleep_is_seen_or_wakes_it(pipe_name, membarrier):
    if membarrier and not barriers.register():
        pytest.skip("membarrier(2) is not offered here")
    with raceway.open(pipe_name + "{1", slots=4) as a, raceway.open(pipe_name + "}1") as b:
        for ring in a.rings + b.rings:
            assert ring._record["barrier"] == barriers.register()
            ring._record["barrier"] = membarrier
        litmus = allocate(Litmus)
        litmus["sender"], litmus["receiver"] = a.tx[0].address, b.rx[0].address
        litmus["rounds"] = scaled(100_000 if membarrier else 1_000_000, 300)
        send.prepare()
        receive.prepare()
        thread = threading.Thread(target=receive, args=(litmus.ctypes.data,))
        thread.start()
        send(litmus.ctypes.data)
        thread.join()
        assert litmus["lost"][0] == 0
