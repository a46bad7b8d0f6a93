"""Where diverted packets arrive, and the way back: an interface's receive rings beside the firewall, and its host ring.

The receive rings are AF_XDP sockets in copy mode, on every queue. Not in zero-copy mode: then everything that the card
receives, for the host too, would lie in the rings' buffers, and who is slow here would make the host lose packets.
Both ports lie in one region, so a packet goes from one to the other by a swap of buffers.
"""

from __future__ import annotations

from raceway.kernel.bpf.maps import Map
from raceway.ports.geometry import Geometry
from raceway.ports.host.port import HostOptions, HostPort
from raceway.ports.nic.port import NicOptions, NicPort

SLOTS = 2048


class DivertRings:
    """Open until `close`. source: the receive rings; target: the host ring. Raises what ports raise: PortBusyError
    (somebody else has a queue, or the host rings), PermissionNeededError, InterfaceError, OSError. join: packets of a
    flow go back together.
    """

    def __init__(self, interface: str, *, join: bool = True) -> None:
        receiving = Geometry(receive_slots=SLOTS, transmit_rings=0)
        self.source = NicPort(
            f"netmap:{interface}", interface, receiving, options=NicOptions(mode="copy", apart=True)
        )
        try:
            self.target = HostPort(
                f"netmap:{interface}^",
                interface,
                Geometry(transmit_slots=SLOTS),
                self.source.region,
                HostOptions(join=join),
                receive=False,
            )
        except BaseException:
            self.source.close()
            raise

    @property
    def map(self) -> Map:
        """Where a program's REDIRECT has to lead."""
        return self.source.rings_map

    @property
    def unread(self) -> int:
        """Packets that came and were not decided about yet."""
        return self.source.unread

    @property
    def unsent(self) -> int:
        """Packets on their way to the host."""
        ring = self.target.tx[0]
        return (ring.head - int(ring._kring["head"])) % ring.size + self.target.waiting

    @property
    def sent(self) -> int:
        """Packets that were handed to the kernel for the host; some of them may be among `lost`, or `waiting` still."""
        return self.target.tx[0].packets

    @property
    def joined(self) -> int:
        """Packets that went to the host together with others."""
        return self.target.joined[0]

    def lost(self) -> dict[str, int]:
        """Packets that ended here, by name: on the way in (`ring_full`, `no_buffer`, `bad_frame`), and, with "host_"
        before the name, on the way back (`too_long`, `invalid`, `down`, `lost`, `no_memory`, `refused`)."""
        found = self.source.drops()
        return found | {f"host_{name}": count for name, count in self.target.drops().items()}

    def close(self) -> None:
        """Let go of both. May be called twice."""
        try:
            self.target.close()
        finally:
            self.source.close()
