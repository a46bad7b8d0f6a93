"""docs/from-nftables.md and docs/what-xdp-sees.md: their examples run, and what they claim is so, in labs."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import raceway
from labs import lab as lab, needs, needs_root, output, reaches
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.importing.nftables import parse_nftables
from raceway.apps.firewall.rules.language import parse_rules
from raceway.memory.jit import INTERPRETED
from raceway.ports.pcap.capture import load_capture

DOCUMENTS = Path(__file__).parents[2] / "docs"
SECOND = 10**9
in_the_kernel = pytest.mark.skipif(
    INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
)


def block(page: str, language: str) -> str:
    """The only block of code of a page that is in this language."""
    (found,) = re.findall(
        rf"^```{language}\n(.*?)^```", (DOCUMENTS / page).read_text(), re.DOTALL | re.MULTILINE
    )
    return found


# From nftables to raceway.


def ether(kind: int, payload: bytes) -> bytes:
    return (bytes.fromhex("020000000002 020000000001") + kind.to_bytes(2, "big") + payload).ljust(60, b"\0")


def ipv4(source: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton("192.0.2.2")
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    return ether(0x0800, head + addresses + payload)


def ipv6(source: str, protocol: int, payload: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    return ether(0x86DD, struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload)


def tcp(port: int, flags: int = 2) -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, flags, 64000, 0, 0)


def udp(port: int) -> bytes:
    return struct.pack("!HHHH", 40000, port, 8, 0)


def icmp(kind: int) -> bytes:
    return struct.pack("!BBHI", kind, 0, 0, 0)


def samples() -> dict[str, bytes]:
    """A packet of each kind that the server's rules know, and some that they do not."""
    found = {"arp": ether(0x0806, bytes(28)), "lldp": ether(0x88CC, bytes(40))}
    for name, make, addresses in (
        ("4", ipv4, ("9.9.9.9", "10.1.2.3", "198.51.100.7", "203.0.113.77")),
        ("6", ipv6, ("2001:db8::1", "fe80::1")),
    ):
        for address in addresses:
            for port in (22, 23, 80, 443, 444, 9100, 65535):
                found[f"tcp{name} {address} {port}"] = make(address, 6, tcp(port))
                found[f"udp{name} {address} {port}"] = make(address, 17, udp(port))
            found[f"gre{name} {address}"] = make(address, 47, bytes(20))
    for kind in (0, 3, 5, 13):
        found[f"icmp {kind}"] = ipv4("9.9.9.9", 1, icmp(kind))
    for kind in (1, 128, 133, 134, 135, 136, 137):
        found[f"icmp6 {kind}"] = ipv6("fe80::1", 58, icmp(kind))
    return found


def test_the_server_before_and_after_has_the_same_verdicts():
    before = Program(parse_nftables(block("from-nftables.md", "nft")))
    after = Program(parse_rules(block("from-nftables.md", "raceway")))
    verdicts = []
    for name, data in samples().items():
        one, other = (program.judge(raceway.Packet(data, time=SECOND)) for program in (before, after))
        if name == "lldp":
            # The page says so: default drop is about everything.
            assert (one.verdict, other.verdict) == (raceway.PASS, raceway.DROP)
            continue
        assert one.verdict == other.verdict, name
        verdicts.append(one.verdict)
    assert min(verdicts.count(raceway.PASS), verdicts.count(raceway.DROP)) > 10


def test_what_the_import_leaves_out_is_in_the_rules_that_were_written_anew():
    after = Program(parse_rules(block("from-nftables.md", "raceway")))
    echo = ipv4("9.9.9.9", 1, icmp(8))
    fates = [after.judge(raceway.Packet(echo, time=SECOND)).verdict for _ in range(6)]
    assert fates == [raceway.PASS] * 5 + [raceway.DROP]
    one = after.judge(raceway.Packet(ipv4("9.9.9.9", 6, tcp(22)), time=SECOND))
    rules = after.rule_set.rules
    assert rules[one.logged].text == "log 5/m tcp dst port 22"
    assert rules[one.rule].text == "pass tcp dst port 22, 80, 443"


