"""What towards the host goes together, what does not, and that cutting gives back what was sent: by a cutter of the
test's own (RFC 791, 768, 8200, 9293), against a descriptor whose other end is the test's."""

from __future__ import annotations

import random
import struct
from collections import defaultdict

import pytest
from tap_world import cables as cables, ones_sum
from test_tap_sync import Cable, noise, written

from conftest import scaled
from raceway.ports.geometry import Geometry
from raceway.ports.host.records import Host
from raceway.ports.host.sync import host_sync
from raceway.ports.tap.joining import Joiner
from raceway.ports.tap.port import TapOptions, TapPort

TCP, UDP = 6, 17
VLAN = struct.pack(">HH", 0x8100, 7)


class JoiningPort(TapPort):
    """As a host ring joins, without an interface."""

    adapter = host_sync
    record = Host


def port_on(slots: int = 256, **cable) -> JoiningPort:
    device = Cable(offload=True, **cable)
    device.offload = False
    port = JoiningPort(
        "tap:cable", device, Geometry(slots, slots, buffer_size=2048), options=TapOptions(up=False)
    )
    port.joiner = Joiner(port.tx[0].size)
    # The transmit ring's comes first.
    port._records[0]["join"] = port.joiner.address
    return port


@pytest.fixture
def opened(cables):
    return lambda **wishes: cables(port_on(**wishes))


def packet(
    payload: bytes = b"x" * 100, *, protocol=UDP, version=4, number=0, fragment=0x4000, tos=0, ttl=64, label=0,
    flags=0x10, sequence=0, acknowledgment=6, window=512, urgent=0, options=b"", source=1000, host=1, tag=b"",
    mac=2, spoilt=0, checksummed=True, ip_options=b"", ip_spoilt=0, padding=0, udp_length=0,
) -> bytes:  # fmt: skip
    """One packet; spoilt, ip_spoilt: added to a checksum; number: IPv4's identification."""
    ports = struct.pack(">HH", source, 80)
    if protocol == UDP:
        transport = ports + struct.pack(">HH", udp_length or 8 + len(payload), 0)
        at = 6
    else:
        size = (20 + len(options)) // 4 << 4
        transport = ports + struct.pack(
            ">IIBBHHH", sequence & 0xFFFFFFFF, acknowledgment, size, flags, window, 0, urgent
        )
        transport += options
        at = 16
    length = len(transport) + len(payload)
    if version == 4:
        addresses = bytes([192, 0, 2, host, 192, 0, 2, 99])
        size = 20 + len(ip_options)
        ip = struct.pack(
            ">BBHHHBBH", 0x40 | size // 4, tos, size + length, number & 0xFFFF, fragment, ttl, protocol, 0
        )
        ip += addresses + ip_options
        right = 0xFFFF - ones_sum(ip) + ip_spoilt
        ip = ip[:10] + struct.pack(">H", right & 0xFFFF) + ip[12:]
        kind = b"\x08\x00"
    else:
        addresses = bytes.fromhex("20010db80000000000000000000000") + bytes([host]) + bytes(16)
        ip = struct.pack(">IHBB", 6 << 28 | tos << 20 | label, length, protocol, ttl) + addresses
        kind = b"\x86\xdd"
    if checksummed:
        pseudo = addresses + struct.pack(">II", length, protocol)
        found = (0xFFFF - ones_sum(pseudo + transport + payload)) or 0xFFFF
        transport = transport[:at] + struct.pack(">H", (found + spoilt) & 0xFFFF) + transport[at + 2 :]
    ethernet = b"\2\0\0\0\0" + bytes([mac]) + b"\2\0\0\0\0\1" + tag + kind
    return ethernet + ip + transport + payload + bytes(padding)


