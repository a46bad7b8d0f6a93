"""Flows: what the host begins or answers is established, and nothing else, on every target and under floods."""

from __future__ import annotations

import itertools
import linecache
import random
import re
import struct
from pathlib import Path

import pytest

import raceway
from packet_cases import needs_native
from raceway.compile.classifier.classifier import Classifier
from raceway.compile.flows import layout
from raceway.compile.flows.flow_table import FlowTable

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
HOST, PEER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
FIN, SYN, RST, ACK = 1, 2, 4, 16
KEYS = Classifier([])
MINE = raceway.prefix("02:00:00:00:00:01")


class Ends:
    """Two addresses of one family, and the packets between them. A packet of `out` is the host's."""

    def __init__(self, version: int, remote: int = 2) -> None:
        self.version = version
        high = b"\x0a\0\0" if version == 4 else bytes.fromhex("20010db8") + bytes(9)
        self.host = high + (b"\x01" if version == 4 else b"\0\0\x01")
        self.peer = high[: 1 if version == 4 else 4] + remote.to_bytes(3 if version == 4 else 12, "big")

    def wrapped(
        self,
        out: bool,
        protocol: int,
        payload: bytes,
        *,
        fragment: int = 0,
        more: bool = False,
        number: int = 7,
    ) -> bytes:
        """fragment: where it begins, in units of 8 bytes; more: more fragments follow; number: the datagram's."""
        source, destination = (self.host, self.peer) if out else (self.peer, self.host)
        macs = PEER + HOST if out else HOST + PEER
        if self.version == 4:
            header = struct.pack(
                "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), number & 0xFFFF, more << 13 | fragment, 64, protocol, 0,
                source, destination,
            )  # fmt: skip
            return macs + b"\x08\0" + header + payload
        if fragment or more:
            payload = struct.pack("!BBHI", protocol, 0, fragment << 3 | more, number) + payload
            protocol = 44
        return (
            macs + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
            + source + destination + payload
        )  # fmt: skip

    def tcp(self, out: bool, flags: int, sequence: int = 0, acknowledged: int = 0, ports=(1000, 80)) -> bytes:
        near, far = ports if out else ports[::-1]
        words = struct.pack("!HHIIBBHHH", near, far, sequence, acknowledged, 0x50, flags, 100, 0, 0)
        return self.wrapped(out, 6, words)

    def udp(self, out: bool, ports=(1000, 53)) -> bytes:
        near, far = ports if out else ports[::-1]
        return self.wrapped(out, 17, struct.pack("!HHHH", near, far, 8, 0))

    def echo(self, out: bool, number: int, *, reply: bool = False) -> bytes:
        kind = (0 if reply else 8) if self.version == 4 else 129 if reply else 128
        return self.wrapped(out, 1 if self.version == 4 else 58, struct.pack("!BBHHH", kind, 0, 0, number, 1))

    def error(self, quoted: bytes, kind: int = 0) -> bytes:
        """An ICMP error from the peer about a packet of the host."""
        kind = kind or (3 if self.version == 4 else 1)
        return self.wrapped(
            False, 1 if self.version == 4 else 58, struct.pack("!BBHI", kind, 1, 0, 0) + quoted[14:]
        )


@raceway.packet_function
def tracked(packet):
    key = KEYS.key(packet)
    if packet.ethernet.source == MINE:
        FLOWS.leaving(packet, key)
        return raceway.TX
    if FLOWS.arriving(packet, key):
        return raceway.PASS
    return raceway.DROP


FLOWS = FlowTable(1024)


def world(flows: int = 1024, where: str = "interpreted"):
    """A function that runs packets (and seconds after the start) through flows of their own; and these."""
    table = FlowTable(flows, seed=5)
    scope = tracked.function.__globals__ | {"FLOWS": table}
    copy = type(tracked.function)(tracked.function.__code__, scope, "tracked")
    function = raceway.packet_function(copy)

    def run(*packets: bytes, at: float = 0) -> list[bool]:
        """Which of the packets that arrive are established."""
        done = raceway.simulate(function, packets, where, times=START + int(at * SECOND))
        assert not any(done.reasons.values()), done.reasons
        return [one == raceway.PASS for one in done.verdicts if one != raceway.TX]

    return run, table


BOTH = pytest.mark.parametrize("ends", [Ends(4), Ends(6)], ids=["IPv4", "IPv6"])


