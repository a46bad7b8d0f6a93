"""Packets and the two kernels to run over them, for the tests of the compile floor."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from conftest import own_captures, shared_captures
from raceway.compile.packet import Packet
from raceway.memory.jit import INTERPRETED

REASONS = ("out_of_bounds", "arithmetic", "bad_verdict", "other_error")
TIME = 1_700_000_000_000_000_000
needs_native = "compares with machine code, and NUMBA_DISABLE_JIT is set" if INTERPRETED else ""


@cache
def made_packets() -> tuple[bytes, ...]:
    """Packets of every kind that the header views know, made by Scapy."""
    from scapy.contrib.mpls import MPLS
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Timestamp
    from scapy.layers.inet6 import (
        ICMPv6EchoRequest,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
    )  # fmt: skip
    from scapy.layers.ipsec import AH
    from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
    from scapy.packet import Raw

    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    four = IP(src="10.1.2.3", dst="192.168.7.9", ttl=61, id=0x1234)
    six = IPv6(src="2001:db8::1:2", dst="fe80::42", hlim=5, tc=0xB7, fl=0x12345)
    tcp = TCP(
        sport=1234,
        dport=80,
        seq=0xFFFFFFF0,
        ack=7,
        flags="SAPU",
        window=777,
        urgptr=3,
        options=[("MSS", 1400)],
    )
    udp = UDP(sport=53, dport=40000)
    body = Raw(b"0123456789abc")
    unsummed = udp.copy()
    unsummed.chksum = 0
    packets = [
        ether / four / tcp / body,
        ether / four / udp / body,
        ether / four / unsummed / body,
        ether / four / ICMP(type=8, id=3, seq=9) / body,
        ether / four / ICMP(type=5, code=1, gw="10.9.8.7") / body,
        ether / IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_Timestamp(), b"\x01\x01\x01\x00"]) / tcp / body,
        ether / Dot1Q(vlan=5, prio=3) / four / tcp / body,
        ether / Dot1AD(vlan=100, dei=1) / Dot1Q(vlan=4095) / six / udp / body,
        ether / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / Dot1Q(vlan=4) / four / udp / body,
        ether / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / Dot1Q(vlan=4) / Dot1Q(vlan=5) / four / udp,
        ether / six / tcp / body,
        ether / six / udp / body,
        ether / six / ICMPv6EchoRequest(id=4, seq=5, data=b"ping"),
        ether / six / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / tcp / body,
        ether / six / IPv6ExtHdrRouting(addresses=["2001:db8::9"]) / udp / body,
        ether / six / IPv6ExtHdrFragment(offset=0, m=1, id=7) / udp / body,
        ether / six / IPv6ExtHdrFragment(offset=9, m=1, id=7) / body,
        ether / six / AH(nh=6, icv=b"0" * 12, payloadlen=4) / tcp / body,
        ether / six / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / udp / body,
        ether / six / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt() / udp / body,
        ether / IP(src="10.1.2.3", dst="10.1.2.4", flags="MF", frag=0) / udp / body,
        ether / IP(src="10.1.2.3", dst="10.1.2.4", frag=20, proto=17) / body,
        ether / IP(src="1.2.3.4", dst="4.3.2.1", proto=132) / Raw(b"\x12\x34\x56\x78rest"),
        ether / ARP(op=1, psrc="10.0.0.1", pdst="10.0.0.2", hwsrc="02:00:00:00:00:01"),
        Ether(dst="01:00:5e:00:00:05", src="02:00:00:00:00:07", type=0x1234) / body,
        ether / MPLS(label=3) / four / tcp,
        ether / Raw(b""),
    ]  # fmt: skip
    raw = [bytes(one) for one in packets]
    broken = bytearray(raw[0])
    broken[14] = 0x54
    short = bytearray(raw[0])
    short[14] = 0x44
    offset = bytearray(raw[0])
    offset[14 + 20 + 12] = 0x40
    return (*raw, bytes(broken), bytes(short), bytes(offset), b"", b"\x00", b"\xff" * 60, b"\x00" * 64)


@cache
def truncated_packets() -> tuple[bytes, ...]:
    """Every made packet, cut at every length."""
    return tuple(dict.fromkeys(one[:size] for one in made_packets() for size in range(len(one) + 1)))


@cache
def captured_packets() -> tuple[bytes, ...]:
    """Every packet of every capture at hand: the project's own, the demo's, and those beside the project."""
    import raceway

    paths = [*own_captures(), *shared_captures()]
    return tuple(packet for path in paths for packet in raceway.load_capture(path))


@cache
def whole_packets(limit: int = 150) -> tuple[bytes, ...]:
    """The first packets of each Ethernet capture that is not odd on purpose: what other libraries can read too."""
    import raceway

    odd = ("runts", "snapped", "raw-ip")
    paths = [
        path for path in (*own_captures(), *shared_captures()) if not any(word in path.name for word in odd)
    ]
    packets: list[bytes] = []
    for path in paths:
        capture = raceway.load_capture(path, packets=limit)
        packets += [packet for packet, kind in zip(capture, capture.link_types, strict=True) if kind == 1]
    return tuple(packets)


class Outcome:
    """What a kernel made of packets: verdicts, bytes afterwards, counts of failures by name."""

    def __init__(self, verdicts: list[int], packets: list[bytes], reasons: dict[str, int]) -> None:
        self.verdicts, self.packets, self.reasons = verdicts, packets, reasons

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.verdicts} {self.reasons}"


def run_kernel(kernel: Any, packets: Any, *, first: int = 3, times: Any = None) -> Outcome:
    """Run a batch kernel over packets, in a ring that is cut open in its middle."""
    from raceway.memory.layout import METADATA, SLOT, Batch
    from raceway.memory.structures import allocate

    count = len(packets)
    size = count + 5
    longest = max((len(one) for one in packets), default=0) + 96
    buffers = np.full((size + 1, longest), 0xA5, dtype=np.uint8)
    slots = np.zeros(size, SLOT)
    metadata = np.zeros(size, METADATA)
    verdicts = np.full(count + 1, 0xEE, np.uint8)
    places = [((first + index) % size, index % 7) for index in range(count)]
    for (at, offset), one in zip(places, packets, strict=True):
        buffers[at + 1, offset : offset + len(one)] = np.frombuffer(one, np.uint8)
        slots[at] = (at + 1, len(one), offset, 0)
    before = buffers.copy()
    batch = allocate(Batch)
    fields = {
        "slots": slots.ctypes.data, "buffers": buffers.ctypes.data, "buffer_size": longest, "slot_count": size,
        "first": first, "count": count, "verdicts": verdicts.ctypes.data, "now": TIME, "port": 7, "ring": 2,
    }  # fmt: skip
    if times is not None:
        for (at, _), time in zip(places, times, strict=True):
            metadata[at]["timestamp"] = time
        fields["metadata"] = metadata.ctypes.data
    for name, value in fields.items():
        batch[name] = value
    assert kernel(batch.ctypes.data) == count
    assert verdicts[count] == 0xEE
    after = []
    for (at, offset), one in zip(places, packets, strict=True):
        slot = slots[at]
        start, length = int(slot["offset"]), int(slot["length"])
        assert slot["buffer"] == at + 1
        assert 0 <= start <= start + length <= longest
        after.append(buffers[at + 1, start : start + length].tobytes())
        # What moves its packet's head may use all of the buffer.
        touched = slice(None) if kernel.moves_head else slice(offset, offset + len(one))
        before[at + 1, touched] = buffers[at + 1, touched]
    assert np.array_equal(before, buffers), "a kernel wrote outside its packets"
    return Outcome(verdicts[:count].tolist(), after, {name: int(batch[name][0]) for name in REASONS})


def contents(state: Any) -> Any:
    """Everything that a reader sees of a state object, in no order that depends on its past."""
    extra = [getattr(state, name, None) for name in ("full", "busy", "allowed", "refused")]
    return (
        {repr(key): value for key, value in state.items()},
        len(state) if hasattr(state, "__len__") else 0,
        extra,
    )


def assert_same_in_both_worlds(function: Any, packets: Any, *states: Any, times: Any = None) -> Outcome:
    """Run a packet function native and interpreted, and compare verdicts, bytes, failures and state."""
    for state in states:
        state.clear()
    native = run_kernel(function.native(), packets, times=times)
    kept = [contents(state) for state in states]
    for state in states:
        state.clear()
    interpreted = run_kernel(function.interpreted(), packets, times=times)
    for index, (mine, other) in enumerate(zip(native.verdicts, interpreted.verdicts, strict=True)):
        assert mine == other, (
            f"verdict of packet {index} ({Packet(packets[index])!r}): native {mine}, interpreted {other}"
        )
    assert native.packets == interpreted.packets
    assert native == interpreted
    assert kept == [contents(state) for state in states]
    return interpreted