def cut(got: bytes) -> list[bytes]:
    """The packets that a written one stands for."""
    flags, kind, length, size, start, place = struct.unpack_from("=BBHHHH", got)
    data = got[10:]
    if kind == 0:
        assert (flags, size, start, place) == (0, 0, 0, 0)
        return [data]
    network = 18 if data[12:14] == VLAN[:2] else 14
    version = data[network] >> 4
    assert flags == 1
    assert start == network + (20 if version == 4 else 40)
    assert kind == {(TCP, 4): 1, (TCP, 6): 4, (UDP, 4): 5, (UDP, 6): 5}[TCP if place == 16 else UDP, version]
    head, payload = data[:length], data[length:]
    assert len(payload) > size
    # The joined packet is a right one itself: its lengths, and its sums once the open one is finished.
    if version == 4:
        assert int.from_bytes(head[network + 2 : network + 4], "big") == len(data) - network
        assert ones_sum(head[network : network + 20]) == 0xFFFF
        addresses = head[network + 12 : network + 20]
    else:
        assert int.from_bytes(head[network + 4 : network + 6], "big") == len(data) - network - 40
        addresses = head[network + 8 : network + 40]
    protocol = TCP if place == 16 else UDP
    pseudo = addresses + struct.pack(">II", len(data) - start, protocol)
    assert int.from_bytes(head[start + place : start + place + 2], "big") == ones_sum(pseudo)
    if protocol == UDP:
        assert int.from_bytes(head[start + 4 : start + 6], "big") == len(data) - start
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    found = []
    for number, piece in enumerate(pieces):
        ip, transport = bytearray(head[network:start]), bytearray(head[start:])
        whole = len(transport) + len(piece)
        if version == 4:
            ip[2:4] = struct.pack(">H", 20 + whole)
            ip[4:6] = struct.pack(">H", (int.from_bytes(ip[4:6], "big") + number) & 0xFFFF)
            ip[10:12] = b"\0\0"
            ip[10:12] = struct.pack(">H", 0xFFFF - ones_sum(bytes(ip)))
        else:
            ip[4:6] = struct.pack(">H", whole)
        if protocol == UDP:
            transport[4:6] = struct.pack(">H", whole)
        else:
            transport[4:8] = struct.pack(
                ">I", (int.from_bytes(transport[4:8], "big") + number * size) & 0xFFFFFFFF
            )
            if number + 1 < len(pieces):
                transport[13] &= ~0x09 & 0xFF
        transport[place : place + 2] = b"\0\0"
        pseudo = addresses + struct.pack(">II", whole, protocol)
        right = (0xFFFF - ones_sum(pseudo + bytes(transport) + piece)) or 0xFFFF
        transport[place : place + 2] = struct.pack(">H", right)
        found.append(head[:network] + bytes(ip) + bytes(transport) + piece)
    return found


def sent(port: JoiningPort, packets: list[bytes]) -> list[list[bytes]]:
    """What a sync with these packets writes, each write as the packets that it stands for."""
    assert port.send(packets, timeout=1) == len(packets)
    assert port.tx[0]._kring["pending"] == 0
    return [cut(got) for got in written(port)]


def stream(count: int, size: int = 100, last: int | None = None, **wishes) -> list[bytes]:
    """Packets of one flow that go together."""
    found = []
    for number in range(count):
        length = last if last is not None and number == count - 1 else size
        found.append(packet(noise(2000 + number)[:length], number=number, sequence=number * size, **wishes))
    return found


@pytest.mark.parametrize("tag", [b"", VLAN])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [UDP, TCP])
@pytest.mark.parametrize(("size", "last"), [(100, None), (100, 1), (99, 33), (1448, 7), (18, 17), (1, None)])
def test_packets_of_a_flow_go_together_and_are_what_they_were(opened, protocol, version, tag, size, last):
    port = opened()
    packets = stream(9, size, last, protocol=protocol, version=version, tag=tag)
    assert sent(port, packets) == [packets]
    assert (port.joiner.record[0]["packets"], port.joiner.record[0]["joined"]) == (9, 1)
    assert port.counters()["tx_packets"] == 9


def test_interleaved_flows_go_together_each_in_the_order_of_their_first_packets(opened):
    flows = [
        stream(5, protocol=protocol, source=7000 + number) for number, protocol in enumerate([UDP, TCP] * 4)
    ]
    packets = [one[at] for at in range(5) for one in flows]
    assert sent(opened(), packets) == flows


def test_tcp_options_that_are_the_same_and_ece_do_not_part_and_psh_and_fin_end(opened):
    options = bytes([1, 1, 8, 10]) + bytes(8)
    packets = stream(6, protocol=TCP, options=options, flags=0x50)
    ending = packet(b"e" * 100, protocol=TCP, options=options, flags=0x59, number=6, sequence=600)
    after = packet(b"f" * 100, protocol=TCP, options=options, flags=0x50, number=7, sequence=700)
    assert sent(opened(), [*packets, ending, after]) == [[*packets, ending], [after]]


def test_sequence_numbers_and_identifications_count_on_around_their_ends(opened):
    packets = [
        packet(protocol=TCP, number=0xFFFE + at, sequence=(1 << 32) - 150 + at * 100, fragment=0)
        for at in range(4)
    ]
    assert sent(opened(), packets) == [packets]


