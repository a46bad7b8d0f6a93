"""Packet functions for tests of what comes after a function that has moved its packet's head."""

import raceway
from raceway import DROP, PASS, REDIRECT, TX

COUNT = raceway.Counters("pushed", "popped")


def tag(packet):
    if not packet.grow_head(4):
        return False
    high, low = packet.load64(4), packet.load32(12)
    packet.store64(0, high)
    packet.store32(8, low)
    packet.store16(12, 0x8100)
    packet.store16(14, 0x2007)
    COUNT["pushed"] += 1
    return True


@raceway.packet_function
def push_tag(packet):
    return PASS if tag(packet) else DROP


@raceway.packet_function
def return_with_tag(packet):
    return TX if tag(packet) else DROP


@raceway.packet_function
def redirect_with_tag(packet):
    return REDIRECT if tag(packet) else DROP


@raceway.packet_function
def pop_tag(packet):
    if packet.vlan:
        high, low = packet.load64(0), packet.load32(8)
        packet.store32(12, low)
        packet.store64(4, high)
        if not packet.shrink_head(4):
            return DROP
        COUNT["popped"] += 1
    return PASS


@raceway.packet_function
def grow_thirty_two(packet):
    packet.grow_head(32)
    return PASS


@raceway.packet_function
def passes(packet):
    return PASS
