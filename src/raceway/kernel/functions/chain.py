"""Several functions on one interface: a chain that one XDP link holds by its first.

What one function PASSes the next one gets (by a tail call), and what the last PASSes goes to the host. Every other
verdict is the packet's end::

    packet --> first --PASS--> second --PASS--> host
                 |                |
             DROP, TX, REDIRECT, ABORTED

Adding and removing change one pointer each (the link's program, or the entry of the function before), so no packet
passes between two states.
"""

from __future__ import annotations

from raceway.kernel.bpf.links import Link
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.functions.loading import LoadedFunction


class Chain:
    """The functions of this process on one interface, in order.

    mode: of the link; sockets: where REDIRECT leads to (a port's rings), if anywhere; alone: the program that the link
    has while there are no functions (a port's own, which gives the rings everything); pinned: it stays as it is.
    """

    def __init__(
        self, link: Link, mode: str, sockets: Map | None = None, alone: Program | None = None
    ) -> None:
        self.link, self.mode, self.sockets, self.alone = link, mode, sockets, alone
        self.members: list[LoadedFunction] = []
        self.pinned = False

    def insert(self, position: int, member: LoadedFunction) -> None:
        """Put a function in before the one at a position: first its way on, then the way to it."""
        member.go_on(self.members[position].program if position < len(self.members) else None)
        if position == 0:
            self.link.update(member.program)
        else:
            self.members[position - 1].go_on(member.program)
        self.members.insert(position, member)

    def replace(self, old: LoadedFunction, new: LoadedFunction) -> None:
        """Put a function into another's place: one pointer leads to one or to the other."""
        position = self.members.index(old)
        new.go_on(self.members[position + 1].program if position + 1 < len(self.members) else None)
        if position == 0:
            self.link.update(new.program)
        else:
            self.members[position - 1].go_on(new.program)
        self.members[position] = new

    def remove(self, member: LoadedFunction) -> bool:
        """Lead past a function; False if it was the last, and the link is to be closed instead."""
        position = self.members.index(member)
        following = self.members[position + 1].program if position + 1 < len(self.members) else None
        if position:
            self.members[position - 1].go_on(following)
        elif following is not None or self.alone is not None:
            self.link.update(following or self.alone)  # type: ignore[arg-type]
        self.members.remove(member)
        return bool(self.members) or self.alone is not None