@BOTH
def test_a_connection_of_the_host_is_established_by_its_handshake(ends):
    run, table = world()
    assert run(ends.tcp(False, ACK, 1, 1)) == [False]
    assert run(ends.tcp(True, SYN, 100), ends.tcp(False, SYN | ACK, 500, 101)) == [True]
    assert (table.known, table.new) == (0, 1)
    assert run(ends.tcp(True, ACK, 101, 501), ends.tcp(False, ACK, 501, 101)) == [True]
    assert (table.known, table.new) == (1, 0)
    (flow,) = table.flows(START)
    assert (flow.protocol, flow.local_port, flow.remote_port, flow.known) == (6, 1000, 80, True)
    assert run(ends.tcp(False, ACK, 501, 101, ports=(1001, 80))) == [False]


@BOTH
def test_an_answer_that_acknowledges_what_was_not_sent_is_none(ends):
    run, _ = world()
    run(ends.tcp(True, SYN, 100))
    for acknowledged in (0, 100, 101 + (1 << 17), 99, 0xFFFFFFFF):
        assert run(ends.tcp(False, SYN | ACK, 500, acknowledged)) == [False]
        assert run(ends.tcp(False, RST | ACK, 0, acknowledged)) == [False]
    assert run(ends.tcp(False, ACK, 500, 101), ends.tcp(False, SYN, 500)) == [False, False]
    assert run(ends.tcp(False, RST | ACK, 0, 101)) == [True]


@BOTH
def test_a_connection_to_the_host_is_known_when_the_other_side_has_shown_the_hosts_number(ends):
    run, table = world()
    server = {"ports": (22, 4000)}
    assert run(ends.tcp(False, SYN, 7, **server)) == [False]
    run(ends.tcp(True, SYN | ACK, 300, 8, **server))
    assert run(ends.tcp(False, ACK, 8, 299, **server), ends.tcp(False, ACK, 8, 9999999, **server)) == [
        False,
        False,
    ]
    assert table.known == 0
    assert run(ends.tcp(False, ACK, 8, 301, **server)) == [True]
    assert (table.known, table.new) == (1, 0)
    assert run(ends.tcp(True, ACK, 301, 8, **server), ends.tcp(False, ACK, 8, 301, **server)) == [True]


@BOTH
def test_a_connection_that_was_there_before_is_taken_up_by_the_hosts_next_packet(ends):
    run, table = world()
    assert run(ends.tcp(False, ACK, 5, 100_000)) == [False]
    run(ends.tcp(True, ACK, 100_000, 5))
    assert run(ends.tcp(False, ACK, 5, 100_000 + (1 << 25))) == [False]
    assert run(ends.tcp(False, ACK, 5, 99_000)) == [True]
    assert table.known == 1


@BOTH
def test_a_reset_of_the_host_begins_nothing(ends):
    run, table = world()
    run(ends.tcp(True, RST | ACK, 1, 1))
    assert len(table) == 0
    assert run(ends.tcp(False, ACK, 1, 1)) == [False]


@BOTH
def test_times_are_those_of_the_state_that_a_connection_is_in(ends):
    shake = [ends.tcp(True, SYN, 100), ends.tcp(False, SYN | ACK, 500, 101), ends.tcp(True, ACK, 101, 501)]
    later = ends.tcp(False, ACK, 501, 101)
    for end, seconds in (
        ([], layout.OPEN),
        ([ends.tcp(False, FIN | ACK, 501, 101)], layout.TRANSITORY),
        ([ends.tcp(True, FIN | ACK, 101, 501)], layout.TRANSITORY),
        ([ends.tcp(False, RST, 501)], layout.AFTER_RESET),
        ([ends.tcp(True, RST, 501)], layout.AFTER_RESET),
        # A reset that the host does not believe (RFC 5961).
        ([ends.tcp(False, RST, 7), ends.tcp(True, ACK, 101, 501)], layout.OPEN),
    ):
        for after, alive in ((seconds, True), (seconds + 1, False)):
            run, _ = world()
            run(*shake, *end)
            assert run(later, at=after) == [alive], (end, after)


