"""Both directions of a host ring. Data plane.

From the host packets come as from any TAP device. Towards it they go one system call a packet while they trickle, and
as live XDP frames while they stream: those arrive on the interface without a system call or a TAP device's sk_buff.
A port that was asked to (`HostOptions.join`) lets packets of a flow go together, as far as there are such.
"""

from __future__ import annotations

from raceway.kernel.live import RUNNING, Live
from raceway.memory.jit import entry, inner
from raceway.memory.layout import MORE_FRAGMENTS, SLOT_SIZE, Kring, Ring, Slot
from raceway.memory.ring import accept, distance, following, prologue, uncount
from raceway.memory.waiting import SOON
from raceway.ports.host.records import SCRATCH, Host
from raceway.ports.live import live_idle, live_start, live_state, live_transmit, live_wanted
from raceway.ports.tap.joining import join_transmit
from raceway.ports.tap.records import Joining, Tap
from raceway.ports.tap.sync import tap_receive, tap_transmit

_TELLING, _WORTH = 64, 3
"""Packets of a sync that say something about others; packets to a system call that are worth more than live frames."""
_BUSY = 100
"""Packets in a millisecond that make a stream of them: half of what system calls inject, or less."""


@entry
def host_sync(address: int) -> int:
    """txsync or rxsync of one host ring."""
    kring = Kring(address)
    ring = Ring(kring.ring)
    count = prologue(kring, ring)
    if count < 0:
        return count
    tap = Tap(kring.adapter)
    if kring.transmit == 0:
        return tap_receive(kring, ring, tap, count)
    host = Host(kring.adapter)
    if tap.join != 0 and (host.live == 0 or live_idle(host.live)):
        _joined(kring, ring, tap, host, count)
    elif host.live == 0:
        tap_transmit(kring, ring, tap, count)
    elif Live(host.live).insist == 0 and live_idle(host.live):
        before = kring.head
        tap_transmit(kring, ring, tap, count)
        went = distance(before, kring.head, kring.slot_count)
        if went != 0:
            live_wanted(host, host.address + SCRATCH, went, _BUSY)
    else:
        _by_live_frames(kring, ring, host, count)
    return 0


@inner
def _joined(kring: Kring, ring: Ring, tap: Tap, host: Host, count: int) -> None:
    """Let packets of a flow go together, and say whether there is anything to be gained by that: whoever has a backlog
    may want live frames otherwise (`live_start`)."""
    before = kring.head
    join_transmit(kring, ring, tap, Joining(tap.join), count)
    went = distance(before, kring.head, kring.slot_count)
    if host.live != 0 and went >= _TELLING:
        Live(host.live).unwanted = 1 if Joining(tap.join).calls * _WORTH <= went else 0


@inner
def _by_live_frames(kring: Kring, ring: Ring, host: Host, count: int) -> None:
    """Put packets into the array, or wait for the run that takes them out."""
    whole = _whole_packets(kring, count)
    taken = 0
    kring.pending = 0
    if whole != 0:
        if live_state(host.live) == RUNNING and host.limit <= Live(host.live).longest:
            taken = live_transmit(kring, host, whole)
        else:
            live_start(host.live)
        if taken < whole:
            kring.pending = SOON
    index = _after(kring.head, taken, kring.slot_count)
    uncount(kring, ring, index, count - taken)
    accept(kring, taken)
    # What was copied is free at once.
    tail = kring.head - 1 if kring.head > 0 else kring.slot_count - 1
    kring.tail = tail
    ring.tail = tail


@inner
def _after(index: int, steps: int, count: int) -> int:
    index += steps
    return index - count if index >= count else index


@inner
def _whole_packets(kring: Kring, handed: int) -> int:
    """How many of the slots handed over hold whole packets. A chain without its end waits for it, unless it fills the
    ring and can never get one."""
    count = 0
    index = kring.head
    for number in range(handed):
        if Slot(kring.slots + index * SLOT_SIZE).flags & MORE_FRAGMENTS == 0:
            count = number + 1
        index = following(index, kring.slot_count)
    return handed if count == 0 and handed == kring.slot_count - 1 else count
