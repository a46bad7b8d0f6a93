"""What a TAP port's sync says to its descriptor, byte by byte. The descriptor's other end is a socket of the test's, so
nothing here needs a device, a namespace or a privilege."""

from __future__ import annotations

import random
import socket
import struct

import pytest
from tap_world import cables as cables

import raceway
from conftest import scaled
from raceway.kernel.tap import TapDevice
from raceway.ports.batch import metadata_of
from raceway.ports.geometry import Geometry
from raceway.ports.tap.port import TapOptions, TapPort

MTU = 1500


class Cable(TapDevice):
    """A "device" that is one end of a pair of datagram sockets."""

    def __init__(self, *, offload: bool, mtu: int = MTU, room: int = 1 << 20) -> None:
        ours, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        self.far.setblocking(False)
        for end in (ours, self.far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        self.name, self.mtu, self.vnet_header, self.offload = "cable", mtu, offload, offload
        self.existed = self.persistent = False
        self.offloads = frozenset()
        self.descriptors = (ours.detach(),)
        self._route = ours  # there to be closed

    def refresh(self) -> None:
        pass

    def not_taken(self) -> int:
        return 0


def port_on(*, buffer_size: int = 2048, slots: int = 64, offload: bool = False, **cable) -> TapPort:
    geometry = Geometry(slots, slots, buffer_size=buffer_size)
    return TapPort("tap:cable", Cable(offload=offload, **cable), geometry, options=TapOptions(up=False))


@pytest.fixture
def opened(cables):
    return lambda **wishes: cables(port_on(**wishes))


def ones_sum(data: bytes) -> int:
    """RFC 1071, as it stands there."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ethernet(kind: int, tags: tuple[int, ...] = ()) -> bytes:
    head = bytes(range(2, 14))
    for tag in tags:
        head += struct.pack(">HH", tag, 7)
    return head + struct.pack(">H", kind)


def tcp_packet(
    payload: bytes,
    *,
    version: int = 4,
    tags: tuple[int, ...] = (),
    flags: int = 0x18,
    options: bytes = b"",
    ip_options: bytes = b"",
    extensions: tuple[int, ...] = (),
    fragment: int = 0,
) -> bytes:
    """Ethernet, IP, TCP, all sums right."""
    length = 20 + len(options) + len(payload)
    if version == 4:
        addresses = bytes([192, 0, 2, 1, 192, 0, 2, 2])
        size = 20 + len(ip_options)
        ip = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + length, 9, fragment, 64, 6, 0)
        ip += addresses + ip_options
        ip = ip[:10] + struct.pack(">H", 0xFFFF - ones_sum(ip)) + ip[12:]
        head = ethernet(0x0800, tags) + ip
    else:
        addresses = bytes.fromhex("20010db800000000000000000000000120010db8000000000000000000000002")
        chain = b""
        following = [*extensions[1:], 6]
        for kind, after in zip(extensions, following, strict=False):
            chain += bytes([after, 0]) + (bytes([1, 4, 0, 0, 0, 0]) if kind in (0, 60) else bytes(6))
        head = ethernet(0x86DD, tags) + struct.pack(
            ">IHBB", 6 << 28, len(chain) + length, extensions[0] if extensions else 6, 64
        )
        head += addresses + chain
    tcp = struct.pack(">HHIIBBHHH", 1000, 80, 5, 6, (20 + len(options)) // 4 << 4, flags, 512, 0, 0) + options
    pseudo = addresses + struct.pack(">II", length, 6)
    checksum = 0xFFFF - ones_sum(pseudo + tcp + payload)
    return head + tcp[:16] + struct.pack(">H", checksum) + tcp[18:] + payload


def noise(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def written(port: TapPort) -> list[bytes]:
    packets = []
    while True:
        try:
            packets.append(port.tap.far.recv(1 << 17))
        except BlockingIOError:
            return packets


# -- plain -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer_size", [64, 128, 2048, 65_536])
def test_packets_of_every_length_go_and_come_unchanged(opened, buffer_size):
    port = opened(buffer_size=buffer_size, slots=256, mtu=9000)
    lengths = [14, 60, 63, 64, 65, 127, 128, 129, 1514, 2047, 2048, 2049, 4096, 9014]
    for packet in map(noise, lengths):
        port.send([packet], timeout=1)
        assert written(port) == [packet]
        port.tap.far.send(packet)
        assert port.receive(timeout=5).to_bytes() == [packet]
    assert port.counters() == {
        "tx_packets": len(lengths), "tx_bytes": sum(lengths),
        "rx_packets": len(lengths), "rx_bytes": sum(lengths),
    }  # fmt: skip


def test_a_packet_that_is_longer_than_the_mtu_said_is_not_cut(opened):
    port = opened(buffer_size=256, slots=128)
    packets = [noise(300), noise(9014), noise(16_000), noise(60)]
    for packet in packets:
        port.tap.far.send(packet)
    received = []
    while batch := port.receive(timeout=0.2).to_bytes():
        received += batch
    assert received == packets


def test_a_packet_that_no_ring_of_that_size_holds_is_counted_and_the_next_one_comes(opened):
    port = opened(buffer_size=256, slots=8)
    port.tap.far.send(noise(256 * 7 + 1))
    port.tap.far.send(noise(80_000))
    port.tap.far.send(noise(256 * 7))
    assert port.receive(timeout=5).to_bytes() == [noise(256 * 7)]
    assert port.drops() == {"too_long": 2}
    assert port.counters()["rx_packets"] == 1


def test_what_the_kernel_has_no_room_for_stays_and_is_sent_later_in_order(opened):
    port = opened(slots=512, room=1 << 16)
    packets = [noise(1000)[:996] + struct.pack(">I", number) for number in range(511)]
    sent = port.send(packets, timeout=0)
    ring = port.tx[0]
    assert sent == 511
    assert ring._kring["pending"] == 1
    taken = ring.packets
    assert 0 < taken < 511
    assert ring.bytes == taken * 1000
    # Nobody reads: nothing changes, however often it is tried, and nothing is counted twice.
    for _ in range(3):
        port.txsync()
    assert (ring.packets, ring.space) == (taken, taken)
    got = []
    while len(got) < 511:
        got += written(port)
        port.txsync()
    assert got == packets
    assert (ring.packets, ring.bytes, ring._kring["pending"], port.drops()) == (511, 511_000, 0, {})


def test_flush_waits_for_the_kernel(opened):
    import threading

    port = opened(slots=512, room=1 << 16)
    packets = [noise(1000)] * 511
    port.send(packets, timeout=0)
    assert port.tx[0]._kring["pending"]
    got = []
    port.tap.far.settimeout(5)
    reader = threading.Thread(target=lambda: [got.append(port.tap.far.recv(2000)) for _ in range(511)])
    reader.start()
    port.flush()
    reader.join()
    assert len(got) == 511
    assert not port.tx[0]._kring["pending"]


def test_a_chain_without_an_end_waits_for_it_and_is_dropped_once_it_fills_the_ring(opened):
    port = opened(slots=8, buffer_size=64)
    ring = port.tx[0]

    def hand_over(count: int, last: int) -> None:
        for number in range(count):
            slot = ring.slots[(ring.head + number) % ring.size]
            slot["length"], slot["offset"] = 64, 0
            slot["flags"] = 0 if number == last else 0x20
        ring.advance(count)
        port.txsync()

    hand_over(3, -1)
    assert (written(port), ring.packets, ring.space, int(ring._kring["pending"])) == ([], 0, 4, 0)
    hand_over(1, 0)
    assert [len(packet) for packet in written(port)] == [256]
    hand_over(7, -1)
    assert port.drops() == {"too_long": 1}
    assert ring.space == 7
    hand_over(2, 1)  # the end of the endless one
    assert written(port) == []
    hand_over(1, 0)
    assert [len(packet) for packet in written(port)] == [64]
    # Offered: the one sent, the endless one, the one sent.
    assert (ring.packets, port.drops()) == (3, {"too_long": 1})


def test_a_chain_of_more_pieces_than_a_system_call_takes_is_dropped_by_name(opened):
    port = opened(slots=2048, buffer_size=64)
    port.send([noise(64 * 1023), noise(64 * 1022)], timeout=1)
    assert written(port) == [noise(64 * 1022)]
    assert port.drops() == {"too_long": 1}


def test_a_peer_that_is_gone_is_counted_not_hidden(opened):
    port = opened()
    port.tap.far.close()
    port.send([noise(60)], timeout=1)
    assert port.drops() == {"refused": 1}
    assert port.counters()["tx_packets"] == 1


# -- offloads ----------------------------------------------------------------------------------------------------


def header(flags=0, kind=0, size=0, start=0, place=0, length=0) -> bytes:
    """struct virtio_net_hdr"""
    return struct.pack("=BBHHHH", flags, kind, length, size, start, place)


@pytest.mark.parametrize("buffer_size", [64, 2048, 65_536])
@pytest.mark.parametrize("start", [34, 35, 54])
def test_unfinished_checksums_are_finished_whatever_buffers_they_lie_in(opened, buffer_size, start):
    port = opened(offload=True, buffer_size=buffer_size, slots=2048)
    for length in (60, 61, 63, 64, 65, 100, 128, 1514, scaled(65_535, 9001)):
        packet = bytearray(noise(length))
        place = start + 4
        packet[place : place + 2] = b"\x12\x34"  # the pseudo-header's sum
        port.tap.far.send(header(1, start=start, place=4) + packet)
        # By the book: the checksum is that of the rest, in which its field holds the pseudo-header's sum.
        rest = bytes(packet[start:])
        packet[place : place + 2] = struct.pack(">H", 0xFFFF - ones_sum(rest) or 0xFFFF)
        assert port.receive(timeout=5).to_bytes() == [bytes(packet)], length


def test_a_checksum_that_comes_out_as_zero_is_stored_as_all_ones(opened):
    port = opened(offload=True)
    port.tap.far.send(header(1, start=34, place=6) + bytes(34) + b"\xff\xff" + bytes(24))
    assert port.receive(timeout=5).to_bytes()[0][40:42] == b"\xff\xff"


def test_checksums_that_are_finished_and_places_outside_the_packet_change_nothing(opened):
    port = opened(offload=True)
    for flags, start, place in ((0, 34, 6), (2, 34, 6), (1, 60, 0), (1, 59, 0), (1, 65_535, 65_535)):
        port.tap.far.send(header(flags, start=start, place=place) + noise(60))
        assert port.receive(timeout=5).to_bytes() == [noise(60)]


def test_the_segments_size_goes_into_the_metadata_for_tcp_alone(opened):
    port = opened(offload=True, buffer_size=65_536)
    for kind, expected in ((1, 1448), (4, 1448), (0x81, 1448), (0x84, 1448), (0, 0), (3, 0), (5, 0)):
        port.tap.far.send(header(0, kind, 1448) + noise(5000))
        assert len(port.receive(timeout=5)) == 1
        at = (port.rx[0].head) % port.rx[0].size
        assert metadata_of(port.rx[0])[at].tolist() == (0, 0, 0, expected, 0)


SHAPES = {
    "ipv4": {},
    "ipv6": {"version": 6},
    "vlan": {"tags": (0x8100,)},
    "qinq": {"tags": (0x88A8, 0x8100)},
    "vlan6": {"version": 6, "tags": (0x8100,)},
    "tcp options": {"options": bytes([1] * 40)},
    "ip options": {"ip_options": bytes([1] * 40)},
    "everything": {"tags": (0x88A8, 0x8100), "options": bytes([1] * 40), "ip_options": bytes([1] * 40)},
    "ipv6 options": {"version": 6, "extensions": (0, 60)},
    "cwr": {"flags": 0x98},
    "fin": {"flags": 0x11},
}


@pytest.mark.parametrize("buffer_size", [64, 2048, 65_536])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_longer_than_the_mtu_is_handed_over_whole_with_how_to_cut_it(opened, shape, buffer_size):
    port = opened(offload=True, buffer_size=buffer_size, slots=2048)
    wishes = SHAPES[shape]
    version = wishes.get("version", 4)
    packet = tcp_packet(noise(scaled(40_000, 4000)), **wishes)
    port.send([packet], timeout=1)
    ((got),) = written(port)
    flags, kind, length, size, start, place = struct.unpack_from("=BBHHHH", got)
    network = 14 + 4 * len(wishes.get("tags", ()))
    fixed = (
        20 + len(wishes.get("ip_options", b""))
        if version == 4
        else 40 + 8 * len(wishes.get("extensions", ()))
    )
    assert (flags, place, start) == (1, 16, network + fixed)
    assert kind == (1 if version == 4 else 4) | (0x80 if shape == "cwr" else 0)
    assert length == start + 20 + len(wishes.get("options", b""))
    assert size == MTU - (length - network)
    # The packet is as it was but for the checksum, in which the pseudo-header's sum now stands: so the complement of
    # everything's sum is the checksum that it had.
    sent = got[10:]
    field = start + 16
    assert sent[:field] + packet[field : field + 2] + sent[field + 2 :] == packet
    assert 0xFFFF - ones_sum(sent[start:]) == int.from_bytes(packet[field : field + 2])
    assert port.segmented == 1
    # What the user's slots hold has not been touched.
    first = port.tx[0].packet(0)
    assert bytes(first) == packet[: len(first)]


LEFT = {
    "as long as the mtu": tcp_packet(noise(1460)),
    "as long as the mtu, tagged": tcp_packet(noise(1460), tags=(0x8100,)),
    "syn": tcp_packet(noise(5000), flags=0x02),
    "rst": tcp_packet(noise(5000), flags=0x14),
    "urgent": tcp_packet(noise(5000), flags=0x38),
    "fragment": tcp_packet(noise(5000), fragment=0x2000),
    "later fragment": tcp_packet(noise(5000), fragment=100),
    "udp": ethernet(0x0800) + tcp_packet(noise(5000))[14:23] + b"\x11" + tcp_packet(noise(5000))[24:],
    "arp": ethernet(0x0806) + noise(5000),
    "fragment header": tcp_packet(noise(5000), version=6, extensions=(44,)),
    "routing header": tcp_packet(noise(5000), version=6, extensions=(43,)),
    "padding behind it": tcp_packet(noise(5000)) + bytes(4),
    "cut short": tcp_packet(noise(5000))[:-4],
    "wrong checksum": tcp_packet(noise(5000))[:-1] + b"!",
    "wrong version": tcp_packet(noise(5000))[:14] + b"\x65" + tcp_packet(noise(5000))[15:],
    "short ip header": tcp_packet(noise(5000))[:14] + b"\x44" + tcp_packet(noise(5000))[15:],
    "short tcp header": tcp_packet(noise(5000))[:46] + b"\x40" + tcp_packet(noise(5000))[47:],
    "noise": noise(5000),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_cannot_be_cut_is_sent_as_it_is(opened, what):
    port = opened(offload=True, buffer_size=2048)
    port.send([LEFT[what]], timeout=1)
    assert written(port) == [bytes(10) + LEFT[what]]
    assert port.segmented == 0


def test_packets_are_cut_no_larger_than_their_sender_had_them(opened):
    port = opened(offload=True, buffer_size=65_536)
    ring = port.tx[0]

    def send(payload: int, told: int) -> int:
        index = ring.head
        metadata_of(ring)[index] = (0, 0, 0, told, 0)
        packet = tcp_packet(noise(payload))
        ring.buffer(index)[: len(packet)] = packet
        ring.slots[index] = (ring.slots["buffer"][index], len(packet), 0, 0)
        ring.advance(1)
        port.txsync()
        # Whoever fills this slot next and says nothing about segments must not inherit this one's.
        assert metadata_of(ring)[index]["segment_size"] == 0
        return struct.unpack_from("=BBHH", written(port)[0])[3]

    assert send(5000, 0) == 1460
    assert send(5000, 1448) == 1448
    assert send(5000, 536) == 536
    assert send(1200, 536) == 536  # shorter than the MTU, longer than its segments
    assert send(536, 536) == 0
    assert send(5000, 9000) == 1460
    for nonsense in (-1, 1, 47, 1 << 30, -(1 << 31)):
        assert send(5000, nonsense) == 1460, nonsense
    assert send(1000, -5) == 0


def test_hostile_packets_and_headers_are_survived(opened):
    """Every packet that is written comes out, whatever it claims to be; and whatever a header says, a packet comes."""
    port = opened(offload=True, buffer_size=128, slots=1024)
    dice = random.Random(1)
    samples = [tcp_packet(noise(3000), **wishes) for wishes in SHAPES.values()]
    for _ in range(scaled(3000, 60)):
        packet = bytearray(dice.choice(samples))
        for _ in range(dice.randrange(1, 6)):
            packet[dice.randrange(min(len(packet), 130))] = dice.randrange(256)
        packet = packet[: dice.choice([len(packet), dice.randrange(14, len(packet))])]
        port.send([packet], timeout=1)
        ((got),) = written(port)
        assert len(got) == len(packet) + 10
        port.tap.far.send(dice.randbytes(10) + packet)
        assert port.receive(timeout=5).lengths.tolist() == [len(packet)]
    assert port.drops() == {}


def test_ports_in_one_region_hand_a_large_packet_on_with_its_segments_size(opened):
    from raceway.apps.forwarder.forwarder import Forwarder, Way

    one = opened(offload=True, buffer_size=65_536)
    other = TapPort(
        "tap:other", Cable(offload=True), Geometry(8, 8), region=one.region, options=TapOptions(up=False)
    )
    with other:
        forwarder = Forwarder([Way(one, other)])
        packet = tcp_packet(noise(scaled(60_000, 6000)))
        one.tap.far.send(header(0, 1, 1000) + packet)
        one.tap.far.send(header(0, 0, 0) + packet)
        got = []
        for _ in range(1000):
            forwarder.step(1_000_000)
            got += written(other)
            if len(got) == 2:
                break
        assert [struct.unpack_from("=BBHH", each)[3] for each in got] == [1000, 1460]
        assert other.counters() == {
            "tx_packets": 2,
            "tx_bytes": 2 * len(packet),
            "rx_packets": 0,
            "rx_bytes": 0,
        }
        other.tap.far.close()


def test_a_port_whose_device_fails_raises_an_error_that_names_it(opened):
    port = opened()
    port._records[-1]["error"] = 77  # EBADFD: what a deleted device's descriptors answer
    with pytest.raises(raceway.RacewayError, match="tap:cable: the TAP device cable was deleted"):
        port.sync()


def test_reading_never_touches_slots_that_are_the_users(opened):
    """A read gives the kernel the buffers of several slots: all of them must be free, however short the packet is."""
    port = opened(slots=8, buffer_size=256, mtu=1500)
    port.tap.far.send(noise(500))
    port.tap.far.send(noise(60))
    batch = port.receive(timeout=5)
    held = batch.to_bytes()
    for length in (1400, 60, 1514):
        port.tap.far.send(noise(length))
        port.rx[0].sync()
    assert batch.to_bytes() == held == [noise(500)]
    received = []
    while more := port.receive(timeout=0.2).to_bytes():
        received += more
    assert received == [noise(length) for length in (60, 1400, 60, 1514)]


def test_an_mtu_that_changes_changes_what_is_cut(opened):
    port = opened(offload=True)
    for mtu, size in ((1500, 1460), (9000, 0), (576, 536), (1500, 1460)):
        port.tap.mtu = mtu
        port._next_look = 0.0
        port.send([tcp_packet(noise(5000))], timeout=1)
        assert struct.unpack_from("=BBHH", written(port)[0])[3] == size