def test_an_identification_that_stays_goes_together_only_where_it_means_nothing(opened):
    port = opened()
    fixed = [packet(number=5) for _ in range(4)]
    ((*found,),) = sent(port, fixed)
    # Who cuts counts on (RFC 6864, 4.1 allows it for what is not to be fragmented); all else is the same.
    assert [one[:18] + one[20:24] + one[26:] for one in found] == [
        one[:18] + one[20:24] + one[26:] for one in fixed
    ]
    may_be_fragmented = [packet(number=5, fragment=0) for _ in range(4)]
    assert sent(port, may_be_fragmented) == [[one] for one in may_be_fragmented]
    first_on = [packet(number=at) for at in (5, 6, 6, 7)]
    assert sent(port, first_on) == [first_on[:2], first_on[2:]]


def test_a_longer_packet_begins_anew_and_a_shorter_one_ends(opened):
    packets = [
        packet(bytes(size), number=at) for at, size in enumerate([100, 100, 101, 100, 100, 100, 99, 99])
    ]
    assert sent(opened(), packets) == [packets[:2], packets[2:4], packets[4:7], packets[7:]]


TCP_FIRST = {"protocol": TCP, "number": 1, "sequence": 100}
APART = {
    "ttl": {"ttl": 63},
    "tos": {"tos": 4},
    "congestion": {"tos": 3},
    "may be fragmented": {"fragment": 0},
    "a fragment": {"fragment": 0x2000},
    "a later fragment": {"fragment": 0x0010},
    "the reserved bit": {"fragment": 0xC000},
    "a number left out": {"number": 3},
    "ip options": {"ip_options": bytes([1] * 4)},
    "a wrong ip checksum": {"ip_spoilt": 1},
    "a wrong checksum": {"spoilt": 1},
    "no checksum": {"checksummed": False},
    "another address": {"host": 2},
    "another port": {"source": 1001},
    "another mac": {"mac": 9},
    "a tag": {"tag": VLAN},
    "no payload": {"payload": b""},
    "a wrong udp length": {"udp_length": 100},
    "tcp out of order": TCP_FIRST | {"sequence": 200},
    "tcp again": TCP_FIRST | {"sequence": 0},
    "tcp acknowledgment": TCP_FIRST | {"acknowledgment": 7},
    "tcp window": TCP_FIRST | {"window": 511},
    "tcp urgent pointer": TCP_FIRST | {"urgent": 1},
    "tcp ece": TCP_FIRST | {"flags": 0x50},
    "tcp cwr": TCP_FIRST | {"flags": 0x90},
    "tcp urg": TCP_FIRST | {"flags": 0x30},
    "tcp syn": TCP_FIRST | {"flags": 0x12},
    "tcp rst": TCP_FIRST | {"flags": 0x14},
    "tcp without ack": TCP_FIRST | {"flags": 0x00},
    "tcp options": TCP_FIRST | {"options": bytes([1] * 4)},
    "tcp acknowledgment alone": TCP_FIRST | {"payload": b""},
    "tcp with a wrong checksum": TCP_FIRST | {"spoilt": 7},
    "v6 flow label": {"version": 6, "label": 5},
    "v6 traffic class": {"version": 6, "tos": 8},
    "v6 hop limit": {"version": 6, "ttl": 3},
    "v6 no checksum": {"version": 6, "checksummed": False},
    "v6 another address": {"version": 6, "host": 3},
}


@pytest.mark.parametrize("what", APART)
def test_what_differs_goes_by_itself_as_it_is_and_in_its_place(opened, what):
    wishes = {"number": 1} | APART[what]
    same = {name: wishes[name] for name in ("protocol", "version") if name in wishes}
    port = opened()
    before, odd = packet(**same), packet(**wishes)
    after = packet(number=2, sequence=200, **same)
    writes = sent(port, [before, odd, after])
    assert [one for write in writes for one in write if one in (before, after)] == [before, after]
    assert [odd] in writes
    # Its own flow's packets, or if that cannot be known everybody's, neither overtake it nor fall behind.
    if not {"host", "source", "mac", "tag", "label"} & wishes.keys():
        assert writes.index([odd]) == 1


