"""Rules files: what they mean, and what is said of those that are not accepted."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import subprocess
import sys

import pytest

import raceway
from conftest import own_captures, shared_captures
from raceway.apps.firewall.judging import matched
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.expression import read
from raceway.apps.firewall.rules.importing.classbench import read_classbench
from raceway.apps.firewall.rules.importing.nftables import parse_nftables, read_nftables
from raceway.apps.firewall.rules.language import parse_rules, read_rules
from raceway.apps.firewall.rules.matching import boxes
from raceway.apps.firewall.rules.text import Place
from raceway.compile.classifier.classifier import Classifier
from raceway.ports.pcap.capture import load_capture


def packet(
    source: str = "192.0.2.1", destination: str = "192.0.2.2", protocol: int = 17, ports=(1000, 53)
) -> bytes:
    transport = struct.pack("!HHHHI", *ports, 20, 0, 0) + b"\x50" + bytes(7)
    addresses = b"".join(bytes(int(part) for part in text.split(".")) for text in (source, destination))
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, protocol, 0) + addresses
    return bytes(12) + b"\x08\x00" + header + transport


def fate(rules: str, data: bytes, time: int = 0) -> tuple[str, int]:
    one = Program(parse_rules(rules)).judge(raceway.Packet(data, time=time))
    return one.verdict.name, one.rule


def test_the_first_rule_that_matches_decides():
    rules = "pass udp dst port 53\ndrop udp\ndrop any"
    assert fate(rules, packet()) == ("PASS", 0)
    assert fate(rules, packet(ports=(1, 54))) == ("DROP", 1)
    assert fate(rules, packet(protocol=6)) == ("DROP", 2)


def test_what_no_rule_matches_follows_the_default():
    assert fate("default drop\npass tcp", packet()) == ("DROP", -1)
    assert fate("drop tcp", packet()) == ("PASS", -1)
    assert fate("", packet()) == ("PASS", -1)


@pytest.mark.parametrize(("policy", "verdict"), [("drop", "DROP"), ("pass", "PASS"), ("match", "DROP")])
def test_what_cannot_be_parsed_follows_the_policy(policy, verdict):
    assert fate(f"malformed {policy}\ndrop src 192.0.2.1\ndefault pass", packet()[:-1])[0] == verdict


def test_sets_hold_addresses_prefixes_ports_and_files_of_prefixes(tmp_path):
    (tmp_path / "bad.netset").write_text(
        "# a list\n192.0.2.0/25\n2001:db8::/32 ; comment\n\n198.51.100.7-198.51.100.9\n"
    )
    (tmp_path / "wall.rules").write_text(
        'set bad = prefixes "bad.netset"\nset few = 203.0.113.5, 10.0.0.0/8\nset web = ports 80, 8000-8080\n'
        "drop src in bad\ndrop dst in few\npass tcp dst port in web\ndrop any\n"
    )
    program = Program(read_rules(tmp_path / "wall.rules"))
    wanted = [
        (packet("192.0.2.127"), 0), (packet("192.0.2.128", "10.1.1.1"), 1), (packet("198.51.100.8"), 0),
        (packet("198.51.100.10", protocol=6, ports=(1, 8000)), 2), (packet("1.1.1.1", protocol=6, ports=(1, 8081)), 3),
        (packet("1.1.1.1", "203.0.113.5"), 1),
    ]  # fmt: skip
    assert matched(program, [data for data, _ in wanted]) == [rule for _, rule in wanted]


def test_files_include_files_beside_them(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "more.rules").write_text('include "most.rules"\ndrop tcp # comment\n')
    (tmp_path / "below" / "most.rules").write_text("drop udp\n")
    (tmp_path / "wall.rules").write_text('include "below/more.rules"\npass any')
    found = read_rules(tmp_path / "wall.rules")
    assert [rule.text for rule in found.rules] == ["drop udp", "drop tcp", "pass any"]
    assert found.rules[0].place.file.endswith("most.rules")
    assert len(found.files) == 3


def test_a_rate_is_kept_for_each_source():
    program = Program(parse_rules("limit 2/s per src burst 2 udp"))
    fates = [
        program.judge(raceway.Packet(packet(source), time=time)).verdict.name
        for source, time in [
            ("10.0.0.1", 1),
            ("10.0.0.1", 2),
            ("10.0.0.1", 3),
            ("10.0.0.2", 3),
            ("10.0.0.1", 10**9),
        ]
    ]
    assert fates == ["PASS", "PASS", "DROP", "PASS", "PASS"]
    assert (program.counts[0], program.limited[0]) == (4, 1)


def test_each_of_many_rules_does_what_it_says():
    rng = random.Random(16)
    # A limit of one packet: what it has passed once it drops.
    actions = {
        "drop": ["DROP", "DROP"],
        "pass": ["PASS", "PASS"],
        "limit 1/h burst 1": ["PASS", "DROP"],
        "divert d": ["REDIRECT", "REDIRECT"],
    }
    for count in (1, 15, 16, 17, 100):
        chosen = [rng.choice([*actions]) for _ in range(count)]
        text = "\n".join(f"{action} udp dst port {port}" for port, action in enumerate(chosen, 1))
        program = Program(parse_rules(text))
        for number, action in enumerate(chosen):
            data = packet(ports=(9, number + 1))
            fates = [program.judge(raceway.Packet(data, time=1)).verdict.name for _ in range(2)]
            assert fates == actions[action], (count, number, action)


def test_a_rate_of_a_minute_counts_minutes():
    program = Program(parse_rules("limit 1/m udp"))
    second = 10**9
    fates = [
        program.judge(raceway.Packet(packet(), time=at * second)).verdict.name for at in (1, 30, 60, 61, 62)
    ]
    assert fates == ["PASS", "DROP", "DROP", "PASS", "DROP"]


WRONG = {
    "drop": "1:5: an expression was expected",
    "foo x": "1:1: 'foo' begins no statement",
    "set 9 = 1": "1:5: '9' cannot be a set's name",
    "set a = 1.2.3.4,": "1:17: items stand between commas",
    "set a = ports 70000": "1:15: '70000' is no port",
    "set a = 1.2.3.400": "1:9: ",
    "default maybe": "1:9: default is one of pass, drop",
    "default pass\ndefault drop": "2:1: default was set before, at rules:1",
    "limit fast udp": "1:7: 'fast' is no rate",
    "limit 5/s per x udp": "1:15: per is src, dst or flow",
    "limit 5/s burst 0 udp": "1:17: burst is a number",
    'include "nope"': "1:9: nope: No such file",
    "include nope": "1:9: a file's name in quotation marks",
    'set a = prefixes "/x/y"': "1:18: /x/y: No such file",
    "drop tcp and udp": "1:6: this can match no packet",
    "drop src in nowhere": "1:13: there is no set 'nowhere'",
    "on x": "1:4: 'on death open'",
    "divert 5 udp": "1:8: '5' cannot be a name",
    'drop "': "1:6: this quotation mark is not closed",
    "drop foo bar": "1:6: 'foo bar': ",
    "drop tcp dst port 99999": "1:19: port 99999 is above 65535",
    "drop host example.com": "1:11: ",
    "drop (tcp": "1:6: this parenthesis is not closed",
    "drop port in": "1:6: a value was expected",
    "drop icmp port 5": "1:16: icmp has no ports",
    "drop udp port 9-5": "1:15: the range 9-5 ends before it begins",
    "set web = ports 80\ndrop src in web": "2:13: set 'web' holds ports",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_not_accepted_is_said_with_line_and_column(text):
    with pytest.raises(raceway.RulesError) as caught:
        parse_rules(text)
    said = str(caught.value)
    assert said.startswith(f"rules:{WRONG[text]}"), said
    line = text.splitlines()[caught.value.line - 1]
    assert line.rstrip() in said


def test_a_file_that_is_not_there_is_said_without_a_line_to_show(tmp_path):
    for reads in (read_rules, read_classbench, read_nftables):
        with pytest.raises(raceway.RulesError) as caught:
            reads(tmp_path / "absent")
        assert str(caught.value) == f"{tmp_path / 'absent'}: No such file or directory"


def test_rules_that_were_spoiled_are_refused_or_read_whole():
    rng = random.Random(7)
    good = (
        "set bad = 10.0.0.0/8, 2001:db8::/32\ndefault drop\nlimit 10/s per src burst 5 udp dst port 53\n"
        "drop src in bad and not tcp\npass (tcp or udp) and port 80, 443\ndrop tcp[13] & 2 != 0\n"
    )
    letters = 'abc01289./:,()!&|# \n"=-' + good
    for _ in range(300):
        text = list(good)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(text))
            text[at : at + rng.choice((0, 1, 3))] = rng.choice(letters) * rng.choice((0, 1, 1, 4))
        with contextlib.suppress(raceway.RulesError):
            assert all(rule.alternatives for rule in parse_rules("".join(text)).rules)


EXPRESSIONS = [
    "tcp", "udp port 53", "tcp dst port 80", "not tcp", "src net 10.0.0.0/8", "ip and not udp", "tcp or icmp",
    "dst portrange 1-1023", "host 192.168.1.1 or udp", "not (tcp port 80 or 443)", "tcp src port 443 and ip",
    "ip proto 6", "src or dst net 192.168", "(udp or tcp) and not port 53", "icmp or ip6",
    "tcp port 80 and tcp[tcpflags] & tcp-syn != 0", "len > 100 and tcp", "! udp && dst port 80 || icmp",
]  # fmt: skip


def plain_packets() -> list[bytes]:
    """Packets in which tcpdump and the firewall look at the same bytes: no tags, no fragments, no extension headers."""
    found = []
    for path in [*own_captures(), *shared_captures()]:
        try:
            capture = load_capture(path, packets=300)
        except (OSError, raceway.RacewayError):
            continue
        if len(capture) and set(capture.link_types.tolist()) == {1}:
            found += list(capture)
    none = Classifier([])
    made = []
    for data in found:
        one = raceway.Packet(data)
        simple = (one.ipv4 and not one.is_fragment) or (one.ipv6 and one.ipv6.next_header == one.protocol)
        if simple and not one.vlan and not none.key(one).wrong:
            made.append(data)
    return made[::3]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_expression_matches_what_libpcap_matches(text):
    rules = Program(parse_rules(f"malformed match\ndrop {text}"))
    reference = raceway.expression(text).reference()
    packets = plain_packets()
    assert len(packets) > 50
    for data in packets:
        wanted = 0 if reference.run(data, len(data)) else -1
        assert rules.judge(raceway.Packet(data)).rule == wanted, (text, data.hex())


def test_the_boxes_of_a_list_are_one():
    assert len(boxes(read("tcp dst port 80, 443, 8000-8080", Place("x", 1, "")))) == 1


FILTERS = """@10.0.0.0/8\t192.0.2.0/24\t0 : 65535\t80 : 80\t0x06/0xFF\t0x1000/0x1000
@10.1.0.0/16 0.0.0.0/0 1024 : 65535 0 : 65535 0x11/0xFF 0x0000/0x0000
@0.0.0.0/0\t192.0.2.7/32\t0 : 65535\t0 : 65535\t0x00/0x00\t0x0000/0x0000
@2001:db8::/32\t::/0\t0 : 65535\t53 : 53\t0x11/0xFF
"""


def test_classbench_filters_give_the_number_of_the_first(tmp_path):
    (tmp_path / "filters").write_text(FILTERS)
    packets = [
        packet("10.2.3.4", "192.0.2.200", 6, (5, 80)), packet("10.1.3.4", "1.1.1.1", 17, (1024, 9)),
        packet("10.1.3.4", "192.0.2.7", 17, (1023, 9)), packet("9.9.9.9", "192.0.2.7", 1), packet("9.9.9.9", "9.9.9.9"),
    ]  # fmt: skip
    with open(tmp_path / "trace.pcap", "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for data in packets:
            file.write(struct.pack("<IIII", 0, 0, len(data), len(data)) + data)
    done = subprocess.run(
        [sys.executable, "-m", "raceway", "firewall", "explain", "--format", "classbench",
         str(tmp_path / "filters"), str(tmp_path / "trace.pcap"), "--json"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"matches": [0, 1, 2, 2, -1]}
    assert "flags column of 1 filters was not imported" in done.stderr


@pytest.mark.parametrize(
    "line", ["@10.0.0.0/8 nonsense", "@1.2.3.4/33\t0.0.0.0/0\t0 : 1\t0 : 1\t0x06/0xFF", "x"]
)
def test_what_is_no_classbench_filter_is_refused_with_its_line(tmp_path, line):
    (tmp_path / "filters").write_text(f"{FILTERS}{line}\n")
    with pytest.raises(raceway.RulesError, match=r"filters:5:"):
        read_classbench(tmp_path / "filters")


NFTABLES = """table inet filter {
	set bad {
		type ipv4_addr
		flags interval
		elements = { 10.66.0.0/16, 192.0.2.1,
				198.51.100.0-198.51.100.9 }
	}
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		ip saddr @bad drop
		tcp dport { 22, 80, 8000-8080 } accept comment "web"
		udp dport 53 limit rate 10/second accept
		ip protocol icmp icmp type echo-request counter packets 5 bytes 100 accept
		tcp flags syn tcp dport 23 reject with icmp type port-unreachable
		th dport != 99 ip daddr 203.0.113.0/24 accept
	}
	chain output { type filter hook output priority filter; policy accept; }
}
"""


def test_what_nft_prints_becomes_rules_and_the_rest_is_noted():
    found = parse_nftables(NFTABLES)
    assert [(rule.action, rule.place.line) for rule in found.rules] == [
        ("pass", 10), ("drop", 11), ("pass", 12), ("pass", 14), ("drop", 15), ("pass", 16), ("pass", 8),
    ]  # fmt: skip
    assert (found.default, found.malformed) == ("drop", "pass")
    said = "\n".join(found.notes)
    for wanted in (
        "limit rate 10/second",
        "reject is imported as drop",
    ):
        assert wanted in said
    assert "hooks output were not imported" in said
    program = Program(found)
    echo = packet("9.9.9.9", protocol=1)[:34] + b"\x08" + bytes(19)
    cases = [
        (packet("198.51.100.9", protocol=6, ports=(1, 80)), 1), (packet(protocol=6, ports=(1, 8080)), 1),
        (packet("9.9.9.9", protocol=6, ports=(1, 8080)), 2), (packet("9.9.9.9", protocol=6, ports=(1, 8081)), -1),
        (echo, 3), (packet("9.9.9.9", "203.0.113.5", 17, (1, 98)), 5), (packet("9.9.9.9", "203.0.113.5"), 5),
        (packet("9.9.9.9", "203.0.113.5", 17, (1, 99)), -1),
    ]  # fmt: skip
    for data, rule in cases:
        assert program.judge(raceway.Packet(data)).rule == rule, data.hex()


def nft(family: str, *rules: str, policy: str = "drop"):
    lines = "\n".join(rules)
    return parse_nftables(
        f"table {family} t {{\nchain c {{\ntype filter hook input priority 0; policy {policy};\n{lines}\n}}\n}}"
    )


def first_of(rule_set, *packets: bytes) -> list[tuple[str, int]]:
    program = Program(rule_set)
    found = [program.judge(raceway.Packet(data)) for data in packets]
    return [(one.verdict.name, one.rule) for one in found]


def test_a_chain_is_asked_about_the_packets_of_its_family_and_its_policy_too():
    four = packet(protocol=6, ports=(1, 22))
    six = (
        four[:12]
        + b"\x86\xdd"
        + struct.pack("!IHBB", 6 << 28, 20, 6, 9)
        + bytes(32)
        + struct.pack("!HH", 1, 22)
    )
    six += b"\0" * 8 + b"\x50" + bytes(7)
    arp = four[:12] + b"\x08\x06" + bytes(46)
    rules = ("tcp dport 22 accept",)
    assert first_of(nft("ip", *rules), four, six, arp) == [("PASS", 0), ("PASS", 1), ("PASS", 1)]
    assert first_of(nft("inet", *rules), four, six, arp) == [("PASS", 0), ("PASS", 0), ("PASS", 1)]
    assert first_of(nft("ip6", "drop"), four, six, arp) == [("PASS", 1), ("DROP", 0), ("PASS", 1)]
    assert first_of(nft("netdev", "drop"), four, six, arp) == [("DROP", 0)] * 3
    assert nft("arp", "drop").rules == ()


def test_states_of_conntrack_become_established_where_that_says_the_same():
    for text in (
        "ct state established,related accept", "ct state { established, related } accept",
        "ct state vmap { established : accept, related : accept, invalid : drop }",
    ):  # fmt: skip
        found = nft("inet", text)
        assert [rule.action for rule in found.rules] == ["pass", "pass"], text
        assert {what for one in found.rules[0].alternatives for what in one.asked} == {("established", True)}
        assert ("invalid is not known" in "".join(found.notes)) == ("invalid" in text)
    found = nft("inet", "ct state new tcp dport 22 accept", "ct state established accept")
    assert {what for one in found.rules[0].alternatives for what in one.asked} == {("established", False)}
    assert "imported as not established" in found.notes[0]
    assert "with what is related" in found.notes[1]
    for text in (
        "ct state invalid drop",
        "ct state related accept",
        "ct mark 5 accept",
        "ct state vmap { new : jump x }",
    ):
        found = nft("inet", text)
        assert len(found.rules) == 1
        assert "not imported" in found.notes[0]


@pytest.mark.parametrize(
    "text", ["table inet x {\nchain y {", "hello", "table inet x { chain y { } } }", "table x }"]
)
def test_what_is_no_ruleset_of_nft_is_refused(text):
    with pytest.raises(raceway.RulesError):
        parse_nftables(text)