@BOTH
@pytest.mark.parametrize("out", [False, True])
def test_after_a_reset_the_other_side_cannot_keep_the_flow(ends, out):
    run, _ = world()
    run(ends.tcp(True, SYN, 100), ends.tcp(False, SYN | ACK, 500, 101), ends.tcp(True, ACK, 101, 501))
    run(ends.tcp(out, RST, 501))
    more = ends.tcp(False, ACK, 501, 101)
    assert run(more, at=layout.AFTER_RESET) == [True]
    assert run(more, at=layout.AFTER_RESET + 1) == [False]


@BOTH
def test_a_flow_that_goes_on_stays(ends):
    run, _ = world()
    run(ends.udp(True))
    for turn in range(1, 8):
        assert run(ends.udp(False), at=turn * layout.DATAGRAMS) == [True]
    assert run(ends.udp(False), at=8 * layout.DATAGRAMS + 1) == [False]


@BOTH
def test_datagrams_and_echoes_are_answered(ends):
    run, table = world()
    assert run(ends.udp(False), ends.echo(False, 9, reply=True)) == [False, False]
    run(ends.udp(True), ends.echo(True, 9))
    assert run(ends.udp(False), ends.echo(False, 9, reply=True)) == [True, True]
    others = [ends.udp(False, (1000, 54)), ends.udp(False, (1001, 53)), ends.echo(False, 8, reply=True)]
    assert run(*others, ends.echo(False, 9)) == [False] * 4
    assert table.known == 0
    run(ends.udp(True), ends.echo(True, 9), at=layout.LASTING)
    assert table.known == 2
    assert run(ends.echo(False, 9, reply=True), at=layout.LASTING + layout.QUERIES + 1) == [False]


@BOTH
def test_errors_about_what_the_host_has_sent_are_related(ends):
    run, _ = world()
    sent = [ends.udp(True), ends.tcp(True, SYN, 100), ends.echo(True, 9)]
    assert run(*map(ends.error, sent)) == [False] * 3
    run(*sent)
    kinds = (3, 11, 12) if ends.version == 4 else (1, 2, 3, 4)
    for kind, one in itertools.product(kinds, sent):
        assert run(ends.error(one, kind)) == [True]
    # About what somebody else has sent; of a kind that is no error; cut off.
    other = Ends(ends.version, remote=77)
    assert run(other.error(ends.udp(False)), ends.error(ends.udp(False))) == [False, False]
    assert run(ends.error(sent[0], 5 if ends.version == 4 else 200)) == [False]
    for length in range(14, len(ends.error(sent[0]))):
        assert run(ends.error(sent[0])[:length]) == [False]


def parts(ends: Ends, number: int, ports=(1000, 53), out: bool = False) -> tuple[bytes, bytes, bytes]:
    """A UDP datagram in three fragments."""
    near, far = ports if out else ports[::-1]
    first = struct.pack("!HHHH", near, far, 40, 0) + bytes(8)
    return (
        ends.wrapped(out, 17, first, more=True, number=number),
        ends.wrapped(out, 17, bytes(16), fragment=2, more=True, number=number),
        ends.wrapped(out, 17, bytes(8), fragment=4, number=number),
    )


@BOTH
def test_later_fragments_follow_the_first_of_their_datagram(ends):
    run, table = world()
    assert run(*parts(ends, 1)) == [False] * 3
    run(ends.udp(True))
    one, two = parts(ends, 1), parts(ends, 2, (1000, 54))
    # Of a datagram whose first fragment has not come, or is of no flow, nothing is established.
    assert run(*one[1:], *two) == [False] * 5
    assert run(*one, one[2], *two[1:]) == [True] * 4 + [False] * 2
    # Those of another host, of another protocol, and those that the host itself sends, open nothing.
    other = Ends(ends.version, remote=77)
    assert run(*parts(other, 1)) == [False] * 3
    assert run(ends.wrapped(False, 6, bytes(16), fragment=4, number=1)) == [ends.version == 6]
    run(*parts(ends, 5, out=True))
    assert run(*parts(ends, 5)[1:]) == [False] * 2
    assert {(one.local_port, one.remote_port) for one in table.flows(START)} == {(1000, 53)}


@BOTH
def test_fragments_are_waited_for_as_long_as_a_host_does(ends):
    for after, alive in ((layout.FRAGMENTS, True), (layout.FRAGMENTS + 1, False)):
        run, _ = world()
        run(ends.udp(True))
        first, *rest = parts(ends, 1)
        assert run(first) == [True]
        assert run(*rest, at=after) == [alive] * 2


