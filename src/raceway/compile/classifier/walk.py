"""Looking a packet up in a classifier's words. Written once; interpreted and compiled code both run these functions.

The words begin with a header; everything else is found by it::

    0         how many groups
    1  2  3   source: entry of the IPv4 trie, of the IPv6 trie; what packets without have
    4  5  6   destination, the same
    7  8  9   source port: entry of its table, class of packets without, what a class counts
    10 - 12   destination port, the same
    13 - 15   protocol, the same
    16 - 18   answers, the same (none is 0)
    19        table of all combinations of those four sides, if they are few enough: each group's rest class
    20 - 23   else rows of the four sides: a word for each class and group
    20 - 22   where no rule looks at addresses (`flat`): the table of the first rule for each combination of the four
              sides, 0 for none, of packets in IPv4, in IPv6, and of others
    24 + 5g   group g: rest classes (of those rows' sums), fits, words in a row of fits, firsts, how many rest classes

What a trie finds is where the row of an address's class is, a word for each group. A source's is where its row of
the group's comb begins, and a number that its cells in the comb bear (`OWNER` bits); a destination's is how far into
that row. A cell holds its owner, and either one rule and the row of `fits` whose bit says whether the rest does; or,
with `ROW` set, a row of `firsts`.
"""

from __future__ import annotations

from typing import Any

from raceway.compile import locate
from raceway.compile.addresses import signed64
from raceway.compile.classifier.tries import BYTES, LEAF, LINE, SIGN, WIDE

GROUP_COUNT, SOURCE, DESTINATION = 0, 1, 4
NUMBERS = SOURCE_PORT, DESTINATION_PORT, PROTOCOL, ANSWERS = 7, 10, 13, 16
STEP = 2
JOINT, ROWS = 19, 20
RULES = ROWS
GROUP, GROUP_WORDS = 24, 5
FITS = 1
OWNER, ROW, RULE, FIT = 42, 41, 20, (1 << 20) - 1
BASE = (1 << OWNER) - 1
NOBODY = (1 << 21) - 1
_HALF = 0xFFFFFFFF
_FOUND = (1 << 21) - 1
_NO_RULE = 1 << 30
NONE = -1


KEY_WORDS = 9
(
    FAMILY,
    SOURCE_HIGH,
    SOURCE_LOW,
    DESTINATION_HIGH,
    DESTINATION_LOW,
    PORT_OF_SOURCE,
    PORT_OF_DESTINATION,
    NUMBER,
    WRONG,
) = range(9)
WRONGS = (
    "well formed",
    "no Ethernet header, cut off in its VLAN tags, or more than four of them",
    "IP header cut off, or of a wrong version or length",
    "longer in its IP header than it is",
    "options or extension headers cut off, or more than eight of those",
    "transport header cut off, as in a tiny first fragment (RFC 1858)",
    "fragment that would overwrite the transport header (RFC 3128)",
)
"""What can be wrong with a packet, by number."""
_PLAIN = 14 + 20 + 20
"""Bytes in which every header is whole that `key` looks at: Ethernet, IPv4, TCP."""
_PORTED, _PORTED_HIGH = 1 << 6 | 1 << 17 | 1 << 33, 1 << 132 - 128 | 1 << 136 - 128
_STEPS = 64
# More than any trie has. So many turns are not written out one behind the other, which the kernel's verifier would walk
# in every combination.
_OFFSET, _PROTOCOL_SHIFT, _LATER = 0xFFFFF, 20, 1 << 29


