"""An interface under an open port: whether it is still what it was when the port was opened. Control plane."""

from __future__ import annotations

from raceway.errors import InterfaceError
from raceway.kernel.interface import LinkWatch


class InterfaceWatch:
    """Watches the interface of this index and name, of the calling thread's network namespace, for a port.

    state: what `news` saw last, "up", "down", "gone" or "renamed to X".
    """

    def __init__(self, port: str, index: int, name: str) -> None:
        self.port, self.index, self.name = port, index, name
        self.state = "up"
        self._links = LinkWatch()

    def fileno(self) -> int:
        """Readable when `news` should be asked."""
        return self._links.fileno()

    def close(self) -> None:
        """May be called twice."""
        self._links.close()

    def news(self) -> bool:
        """True if something about the interface, as its MTU, may have changed since the last call. InterfaceError, at
        every call, while it is not there, not up, or called something else; after that it may be up again."""
        if not self._links.changed() and self.state == "up":
            return False
        self.state = self._links.state(self.index, self.name)
        if self.state != "up":
            raise InterfaceError(f"{self.port}: {self._what_happened()}")
        return True

    def _what_happened(self) -> str:
        if self.state == "down":
            return f"{self.name} is down; the port goes on when it is up again (ip link set {self.name} up)"
        return f"{self.name} {'is gone' if self.state == 'gone' else f'was {self.state}'}"
