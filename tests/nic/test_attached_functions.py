"""Packet functions on live interfaces: in labs, with real packets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import raceway
from conftest import scaled
from labs import lab as lab, needs_root, reaches
from raceway import DROP, PASS, REDIRECT
from raceway.kernel.interface import xdp_attached
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]

SO_RCVBUFFORCE = 33
SEEN = raceway.Counters("icmp", "second", "time")


@raceway.packet_function
def no_echo(packet):
    if packet.icmp and packet.icmp.type == 8:
        SEEN["icmp"] += 1
        return DROP
    return PASS


@raceway.packet_function
def second(packet):
    if packet.icmp:
        SEEN["second"] += 1
        SEEN["time"] = packet.time
    return PASS


def test_a_function_drops_what_it_says_and_counts_it(lab):
    two = lab()
    SEEN.clear()
    assert reaches(two, "a", two.address("b"))
    with two.inside("b"), raceway.attach(two.interface("b"), no_echo) as attachment:
        assert attachment.mode == "driver"
        assert attachment.attached
        assert not reaches(two, "a", two.address("b"), patience=0.3)
        assert SEEN["icmp"] == 1
        assert attachment.counters["DROP"] == 1
    assert reaches(two, "a", two.address("b"))
    with two.inside("b"):
        assert not xdp_attached(two.interface("b"))


def test_a_chain_goes_on_with_what_passes_and_changes_live(lab):
    two = lab()
    SEEN.clear()
    with two.inside("b"):
        name = two.interface("b")
        last = raceway.attach(name, second)
        assert reaches(two, "a", two.address("b"))
        assert SEEN["second"] == 1
        assert abs(SEEN["time"] - time.time_ns()) < 10_000_000_000
        first = raceway.attach(name, no_echo, position=0)
        assert not reaches(two, "a", two.address("b"), patience=0.3)
        assert SEEN["second"] == 1
        last.close()
        assert not reaches(two, "a", two.address("b"), patience=0.3)
        last = raceway.attach(name, second)
        first.close()
        assert reaches(two, "a", two.address("b"))
        assert SEEN["second"] == 2
        last.close()
        assert not xdp_attached(name)


@raceway.packet_function
def numbered_to_the_ring(packet):
    if packet.ethertype == 0x88B5:
        return DROP if packet.load64(14) % 3 == 2 else REDIRECT
    return PASS


def test_a_function_hands_packets_to_a_ports_ring_one_by_one(lab):
    from nic_world import collect, frame, numbers, open_at

    two = lab()
    with open_at(two, "b") as port, open_at(two, "a", "/t") as sender:
        with raceway.attach(port, numbered_to_the_ring) as attachment:
            sender.send([frame(number) for number in range(30)])
            sender.flush()
            found = numbers(collect(port, 20))
            assert found == [number for number in range(30) if number % 3 != 2]
            # The host goes on as if no port were open.
            deadline = time.monotonic() + 10
            while attachment.counters["DROP"] < 10:
                assert time.monotonic() < deadline
            assert attachment.counters["REDIRECT"] == 20
            assert attachment.counters["no_ring"] == 0
        sender.send([frame(2)])
        assert numbers(collect(port, 1)) == [2]
    two = lab()
    with open_at(two, "b") as port, raceway.attach(port, numbered_to_the_ring):
        assert reaches(two, "a", two.address("b"))


def test_a_port_that_cannot_take_functions_says_why(lab):
    from nic_world import open_at

    two = lab()
    with (
        open_at(two, "b", "@xdp:rx=memory") as port,
        pytest.raises(ValueError, match="open it without rx=memory"),
    ):
        raceway.attach(port, no_echo)
    with open_at(two, "b", "/t") as port, pytest.raises(ValueError, match="only transmits"):
        raceway.attach(port, no_echo)
    with pytest.raises(ValueError, match="7 has no XDP program"):
        raceway.attach(7, no_echo)
    with (
        open_at(two, "b"),
        two.inside("b"),
        pytest.raises(raceway.PortBusyError, match=rf"a raceway port has it open \(process {os.getpid()}, "),
    ):
        raceway.attach(two.interface("b"), no_echo)


def test_redirecting_to_no_ring_is_counted(lab):
    from nic_world import frame, open_at

    two = lab()
    with (
        open_at(two, "a", "/t") as sender,
        two.inside("b"),
        raceway.attach(two.interface("b"), numbered_to_the_ring) as attachment,
    ):
        sender.send([frame(0)])
        sender.flush()
        deadline = time.monotonic() + 10
        while attachment.counters["no_ring"] < 1:
            assert time.monotonic() < deadline, attachment.counters
        assert attachment.counters["REDIRECT"] == 1


def test_a_foreign_program_is_named(lab):
    from raceway.kernel.bpf.assembler import R0, Assembler
    from raceway.kernel.bpf.links import attach_xdp
    from raceway.kernel.bpf.programs import Program
    from raceway.kernel.bpf.system import ProgramKind
    from raceway.kernel.interface import interface

    two = lab()
    with two.inside("b"):
        index = interface(two.interface("b")).index
        foreign = Program(ProgramKind.XDP, Assembler().mov(R0, 2).exit().assemble(), name="somebody")
        with (
            foreign,
            attach_xdp(foreign, index, "driver"),
            pytest.raises(raceway.PortBusyError, match="somebody"),
        ):
            raceway.attach(two.interface("b"), no_echo)


def test_wrong_words_are_told(lab):
    two = lab()
    with two.inside("b"):
        with pytest.raises(OSError, match="no network interface 'nosuch'"):
            raceway.attach("nosuch", no_echo)
        with pytest.raises(ValueError, match="one of driver, generic"):
            raceway.attach(two.interface("b"), no_echo, mode="quick")
        with pytest.raises(ValueError, match="0 functions"):
            raceway.attach(two.interface("b"), no_echo, position=3)
        with raceway.attach(two.interface("b"), no_echo, mode="generic") as attachment:
            assert attachment.mode == "generic"
            assert not reaches(two, "a", two.address("b"), patience=0.3)


TAGS = raceway.Counters("tagged", "plain")


@raceway.packet_function
def looks_for_tags(packet):
    if packet.vlan:
        TAGS["tagged"] += 1
    elif packet.icmp:
        TAGS["plain"] += 1
    return PASS


def test_a_tag_beside_the_packet_is_not_seen_and_stays_with_what_passes(lab):
    """docs/kernel-functions.md says when, and what to switch off so that it is seen."""
    from nic_world import ethtool

    two = lab(vlan=7, ipv6=False)
    TAGS.clear()
    with two.inside("b"), raceway.attach(two.interface("b"), looks_for_tags):
        assert reaches(two, "a", two.address("b"))
        assert (TAGS["tagged"], TAGS["plain"]) == (0, 1)
        ethtool(two, "a", f"-K {two.interface('a')} txvlan off")
        assert reaches(two, "a", two.address("b"))
        assert TAGS["tagged"] > 0
        assert TAGS["plain"] == 1


JUMBO = raceway.Counters("longest", "beyond")


@raceway.packet_function
def measures_echoes(packet):
    if packet.icmp:
        if len(packet) > JUMBO["longest"]:
            JUMBO["longest"] = len(packet)
        if packet.icmp.sequence_number > 1:
            return PASS if packet.load8(len(packet) - 1) >= 0 else DROP
    return PASS


@pytest.mark.parametrize("mode", ["driver", "generic"])
def test_a_jumbo_frame_has_its_whole_length_and_no_byte_that_is_not_there(lab, mode):
    two = lab(mtu=9000)
    JUMBO.clear()
    with two.inside("b"), raceway.attach(two.interface("b"), measures_echoes, mode=mode) as attachment:
        assert reaches(two, "a", two.address("b"), size=8000)
        assert JUMBO["longest"] == 14 + 20 + 8 + 8000
        assert attachment.counters["later_buffer"] == 0
        # The second echo request of one ping is asked for its last byte.
        command = ["ping", "-c", "2", "-i", "0.01", "-W", "0.3", "-M", "do", "-s", "8000", two.address("b")]
        done = two.run("a", command, capture_output=True, text=True, timeout=20)
        assert "2 packets transmitted, 1 received" in done.stdout
        assert attachment.counters["later_buffer"] == attachment.counters["out_of_bounds"] == 1


HOLDER = """
import sys, time
import raceway
from raceway import DROP
sys.path.insert(0, {folder!r})
from {module} import nothing
raceway.attach({interface!r}, nothing)
print("attached", flush=True)
time.sleep(60)
"""


def test_sigkill_leaves_the_interface_clean(lab, tmp_path):
    two = lab()
    (tmp_path / "drops_all.py").write_text(
        "import raceway\n\n\n@raceway.packet_function\ndef nothing(packet):\n    return raceway.DROP\n"
    )
    code = HOLDER.format(folder=str(tmp_path), module="drops_all", interface=two.interface("b"))
    with two.inside("b"):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "attached\n"
        assert not reaches(two, "a", two.address("b"), patience=0.3)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not reaches(two, "a", two.address("b")):
        assert time.monotonic() < deadline
    with two.inside("b"):
        assert not xdp_attached(two.interface("b"))


NUMBERED = raceway.Counters("frames")


@raceway.packet_function
def counts_numbered(packet):
    if packet.ethertype == 0x88B5:
        NUMBERED["frames"] += 1
    return PASS


@raceway.packet_function
def lets_pass(packet):
    return PASS


def test_no_packet_is_lost_at_a_swap(lab):
    """Functions come and go in a chain while numbered frames go through it: each one arrives, in order."""
    from nic_world import KIND, frame, numbers, open_at

    two = lab()
    swaps = scaled(300, 300, soak=1_000)
    kind = int.from_bytes(KIND, "big")
    NUMBERED.clear()
    found: list[int] = []
    done, all_sent = threading.Event(), threading.Event()
    sent = 0
    with open_at(two, "a", "/t@xdp:mode=copy,tx=socket") as sender, two.inside("b"):
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
        listening.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        listening.bind((two.interface("b"), kind))
        listening.settimeout(2)

        def send() -> None:
            nonlocal sent
            while not done.is_set():
                sent += sender.send([frame(sent + number) for number in range(16)], timeout=5)
                time.sleep(0.001)

        def receive() -> None:
            while not all_sent.is_set() or len(found) < sent:
                try:
                    found.extend(numbers([listening.recv(2048)]))
                except TimeoutError:
                    if all_sent.is_set():
                        return

        with listening, raceway.attach(two.interface("b"), counts_numbered) as base:
            threads = [threading.Thread(target=one) for one in (send, receive)]
            for thread in threads:
                thread.start()
            try:
                for number in range(swaps):
                    raceway.attach(two.interface("b"), lets_pass, position=number % 2).close()
            finally:
                done.set()
                threads[0].join()
                sender.flush()
                all_sent.set()
                threads[1].join()
            missing = sorted(set(range(sent)) - set(found))
            assert not missing, f"{len(missing)} of {sent}, from {missing[0]} on; {base.counters}"
            assert found == list(range(sent))
            assert sent > 100
            # Each went through the function that stayed, and through it once.
            assert NUMBERED["frames"] == sent