def test_check_says_what_the_page_says_of_the_server(tmp_path):
    (tmp_path / "server.nft").write_text(block("from-nftables.md", "nft"))
    (tmp_path / "server.rules").write_text(block("from-nftables.md", "raceway"))
    told = [sys.executable, "-m", "raceway", "firewall", "check"]
    options = {"capture_output": True, "text": True, "check": True, "timeout": 60, "cwd": tmp_path}
    done = subprocess.run([*told, "--format", "nftables", "server.nft"], **options)
    said = re.findall(r"^```text\n(note.*?)^```", (DOCUMENTS / "from-nftables.md").read_text(), re.S | re.M)
    assert done.stderr == said[0]
    assert "rules are accepted" in subprocess.run([*told, "server.rules"], **options).stdout


@needs("nft")
@needs_root
def test_nft_takes_the_server_of_the_page(lab, tmp_path):
    two = lab()
    (tmp_path / "server.nft").write_text(block("from-nftables.md", "nft"))
    output(two, "b", "nft", "-c", "-f", str(tmp_path / "server.nft"))


# What XDP can and cannot see.


@contextlib.contextmanager
def firewall(two, rules: str, host: str = "b", interface: str = "", **options):
    with two.inside(host), raceway.Firewall(interface or two.interface(host), rules, **options) as one:
        yield one


def send(two, host: str, address: str, port: int, count: int = 5, text: bytes = b"hello") -> None:
    with two.inside(host), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _ in range(count):
            one.sendto(text, (address, port))


def counted(one, number: int = 0) -> int:
    return one.status().rules[number].packets


@contextlib.contextmanager
def sniffer(two, host: str):
    """What tcpdump has: a packet socket for everything (packet(7))."""
    with two.inside(host), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as one:
        one.bind((two.interface(host), 0))
        one.settimeout(0.2)
        yield one


def udp_ports(one: socket.socket) -> list[int]:
    """The destination ports of the UDP packets that came in at a packet socket."""
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            data, address = one.recvfrom(65536)
            packet = raceway.Packet(data)
            if packet.udp and address[2] != socket.PACKET_OUTGOING:
                found.append(packet.udp.destination_port)
    return found


NFT = """table netdev seen {
    chain ingress {
        type filter hook ingress device "veth0" priority 0
        udp dport 9 counter
        udp dport 10 counter
    }
}
table inet seen {
    chain prerouting {
        type filter hook prerouting priority raw
        udp dport 9 counter
        udp dport 10 counter
    }
}
"""


@in_the_kernel
@needs_root
@needs("nft")
@pytest.mark.parametrize("mode", ["driver", "generic"])
def test_what_is_dropped_nobody_behind_sees_and_what_passes_everybody(lab, mode, tmp_path):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    (tmp_path / "seen.nft").write_text(NFT)
    output(two, "b", "nft", "-f", str(tmp_path / "seen.nft"))
    path = tmp_path / "dropped.pcapng"
    rules = "log udp dst port 9\ndrop udp dst port 9"
    with firewall(two, rules, mode=mode, log=path) as wall, sniffer(two, "b") as tap:
        for port in (9, 10):
            send(two, "a", two.address("b"), port)
        assert udp_ports(tap) == [10] * 5
        assert counted(wall, 1) == 5
    packets = [
        int(one) for one in re.findall(r"counter packets (\d+)", output(two, "b", "nft", "list", "ruleset"))
    ]
    assert packets == [0, 5, 0, 5], "raceway's drops are before nft's first hook"
    # `log` is how to see them.
    assert [raceway.Packet(one).udp.destination_port for one in map(bytes, load_capture(path))] == [9] * 5


