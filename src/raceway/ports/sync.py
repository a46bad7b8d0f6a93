"""The one door to every adapter: `sync` a ring, whatever it is connected to. Data plane.

The adapter is chosen by a number at run time, once a batch. Specialising each loop for each pair of adapters
would save a nanosecond a batch and cost half a second of compiling a pair.
"""

from __future__ import annotations

from raceway.memory.jit import entry, inner
from raceway.memory.layout import KRING_SIZE, NULL, PCAP, PIPE, Kring, PortState, Ring
from raceway.memory.ring import prologue
from raceway.memory.waiting import arm
from raceway.ports.null.sync import null_sync
from raceway.ports.pcap.sync import receive_sync, transmit_sync
from raceway.ports.pipe.sync import pipe_sync


@inner
def sync(kring: Kring) -> int:
    """txsync or rxsync: hand over what the user is done with, collect what is there. 0, or a negative code of
    `memory.ring` with the slot and the value in the Kring."""
    ring = Ring(kring.ring)
    count = prologue(kring, ring)
    if count < 0:
        return count
    kind = kring.kind
    if kind == PIPE:
        return pipe_sync(kring, ring, count)
    if kind == NULL:
        return null_sync(kring, ring, count)
    if kind == PCAP:
        if kring.transmit != 0:
            transmit_sync(kring, ring, count)
        else:
            receive_sync(kring, ring, count)
    return 0


@entry
def sync_ring(kring: int) -> int:
    """Sync one ring, from Python: `kring` is the address of a KRING record."""
    return sync(Kring(kring))


@inner
def sync_all(first: int, count: int) -> int:
    """Sync `count` rings whose KRING records stand in a row; the first negative code, if any."""
    result = 0
    for index in range(count):
        code = sync(Kring(first + index * KRING_SIZE))
        if code < 0 and result == 0:
            result = code
    return result


@entry
def sync_port(state: int) -> int:
    """Sync every ring of a port, from Python: `state` is the address of a PORT_STATE record."""
    port = PortState(state)
    sent = sync_all(port.transmit, port.transmit_count)
    received = sync_all(port.receive, port.receive_count)
    return sent if sent < 0 else received


@entry
def arm_port(state: int) -> int:
    """Ask the other end to ring the bell: for any packet, and for free slots where a transmit ring has none."""
    port = PortState(state)
    for index in range(port.receive_count):
        arm(Kring(port.receive + index * KRING_SIZE), 1)
    for index in range(port.transmit_count):
        kring = Kring(port.transmit + index * KRING_SIZE)
        if kring.head == kring.tail:
            arm(kring, 1)
    return 0