def key(packet: Any, words: Any) -> None:
    """Fill in what a rule looks at: 0, 4 or 6; high and low half of source and destination; source port,
    destination port and protocol, which are -1 where there is none; and what is wrong with the packet (`WRONGS`).

    Ports are those of TCP, UDP, DCCP, SCTP and UDP-Lite, unless in a later fragment or cut off. What lies behind the
    end of the IP packet (Ethernet's padding, to 60 bytes, and whatever else a sender puts there) is not looked at: a
    tiny first fragment is always padded, and its receiver takes nothing from there.
    """
    length = len(packet)
    # What most packets are: IPv4 without tags or options, whole, no later fragment. All of it is looked at before
    # anything is decided, and what protocols differ in is computed: nobody can foretell a packet's protocol.
    if length >= _PLAIN and packet.load32(12) >> 8 == 0x080045:
        total = packet.load16(16)
        number = packet.load8(23)
        # Below zero if it is TCP with a header that is too short, or longer than the packet.
        data = (packet.load8(46) >> 4) << 2
        short = ((number ^ 6) - 1) & ((data - 20) | (total - 20 - data))
        if total >= 40 and total + 14 <= length and packet.load16(20) & 0x1FFF == 0 and short >= 0:
            words[FAMILY] = 4
            words[SOURCE_HIGH] = words[DESTINATION_HIGH] = 0
            words[SOURCE_LOW] = packet.load32(26)
            words[DESTINATION_LOW] = packet.load32(30)
            words[NUMBER] = number
            words[WRONG] = 0
            # All ones if the number is below 64, or from 128 to 191: then one bit says whether it has ports.
            low = (number >> 6) - 1 >> 63
            high = ((number >> 6) ^ 2) - 1 >> 63
            without = (((low & _PORTED) | (high & _PORTED_HIGH)) >> (number & 63) & 1) - 1
            words[PORT_OF_SOURCE] = packet.load16(34) | without
            words[PORT_OF_DESTINATION] = packet.load16(36) | without
            return
    key_of_any(packet, words)


def key_of_any(packet: Any, words: Any) -> None:
    """The same, whatever the packet is."""
    words[FAMILY] = words[SOURCE_HIGH] = words[SOURCE_LOW] = words[DESTINATION_HIGH] = words[
        DESTINATION_LOW
    ] = 0
    words[PORT_OF_SOURCE] = words[PORT_OF_DESTINATION] = words[NUMBER] = -1
    words[WRONG] = 0
    length = len(packet)
    found = locate.network(packet)
    kind = found & 0xFFFF
    if found < 0 or kind == 0x8100 or kind == 0x88A8 or kind == 0x9100:
        words[WRONG] = 1
        return
    wrong = 0
    offset = locate.ipv4(packet)
    if offset >= 0:
        words[FAMILY] = 4
        words[SOURCE_LOW] = packet.load32(offset + 12)
        words[DESTINATION_LOW] = packet.load32(offset + 16)
        total = packet.load16(offset + 2)
        if total < (packet.load8(offset) & 15) << 2:
            wrong = 2
        elif offset + total > length:
            wrong = 3
        else:
            length = offset + total
    else:
        offset = locate.ipv6(packet)
        if offset < 0:
            if kind == 0x0800 or kind == 0x86DD:
                words[WRONG] = 2
            return
        words[FAMILY] = 6
        words[SOURCE_HIGH] = packet.load64(offset + 8)
        words[SOURCE_LOW] = packet.load64(offset + 16)
        words[DESTINATION_HIGH] = packet.load64(offset + 24)
        words[DESTINATION_LOW] = packet.load64(offset + 32)
        total = packet.load16(offset + 4) + 40
        if offset + total > length:
            wrong = 3
        else:
            length = offset + total
    found = locate.transport(packet)
    if found < 0:
        words[WRONG] = wrong if wrong else 4
        return
    number = (found >> _PROTOCOL_SHIFT) & 0xFF
    start = found & _OFFSET
    if start > length:
        words[WRONG] = wrong if wrong else 4
        return
    words[NUMBER] = number
    if found & _LATER:
        # A fragment at offset 8 begins inside the transport header. (IPv6's offset is in units of 8 from bit 3 on, in
        # the header right before.)
        if number == 6:
            place = packet.load16(start - 6) >> 3
            if words[FAMILY] == 4:
                place = packet.load16(offset + 6) & 0x1FFF
            if place == 1 and wrong == 0:
                wrong = 6
        words[WRONG] = wrong
        return
    least = 0
    if number == 6:
        least = 20
    elif number == 17 or number == 132 or number == 136:
        least = 8
    elif number == 33:
        least = 12
    elif number == 1 or number == 58:
        least = 8
    ported = number == 6 or number == 17 or number == 33 or number == 132 or number == 136
    if ported and start + 4 <= length:
        words[PORT_OF_SOURCE] = packet.load16(start)
        words[PORT_OF_DESTINATION] = packet.load16(start + 2)
    if start + least > length:
        wrong = wrong if wrong else 5
    elif number == 6:
        # RFC 9293, 3.1: where the data begins, in words of four bytes.
        least = (packet.load8(start + 12) >> 4) << 2
        if least < 20 or start + least > length:
            wrong = wrong if wrong else 5
    words[WRONG] = wrong


