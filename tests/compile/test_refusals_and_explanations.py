"""What users are shown: their own line when the verifier refuses, and what was generated when they ask."""

from __future__ import annotations

import pytest

import raceway
from labs import needs_root
from packet_cases import made_packets, needs_native
from worlds import SEEN, keep_web

pytestmark = pytest.mark.skipif(bool(needs_native), reason=needs_native or "-")

WIDE = raceway.HashTable(100, key_words=32)


@raceway.packet_function
def keeps_too_much(packet):
    # Keys of more than 22 words lie on the stack.
    flow = packet.five_tuple
    back = flow.reverse
    WIDE.add((flow, back, flow, back, flow, 1))
    WIDE.add((back, flow, back, flow, back, packet.time))
    WIDE.add((packet.time, flow, back, back, flow, back))
    WIDE.add((packet.time, back, flow, flow, flow, back))
    return WIDE.get((flow, back, flow, back, flow, 1)) % 5


@raceway.packet_function
def goes_on_for_ever(packet):
    at = packet.load8(0)
    while at >= 0:
        at = (at + 1) & 0xFFFF
    return raceway.PASS


@needs_root
def test_a_refusal_shows_the_users_line_and_what_to_write():
    with pytest.raises(raceway.FunctionRefusedError) as caught:
        raceway.simulate(keeps_too_much, [made_packets()[0]], "kernel")
    error = caught.value
    assert error.file == __file__
    first = keeps_too_much.source.tree.lineno
    assert first <= error.line < first + 12
    text = str(error)
    assert text.startswith(f"{__file__}:{error.line}: the kernel's verifier refuses keeps_too_much: ")
    assert "512 bytes of stack" in text
    assert keeps_too_much.source.text(error.line).strip() in text
    assert error.log


@raceway.packet_function
def has_too_many_ways(packet):
    total = 0
    for i in range(40):
        total += 1
        for j in range(40):
            if packet.tcp and packet.tcp.source_port == i:
                total += packet.load8(i * j)
            if packet.ipv6 and packet.ipv6.hop_limit == j:
                total -= packet.load16(i + j)
            if packet.udp and packet.udp.length > total:
                total ^= packet.load32(14 + j)
    return raceway.DROP if total > 100 else raceway.PASS


@needs_root
def test_a_function_that_is_too_complex_is_refused_after_one_walk_of_each_arrangement(monkeypatch):
    from raceway.compile.bpf.generate import ARRANGEMENTS
    from raceway.kernel.bpf import programs

    walks = []
    real = programs._attempt
    monkeypatch.setattr(programs, "_attempt", lambda attributes: walks.append(1) or real(attributes))
    with pytest.raises(raceway.FunctionRefusedError) as caught:
        raceway.simulate(has_too_many_ways, [made_packets()[0]], "kernel")
    error = caught.value
    assert (error.file, error.line) == (__file__, has_too_many_ways.source.tree.lineno + 4)
    assert "for j in range(40)" in str(error)
    assert "more ways through it than the verifier walks" in str(error)
    assert len(walks) == ARRANGEMENTS


@needs_root
def test_a_loop_without_an_end_is_ended_and_counted():
    made = raceway.simulate(goes_on_for_ever, [made_packets()[0]], "kernel")
    assert made.verdicts == [raceway.ABORTED]
    assert made.reasons["loop_limit"] == 1


def test_explain_shows_every_form():
    shown = raceway.explain(keep_web)
    assert "define" in shown.llvm
    assert "raceway_xdp" in shown.llvm
    assert "ret" in shown.machine_code
    lines = shown.ebpf.splitlines()
    assert lines[-1].split(": ")[1]
    assert "exit" in shown.ebpf
    assert "bpf_tail_call" in shown.ebpf
    assert "= HashTable + 0 ll" in shown.ebpf
    assert "?" not in shown.ebpf
    assert shown.instructions >= len(lines)
    assert SEEN is not None
