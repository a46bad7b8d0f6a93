"""Interpreted = native = kernel = libpcap's own interpreter, for generated programs, expressions and packets."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings, strategies as st

from conftest import own_captures, scaled
from filter_cases import Targets, compiled, run_batch
from raceway import load_capture
from raceway.compile.pcap_filter import program as bpf
from raceway.compile.pcap_filter.libpcap import Reference, compile_expression
from raceway.compile.pcap_filter.program import Program
from raceway.memory.jit import INTERPRETED

ROUNDS = int(os.environ.get("RACEWAY_SOAK_ROUNDS", "0"))
EXPRESSIONS = [
    "", "ip", "arp or rarp", "tcp port 80", "udp and not port 53", "tcp portrange 80-90", "host 192.0.2.80",
    "net 192.0.2.0/24 and tcp", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "ip6 and tcp", "vlan and ip",
    "len > 100 and ip", "less 64", "ip[8] < 65 and udp", "icmp6", "ether broadcast or multicast",
    "ip[6:2] & 0x1fff != 0", "(ip[2:2] - ((ip[0] & 0xf) << 2)) - ((tcp[12] & 0xf0) >> 2) > 0",
    "ip6 protochain 6", "ip protochain 17", "vlan 10", "ether[12:2] > 1500", "tcp and (host 192.0.2.10 or port 443)",
    "ip[1] / ip[8] = 0", "ip[ip[0] & 7] % 3 = 1", "pppoes or mpls 5", "1 << ip[0] >= 32", "net 2001:db8::/32 and udp",
]  # fmt: skip


def captured():
    packets = []
    for path in own_captures():
        if "raw-ip" not in path.name and "zero" not in path.name:
            packets += list(load_capture(path, packets=400))
    return packets


def variants(packets, seed):
    """The packets, cut, changed and lengthened."""
    chance = random.Random(seed)
    made = []
    for packet in packets:
        one = bytearray(packet)
        kind = chance.randrange(4)
        if kind == 0:
            one = one[: chance.randrange(len(one) + 1)]
        elif kind == 1 and one:
            for _ in range(chance.randrange(1, 5)):
                one[chance.randrange(min(len(one), 60))] = chance.choice(
                    (0, 1, 4, 6, 17, 80, 255, 0x45, 0x46, 0x4F)
                )
        made.append(bytes(one))
    return made


@pytest.mark.parametrize("optimise", [True, False], ids=["optimised", "plain"])
@pytest.mark.parametrize("text", EXPRESSIONS, ids=lambda text: text or "everything")
def test_expressions_over_captured_packets(text, optimise):
    everything = captured()
    packets = random.Random(text).sample(everything, 150 if ROUNDS == 0 else len(everything))
    packets = packets + variants(packets, text) + [packets[0][:size] for size in range(len(packets[0]))]
    with Targets(compile_expression(text, optimise=optimise)) as targets:
        targets.check(packets)
        targets.check(packets[::7], [len(packet) + 40 for packet in packets[::7]])


def _instructions():
    """Programs that are sound, favour what libpcap makes, and often compare what they load."""
    offsets = st.one_of(
        st.integers(0, 70), st.sampled_from([12, 14, 20, 23, 26, 30, 34, 36, 65_530, 65_535, 70_000])
    )
    numbers = st.one_of(
        st.integers(0, 255),
        st.sampled_from([0x800, 0x86DD, 0x1FFF, 80, 0xFFFFFFFF, 1 << 31]),
        st.integers(0, bpf.MASK),
    )
    words = st.integers(0, 15)
    sizes = st.sampled_from([bpf.WORD, bpf.HALF, bpf.BYTE])
    sources = st.sampled_from([bpf.K, bpf.X])
    arithmetic = st.sampled_from(
        [bpf.ADD, bpf.SUB, bpf.MUL, bpf.DIV, bpf.OR, bpf.AND, bpf.LSH, bpf.RSH, bpf.MOD, bpf.XOR]
    )

    def operate(operation, source, number):
        if operation in (bpf.LSH, bpf.RSH):
            number %= 32
        if operation in (bpf.DIV, bpf.MOD):
            number = number or 1
        return (bpf.ALU | operation | source, 0, 0, number)

    plain = st.one_of(
        st.builds(lambda size, at: (bpf.LD | bpf.ABS | size, 0, 0, at), sizes, offsets),
        st.builds(lambda size, at: (bpf.LD | bpf.ABS | size, 0, 0, at), sizes, offsets),
        st.builds(lambda size, at: (bpf.LD | bpf.IND | size, 0, 0, at), sizes, offsets),
        st.builds(lambda at: (bpf.LDX | bpf.MSH | bpf.BYTE, 0, 0, at), offsets),
        st.builds(lambda number: (bpf.LD | bpf.IMM, 0, 0, number), numbers),
        st.builds(lambda number: (bpf.LDX | bpf.IMM, 0, 0, number % 64), numbers),
        st.sampled_from(
            [(bpf.LD | bpf.LEN, 0, 0, 0), (bpf.LDX | bpf.LEN, 0, 0, 0), (bpf.ALU | bpf.NEG, 0, 0, 0)]
        ),
        st.sampled_from([(bpf.MISC | bpf.TAX, 0, 0, 0), (bpf.MISC | bpf.TXA, 0, 0, 0)]),
        st.builds(lambda kind, word: (kind, 0, 0, word), st.sampled_from([bpf.ST, bpf.STX]), words),
        st.builds(lambda kind, word: (kind | bpf.MEM, 0, 0, word), st.sampled_from([bpf.LD, bpf.LDX]), words),
        st.builds(operate, arithmetic, sources, numbers),
    )
    jump = st.tuples(
        st.sampled_from([bpf.JEQ, bpf.JGT, bpf.JGE, bpf.JSET, bpf.JA]), sources, st.integers(0, 6), st.integers(0, 6),
        numbers,
    )  # fmt: skip
    return st.lists(st.one_of(plain, plain, jump), min_size=0, max_size=24)


@st.composite
def programs(draw):
    """Sound programs: jumps go forward and stay inside, the end returns."""
    chosen = draw(_instructions())
    made = []
    count = len(chosen) + 2
    for index, one in enumerate(chosen):
        if len(one) == 4:
            made.append(one)
            continue
        operation, source, yes, no, number = one
        room = count - index - 2
        if operation == bpf.JA:
            made.append((bpf.JMP | bpf.JA, 0, 0, min(yes, room)))
        else:
            made.append((bpf.JMP | operation | source, min(yes, room), min(no, room), number))
    ends = st.sampled_from(
        [(bpf.RET | bpf.A, 0, 0, 0), (bpf.RET, 0, 0, 0), (bpf.RET, 0, 0, 262_144), (bpf.RET, 0, 0, 7)]
    )
    # Memory can be read only once it is written.
    words = {one[3] for one in made if one[0] & 7 in (bpf.LD, bpf.LDX) and one[0] & 0xE0 == bpf.MEM}
    written = [(bpf.ST, 0, 0, word) for word in sorted(words)]
    return Program([*written, *made, draw(ends), draw(ends)])


PACKETS = variants(captured()[::37], "programs")


@settings(max_examples=ROUNDS or scaled(60, 200))  # Each takes a quarter of a second to compile.
@given(
    program=programs(),
    packets=st.lists(st.one_of(st.binary(max_size=90), st.sampled_from(PACKETS)), min_size=1, max_size=40),
)
def test_generated_programs(program, packets):
    with Targets(program) as targets:
        targets.check(packets, [len(packet) + index % 3 for index, packet in enumerate(packets)])


@pytest.mark.parametrize("offset", [65_530, 65_531, 65_532, 65_535, 65_536, 70_000, (1 << 31) - 1])
@pytest.mark.parametrize("mode", [bpf.ABS, bpf.IND, bpf.MSH])
def test_a_load_from_behind_the_longest_packet_rejects(mode, offset):
    """With something behind it that only this leads to, and something that is reached another way as well."""
    load = (bpf.LDX | bpf.BYTE | bpf.MSH if mode == bpf.MSH else bpf.LD | mode, 0, 0, offset)
    for program in (
        [load, (bpf.RET, 0, 0, 7)],
        [(bpf.LD | bpf.BYTE | bpf.ABS, 0, 0, 0), (bpf.JMP | bpf.JEQ, 1, 0, 69), load, (bpf.RET, 0, 0, 7)],
    ):
        with Targets(Program(program)) as targets:
            targets.check([b"", bytes(60), b"E" * 60, bytes(65_535)])


PRIMITIVES = [
    "ip", "ip6", "arp", "tcp", "udp", "icmp", "vlan", "port 80", "src port 53", "dst portrange 1-1023", "tcp port 443",
    "host 192.0.2.80", "src net 192.0.2.0/24", "dst net 198.18.0.0/15", "net 2001:db8::/32", "len > 80", "less 70",
    "ip[8] > 60", "tcp[13] & 2 != 0", "udp[4:2] < 100", "ether multicast", "ether[6] & 1 = 0", "ip[9] = 6",
    "ip[2:2] & 3 = 1", "ip[12:4] > 0xc0000200",
]  # fmt: skip


def _combined():
    return st.recursive(
        st.sampled_from(PRIMITIVES),
        lambda inner: st.one_of(
            st.builds("({} and {})".format, inner, inner),
            st.builds("({} or {})".format, inner, inner),
            st.builds("not {}".format, inner),
        ),
        max_leaves=6,
    )


@settings(max_examples=ROUNDS or 60)
@given(text=_combined(), optimise=st.booleans())
def test_generated_expressions(text, optimise):
    from raceway import ExpressionError

    try:
        program = compile_expression(text, optimise=optimise)
    except ExpressionError:
        # libpcap's optimiser proves some of them to accept nothing, and says so.
        return
    with Targets(program, kernel=len(program) < 150) as targets:
        targets.check(PACKETS)


@pytest.mark.skipif(INTERPRETED, reason="about machine code")
@pytest.mark.parametrize("text", ["tcp port 80", "udp", "tcp portrange 80-90"])
def test_no_byte_behind_a_packet_at_the_end_of_memory_is_read(text):
    """Packets of every length, each the last thing before a page that kills whoever reads it."""
    program = compile_expression(text)
    kernel, reference = compiled(program), Reference(program)
    whole = next(packet for packet in captured() if reference.run(packet, len(packet)))
    for length in range(len(whole) + 1):
        packets = [whole] * 8 + [whole[:length]] * 8
        wires = [len(packet) for packet in packets]
        expected = [reference.run(packet, len(packet)) for packet in packets]
        assert run_batch(kernel, packets, wires) == expected