def half(table: Any, at: int, index: int) -> int:
    """The number of 32 bits at an index behind a word."""
    number: int = (table[at + (index >> 1)] >> ((index & 1) << 5)) & _HALF
    return number


def number(table: Any, side: int, key: int) -> int:
    """What the class of a port, a protocol or an answer counts."""
    entry = table[side]
    kind = entry & 3
    found = at = entry >> 2
    if kind == BYTES:
        found = (table[at + (key >> 3)] >> ((key & 7) << 3)) & 0xFF
    elif kind != LEAF:
        found = (table[at + (key >> 2)] >> ((key & 3) << 4)) & 0xFFFF
    counted: int = found * table[side + STEP]
    return counted


def line_4(table: Any, at: int, key: int) -> int:
    """What a line of seven boundaries says of a key of 32 bits."""
    one, two, three, four = table[at], table[at + 1], table[at + 2], table[at + 3]
    # A difference's sign, for eBPF has no comparison but branches: seven would be 128 ways for its verifier.
    behind = (
        ((one & _HALF) - 1 - key >> 63) + (((one >> 32) & _HALF) - 1 - key >> 63)
        + ((two & _HALF) - 1 - key >> 63) + (((two >> 32) & _HALF) - 1 - key >> 63)
        + ((three & _HALF) - 1 - key >> 63) + (((three >> 32) & _HALF) - 1 - key >> 63)
        + ((four & _HALF) - 1 - key >> 63)
    )  # fmt: skip
    return half(table, at + 4, -behind)


def narrow(table: Any, entry: int, key: int) -> int:
    """What is found for a key of 32 bits."""
    # What is left of the key, at the top of 32 bits. (A count of bits would be a number that the kernel's verifier
    # follows from turn to turn.)
    rest = key
    for _ in range(_STEPS):
        kind = entry & 3
        at = entry >> 2
        if kind == LEAF:
            return at
        if kind == LINE:
            return line_4(table, at, key)
        if kind == WIDE:
            index = (rest >> 16) & 0xFFFF
            rest <<= 16
        else:
            index = (rest >> 24) & 0xFF
            rest <<= 8
        entry = half(table, at, index)
    return 0


def wide(table: Any, entry: int, high: int, low: int) -> int:
    """What is found for a key of 128 bits."""
    left, right = high, low
    for _ in range(_STEPS):
        kind = entry & 3
        at = entry >> 2
        if kind == LEAF:
            return at
        if kind == LINE:
            behind = 0
            for index in range(4):
                above, below = table[at + 2 * index], table[at + 2 * index + 1]
                mine = high ^ SIGN
                if mine > above or (mine == above and (low ^ SIGN) >= below):
                    behind = index + 1
            return half(table, at + 8, behind)
        if kind == WIDE:
            index = (left >> 48) & 0xFFFF
            left = left << 16 | (right >> 48) & 0xFFFF
            right = signed64(right << 16)
        else:
            index = (left >> 56) & 0xFF
            left = left << 8 | (right >> 56) & 0xFF
            right = signed64(right << 8)
        left = signed64(left)
        entry = half(table, at, index)
    return 0


