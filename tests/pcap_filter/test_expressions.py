"""`raceway.expression`: what users hold, in packet functions, in loops and on its own."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import raceway
from conftest import own_captures
from filter_cases import at_the_end_of_a_page, kernel_refusal
from packet_cases import captured_packets, made_packets, needs_native, run_kernel, truncated_packets
from raceway import DROP, PASS, TX, Packet, PacketFunctionError, packet_function
from raceway.apps.forwarder.forwarder import Forwarder, Way
from raceway.compile.pcap_filter.decision import decide
from raceway.compile.pcap_filter.interpreter import run
from raceway.compile.pcap_filter.program import Program
from raceway.memory.jit import INTERPRETED

WEB = raceway.expression("tcp port 80")
SMALL = raceway.expression("len < 100")
CHAIN = raceway.expression("ip6 protochain 6")


@packet_function
def web(packet):
    if WEB(packet):
        return PASS
    return DROP


@packet_function
def several(packet):
    if SMALL(packet) and not WEB(packet):
        return raceway.TX
    if WEB(packet) == 262_144 or CHAIN(packet):
        return PASS
    return DROP


def demo_packets():
    return list(raceway.load_capture(own_captures()[-1]))


def test_it_says_how_many_bytes_are_accepted():
    packet = next(one for one in demo_packets() if Packet(one).tcp and Packet(one).tcp.source_port == 80)
    assert WEB(packet) == WEB(bytearray(packet)) == WEB(memoryview(packet)) == WEB(Packet(packet)) == 262_144
    assert raceway.expression("tcp port 80", snaplen=96)(packet) == 96
    assert WEB(packet[:30]) == WEB(b"") == 0
    assert SMALL(packet[:60])
    assert not SMALL(packet[:60], wire_length=1500)


def test_an_empty_expression_accepts_everything():
    assert raceway.expression("")(b"") == 262_144


def test_what_libpcap_refuses_is_told_in_its_words():
    with pytest.raises(raceway.ExpressionError, match="syntax error") as refused:
        raceway.expression("tcp prot 80")
    assert isinstance(refused.value, ValueError)
    with pytest.raises(raceway.ExpressionError, match="supported only on 802"):
        raceway.expression("wlan type mgt")
    with pytest.raises(raceway.ExpressionError, match="NUL"):
        raceway.expression("tcp\0")
    with pytest.raises(ValueError, match="snaplen 0"):
        raceway.expression("tcp", snaplen=0)


def test_the_link_type_and_the_netmask_count():
    raw = raceway.expression("tcp", link_type=101)
    packet = next(one for one in demo_packets() if Packet(one).ipv4 and Packet(one).tcp)
    assert raw(packet[14:])
    assert not raw(packet)
    with pytest.raises(raceway.ExpressionError, match="netmask not known"):
        raceway.expression("ip broadcast")
    assert len(raceway.expression("ip broadcast", netmask=0xFFFFFF00).program) > 1


def test_expressions_are_compiled_from_many_threads_at_once():
    texts = [f"tcp port {port} or host 192.0.2.{port}" for port in range(1, 60)]
    expected = [raceway.expression(text).program for text in texts]
    found: dict[int, list] = {}

    def work(number):
        found[number] = [raceway.expression(text).program for text in texts]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(programs == expected for programs in found.values())
    assert len(found) == 4


@pytest.mark.parametrize(
    ("instructions", "reason"),
    [
        ([], "0 instructions"),
        ([(6, 0, 0, 0)] * 4097, "4,097"),
        ([(0xFF, 0, 0, 0), (6, 0, 0, 0)], "unknown"),
        ([(0x28, 0, 0, 12)], "does not return"),
        ([(0x15, 5, 0, 1), (6, 0, 0, 0)], "out of the program"),
        ([(0x05, 0, 0, 0xFFFFFFF0), (6, 0, 0, 0)], "out of the program"),
        ([(0x34, 0, 0, 0), (6, 0, 0, 0)], "constant zero"),
        ([(0x94, 0, 0, 0), (6, 0, 0, 0)], "constant zero"),
        ([(0x64, 0, 0, 32), (6, 0, 0, 0)], "shifts by"),
        ([(0x60, 0, 0, 16), (6, 0, 0, 0)], "memory word 16"),
        ([(0x02, 0, 0, 99), (6, 0, 0, 0)], "memory word 99"),
        ([(0x60, 0, 0, 3), (6, 0, 0, 0)], "memory word 3, which was not written"),
        ([(0x15, 0, 1, 0), (0x02, 0, 0, 3), (0x60, 0, 0, 3), (6, 0, 0, 0)], "not written on every way"),
        ([(0x30, 0, 0, 0xFFFFF02C), (6, 0, 0, 0)], "beside the packet"),
    ],
)
def test_a_program_that_is_not_sound_is_refused_with_the_reason(instructions, reason):
    with pytest.raises(raceway.ExpressionError, match=reason):
        Program(instructions)


def test_division_shifts_and_lengths_mean_what_they_do_in_bpf():
    def result(*body):
        return run(Program([*body, (0x16, 0, 0, 0)]), b"\x00\x00\x00\x07", 99)

    assert result((0x00, 0, 0, 7), (0x3C, 0, 0, 0)) == 0  # 7 / X, X = 0
    assert result((0x00, 0, 0, 7), (0x9C, 0, 0, 0)) == 0
    assert result((0x00, 0, 0, 7), (0x01, 0, 0, 40), (0x6C, 0, 0, 0)) == 0  # 7 << 40
    assert result((0x00, 0, 0, 7), (0x14, 0, 0, 8)) == 0xFFFFFFFF
    assert result((0x84, 0, 0, 0)) == 0
    assert result((0x80, 0, 0, 0)) == 99
    assert result((0x20, 0, 0, 0)) == 7
    assert result((0x20, 0, 0, 1)) == 0
    assert result((0x01, 0, 0, 0xFFFFFFFF), (0x50, 0, 0, 4)) == 0  # [X + 4] does not come round to [3]


def test_a_program_reads_as_tcpdump_shows_it():
    assert WEB.program.text().splitlines()[0] == "(000) ldh      [12]"
    assert "ret      #262144" in WEB.program.text()


@pytest.mark.skipif(INTERPRETED, reason="about machine code")
def test_common_expressions_are_decided_for_many_packets_at_once():
    for text in (
        "tcp port 80",
        "udp",
        "host 192.0.2.80",
        "tcp portrange 80-90",
        "len > 100 and ip",
        "arp or icmp",
    ):
        assert decide(raceway.expression(text).program)


@pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")
@pytest.mark.parametrize("function", [web, several], ids=lambda one: one.name)
def test_in_a_packet_function_it_is_the_same_interpreted_and_native(function):
    packets = made_packets() + truncated_packets() + captured_packets()
    expected = [function(Packet(one)) for one in packets]
    verdicts = run_kernel(function.native(), packets).verdicts
    assert list(verdicts) == expected
    assert len(set(expected)) > 1


def test_a_call_with_something_else_than_the_packet_is_an_error_with_its_line():
    @packet_function
    def wrong(packet):
        if WEB(5):
            return PASS
        return DROP

    if INTERPRETED:
        with pytest.raises(TypeError):
            wrong(Packet(bytes(60)))
    else:
        with pytest.raises(PacketFunctionError, match="with the packet"):
            wrong.native()


@pytest.mark.parametrize("interpreted", [False, True], ids=["native", "interpreted"])
def test_every_loop_takes_it_as_its_function(interpreted, tmp_path):
    out = tmp_path / "web.pcapng"
    with (
        raceway.open(f"pcap:{own_captures()[-1]}") as source,
        raceway.open(f"pcap:{out}", write=True, region=source.region) as target,
    ):
        forwarder = Forwarder([Way(source, target, WEB, interpreted=interpreted)])
        forwarder.run()
        counted, drops = forwarder.counters(), forwarder.drops()
    assert list(raceway.load_capture(out)) == [one for one in demo_packets() if WEB(one)]
    assert counted["taken"] == counted["sent"] + drops["function"]


def test_packets_of_another_link_type_are_aborted_and_counted():
    raw = raceway.expression("ip", link_type=101)
    with (
        raceway.open(f"pcap:{own_captures()[-1]}") as source,
        raceway.open("null:", region=source.region) as target,
    ):
        forwarder = Forwarder([Way(source, target, raw)])
        forwarder.run()
        assert forwarder.drops() == {"aborted": len(demo_packets())}
        assert forwarder.abort_reasons()["other_error"] == len(demo_packets())


def test_importing_raceway_or_asking_for_help_loads_no_libpcap():
    code = (
        "import sys, raceway, raceway.faces.cli\n"
        "from raceway.faces.cli.application import application\napplication()\n"
        "print([name for name in sys.modules if 'cypcap' in name or name == 'numba'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_test_memory_ends_where_it_says():
    memory, address = at_the_end_of_a_page(b"abc")
    assert (address + 3) % 4096 == 0
    del memory


@pytest.mark.parametrize(
    "text",
    [
        "icmp or arp",
        "tcp port 80 and net 192.0.2.0/24",
        "port 53 or port 80 or portrange 1000-2000",
        "ip[6:2] & 0x1fff = 0 and greater 70",
        "ip6 and not tcp",
        "ip6 protochain 6",
        "vlan and tcp",
        "ip[2:2] / (ip[8] - 64) > 3 or tcp[tcpflags] & tcp-syn != 0",
    ],
)
@pytest.mark.skipif(INTERPRETED, reason="about generated code")
def test_an_expression_in_a_packet_function_is_the_same_on_all_targets(text):
    """By itself, among the function's own questions, and twice in one function."""
    if kernel_refusal():
        pytest.skip(kernel_refusal())
    wanted, other = raceway.expression(text), raceway.expression("udp")

    @packet_function
    def alone(packet):
        if wanted(packet):
            return DROP
        return PASS

    @packet_function
    def among(packet):
        if packet.ipv4 and other(packet) == 0 and wanted(packet):
            packet.ipv4.ttl = 7
            return TX
        if wanted(packet) and packet.load8(0) == 2:
            return DROP
        return PASS

    whole = list(raceway.load_capture(own_captures()[-1]))[::40]
    packets = [one for one in whole if len(one) >= 14]
    packets += [one[:length] for one in packets[:20] for length in range(14, len(one), 7)]
    for function in (alone, among):
        kernel, native, interpreted = (
            raceway.simulate(function, packets, target) for target in ("kernel", "native", "interpreted")
        )
        assert kernel.verdicts == native.verdicts == interpreted.verdicts
        assert kernel.packets == native.packets == interpreted.packets
    assert [verdict == DROP for verdict in raceway.simulate(alone, packets, "kernel").verdicts] == [
        bool(wanted(one)) for one in packets
    ]
