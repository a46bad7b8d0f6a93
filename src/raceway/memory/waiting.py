"""How a loop waits: spin briefly, then yield, then sleep on file descriptors. And what time it is.

Data plane. Sleeping is a small protocol over shared memory and an eventfd, the ring's *bell*:

    sleeper                               the other end
    1  ring.waiting = slots wanted        a  publish slots
    2  fence                              b  fence
    3  sync again; enough? -> awake       c  waiting <= what the sleeper now has? -> ring the bell
    4  poll(bell)

Either 3 sees what a published, or c sees what 1 wrote: the two fences forbid that both look too early.
"""

from __future__ import annotations

import numpy as np

from raceway.memory import access
from raceway.memory.jit import INTERPRETED, inner
from raceway.memory.layout import Kring
from raceway.memory.ring import set_waiting
from raceway.memory.structures import structure

CLOCK_REALTIME, CLOCK_MONOTONIC = 0, 1

SCRATCH = np.dtype([("seconds", "<i8"), ("nanoseconds", "<i8")])
"""Room for a struct timespec, or the eight bytes of an eventfd."""
Scratch = structure("Scratch", SCRATCH)

POLLFD = np.dtype([("descriptor", "<i4"), ("events", "<i2"), ("returned", "<i2")])
"""poll(2)'s struct pollfd."""
Pollfd = structure("Pollfd", POLLFD)
_POLLFD: int = POLLFD.itemsize

BELL, PACKETS, PYTHON = 0x41, 0x01, 0x2001
"""What a descriptor is, said by the events that it is polled for: an eventfd that is to be answered (POLLIN and
POLLRDNORM), a socket with packets (POLLIN), or something that Python looks after, as a peer that hangs up (POLLIN and
POLLRDHUP)."""

NAP = 1_000_000
"""Nanoseconds to sleep at most while something waits for the kernel's room, of which nobody is told."""
SOON = 2
"""A Kring's `pending` when what is left will go in a fraction of a millisecond: `doze` before the next sync."""
_DOZE = 60_000
"""Nanoseconds. With a timer's usual slack of 50,000 a quarter of what it takes to empty a full array of live frames."""

SPINS, YIELDS = (2, 4) if INTERPRETED else (200, 400)
"""Syncs that bring nothing before a loop yields, and after that before it sleeps. Interpreted, who spins keeps the
interpreter from the thread that it waits for."""


@inner
def clock(which: int, scratch: int) -> int:
    """Nanoseconds on CLOCK_REALTIME or CLOCK_MONOTONIC; `scratch` is the address of a SCRATCH record."""
    access.clock_gettime(which, scratch)
    return Scratch(scratch).seconds * 1_000_000_000 + Scratch(scratch).nanoseconds


@inner
def ring_bell(bell: int) -> None:
    """Wake whoever sleeps on this eventfd."""
    access.eventfd_write(bell, 1)


@inner
def arm(kring: Kring, slots: int) -> None:
    """Steps 1 and 2 of going to sleep, for a ring that has another end; the caller syncs again before it polls."""
    if kring.peer != 0:
        set_waiting(kring.ring, slots)
    elif kring.alarm != 0:
        access.store_release(kring.alarm, slots)
        access.fence()


@inner
def disarm(kring: Kring) -> None:
    """Awake again."""
    if kring.peer != 0:
        set_waiting(kring.ring, 0)
    elif kring.alarm != 0:
        access.store_release(kring.alarm, 0)


@inner
def sleep(descriptors: int, count: int, nanoseconds: int, scratch: int) -> int:
    """Step 4: poll `count` POLLFD records, at most so long; 1 if Python has something to look after.

    A bell that rang is answered, so that it is silent again.
    """
    ready = access.poll(descriptors, count, (nanoseconds + 999_999) // 1_000_000)
    if ready <= 0:
        return 0
    for_python = 0
    for index in range(count):
        entry = Pollfd(descriptors + index * _POLLFD)
        if entry.returned != 0:
            if entry.events == BELL:
                access.eventfd_read(entry.descriptor, scratch)
            elif entry.events == PYTHON:
                for_python = 1
    return for_python


@inner
def idle(rounds: int) -> None:
    """What to do after so many syncs in a row that brought nothing, before it is time to sleep."""
    if rounds > SPINS:
        access.sched_yield()


@inner
def doze(scratch: int) -> None:
    """Leave the processor to whoever works off what is pending."""
    Scratch(scratch).seconds = 0
    Scratch(scratch).nanoseconds = _DOZE
    access.clock_nanosleep(CLOCK_MONOTONIC, 0, scratch, 0)
