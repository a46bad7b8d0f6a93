"""What the generator's loops know: one record a loop, which Python reads while the loop runs.

A loop's record begins with the same four lines, whatever the loop does: what it works on (WORK), how it is asked
to stop, what it has counted, and when. So the reports and the worker threads need only one view, `Work`.
"""

from __future__ import annotations

from raceway.apps.generator.options import MARK_SIZE as MARK_SIZE
from raceway.memory.layout import lines
from raceway.memory.structures import structure

MAGIC_SEQUENCE = 0x52575351  # "RWSQ"
MAGIC_PING = 0x52575047  # "RWPG"
# Why a loop has returned. What Python does about it is in `worker`.
SLICE, DONE, ENDED, SERVICE, FAILED, DUMP = 0, 1, 2, 3, 4, 5

_WORK = [
    # Addresses and numbers of KRING and POLLFD records; nanoseconds before the loop returns to Python; packets at
    # a time; with `dump` the loop returns whenever packets were filled or taken and are still this end's.
    [("rings", "<i8"), ("ring_count", "<i8"), ("descriptors", "<i8"), ("descriptor_count", "<i8"),
     ("slice", "<i8"), ("burst", "<i8"), ("dump", "<i8"), ("patience", "<i8")],
    # Written by Python: asked to stop. Room for a clock.
    [("stop", "<i8"), ("seconds", "<i8"), ("nanoseconds", "<i8")],
    # `left`: packets still to do (-1: no end). `first`: packets of the first batch that was received. `foreign`:
    # packets without our mark. `in_chain`: a bit for each ring whose last slot had more fragments to follow.
    [("left", "<i8"), ("packets", "<i8"), ("bytes", "<i8"), ("batches", "<i8"), ("first", "<i8"),
     ("failed", "<i8"), ("foreign", "<i8"), ("in_chain", "<i8")],
    # CLOCK_MONOTONIC, nanoseconds; 0: not yet.
    [("started", "<i8"), ("finished", "<i8")],
]  # fmt: skip

PACE = lines(
    [
        ("rate", "<i8"),
        ("epoch", "<i8"),
        ("paced", "<i8"),
        ("quantum", "<i8"),
        ("backlog", "<i8"),
        ("forgone", "<i8"),
    ]
)
"""A rate limiter (`pacing`): packets a second (0: no limit), when its second began (ns) and how many packets have
gone since, the fewest to let go at a time, the most to catch up with, and how many were never caught up with."""

SIDE = lines(
    # Addresses are the first of a range and how many steps the range has beyond it: IPv4 whole, IPv6 the last
    # 64 bits. `at` is the byte in the frame, `mac_at` and `port_at` likewise. `random`: draw address and port.
    [("random", "<i8"), ("port", "<i8"), ("port_first", "<i8"), ("port_last", "<i8"),
     ("first", "<i8"), ("step", "<i8"), ("span", "<i8"), ("mac", "<i8")],
    [("mac_step", "<i8"), ("mac_span", "<i8"), ("at", "<i8"), ("port_at", "<i8"), ("mac_at", "<i8")],
)  # fmt: skip
"""What one side, source or destination, of the next packet will be."""

FRAME = lines([("start", "<i8"), ("length", "<i8")])
"""A frame to send: where it is (readable up to the next multiple of 64 bytes) and its bytes."""

SUMS = lines([("ip", "<i8"), ("udp", "<i8")])
"""For one frame size: the one's complement sums over everything in the IPv4 header, and in the UDP pseudo-header,
header and payload, that is the same in every packet of that size (RFC 1071). Packets add what differs."""

TRANSMIT = lines(
    *_WORK,
    # Frames in turn. `plain`: all packets are the one frame, in one slot. `sizes`: 1 + largest - smallest size.
    [("frames", "<i8"), ("frame_count", "<i8"), ("frame", "<i8"), ("plain", "<i8"), ("sums", "<i8"),
     ("smallest", "<i8"), ("sizes", "<i8"), ("largest_slots", "<i8")],
    # What differs from packet to packet: `varied` is 0 if nothing does. `colours`: see `fill`.
    [("varied", "<i8"), ("ipv6", "<i8"), ("sequenced", "<i8"), ("sequence", "<i8"), ("seed", "<i8"),
     ("pace", "<i8"), ("sides", "<i8"), ("colours", "<i8")],
)  # fmt: skip

RECEIVE = lines(
    *_WORK,
    [("track", "<i8"), ("quiet_since", "<i8"), ("kernel", "<i8"), ("batch", "<i8"), ("verdicts", "<i8"),
     ("filtered", "<i8"), ("other_link_type", "<i8"), ("chain_accepted", "<i8")],
)  # fmt: skip
"""`track`: address of a TRACK record if sequence numbers are followed, or 0. `quiet_since`: when the last packet
had come, or the loop began. `kernel`: what judges packets (0: nothing does), by a BATCH record and room for a burst of
`verdicts`; then how many it did not accept, and could not judge. `chain_accepted`: as `in_chain`, whether the packet
that goes on is accepted."""

TRACK = lines(
    [("seen", "<i8"), ("lowest", "<i8"), ("next", "<i8"), ("window", "<i8"), ("in_order", "<i8"),
     ("reordered", "<i8"), ("duplicates", "<i8"), ("stale", "<i8")],
)  # fmt: skip
"""What `sequence` knows of a numbered stream: whether there was any number, the lowest one, the one after the
highest, the address of the window's bits, and four counters."""

ECHO = lines(
    *_WORK,
    # `answers`: this is pong. Ping: the number of the echo that is awaited (-1: none) and when it was sent.
    [("receive", "<i8"), ("receive_count", "<i8"), ("answers", "<i8"), ("frames", "<i8"), ("mark_at", "<i8"),
     ("sums", "<i8"), ("sum_at", "<i8"), ("pace", "<i8")],
    [("sequence", "<i8"), ("awaited", "<i8"), ("sent_at", "<i8"), ("timeout", "<i8"), ("lost", "<i8"),
     ("late", "<i8"), ("sent", "<i8"), ("histogram", "<i8")],
    [("echoes", "<i8"), ("total", "<i8"), ("least", "<i8"), ("most", "<i8")],
)  # fmt: skip

Work = structure("Work", lines(*_WORK))
Pace = structure("Pace", PACE)
Side = structure("Side", SIDE)
Frame = structure("Frame", FRAME)
Sums = structure("Sums", SUMS)
Transmit = structure("Transmit", TRANSMIT)
Receive = structure("Receive", RECEIVE)
Track = structure("Track", TRACK)
Echo = structure("Echo", ECHO)

SIDE_SIZE: int = Side.size
FRAME_SIZE: int = Frame.size
SUMS_SIZE: int = Sums.size
SCRATCH: int = Work.fields["seconds"][1]
"""Where in each loop's record the room for a clock is."""
