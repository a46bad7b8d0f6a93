"""Both directions of a pipe's end. Data plane.

A pipe's ring has two ends and one array of slots. What this end transmits, the other receives: the same slots,
so no packet is copied and none moved. Each end has a RING record of its own with the user's head, cur and tail
and with `published`, up to where it has handed slots over. Publishing is one store, so an end that is killed at
any moment has handed over all of a batch or nothing of it::

    sender    |--- being filled ---|                   tail = receiver's published - 1
              head                 tail
    receiver                       |--- to be read ---|
                                   head               tail = sender's published
"""

from __future__ import annotations

from raceway.memory.jit import entry, inner
from raceway.memory.layout import Kring, Ring
from raceway.memory.ring import (
    BAD_PEER,
    accept,
    count_arrivals,
    distance,
    fail,
    peer_is_waiting,
    peer_published,
    prologue,
    publish,
)
from raceway.memory.waiting import ring_bell


@entry
def pipe_sync(address: int) -> int:
    """Publish the slots that the user is done with, and own what the other end has published since."""
    kring = Kring(address)
    ring = Ring(kring.ring)
    count = prologue(kring, ring)
    if count < 0:
        return count
    if count != 0:
        accept(kring, count)
        publish(kring, ring)
        wanted = peer_is_waiting(kring, ring)
        if wanted > 0 and _owned_by_peer(kring, peer_published(kring)) >= wanted:
            Ring(kring.peer).waiting = 0
            ring.doorbells += 1
            ring_bell(kring.bell)
        # Asking the other processor how far it has got costs as much as a batch, so as long as there is enough to go
        # on with, it is not asked. Who syncs without handing anything over wants to know, and is always told.
        left = distance(kring.head, kring.tail, kring.slot_count)
        if left > 0 and (kring.transmit == 0 or left >= kring.slot_count // 4):
            return 0
    seen = peer_published(kring)
    if seen < 0 or seen >= kring.slot_count:
        return fail(kring, BAD_PEER, -1, seen)
    if kring.transmit != 0:
        tail = seen - 1 if seen > 0 else kring.slot_count - 1
    else:
        tail = seen
        code = count_arrivals(kring, ring, tail)
        if code < 0:
            return code
    if distance(kring.head, tail, kring.slot_count) < distance(kring.head, kring.tail, kring.slot_count):
        # A peer only ever gives: what is ours cannot become its own again.
        return fail(kring, BAD_PEER, -1, seen)
    kring.tail = tail
    ring.tail = tail
    return 0


@inner
def _owned_by_peer(kring: Kring, seen: int) -> int:
    """How many slots the other end will own at its next sync."""
    if kring.transmit != 0:
        return distance(seen, kring.head, kring.slot_count)
    # `seen` is how far the sender has got; it may fill all but one of the slots that lie between.
    return kring.slot_count - 1 - distance(kring.head, seen, kring.slot_count)
