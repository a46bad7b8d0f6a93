"""Every byte as it was, in and out: all lengths, packets over several buffers, VLAN tags, in each of the modes."""

from __future__ import annotations

import random
import struct

import pytest

from conftest import scaled
from frame_check import ADDRESSES
from labs import lab as lab, needs_root
from nic_world import KIND, collect, ethtool, frame, heard, open_at, raw_socket, told
from raceway.memory.layout import MORE_FRAGMENTS

pytestmark = [needs_root, pytest.mark.root]

WAYS = ["", "@xdp:tx=socket", "@xdp:tx=live", "@xdp:mode=generic,tx=socket", "@xdp:rx=memory"]


def random_frames(lengths, seed=1):
    """Frames of these lengths with nothing in them that any other has."""
    dice = random.Random(seed)
    return [ADDRESSES + KIND + dice.randbytes(length - 14) for length in lengths]


def all_lengths(limit=1514):
    return [*range(14, limit + 1, scaled(1, 41)), limit]


def differences(sent, came):
    """Where two lists of frames differ, for people: that a frame is missing is told as that."""
    if sent == came:
        return []
    missing = [len(one) for one in sent if one not in set(came)]
    strange = [len(one) for one in came if one not in set(sent)]
    return missing[:9], strange[:9], len(sent), len(came)


@pytest.mark.parametrize("way", WAYS)
def test_frames_of_every_length_cross_unchanged_between_two_ports(lab, way):
    wire = lab(ipv6=False)
    frames = random_frames(all_lengths())
    with open_at(wire, "a", way) as one, open_at(wire, "b", way) as other:
        for sender, receiver in ((one, other), (other, one)):
            came = []
            for start in range(0, len(frames), 300):
                part = frames[start : start + 300]
                assert sender.send(part, timeout=20) == len(part)
                came += collect(receiver, len(part))
            assert (differences(frames, came), sender.drops(), receiver.drops()) == ([], {}, {}), told(sender)


@pytest.mark.parametrize("way", WAYS[1:])
def test_frames_of_every_length_cross_unchanged_from_and_to_the_kernel(lab, way):
    """The other end is a packet socket of the peer's: what raceway does wrong twice, it does not undo."""
    wire = lab(ipv6=False)
    frames = random_frames(all_lengths(), seed=2)
    if "live" in way:
        # Only to a device that makes XDP frames welcome: with GRO a veth does.
        ethtool(wire, "b", "-K veth0 gro on")
    with open_at(wire, "a", way) as port, raw_socket(wire, "b") as kernel:
        came, back = [], []
        for start in range(0, len(frames), 100):
            part = frames[start : start + 100]
            for one in part:
                kernel.send(one)
            came += collect(port, len(part))
            port.send(part, timeout=20)
            back += heard(kernel, len(part))
        assert differences(frames, came) == []
        assert differences(frames, back) == []