@pytest.mark.parametrize("spoilt", range(4))
@pytest.mark.parametrize("protocol", [UDP, TCP])
def test_a_wrong_checksum_stays_wrong_wherever_in_a_stream_it_is(opened, protocol, spoilt):
    packets = [
        packet(number=at, sequence=100 * at, protocol=protocol, spoilt=at == spoilt) for at in range(4)
    ]
    writes = sent(opened(), packets)
    assert [one for write in writes for one in write] == packets
    assert [packets[spoilt]] in writes


def test_padding_goes_with_a_packet_that_stays_alone_and_is_no_payload_of_a_joined_one(opened):
    port = opened()
    padded = stream(3, 10, padding=8)
    assert sent(port, padded[:1]) == [padded[:1]]
    assert sent(port, padded) == [[one[:-8] for one in padded]]


def test_what_is_joined_is_no_longer_than_an_ip_packet_and_of_at_most_64(opened):
    port = opened(room=1 << 23)
    assert [len(write) for write in sent(port, stream(150, 10))] == [64, 64, 22]
    for version in (4, 6):
        packets = stream(100, 1400, protocol=TCP, version=version)
        writes = sent(port, packets)
        assert [one for write in writes for one in write] == packets
        assert [len(write) for write in writes] == [46, 46, 8]


def test_what_is_cut_short_or_nonsense_goes_as_it_is(opened):
    port = opened()
    whole = [
        packet(b"y" * 30, protocol=protocol, version=version) for protocol in (UDP, TCP) for version in (4, 6)
    ]
    packets = [one[:length] for one in whole for length in range(14, len(one))]
    packets += [bytes([value]) * length for value in (0, 8, 0x45, 0x60, 0xFF) for length in (14, 42, 60, 200)]
    for at in range(0, len(packets), 200):
        some = packets[at : at + 200]
        assert sorted(one for write in sent(port, some) for one in write) == sorted(some)


def test_a_chain_lets_everything_before_it_go_first(opened):
    port = opened()
    before, long, after = stream(3), noise(5000), stream(2)
    assert sent(port, [*before, long, *after]) == [before, [long], after]


def key(one: bytes) -> bytes:
    """What must keep its order; packets of which nothing is known among themselves."""
    network = 18 if one[12:14] == VLAN[:2] else 14
    protocol = one[network + (6 if one[network] >> 4 == 6 else 9)]
    return (
        one[:network]
        + bytes([protocol])
        + one[network + 12 : network + (44 if one[network] >> 4 == 6 else 24)]
    )


@pytest.mark.parametrize("seed", range(scaled(40, 4)))
def test_whatever_comes_each_flow_gets_out_what_it_put_in(opened, seed):
    chance = random.Random(seed)
    port = opened()
    state: dict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0, 0])
    for _ in range(scaled(20, 6)):
        packets = []
        for _ in range(chance.randrange(1, 200)):
            protocol, version, source = (
                chance.choice([UDP, TCP]),
                chance.choice([4, 4, 6]),
                1000 + chance.randrange(4),
            )
            flow = state[protocol, version, source]
            wishes = {"protocol": protocol, "version": version, "source": source, "fragment": 0}
            length = chance.choice([0, 1, 7, 50, 50, 50, 50, 50, 200])
            wishes |= {"number": flow[0], "sequence": flow[1], "payload": chance.randbytes(length)}
            if chance.random() < 0.1:
                wishes |= APART[chance.choice(list(APART))] | {"protocol": protocol, "version": version}
            packets.append(packet(**wishes))
            flow[0], flow[1] = (flow[0] + 1) & 0xFFFF, flow[1] + length
        found = [one for write in sent(port, packets) for one in write]
        assert len(found) == len(packets)
        wanted, got = defaultdict(list), defaultdict(list)
        for one in packets:
            wanted[key(one)].append(one)
        for one in found:
            got[key(one)].append(one)
        assert got == wanted
    assert port.joiner.record[0]["joined"] > 0


def test_a_kernel_that_takes_no_joined_udp_gets_it_one_by_one_from_then_on(opened):
    port = opened()
    packets, more = stream(5), stream(5, protocol=TCP)
    # Too long for the socket at the other end is what comes nearest: then it is counted, all of it.
    port.joiner.record["no_udp"] = 1
    assert sent(port, [*packets, *more]) == [*([one] for one in packets), more]


def test_what_the_kernel_refuses_is_counted_packet_by_packet(opened):
    port = opened()
    port.tap.far.close()
    port.send([*stream(5), *stream(3, source=9)], timeout=1)
    assert port.drops() == {"refused": 8}
    assert port.counters()["tx_packets"] == 8
