"""libpcap's own cases, on every target."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from filter_cases import CASES, DATA, Targets, kernel_refusal
from raceway import ExpressionError
from raceway.apps.filter.run import FilterRun
from raceway.compile.pcap_filter import interpreter
from raceway.compile.pcap_filter.libpcap import compile_expression
from raceway.memory.jit import INTERPRETED
from raceway.ports.pcap.reader import CaptureReader

NAMED = ".libpcap.test"
"""Names in the suite's expressions: defined in a mount namespace of their own, below."""

OF_THE_SUITES_PROGRAM = {"_enumerate_bpf_image"}
"""Not an expression: it asks libpcap's test program for something else."""
TARGETS = ["interpreted", "native", "libpcap", "kernel"]


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def results(case, target):
    with CaptureReader(DATA / case["savefile"]) as reader:
        run = FilterRun(reader, case["expr"], target)
        found = []
        while (accepted := run.step()) is not None:
            found += accepted.tolist()
    return found


@pytest.mark.parametrize("target", TARGETS)
@by_name([case for case in CASES["apply"] if NAMED not in case["expr"]])
def test_bytes_accepted_of_each_packet(case, target):
    if target == "native" and INTERPRETED:
        pytest.skip("about machine code")
    if target == "kernel" and kernel_refusal():
        pytest.skip(kernel_refusal())
    assert results(case, target) == case["results"]


@by_name(CASES["accept"])
def test_expressions_to_accept(case):
    for text in case["aliases"]:
        if NAMED not in text.lower() and text not in OF_THE_SUITES_PROGRAM:
            assert len(compile_expression(text)) >= 1


@by_name(CASES["reject"])
def test_expressions_to_refuse(case):
    with pytest.raises(ExpressionError) as refused:
        compile_expression(case["expr"])
    assert str(refused.value).strip()


@pytest.mark.parametrize(
    ("text", "link_type", "reason"),
    [
        ("vxlan and geneve", 1, "in one expression"),
        ("vxlan and port 6081", 1, "in one expression"),
        ("vxlan 16777216 and tcp", 1, "VXLAN VNI 16777216 greater than maximum"),
        ("vxlan and protochain 4", 1, "not supported with variable length headers"),
        ("vxlan and gateway localhost", 1, "cannot be used within VXLAN"),
        ("vxlan 16777216", 1, "VXLAN VNI 16777216 greater than maximum"),
        ("gateway 10.0.0.1", 1, "requires a name"),
        ("ip proto 256", 1, "protocol number 256"),
        ("ip6 protochain 300", 1, "protocol number 300"),
        ("ether proto 65536", 1, "EtherType 65536"),
        ("decnet src 64.1", 1, "invalid DECnet address '64.1'"),
        ("decnet net 1.2.3.0/24", 1, "not a valid qualifier for 'net'"),
        ("link proto 5", 165, "not supported for BACnet"),
        ("ether[ip[0]] = 1", 284, "computed offset"),
        ("geneve", 281, "Geneve"),
    ],
)
def test_what_is_said_for_a_newer_libpcap_refuses_what_it_cannot_say(text, link_type, reason):
    with pytest.raises(ExpressionError, match=reason):
        compile_expression(text, link_type)


def test_what_comes_after_vxlan_is_about_the_packet_inside():
    inside = (
        bytes(12)
        + bytes.fromhex("0800 45 00 0028 0001 0000 40 06 0000 0a000001 0a000002 0050 1234")
        + bytes(16)
    )
    for outer in (
        "0800 46 00 0100 0001 0000 40 11 0000 c0000201 c0000202 01010100",
        "86dd 60000000 0100 11 40" + "20010db8" + "00" * 12 + "20010db8" + "00" * 12,
    ):
        packet = (
            bytes(12) + bytes.fromhex(outer) + bytes.fromhex("c000 12b5 0100 0000 08000000 00007b00") + inside
        )
        for text, held in (
            ("vxlan and tcp port 80", True),
            ("vxlan 123 and host 10.0.0.2 and tcp src port 80", True),
            ("vxlan and (udp or arp)", False),
            ("vxlan 124 and tcp", False),
            ("vxlan and vxlan", False),
            ("vxlan and ip[8] = 64 and ether[12:2] = 0x800", True),
        ):
            with Targets(compile_expression(text)) as targets:
                assert targets.check([packet]) == [262144 if held else 0], text
        flags = packet.replace(bytes.fromhex("08000000 00007b00"), bytes.fromhex("0c000000 00007b00"))
        with Targets(compile_expression("vxlan and tcp")) as targets:
            assert targets.check([flags, packet[:-40], packet[:60]]) == [0, 0, 0]


def test_types_of_isis_are_five_bits_where_they_stand():
    """Behind Cisco HDLC libpcap 1.10 looks a byte too early; the bits above the type are reserved."""
    body = bytes.fromhex("83 1b 01 00") + b"\xf8" + bytes(20)
    ethernet = bytes(12) + bytes.fromhex("0020 fefe 03") + body
    cisco = bytes.fromhex("0f00 fefe 03") + body
    for packet, link_type in ((ethernet, 1), (cisco, 104)):
        for text, held in (
            ("csnp", True),
            ("csnp or ip6 proto 6 or arp", True),
            ("psnp", False),
            ("lsp", False),
        ):
            program = compile_expression(text, link_type)
            assert bool(interpreter.run(program, packet, len(packet))) == held, text
            with_its_optimiser = compile_expression(text, link_type, optimise=False)
            assert bool(interpreter.run(with_its_optimiser, packet, len(packet))) == held, text
    next_header = bytes(12) + bytes.fromhex("86dd 60000000 0014 06 40") + bytes(52)
    assert interpreter.run(compile_expression("csnp or ip6 proto 6"), next_header, len(next_header))


