"""What a packet does to the flows (`layout`). Written once; interpreted and compiled code both run these functions.

Only what the host sends begins a flow. It is known, and safe from floods, once the other side has shown that it hears:
for TCP by acknowledging the sequence number that the host has sent (who forges addresses does not know it), for all
else by answers after `LASTING` seconds. A reset or a FIN shortens a flow's time and ends nothing by itself: whether it
counts, the host's own TCP knows (RFC 5961), and its next packet says so.

Of a datagram in fragments only the first says which flow it is of. If that is established, so are those that follow it;
one that overtakes it is not.
"""

from __future__ import annotations

from typing import Any

from raceway.compile import locate
from raceway.compile.classifier.walk import (
    DESTINATION_HIGH,
    DESTINATION_LOW,
    FAMILY,
    NUMBER,
    PORT_OF_DESTINATION,
    PORT_OF_SOURCE,
    SOURCE_HIGH,
    SOURCE_LOW,
)
from raceway.compile.flows.changes import begin, change, confirm, drop, last_of, look, note
from raceway.compile.flows.layout import (
    ANSWERED,
    DATAGRAM,
    FLAGS,
    HALF,
    ICMP,
    IN_FIN,
    KEY_WORDS,
    LASTING,
    OUT_FIN,
    PICKED,
    RESET,
    RESPONDER,
    TCP,
)

SECOND = 1_000_000_000
FLOW_WORDS = KEY_WORDS + 1
ANSWER = KEY_WORDS
"""The word behind a flow's key that says whether it is established."""

_OFFSET, _FRAGMENT, _LATER = 0xFFFFF, 1 << 28, 1 << 29
_NONE, _OF_FLOW, _ERROR = 0, 1, 2
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_SEQUENCE = 0xFFFFFFFF
_FIRST_DATA = 1 << 16
_WINDOW = 1 << 24


def arriving(known: Any, new: Any, packet: Any, words: Any, flow: Any, now: int) -> None:
    """Leave in `flow[ANSWER]` whether a packet that arrives belongs to a flow, or is an ICMP error about one.

    words: its key (`walk.key`); now: nanoseconds since 1970.
    """
    flow[ANSWER] = 0
    found = locate.transport(packet)
    if words[FAMILY] == 0 or words[NUMBER] < 0 or found < 0:
        return
    second = now // SECOND
    if found & _LATER == 0:
        _established(known, new, packet, words, flow, second)
        if flow[ANSWER] and found & _FRAGMENT:
            _datagram(packet, words, flow)
            begin(new, flow, second << FLAGS, 0)
    else:
        _datagram(packet, words, flow)
        if look(new, flow, second) >= 0:
            flow[ANSWER] = 1


def _established(known: Any, new: Any, packet: Any, words: Any, flow: Any, second: int) -> None:
    """The same for a packet that is no later fragment."""
    kind = _described(packet, words, flow, True)
    if kind == _NONE:
        return
    value = look(known, flow, second)
    if value >= 0:
        flow[ANSWER] = 1
        # After a reset only the host says that it goes on.
        if kind == _OF_FLOW and value & RESET == 0:
            note(known, flow, value, second, _ends(packet, words, IN_FIN))
        return
    value = look(new, flow, second)
    if value < 0:
        return
    if kind == _ERROR:
        flow[ANSWER] = 1
    elif words[NUMBER] == TCP:
        _answered(known, new, packet, flow, value, second)
    else:
        flow[ANSWER] = 1
        note(new, flow, value, second, ANSWERED)


def _datagram(packet: Any, words: Any, flow: Any) -> None:
    """Fill in the key of the datagram that a fragment which arrives is of."""
    family = words[FAMILY]
    flow[0], flow[1] = words[DESTINATION_HIGH], words[DESTINATION_LOW]
    flow[2], flow[3] = words[SOURCE_HIGH], words[SOURCE_LOW]
    # Over IPv6 each fragment may name another header than the first does.
    number = words[NUMBER] if family == 4 else 0
    flow[4] = locate.identification(packet) << 16 | number << 8 | DATAGRAM | family


def leaving(known: Any, new: Any, packet: Any, words: Any, flow: Any, now: int) -> None:
    """Note a packet that the host sends."""
    if _described(packet, words, flow, False) != _OF_FLOW:
        return
    second = now // SECOND
    number = words[NUMBER]
    flags, sequence = 0, second
    if number == TCP:
        start = locate.transport(packet) & _OFFSET
        flags = packet.load8(start + 13)
        sequence = packet.load32(start + 4)
    value = look(known, flow, second)
    if value >= 0:
        if flags & (_SYN | _ACK) != _SYN:
            note(known, flow, value, second, _ends(packet, words, OUT_FIN))
            return
        # The host has used the port again.
        drop(known, flow)
    state = 0
    if number == TCP:
        state = HALF
        if flags & _SYN == 0:
            state = PICKED
        elif flags & _ACK:
            state = HALF | RESPONDER
    value = look(new, flow, second)
    if value < 0:
        if flags & _RST == 0:
            begin(new, flow, second << FLAGS | state, sequence)
    elif number != TCP:
        if value & ANSWERED and second - last_of(new, flow) >= LASTING:
            confirm(known, new, flow, second << FLAGS)
        else:
            note(new, flow, value, second, 0)
    elif flags & _RST:
        drop(new, flow)
    elif value & ANSWERED and flags & _SYN == 0:
        confirm(known, new, flow, second << FLAGS | (OUT_FIN if flags & _FIN else 0))
    else:
        change(new, flow, second << FLAGS | state, sequence)