def test_where_a_packet_starts_in_its_buffer_does_not_matter(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:tx=socket") as one, open_at(wire, "b") as other:
        ring = one.tx[0]
        frames = random_frames([60, 100, 777])
        for number, offset in enumerate((1, 1948, 1271)):
            slot = ring.slots[ring.head + number]
            ring.buffer(ring.head + number)[offset : offset + len(frames[number])] = frames[number]
            slot["length"], slot["offset"] = len(frames[number]), offset
        ring.advance(3)
        one.txsync()
        assert collect(other, 3) == frames


def test_live_frames_start_anywhere_in_their_buffers_too(lab):
    wire = lab(ipv6=False)
    frames = random_frames([60, 101, 777, 14])
    with open_at(wire, "a", "@xdp:tx=live") as one, open_at(wire, "b") as other:
        ring = one.tx[0]
        for number, offset in enumerate((3, 1947, 1271, 2034)):
            slot = ring.slots[ring.head + number]
            ring.buffer(ring.head + number)[offset : offset + len(frames[number])] = frames[number]
            slot["length"], slot["offset"] = len(frames[number]), offset
        ring.advance(4)
        one.flush()
        assert collect(other, 4) == frames


# -- packets over several buffers ------------------------------------------------------------------------------

JUMBO = [
    60,
    1514,
    1792,
    1793,
    2047,
    2048,
    2049,
    3839,
    3840,
    3841,
    4095,
    4096,
    4097,
    6000,
    8191,
    8192,
    9000,
    9013,
    9014,
]


def chain_lengths(port):
    """Slots of each packet that is new in the port's first receive ring."""
    found, slots = [], 0
    ring = port.rx[0]
    index = ring.cur
    while index != ring.tail:
        slots += 1
        if not ring.slots["flags"][index] & MORE_FRAGMENTS:
            found.append(slots)
            slots = 0
        index = ring.next(index)
    return found


@pytest.mark.parametrize("way", ["", "@xdp:mode=generic"])
def test_jumbo_frames_are_chains_of_buffers_both_ways(lab, way):
    wire = lab(mtu=9000, ipv6=False)
    frames = random_frames(JUMBO * scaled(5, 1))
    with open_at(wire, "a", way) as one, open_at(wire, "b", way) as other:
        for sender, receiver in ((one, other), (other, one)):
            assert sender.send(frames, timeout=20) == len(frames)
            assert differences(frames, collect(receiver, len(frames))) == []
            assert sender.drops() == receiver.drops() == {}
        one.send([frames[18]])
        assert other.wait(5)
        # The kernel fills one buffer from one piece of its own, whose borders are its business.
        assert chain_lengths(other) in ([5], [6])


@pytest.mark.parametrize("way", ["", "@xdp:mode=generic"])
def test_jumbo_frames_from_and_to_the_kernel(lab, way):
    wire = lab(mtu=9000, ipv6=False)
    frames = random_frames(JUMBO, seed=3)
    with open_at(wire, "a", way) as port, raw_socket(wire, "b") as kernel:
        for one in frames:
            kernel.send(one)
        assert differences(frames, collect(port, len(frames))) == []
        port.send(frames, timeout=20)
        assert differences(frames, heard(kernel, len(frames))) == []


def test_jumbo_frames_in_larger_buffers_take_fewer(lab):
    wire = lab(mtu=9000, ipv6=False)
    frames = random_frames(JUMBO, seed=4)
    with open_at(wire, "a", buffer_size=4096) as one, open_at(wire, "b", buffer_size=4096) as other:
        one.send(frames, timeout=20)
        assert differences(frames, collect(other, len(frames))) == []
        one.send([frames[-1]])
        assert other.wait(5)
        assert chain_lengths(other) in ([3], [4])


def test_chains_of_many_small_parts_are_sent_whole(lab):
    """Parts of any length, as a program that gathers headers and payload makes them; MAX_SKB_FRAGS is 17."""
    wire = lab(mtu=9000, ipv6=False)
    dice = random.Random(5)
    with open_at(wire, "a") as one, open_at(wire, "b") as other:
        for parts in (1, 2, 3, 9, 16, 17):
            ring, packet = one.tx[0], b""
            for part in range(parts):
                head = (ring.head + part) % ring.size
                piece = dice.randbytes(dice.randint(14, 500))
                if part == 0:
                    piece = ADDRESSES + KIND + piece
                packet += piece
                ring.buffer(head)[: len(piece)] = piece
                ring.slots[head]["length"], ring.slots[head]["offset"] = len(piece), 0
                ring.slots[head]["flags"] = MORE_FRAGMENTS if part < parts - 1 else 0
            ring.advance(parts)
            one.txsync()
            assert collect(other, 1) == [packet]


# -- tags ------------------------------------------------------------------------------------------------------

TAGS = {
    "802.1Q": struct.pack("!HH", 0x8100, 0x2005),
    "priority only": struct.pack("!HH", 0x8100, 0xE000),
    "802.1ad": struct.pack("!HH", 0x88A8, 0x1FFF),
    "both": struct.pack("!HHHH", 0x88A8, 7, 0x8100, 0x0005),
    "three": struct.pack("!HHHHHH", 0x88A8, 7, 0x8100, 5, 0x8100, 6),
}


@pytest.mark.parametrize("way", ["", "@xdp:tx=live", "@xdp:mode=generic", "@xdp:rx=memory"])
def test_tags_among_the_bytes_stay_there(lab, way):
    wire = lab(ipv6=False)
    with open_at(wire, "a", way) as one, open_at(wire, "b", way) as other:
        for kind, tag in TAGS.items():
            # A frame may have one tag more than its MTU allows (is_skb_forwardable in net/core/dev.c).
            frames = [
                ADDRESSES + tag + frame(length, length)[12 : length - len(tag)]
                for length in (60, 100, 1514, 1518)
            ]
            for sender, receiver in ((one, other), (other, one)):
                sender.send(frames)
                assert collect(receiver, 4, kind=b"") == frames, kind


def test_what_is_longer_than_the_interface_takes_is_counted_and_nothing_else_suffers(lab):
    wire = lab(ipv6=False)
    for way in WAYS:
        with open_at(wire, "a", way) as one, open_at(wire, "b") as other:
            frames = [frame(1, 1518), frame(2, 1519), frame(3, 2048), frame(4, 4000), frame(5, 60)]
            assert one.send(frames, timeout=20) == 5
            assert collect(other, 2) == [frames[0], frames[4]]
            assert one.drops() == {"too_long": 3}