def test_fragments_over_ipv6_are_known_by_their_number_whatever_headers_are_around():
    ends = Ends(6)
    run, _ = world()
    run(ends.udp(True))
    options = struct.pack(
        "!BBHI", 44, 0, 0x0104, 0
    )  # Hop-by-hop: a PadN option, and the fragment header behind it.

    def part(protocol: int, place: int, more: bool, number: int, payload: bytes) -> bytes:
        header = struct.pack("!BBHI", protocol, 0, place << 3 | more, number)
        return ends.wrapped(False, 0, options + header + payload)

    # The first has options for the destination behind its fragment header.
    first = part(60, 0, True, 1 << 31 | 9, struct.pack("!BBHI", 17, 0, 0x0104, 0) + ends.udp(False)[54:])
    assert run(part(60, 2, False, 1 << 31 | 9, bytes(8))) == [False]
    assert run(first, part(60, 2, False, 1 << 31 | 9, bytes(8)), part(60, 2, False, 9, bytes(8))) == [
        True,
        True,
        False,
    ]


@BOTH
def test_a_flood_of_fragments_takes_no_place_of_what_was_answered(ends):
    run, table = world(64)
    run(ends.udp(True, (1000, 54)), ends.udp(False, (1000, 54)), ends.udp(True))
    for number in range(3000):
        assert run(parts(ends, number)[0], at=1) == [True]
    assert table.new == table.new_capacity
    assert run(ends.udp(False, (1000, 54)), at=1) == [True]


@BOTH
def test_a_port_that_is_used_again_is_another_connection(ends):
    run, table = world()
    run(ends.tcp(True, SYN, 100), ends.tcp(False, SYN | ACK, 500, 101), ends.tcp(True, ACK, 101, 501))
    run(ends.tcp(True, SYN, 9000))
    assert (table.known, table.new) == (0, 1)
    assert run(ends.tcp(False, SYN | ACK, 1, 101), ends.tcp(False, SYN | ACK, 1, 9001)) == [False, True]


def flood(count: int, version: int = 4):
    return [Ends(version, remote=1000 + number) for number in range(count)]


@BOTH
def test_a_flood_of_new_flows_never_touches_known_ones(ends):
    run, table = world(64)
    run(ends.tcp(True, SYN, 100), ends.tcp(False, SYN | ACK, 500, 101), ends.tcp(True, ACK, 101, 501))
    run(ends.udp(True), ends.udp(False))
    run(ends.udp(True), at=layout.LASTING)
    assert table.known == 2
    for one in flood(5000, ends.version):
        # The host answers whoever knocks, and its own programs ask around.
        run(one.tcp(True, SYN | ACK, 3, ports=(80, 5)), one.udp(True), at=layout.LASTING + 1)
    assert table.known == 2
    assert table.new == table.new_capacity
    assert table.evicted > 5000
    assert table.full == 0
    assert run(ends.tcp(False, ACK, 501, 101), ends.udp(False), at=layout.LASTING + 1) == [True, True]


def test_knocks_give_way_before_what_the_host_has_asked_for():
    run, _ = world(64)
    ends = Ends(4)
    run(ends.tcp(True, SYN, 100))
    for one in flood(3000):
        run(one.tcp(True, SYN | ACK, 3, ports=(80, 5)), at=1)
    assert run(ends.tcp(False, SYN | ACK, 500, 101), at=1) == [True]


def test_without_a_place_a_flow_stays_new_and_places_of_flows_that_are_over_are_used_again():
    run, table = world(16)
    for number, one in enumerate(flood(40)):
        shake = [one.tcp(True, SYN, 9), one.tcp(False, SYN | ACK, 3, 10), one.tcp(True, ACK, 10, 4)]
        assert run(*shake, one.tcp(False, ACK, 4, 10)) == [True, True]
        assert table.known == min(number + 1, 16)
    assert table.full > 0
    late = layout.OPEN + 1
    for one in flood(10):
        run(one.tcp(True, SYN, 9), one.tcp(False, SYN | ACK, 3, 10), one.tcp(True, ACK, 10, 4), at=late)
    assert sum(one.known for one in table.flows(START + late * SECOND)) >= 5
    assert table.known == 16


