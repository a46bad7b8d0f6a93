"""The one door to every adapter: `sync` a ring, whatever it is connected to. Data plane.

A Kring carries the address of its adapter's sync, as netmap's krings carry nm_sync. The call is made once a
batch; so a loop is compiled once for all adapters, and an adapter once for all loops, when it is first opened.
"""

from __future__ import annotations

from raceway.memory.access import call_batch
from raceway.memory.jit import entry, inner
from raceway.memory.layout import KRING_SIZE, Kring, PortState
from raceway.memory.waiting import arm


@inner
def sync(kring: Kring) -> int:
    """txsync or rxsync: hand over what the user is done with, collect what is there. 0, or a negative code of
    `memory.ring` with the slot and the value in the Kring."""
    return call_batch(kring.sync, kring.address)


@entry
def sync_port(state: int) -> int:
    """Sync every ring of a port, from Python: `state` is the address of a PORT_STATE record. The first negative
    code, if any; the rings after it are synced all the same."""
    port = PortState(state)
    result = 0
    for index in range(port.transmit_count):
        code = sync(Kring(port.transmit + index * KRING_SIZE))
        if code < 0 and result == 0:
            result = code
    for index in range(port.receive_count):
        code = sync(Kring(port.receive + index * KRING_SIZE))
        if code < 0 and result == 0:
            result = code
    return result


@entry
def arm_ring(address: int) -> int:
    """Ask the other end of a ring, a KRING record, to ring the bell: for any packet that comes, or for a free slot if
    this is a transmit ring that has none."""
    kring = Kring(address)
    if kring.transmit == 0 or kring.head == kring.tail:
        arm(kring, 1)
    return 0