def match(table: Any, words: Any, answers: int) -> int:
    """Return the number of the first rule that a key and the answers to what else is asked match, or -1."""
    family = words[FAMILY]
    if family == 4:
        source = narrow(table, table[SOURCE], words[SOURCE_LOW])
        destination = narrow(table, table[DESTINATION], words[DESTINATION_LOW])
    elif family == 6:
        source = wide(table, table[SOURCE + 1], words[SOURCE_HIGH], words[SOURCE_LOW])
        destination = wide(table, table[DESTINATION + 1], words[DESTINATION_HIGH], words[DESTINATION_LOW])
    else:
        source, destination = table[SOURCE + 2], table[DESTINATION + 2]
    if words[PORT_OF_SOURCE] >= 0:
        source_port = number(table, SOURCE_PORT, words[PORT_OF_SOURCE])
        destination_port = number(table, DESTINATION_PORT, words[PORT_OF_DESTINATION])
    else:
        source_port = table[SOURCE_PORT + 1] * table[SOURCE_PORT + STEP]
        destination_port = table[DESTINATION_PORT + 1] * table[DESTINATION_PORT + STEP]
    if words[NUMBER] >= 0:
        protocol = number(table, PROTOCOL, words[NUMBER])
    else:
        protocol = table[PROTOCOL + 1] * table[PROTOCOL + STEP]
    answer = number(table, ANSWERS, answers)
    joint = table[JOINT]
    if joint != 0:
        source_port += protocol + destination_port + answer
    else:
        source_port += table[ROWS]
        destination_port += table[ROWS + 1]
        protocol += table[ROWS + 2]
        answer += table[ROWS + 3]
    groups = table[GROUP_COUNT]
    best = _NO_RULE
    header = GROUP
    for group in range(groups):
        mine = table[source + group]
        cell = table[(mine & BASE) + table[destination + group]]
        # All ones if the cell is this source's. Where the traffic is mixed nobody can foretell that, so nobody is asked
        # to: what is not ours is worked out too, and forgotten.
        ours = ((cell ^ mine) >> OWNER) - 1 >> 63
        if joint != 0:
            rest = half(table, joint, source_port + group)
        else:
            combined = (
                table[source_port + group] + table[destination_port + group]
                + table[protocol + group] + table[answer + group]
            )  # fmt: skip
            rest = half(table, table[header], combined)
        if (cell >> ROW) & 1:
            rule = half(table, table[header + 3], (cell & ((1 << ROW) - 1)) + rest) - 1
            ours &= ~(rule >> 63)
        else:
            rule = (cell >> RULE) & _FOUND
            fits = table[header + 1] + (cell & FIT) * table[header + 2]
            ours &= -((table[fits + (rest >> 6)] >> (rest & 63)) & 1)
        best = min(best, rule & _FOUND | ~ours & _NO_RULE)
        header += GROUP_WORDS
    if best >= _NO_RULE:
        return NONE
    return best


def flat(table: Any, words: Any, answers: int) -> int:
    """The same where no rule looks at addresses: ports, protocol and answers say it all, in one look."""
    family = words[FAMILY]
    if family == 4:
        rules = table[RULES]
    elif family == 6:
        rules = table[RULES + 1]
    else:
        rules = table[RULES + 2]
    if words[PORT_OF_SOURCE] >= 0:
        place = number(table, SOURCE_PORT, words[PORT_OF_SOURCE])
        place += number(table, DESTINATION_PORT, words[PORT_OF_DESTINATION])
    else:
        place = table[SOURCE_PORT + 1] * table[SOURCE_PORT + STEP]
        place += table[DESTINATION_PORT + 1] * table[DESTINATION_PORT + STEP]
    if words[NUMBER] >= 0:
        place += number(table, PROTOCOL, words[NUMBER])
    else:
        place += table[PROTOCOL + 1] * table[PROTOCOL + STEP]
    place += number(table, ANSWERS, answers)
    return half(table, rules, place) - 1


def match_in(table: Any, words: Any, answers: int) -> None:
    """Put behind a key the number of the first rule that it matches."""
    words[KEY_WORDS] = match(table, words, answers)


def flat_in(table: Any, words: Any, answers: int) -> None:
    """The same where no rule looks at addresses."""
    words[KEY_WORDS] = flat(table, words, answers)