@in_the_kernel
@needs_root
def test_what_the_host_sends_is_not_seen(lab):
    two = lab()
    # Neighbours are known before, for no answer will come in.
    assert reaches(two, "b", two.address("a"))
    with two.inside("a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nine:
        nine.bind((two.address("a"), 9))
        nine.settimeout(5)
        with firewall(two, "drop any") as wall:
            before = counted(wall)
            send(two, "b", two.address("a"), 9, 1)
            assert nine.recv(100) == b"hello"
            assert counted(wall) == before


@in_the_kernel
@needs_root
def test_what_is_forwarded_is_seen_where_it_arrives(lab):
    three = lab("router", 2)
    assert reaches(three, "a", three.address("b"))
    rules = "drop udp dst port 9"
    towards_a, towards_b = (three.interface("router", host) for host in "ab")
    with (
        firewall(three, rules, "router", towards_a) as first,
        firewall(three, rules, "router", towards_b) as last,
    ):
        send(three, "a", three.address("b"), 9)
        assert (counted(first), counted(last)) == (5, 0)


@in_the_kernel
@needs_root
def test_packets_for_other_hosts_are_seen_and_count_as_passed(lab):
    two = lab()
    data = bytes.fromhex("02ffffffffff") + ipv4("10.0.0.1", 17, udp(9))[6:]
    with two.inside("a"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
        one.bind((two.interface("a"), 0))
        with firewall(two, "pass udp dst port 9") as wall:
            with two.inside("a"):
                one.send(data)
            assert counted(wall) == 1


@in_the_kernel
@needs_root
def test_devices_that_are_not_cables_have_only_generic_mode(lab):
    two = lab()
    for name, words in (
        ("br0", "type bridge"),
        ("macvlan0", "link veth0 type macvlan"),
    ):
        output(two, "b", "ip", "link", "add", "name", name, *words.split())
        output(two, "b", "ip", "link", "set", name, "up")
        with firewall(two, "drop udp dst port 9", interface=name) as wall:
            assert wall.attachment.mode == "generic", name
    with firewall(two, "drop udp dst port 9", interface="lo") as wall:
        assert wall.attachment.mode == "generic"
        send(two, "b", "127.0.0.1", 9)
        assert counted(wall) == 5


@in_the_kernel
@needs_root
def test_a_bridges_port_is_before_the_bridge(lab):
    three = lab("star", 2)
    output(three, "hub", "ip", "link", "add", "name", "br7", "type", "bridge", "forward_delay", "0")
    for host in "ab":
        output(three, "hub", "ip", "link", "set", three.interface("hub", host), "nomaster")
        output(three, "hub", "ip", "link", "set", three.interface("hub", host), "master", "br7")
    output(three, "hub", "ip", "link", "set", "br7", "up")
    assert reaches(three, "a", three.address("b"), patience=3)
    port = three.interface("hub", "a")
    with sniffer(three, "b") as tap, firewall(three, "drop udp dst port 9", "hub", port) as wall:
        for number in (9, 10):
            send(three, "a", three.address("b"), number)
        assert counted(wall) == 5
        assert udp_ports(tap) == [10] * 5


@in_the_kernel
@needs_root
@pytest.mark.parametrize(("offloads", "seen"), [(True, 0), (False, 5)])
def test_a_tag_that_travels_beside_the_packet_is_not_in_it(lab, offloads, seen):
    two = lab(vlan=5, offloads=offloads)
    assert reaches(two, "a", two.address("b"))
    with firewall(two, "drop vlan 5 and udp dst port 9\ndrop udp dst port 9") as wall:
        send(two, "a", two.address("b"), 9)
        # Rules without vlan find the packet either way.
        assert (counted(wall, 0), counted(wall, 1)) == (seen, 5 - seen)


def right_checksum(data: bytes) -> bool:
    packet = raceway.Packet(data)
    total = data[26:34] + struct.pack("!HH", 17, packet.udp.length) + data[34 : 34 + packet.udp.length]
    total += bytes(len(total) % 2)
    words = sum(struct.unpack(f"!{len(total) // 2}H", total))
    return words % 0xFFFF == 0


@in_the_kernel
@needs_root
@pytest.mark.parametrize("offloads", [True, False])
def test_checksums_of_a_veth_are_not_made_yet(lab, offloads, tmp_path):
    two = lab(offloads=offloads)
    assert reaches(two, "a", two.address("b"))
    with firewall(two, "log udp dst port 9", log=tmp_path / "x.pcapng"):
        send(two, "a", two.address("b"), 9)
    found = [right_checksum(bytes(one)) for one in load_capture(tmp_path / "x.pcapng")]
    assert found == [not offloads] * 5


@in_the_kernel
@needs_root
@pytest.mark.parametrize("mode", ["driver", "generic"])
def test_generic_mode_is_behind_what_joins_segments(lab, mode, tmp_path):
    two = lab(offloads=True)
    assert reaches(two, "a", two.address("b"))
    path = tmp_path / "x.pcapng"
    with (
        two.inside("b"),
        socket.create_server((two.address("b"), 80)) as server,
        firewall(two, "log tcp dst port 80", mode=mode, log=path),
        two.inside("a"),
        socket.create_connection((two.address("b"), 80), 10) as client,
    ):
        server.settimeout(10)
        other, _ = server.accept()
        with other:
            other.settimeout(10)
            client.sendall(bytes(100_000))
            left = 100_000
            while left:
                left -= len(other.recv(65536))
    longest = max(load_capture(path).wire_lengths.tolist())
    assert (longest > 1514) == (mode == "generic")


@in_the_kernel
@needs_root
def test_counters_of_the_interface_count_what_is_dropped(lab):
    two = lab()
    assert reaches(two, "a", two.address("b"))
    with firewall(two, "drop udp dst port 9") as wall:
        (before,) = re.findall(
            r"RX: .*\n\s+\d+\s+(\d+)", output(two, "b", "ip", "-s", "link", "show", "veth0")
        )
        send(two, "a", two.address("b"), 9, 50)
        assert counted(wall) == 50
        (after,) = re.findall(
            r"RX: .*\n\s+\d+\s+(\d+)", output(two, "b", "ip", "-s", "link", "show", "veth0")
        )
    assert int(after) - int(before) >= 50


@in_the_kernel
@needs_root
def test_one_interface_has_one_program_and_the_second_is_told_of_the_first(lab):
    two = lab()
    told = [sys.executable, "-m", "raceway", "firewall", "run", two.interface("b"), "-f", "/dev/stdin"]
    with firewall(two, "drop udp dst port 9") as wall:
        done = two.run("b", told, input="drop tcp\n", capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert f"(process {os.getpid()}" in done.stderr
        send(two, "a", two.address("b"), 9)
        assert counted(wall) == 5


def fate(rules: str, data: bytes) -> str:
    return Program(parse_rules(rules)).judge(raceway.Packet(data)).verdict.name


def test_of_a_tunnel_the_outer_headers_are_seen():
    inner = ipv4("10.0.0.9", 17, udp(9))[14:]
    ipip, vxlan = ipv4("9.9.9.9", 4, inner), ipv4("9.9.9.9", 17, udp(4789)[:4] + bytes(40) + inner)
    for outer in (ipip, vxlan):
        assert fate("drop src 10.0.0.9\ndrop udp dst port 9", outer) == "PASS"
        assert fate("drop src 9.9.9.9", outer) == "DROP"
    assert fate("drop ip proto 4", ipip) == "DROP"
    assert fate("drop udp dst port 4789", vxlan) == "DROP"


def test_of_ipsec_the_protocol_and_addresses_are_seen():
    esp = ipv4("9.9.9.9", 50, bytes(40))
    assert fate("drop esp", esp) == "DROP"
    assert fate("drop tcp\ndrop udp", esp) == "PASS"


def test_a_later_fragment_has_addresses_and_no_ports():
    later = ipv4("9.9.9.9", 17, bytes(24), fragment=185)
    assert fate("drop udp dst port 9", later) == "PASS"
    assert fate("drop not port 9\ndefault pass", later) == "DROP"
    assert fate("drop udp and src 9.9.9.9", later) == "DROP"


@in_the_kernel
@needs_root
def test_jumbo_frames_in_several_buffers_are_judged_by_their_headers(lab, tmp_path):
    two = lab(mtu=9000)
    assert reaches(two, "a", two.address("b"), 8000)
    path = tmp_path / "x.pcapng"
    with firewall(two, "log udp dst port 9\ndrop udp dst port 9", log=path) as wall:
        send(two, "a", two.address("b"), 9, text=bytes(8000))
        assert counted(wall, 1) == 5
        assert reaches(two, "a", two.address("b"), 8000)
    assert len(load_capture(path)) == 5