def test_a_direction_byte_that_says_neither_is_neither():
    for byte, held in ((0, "inbound"), (1, "outbound"), (2, "")):
        packet = bytes([byte]) + bytes(40)
        for text in ("inbound", "outbound"):
            assert bool(interpreter.run(compile_expression(text, 8), packet, 41)) == (text == held)


def test_offsets_behind_a_switch_tag_are_the_users_own_if_he_gives_them():
    """`ether[12]` is the tag itself, `ip` is looked for behind it."""
    tagged = bytes(12) + bytes.fromhex("40080000 0800 45") + bytes(40)
    reject = bytes(12) + bytes.fromhex("00080000 0800 45") + bytes(40)
    for text in ("ether[12] = 0x40 and ip", "link[12:2] = 0x4008", "outbound and ip"):
        program = compile_expression(text, 284)
        assert interpreter.run(program, tagged, len(tagged))
        assert not interpreter.run(program, reject, len(reject))


# Names: hosts with and without Ethernet, IPv4 and IPv6 addresses, as the suite's expressions tell them apart. The first
# is the gateway of gateway_or_not.pcap.
HOSTS = {
    "eth-ipv4-ipv6.host123": ("aa:00:04:00:14:0e", ["10.20.30.40"], ["fd00:a1b2:c3d4::10"]),
    "eth-ipv4-noipv6.host123": ("ab:cd:ef:00:00:01", ["10.20.30.41"], []),
    "eth-noipv4-ipv6.host123": ("ab:cd:ef:00:00:03", [], ["fd00:a1b2:c3d4::11"]),
    "eth-noipv4-noipv6.host123": ("ab:cd:ef:00:00:02", [], []),
    "noeth-ipv4-ipv6.host123": ("", ["10.20.30.42"], ["fd00:a1b2:c3d4::12"]),
    "noeth-ipv4-noipv6.host123": ("", ["10.20.30.43"], []),
    "noeth-noipv4-ipv6.host123": ("", [], ["fd00:a1b2:c3d4::13"]),
    "eth-ipv4x4-noipv6.host357": ("ab:cd:ef:00:01:01", [f"10.20.31.{n}" for n in range(1, 5)], []),
    "eth-noipv4-ipv6x2.host357": ("ab:cd:ef:00:01:02", [], ["fd00::1:1", "fd00::1:2"]),
    "eth-ipv4x4-ipv6x2.host357": (
        "ab:cd:ef:00:01:03",
        [f"10.20.32.{n}" for n in range(1, 5)],
        ["fd00::2:1", "fd00::2:2"],
    ),
}


def named_world(folder):
    """Files of names for a mount namespace; the command that runs a program in it."""
    suffix = ".libpcap.test"
    hosts = ["127.0.0.1 localhost"]
    ethers = []
    for name, (ethernet, fours, sixes) in HOSTS.items():
        # As written and in capitals: what looks names of Ethernet addresses up takes them as they are.
        hosts += [f"{address} {name}{suffix}" for address in (*fours, *sixes)]
        ethers += [f"{ethernet} {one}" for one in (f"{name}{suffix}", f"{name}{suffix}".upper()) if ethernet]
    files = {
        "/etc/hosts": hosts, "/etc/ethers": ethers, "/etc/networks": [f"net-10-20-0-0{suffix} 10.20.0.0"],
        "/etc/nsswitch.conf": [f"{one}: files" for one in ("hosts", "networks", "ethers", "services", "protocols")],
    }  # fmt: skip
    steps = ["set -e", "mount -t tmpfs none /mnt", "mkdir /mnt/etc", "cp -a /etc/. /mnt/etc/"]
    for place, lines in files.items():
        source = folder / place.rpartition("/")[2]
        source.write_text("\n".join(lines) + "\n")
        steps.append(f"cp {source} /mnt{place}")
    steps += ["mount --bind /mnt/etc /etc", 'exec "$@"']
    return ["unshare", "--mount", "sh", "-c", "\n".join(steps), "sh"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace")
def test_names_of_hosts_and_networks(tmp_path):
    """Every case with a name, where the names are defined: what is to be accepted is, gateways are told from hosts."""
    inside = [*named_world(tmp_path), sys.executable, os.path.abspath(__file__)]
    result = subprocess.run(inside, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr[-3000:]
    named = [text for case in CASES["accept"] for text in case["aliases"] if NAMED in text.lower()]
    assert result.stdout.split() == ["accepted", str(len(named)), "applied", "3"]
    assert named


def _inside_the_named_world():
    accepted = 0
    for case in CASES["accept"]:
        for text in case["aliases"]:
            if NAMED in text.lower():
                compile_expression(text)
                accepted += 1
    applied = 0
    for case in CASES["apply"]:
        if NAMED in case["expr"]:
            for target in ("interpreted", "libpcap", *(() if INTERPRETED else ("native",))):
                assert results(case, target) == case["results"], case["name"]
            applied += 1
    print("accepted", accepted, "applied", applied)


if __name__ == "__main__":
    _inside_the_named_world()