def test_connections_from_before_are_adopted():
    run, table = world()
    host, peer = (raceway.prefix(text).address for text in ("10.0.0.1", "10.0.0.2"))
    six = [raceway.prefix(text).address for text in ("2001:db8::1", "2001:db8::2")]
    assert table.adopt([(host, 22, peer, 4000), (six[0], 22, six[1], 4000)], START) == 2
    assert run(Ends(4).tcp(False, ACK, 1, 1, ports=(22, 4000)), Ends(4).tcp(False, ACK, 1, 1)) == [
        True,
        False,
    ]
    assert {str(one.remote) for one in table.flows(START)} == {"10.0.0.2", "2001:db8::2"}


def example(file: str = "<docs/firewall.md>"):
    """The packet function of the firewall's page, with flows of its own."""
    page = (Path(__file__).parents[2] / "docs" / "firewall.md").read_text()
    (text,) = [one for one in re.findall(r"^```python\n(.*?)^```", page, re.S | re.M) if "FlowTable" in one]
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope = {"__name__": "example", "__file__": file}
    exec(compile(text, file, "exec"), scope)
    return scope["stateful"]


@pytest.mark.parametrize("target", ["interpreted", "native", "kernel"])
def test_the_pages_function_between_two_ports_tells_who_has_begun(target):
    if target != "interpreted" and needs_native:
        pytest.skip(needs_native)
    function, ends, verdicts = example(), Ends(4), []
    answer, other = ends.udp(False), ends.udp(False, (1000, 54))
    for port, data in ((1, answer), (0, ends.udp(True)), (1, answer), (1, other)):
        verdicts += raceway.simulate(function, [data], target, port=port, times=START).verdicts
    assert verdicts == [raceway.DROP, raceway.PASS, raceway.PASS, raceway.DROP]


def random_packets(seed: int, count: int):
    """Packets of few flows, in any order, and the time of each."""
    chance = random.Random(seed)
    ends = [Ends(version, remote) for version in (4, 6) for remote in (2, 3)]
    time = START
    for _ in range(count):
        one, out = chance.choice(ends), chance.random() < 0.5
        time += chance.choice((*[0] * 8, 1000, SECOND, 3 * SECOND, 70 * SECOND, 250 * SECOND))
        numbers = [chance.choice((0, 1, 2, 100, 101, 1 << 24, 0xFFFFFFFF)) for _ in range(2)]
        flags = chance.choice((SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK, 0, 0xFF))
        port = chance.choice((80, 81))
        data = chance.choice((
            one.tcp(out, flags, *numbers, ports=(port, 1)), one.tcp(out, flags, *numbers, ports=(port, 1)),
            one.udp(out, (port, 1)), one.echo(out, port, reply=chance.random() < 0.5),
            one.error(one.tcp(True, SYN, ports=(port, 1))), one.wrapped(out, 47, bytes(8)),
            one.wrapped(out, 17, bytes(8), fragment=2, number=port),
        ))  # fmt: skip
        several = [data]
        if chance.random() < 0.1:
            several += [one.udp(True, (port, 1)), *parts(one, port, (port, 1))]
        if chance.random() < 0.2:
            chance.shuffle(several)
        for data in several:
            if chance.random() < 0.1:
                data = data[: chance.randrange(14, len(data))]
            yield data, time


@pytest.mark.skipif(bool(needs_native), reason=needs_native)
@pytest.mark.parametrize("target", ["native", "kernel"])
@pytest.mark.parametrize("flows", [2, 4096])
def test_machine_code_and_the_kernel_track_as_python_does(target, flows):
    packets, times = zip(*random_packets(flows, 3000), strict=True)
    results = []
    for where in ("interpreted", target):
        table = FlowTable(flows, seed=5)
        scope = tracked.function.__globals__ | {"FLOWS": table}
        function = raceway.packet_function(
            type(tracked.function)(tracked.function.__code__, scope, "tracked")
        )
        done = raceway.simulate(function, packets, where, times=times)
        results.append(
            (done.verdicts, done.reasons, sorted(map(str, table.flows(times[-1]))), table.evicted, table.full)
        )
    assert results[0] == results[1]
    established = [data for data, one in zip(packets, results[0][0], strict=True) if one == raceway.PASS]
    assert len(established) > 50
    later = sum(data[12:14] == b"\x08\0" and data[20:22] == b"\x20\x02" for data in established)
    assert later > 10
    assert not any(results[0][1].values())
