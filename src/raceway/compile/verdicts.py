"""What a packet function can answer: XDP's verdicts with XDP's numbers (include/uapi/linux/bpf.h, enum xdp_action)."""

from __future__ import annotations

from enum import IntEnum


class Verdict(IntEnum):
    """What becomes of a packet."""

    ABORTED = 0
    """The function failed; the packet is dropped and the reason is counted by name."""
    DROP = 1
    PASS = 2
    """To the host's stack, or onwards along the path that it was on."""
    TX = 3
    """Back out of the port that it came in through."""
    REDIRECT = 4
    """To another port."""

    def __str__(self) -> str:
        return self.name


ABORTED, DROP, PASS, TX, REDIRECT = Verdict
