"""`divert NAME`: the loop over pipes, where everything can be looked at; and with a firewall in labs, in ..._live."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest

import raceway
from conftest import scaled
from raceway import DROP, PASS
from raceway.apps.firewall.divert.diverter import DivertLoop
from raceway.apps.firewall.divert.records import CHUNK, MARK
from raceway.apps.firewall.judging import judged
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.language import parse_rules

ADDRESSES = bytes.fromhex("020000000002020000000001")


def udp(port: int, payload: bytes = b"x") -> bytes:
    header = bytes.fromhex("450000000000000040110000c0000201c0000202")
    length = 20 + 8 + len(payload)
    header = header[:2] + length.to_bytes(2, "big") + header[4:]
    return (
        ADDRESSES + b"\x08\x00" + header + (7).to_bytes(2, "big") + port.to_bytes(2, "big")
        + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    )  # fmt: skip


def marked(number: int, packet: bytes) -> bytes:
    return number.to_bytes(4, "little") + MARK.to_bytes(4, "little") + packet


@raceway.packet_function
def even_ones(packet):
    if packet.load8(len(packet) - 1) % 2:
        return DROP
    packet.store8(0, 0xEE)
    return PASS


@raceway.packet_function
def reads_beyond(packet):
    return PASS if packet.load8(2000) else DROP


def through(pipe_name: str, functions, packets: list[bytes], options: str = ""):
    """What comes out when packets go through a loop, and the loop."""
    loop = DivertLoop(functions)
    with (
        raceway.open(f"{pipe_name}a{{1{options}") as sender,
        raceway.open(f"{pipe_name}a}}1{options}") as source,
        raceway.open(f"{pipe_name}b{{1{options}") as target,
        raceway.open(f"{pipe_name}b}}1{options}") as sink,
    ):
        loop.connect(source, target)
        found: list[bytes] = []
        left = list(packets)
        while left:
            sent = sender.send(left[:200], timeout=1)
            left = left[sent:]
            loop.step(1_000_000)
            found += sink.receive(0).to_bytes()
        sender.close()
        while loop.step(5_000_000):
            found += sink.receive(0).to_bytes()
        while more := sink.receive(0).to_bytes():
            found += more
    return found, loop


def counted(loop: DivertLoop, name: str) -> tuple[int, ...]:
    record = loop.records[loop.numbers[name]]
    assert record["taken"] == record["passed"] + record["dropped"] + record["failed"] + record["too_long"]
    return tuple(int(record[field]) for field in ("passed", "dropped", "failed", "too_long"))


def test_each_packet_goes_to_the_function_that_its_mark_names_and_they_keep_their_order(pipe_name):
    count = scaled(4 * CHUNK + 7, 60)

    def plain(packet):
        packet.store8(1, 0xDD)
        return PASS if len(packet) % 3 else DROP

    packets = [(number % 2, udp(9, bytes(number % 5) + bytes([number & 0xFF]))) for number in range(count)]
    found, loop = through(pipe_name, {"native": even_ones, "plain": plain}, [marked(*one) for one in packets])
    wanted = []
    for number, packet in packets:
        if number == 0 and packet[-1] % 2 == 0:
            wanted.append(b"\xee" + packet[1:])
        elif number == 1 and len(packet) % 3:
            wanted.append(packet[:1] + b"\xdd" + packet[2:])
    assert found == wanted
    passed, dropped, failed, long = counted(loop, "native")
    assert (passed + dropped, failed, long) == (sum(number == 0 for number, _ in packets), 0, 0)
    assert sum(counted(loop, "plain")) == sum(number == 1 for number, _ in packets)
    assert loop.state["foreign"] == 0


def test_a_packet_without_a_mark_or_with_a_name_that_is_none_ends_and_is_counted(pipe_name):
    packets = [marked(0, udp(1, b"\2")), udp(1), marked(1, udp(1)), b"short!", marked(0, udp(2, b"\4"))]
    found, loop = through(pipe_name, {"one": even_ones}, packets)
    assert [one[1:] for one in found] == [udp(1, b"\2")[1:], udp(2, b"\4")[1:]]
    assert loop.state["foreign"] == 3


def test_a_function_that_fails_is_counted_and_said_once_with_its_line_and_the_packet_ends(pipe_name, caplog):
    answers = iter([PASS, 1 / 3, True, None, 7, PASS])

    def strange(packet):
        answer = next(answers)
        if answer == 7:
            raise KeyError("seven")
        return answer

    with caplog.at_level(logging.ERROR, "raceway.firewall"):
        found, loop = through(
            pipe_name,
            {"strange": strange, "outside": reads_beyond},
            [marked(0, udp(number)) for number in range(6)] + [marked(1, udp(6))] * 2,
        )
    assert found == [udp(0), udp(5)]
    assert counted(loop, "strange") == (2, 0, 4, 0)
    assert counted(loop, "outside") == (0, 0, 2, 0)
    said = [one.getMessage() for one in caplog.records]
    assert len(said) == 2
    assert "divert strange: strange failed, the packet was dropped" in said[0]
    assert re.search(r"test_firewall_divert\.py:\d+: it answered 0\.33", said[0])
    assert "out_of_bounds" in said[1]
    raised = iter([ValueError("first"), ValueError("second")])

    def raising(packet):
        raise next(raised)

    caplog.clear()
    _, loop = through(pipe_name, {"r": raising}, [marked(0, udp(1))] * 2)
    line = raising.__code__.co_firstlineno + 1
    assert loop.inspectors[0].first_failure.endswith(f"test_firewall_divert.py:{line}: ValueError: first")
    assert len(caplog.records) == 1


def test_a_packet_in_several_buffers_reaches_plain_python_whole_and_may_be_changed_anywhere(pipe_name):
    seen = []

    def changes_the_end(packet):
        seen.append(len(packet))
        packet.store8(len(packet) - 1, 0xFF)
        packet.store8(0, 0xFE)
        return PASS

    def longer(packet):
        return PASS if packet.grow_head(100) else DROP

    long = ADDRESSES + bytes(number % 251 for number in range(5000))
    options = "@conf:slots=64"
    found, loop = through(
        pipe_name, {"end": changes_the_end, "longer": longer}, [marked(0, long), marked(0, udp(1))], options
    )
    assert found == [b"\xfe" + long[1:-1] + b"\xff", b"\xfe" + udp(1)[1:-1] + b"\xff"]
    assert seen == [len(long), len(udp(1))]
    found, loop = through(pipe_name, {"a": even_ones, "longer": longer}, [marked(1, long)], options)
    assert found == [bytes(100) + long]
    # The three buffers have no room for that.
    full = ADDRESSES + bytes(3 * 2048 - 8 - len(ADDRESSES))
    found, loop = through(pipe_name, {"a": even_ones, "longer": longer}, [marked(1, full)], options)
    assert found == []
    assert counted(loop, "longer") == (0, 0, 1, 0)


def test_a_packet_function_sees_the_first_buffer_of_a_long_packet(pipe_name):
    long = ADDRESSES + bytes(5000)
    found, _ = through(pipe_name, {"even": even_ones}, [marked(0, long), marked(0, long)], "@conf:slots=64")
    assert found == [b"\xee" + long[1:]] * 2


def test_a_name_that_nobody_answers_to_is_refused_with_its_place():
    rules = parse_rules("drop udp dst port 9\n  divert  inspector tcp dst port 25", "wall.rules")
    with pytest.raises(raceway.RulesError) as refused:
        Program(rules, names={"other": 0})
    assert (refused.value.line, refused.value.column) == (2, 11)
    assert "there are other" in str(refused.value)
    assert "  divert  inspector tcp dst port 25\n            ^" in str(refused.value)
    with pytest.raises(raceway.RulesError, match="there are none"):
        Program(rules, names={})
    Program(rules, names={"inspector": 0})
    Program(rules)


def test_what_is_no_function_is_refused():
    with pytest.raises(
        TypeError, match="divert x: a packet function or another callable was expected, not int"
    ):
        DivertLoop({"x": 7})
    with pytest.raises(ValueError, match="at most 250"):
        DivertLoop({f"n{number}": even_ones for number in range(251)})


def test_a_diverted_packet_carries_the_mark_of_its_name():
    program = Program(parse_rules("divert one udp dst port 1\ndivert two udp dst port 2"))
    for port, number in ((1, 0), (2, 1)):
        packet = raceway.Packet(udp(port))
        assert program.function(packet) == raceway.REDIRECT
        assert bytes(packet) == marked(number, udp(port))
    assert program.counts.values()[:2] == [1, 1]


def test_explain_says_divert_and_to_whom(tmp_path):
    rules = tmp_path / "wall.rules"
    rules.write_text("divert inspector udp dst port 25\n")
    assert [one.verdict.name for one in judged(Program(parse_rules(rules.read_text())), [(udp(25), 0)])] == [
        "REDIRECT"
    ]
    words = [sys.executable, "-m", "raceway", "firewall", "explain", str(rules), "--packet", udp(25).hex()]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True).stdout
    assert shown == f"0  DIVERT to inspector  {rules}:1: divert inspector udp dst port 25\n"
    told = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=100, check=True).stdout
    assert '"verdicts": ["DIVERT"]' in told
