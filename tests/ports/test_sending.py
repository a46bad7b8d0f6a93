"""What `send` takes for a packet: Scapy's, a batch's, and whatever else makes bytes of itself."""

from __future__ import annotations

import numpy as np
import pytest

import raceway


@pytest.fixture
def ends(pipe_name):
    with raceway.open(pipe_name + "{1", slots=16) as a, raceway.open(pipe_name + "}1") as b:
        yield a, b


def test_scapys_packets_are_sent_as_scapy_builds_them(ends):
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    a, b = ends
    ethernet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    ip = IP(src="192.0.2.1", dst="192.0.2.2", id=7, ttl=9)
    made = [ethernet / ip / UDP(sport=1000, dport=53) / Raw(b"x" * length) for length in (0, 1, 4000)]
    assert a.send(made, timeout=1) == 3
    batch = b.receive(timeout=1)
    assert batch.to_bytes() == [bytes(packet) for packet in made]
    # Lengths and checksums are filled in only when the packet is built. The second's words add up to 0xd239.
    assert [packet.ipv4.total_length for packet in batch] == [28, 29, 4028]
    assert batch[1].ipv4.checksum == 0xFFFF - 0xD239
    # One packet that stands for several, by the sets in its fields, is several.
    assert a.send(ethernet / IP(dst=["192.0.2.3", "192.0.2.4"]), timeout=1) == 2
    assert [str(packet.ipv4.destination) for packet in b.receive(timeout=1)] == ["192.0.2.3", "192.0.2.4"]


def test_whatever_makes_bytes_of_itself_can_be_sent(ends):
    class Frame:
        made = 0

        def __bytes__(self):
            self.made += 1
            return b"frame %d" % self.made

    a, b = ends
    frame, memory = Frame(), bytearray(b"abcdef")
    words = np.array([[1, 2], [3, 4]], dtype=">u2")
    a.send([frame, frame, memory, memoryview(memory)[::2], words], timeout=1)
    expected = [b"frame 1", b"frame 2", b"abcdef", b"ace", b"\0\1\0\2\0\3\0\4"]
    batch = b.receive(timeout=1)
    assert batch.to_bytes() == expected
    # And back: the packets of a batch are bytes of their own by the time the batch's slots are given back.
    b.send(batch, timeout=1)
    assert a.receive(timeout=1).to_bytes() == expected
    assert (frame.made, bytes(memory)) == (2, b"abcdef")


def test_bytes_that_cannot_be_made_are_refused_and_nothing_is_sent(ends):
    class Broken:
        def __bytes__(self):
            return "text"

    a, b = ends
    with pytest.raises(TypeError, match="__bytes__ returned non-bytes"):
        a.send([b"x", Broken()])
    assert len(b.receive(timeout=0)) == 0
