"""The errors that raceway raises, but for those that live beside their parsers (names, packet functions, captures)."""

from __future__ import annotations

import errno


class RacewayError(Exception):
    """Base of raceway's own errors."""


class RegionError(RacewayError):
    """Shared memory cannot be had, is full, or is not what the other end says it is."""


class RingError(RacewayError):
    """A ring was used wrongly. Nothing of the batch was published, and the ring is as the sync before left it.

    ring: the ring's name; value: what was found; slot: the slot's index, or -1.
    """

    def __init__(self, ring: str, message: str, *, value: int, slot: int = -1) -> None:
        super().__init__(f"{ring}: {message}")
        self.ring, self.value, self.slot = ring, value, slot


class EndOfStream(RacewayError):
    """The other end of a port is gone, and everything that it had sent has been read."""


class PortBusyError(RacewayError, OSError):
    """Another port has this end open (errno EBUSY)."""

    def __init__(self, name: str, message: str) -> None:
        OSError.__init__(self, errno.EBUSY, f"{name}: {message}")


class NoSuchInterfaceError(RacewayError, OSError):
    """The network namespace has no interface of this name or index (errno ENODEV)."""

    def __init__(self, name: str | int, hint: str = "") -> None:
        called = f"no network interface {name!r}" if isinstance(name, str) else f"no network interface {name}"
        OSError.__init__(self, errno.ENODEV, called + (f"; {hint}" if hint else ""))

    def __str__(self) -> str:
        return str(self.strerror)


class PermissionNeededError(RacewayError, PermissionError):
    """The kernel refused something (errno EPERM). The message says what would grant it.

    needed: the capabilities that it takes; missing: those of them that this process lacks, none if the
    reason is another.
    """

    def __init__(self, message: str, *, needed: list[str], missing: list[str]) -> None:
        OSError.__init__(self, errno.EPERM, message)
        self.needed, self.missing = needed, missing

    def __str__(self) -> str:
        return str(self.strerror)


class InterfaceError(RacewayError):
    """The interface under a port went down, was renamed or is gone. The error goes on until it is up under its name."""


class NotBuiltYetError(RacewayError, NotImplementedError):
    """The name is right, but ports of its kind are not part of this version."""
