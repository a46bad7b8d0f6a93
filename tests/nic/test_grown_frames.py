"""Frames that a packet function has made longer or shorter, on live interfaces: in the driver and beside the ring."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from moving_functions import passes, pop_tag, push_tag, redirect_with_tag, return_with_tag

import raceway
from labs import lab as lab, needs_root
from nic_world import collect, ethtool, frame, heard, numbers, open_at, raw_socket, until
from raceway.apps.forwarder.forwarder import Forwarder, Way
from raceway.memory.jit import INTERPRETED

pytestmark = [needs_root, pytest.mark.root]
in_the_kernel = pytest.mark.skipif(
    INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
)
TAG = b"\x81\x00\x20\x07"
COUNT = 40


def tagged(one: bytes) -> bytes:
    return one[:12] + TAG + one[12:]


def frames(length: int) -> list[bytes]:
    return [frame(number, length) for number in range(COUNT)]


@in_the_kernel
@pytest.mark.parametrize("mode", ["driver", "generic"])
def test_the_driver_sends_back_what_has_grown(lab, mode):
    two = lab(ipv6=False)
    with two.inside("a"):
        # A veth takes what its other end sends by XDP_TX only while it has a program of its own.
        welcome = raceway.attach(two.interface("a"), passes, mode="driver")
    with welcome, raw_socket(two, "a") as kernel, two.inside("b"):
        attachment = raceway.attach(two.interface("b"), return_with_tag, mode=mode)
        with attachment:
            assert attachment.mode == mode
            for length in (14 + 8, 60, 1400):
                for one in frames(length):
                    kernel.send(one)
                assert received(kernel, COUNT) == [tagged(one) for one in frames(length)]
            assert attachment.counters["TX"] == 3 * COUNT


def received(kernel, count: int) -> list[bytes]:
    """The next frames with our tag that arrive at a raw socket, which the kernel may have put beside the frame
    (PACKET_AUXDATA, packet(7))."""
    kernel.setsockopt(263, 8, 1)
    found: list[bytes] = []
    try:
        while len(found) < count:
            data, told, _, address = kernel.recvmsg(70000, 256)
            for level, kind, aux in told:
                status, *_rest, tci, tpid = struct.unpack("=IIIHHHH", aux[:20])
                if (level, kind) == (263, 8) and status & 0x10:
                    data = data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
            if address[2] != socket.PACKET_OUTGOING and data[12:16] == TAG:
                found.append(data)
    except TimeoutError:
        pass
    return found


@in_the_kernel
def test_the_driver_hands_what_has_grown_to_a_ring(lab):
    two = lab(ipv6=False)
    with (
        open_at(two, "b") as port,
        raw_socket(two, "a") as kernel,
        raceway.attach(port, redirect_with_tag) as attachment,
    ):
        for length in (14 + 8, 60, 1400):
            for one in frames(length):
                kernel.send(one)
            assert collect(port, COUNT, kind=TAG[:2]) == [tagged(one) for one in frames(length)]
        assert attachment.counters["REDIRECT"] == 3 * COUNT
        assert attachment.counters["no_ring"] == 0


@in_the_kernel
def test_the_driver_passes_what_has_shrunk_to_the_host_and_the_next_function(lab):
    two = lab(ipv6=False)
    with raw_socket(two, "a") as sender, raw_socket(two, "b") as host, two.inside("b"):
        name = two.interface("b")
        with raceway.attach(name, push_tag) as first, raceway.attach(name, pop_tag) as second:
            # The second function sees what the first has made, and the host what both have.
            sent = frames(60)
            for one in sent:
                sender.send(one)
            assert heard(host, COUNT) == sent
            assert first.counters["PASS"] == second.counters["PASS"] == COUNT


WAYS = ["@xdp:tx=socket", "@xdp:tx=live", "@xdp:rx=memory"]


@pytest.mark.parametrize("way", WAYS)
def test_beside_the_ring_it_grows_and_goes_back(lab, way):
    """Received, grown and sent by one port: its descriptors have the new place and length."""
    two = lab(ipv6=False)
    ethtool(two, "a", "-K veth0 gro on")
    with raw_socket(two, "a") as kernel, open_at(two, "b", way) as port, raceway.open("null:") as nothing:
        forwarder = Forwarder([Way(port, nothing, function=return_with_tag)])
        for length in (60, 1400):
            sent = frames(length)
            for one in sent:
                kernel.send(one)

            def gone(target: int = forwarder.counters()["returned"] + COUNT) -> bool:
                forwarder.step(1_000_000)
                return forwarder.counters()["returned"] >= target

            assert until(gone), forwarder.counters()
            port.flush()
            deadline = time.monotonic() + 0.05
            while time.monotonic() < deadline:
                forwarder.step(1_000_000)
            assert received(kernel, COUNT) == [tagged(one) for one in sent]
        counted = forwarder.counters()
        assert counted["taken_bytes"] >= COUNT * 1460


def test_a_file_is_bridged_over_the_wire_into_a_file_through_functions_that_grow_and_shrink(lab, tmp_path):
    two = lab(ipv6=False)
    sent = [*frames(60), *frames(1400)]
    with raceway.open(f"pcap:{tmp_path / 'in.pcap'}", write=True) as out:
        out.send(sent)
    with (
        open_at(two, "a") as near,
        open_at(two, "b") as far,
        raceway.open(f"pcap:{tmp_path / 'in.pcap'}") as source,
        raceway.open(f"pcap:{tmp_path / 'out.pcapng'}", write=True) as target,
    ):
        there = Forwarder([Way(source, near, function=push_tag)])
        back = Forwarder([Way(far, target, function=pop_tag, limit=len(sent))])
        there.run()
        assert until(lambda: not back.step(1_000_000)), back.counters()
        went, came = there.counters(), back.counters()
    octets = sum(map(len, sent))
    assert (went["taken_bytes"], went["sent_bytes"]) == (octets, octets + 4 * len(sent))
    assert (came["taken_bytes"], came["sent_bytes"]) == (octets + 4 * len(sent), octets)
    assert list(raceway.load_capture(tmp_path / "out.pcapng")) == sent
    assert numbers(sent[:3]) == [0, 1, 2]