def _described(packet: Any, words: Any, flow: Any, inward: bool) -> int:
    """Fill in the key of the flow that a packet is of, or is an error about; say which, or that it is neither."""
    family, number = words[FAMILY], words[NUMBER]
    if family == 0 or number < 0:
        return _NONE
    if inward:
        flow[0], flow[1] = words[DESTINATION_HIGH], words[DESTINATION_LOW]
        flow[2], flow[3] = words[SOURCE_HIGH], words[SOURCE_LOW]
        near, far = words[PORT_OF_DESTINATION], words[PORT_OF_SOURCE]
    else:
        flow[0], flow[1] = words[SOURCE_HIGH], words[SOURCE_LOW]
        flow[2], flow[3] = words[DESTINATION_HIGH], words[DESTINATION_LOW]
        near, far = words[PORT_OF_SOURCE], words[PORT_OF_DESTINATION]
    found = locate.transport(packet)
    if found < 0 or found & _LATER:
        return _NONE
    start = found & _OFFSET
    if number == 1 or number == 58:
        if (number == ICMP) != (family == 4) or start + 8 > len(packet):
            return _NONE
        kind = packet.load8(start)
        if inward and _is_error(number, kind):
            return _quoted(packet, start + 8, words, flow)
        if kind != _echo(number, inward):
            return _NONE
        near, far = packet.load16(start + 4), 0
    elif number == TCP:
        if start + 20 > len(packet):
            return _NONE
    elif near < 0:
        if number == 17 or number == 33 or number == 132 or number == 136:
            return _NONE
        near, far = 0, 0
    flow[4] = far << 32 | near << 16 | number << 8 | family
    return _OF_FLOW


def _is_error(number: int, kind: int) -> bool:
    """Tell whether an ICMP type is an error about a packet (RFC 792: 3, 11, 12; RFC 4443: 1 to 4)."""
    if number == ICMP:
        return kind == 3 or kind == 11 or kind == 12
    return 1 <= kind <= 4


def _echo(number: int, inward: bool) -> int:
    """The ICMP type of an echo's reply, or of its request (RFC 792, RFC 4443)."""
    if number == ICMP:
        return 0 if inward else 8
    return 129 if inward else 128


def _quoted(packet: Any, at: int, words: Any, flow: Any) -> int:
    """Fill in the key of the flow of the packet that an ICMP error quotes, if the host that gets it has sent that."""
    length = len(packet)
    family = words[FAMILY]
    if family == 4:
        if at + 28 > length:
            return _NONE
        first = packet.load8(at)
        behind = at + ((first & 15) << 2)
        if first < 0x45 or first > 0x4F or packet.load16(at + 6) & 0x1FFF or behind + 8 > length:
            return _NONE
        number = packet.load8(at + 9)
        flow[0], flow[1], flow[2], flow[3] = 0, packet.load32(at + 12), 0, packet.load32(at + 16)
    else:
        behind = at + 40
        if behind + 8 > length or packet.load8(at) >> 4 != 6:
            return _NONE
        number = packet.load8(at + 6)
        flow[0], flow[1] = packet.load64(at + 8), packet.load64(at + 16)
        flow[2], flow[3] = packet.load64(at + 24), packet.load64(at + 32)
    # RFC 5927, 4: an error goes to whoever has sent what it quotes.
    if flow[0] != words[DESTINATION_HIGH] or flow[1] != words[DESTINATION_LOW]:
        return _NONE
    near, far = 0, 0
    if number == 6 or number == 17 or number == 33 or number == 132 or number == 136:
        near, far = packet.load16(behind), packet.load16(behind + 2)
    elif number == 1 or number == 58:
        if packet.load8(behind) != _echo(number, False):
            return _NONE
        near = packet.load16(behind + 4)
    flow[4] = far << 32 | near << 16 | number << 8 | family
    return _ERROR


def _ends(packet: Any, words: Any, fin: int) -> int:
    """The flags that a packet of a known flow sets: of TCP, that this side has ended, or a reset."""
    if words[NUMBER] != TCP:
        return 0
    flags = packet.load8((locate.transport(packet) & _OFFSET) + 13)
    if flags & _RST:
        return RESET
    if flags & _FIN:
        return fin
    return 0


def _answered(known: Any, new: Any, packet: Any, flow: Any, value: int, second: int) -> None:
    """Say whether a TCP packet that arrives answers what the host has sent in a new flow, and what comes of it."""
    start = locate.transport(packet) & _OFFSET
    flags = packet.load8(start + 13)
    ahead = (packet.load32(start + 8) - last_of(new, flow)) & _SEQUENCE
    if value & HALF == 0:
        # The flow was there before: anything about as far as a window (RFC 7323) from what the host last sent.
        hears = flags & _ACK != 0 and (ahead + _WINDOW) & _SEQUENCE < 2 * _WINDOW
        if hears and flags & (_SYN | _RST) == 0:
            flow[ANSWER] = 1
            confirm(known, new, flow, second << FLAGS | (IN_FIN if flags & _FIN else 0))
        elif hears or flags & (_SYN | _RST) == _RST:
            flow[ANSWER] = 1
        return
    # What was acknowledged begins with the SYN itself; some data may have come with it (RFC 7413).
    hears = flags & _ACK != 0 and 1 <= ahead <= _FIRST_DATA
    if value & RESPONDER:
        if flags & _SYN:
            return
        if flags & _RST:
            flow[ANSWER] = 1
        elif hears:
            flow[ANSWER] = 1
            confirm(known, new, flow, second << FLAGS | (IN_FIN if flags & _FIN else 0))
    elif hears and flags & (_SYN | _RST):
        flow[ANSWER] = 1
        if flags & _RST:
            note(new, flow, value, second, RESET)
        else:
            note(new, flow, value, second, ANSWERED)
    elif value & ANSWERED and hears:
        # The other side's second packet was quicker than the host's.
        flow[ANSWER] = 1
