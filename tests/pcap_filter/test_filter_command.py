"""`raceway filter` from the outside."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

import raceway
from conftest import own_captures
from filter_cases import CASES, DATA, kernel_refusal
from raceway.apps.filter.run import FilterRun
from raceway.memory.jit import INTERPRETED
from raceway.ports.pcap.blocks import build_interface, build_section
from raceway.ports.pcap.reader import CaptureReader
from raceway.ports.pcap.writer import CaptureWriter

RACEWAY = [sys.executable, "-c", "from raceway.faces.cli import main; main()"]
DEMO = own_captures()[-1]


def call(*arguments, status=0, **options):
    result = subprocess.run([*RACEWAY, *map(str, arguments)], capture_output=True, timeout=100, **options)
    assert result.returncode == status, result.stderr.decode()
    return result


def write(path, packets, link_types):
    """A pcapng file with packets of several link types, a second apart."""
    numbers = {link_type: number for number, link_type in enumerate(dict.fromkeys(link_types))}
    data = build_section("a test") + b"".join(build_interface(one, 0, exponent=9) for one in numbers)
    for index, (packet, link_type) in enumerate(zip(packets, link_types, strict=True)):
        time = (1_700_000_000 + index) * 10**9
        size = len(packet)
        body = struct.pack("<IIIII", numbers[link_type], time >> 32, time & 0xFFFFFFFF, size, size)
        body += packet + bytes(-size % 4)
        data += struct.pack("<II", 6, len(body) + 12) + body + struct.pack("<I", len(body) + 12)
    path.write_bytes(data)


@pytest.mark.parametrize("target", ["native", "interpreted", "libpcap", "kernel"])
def test_each_prints_the_bytes_accepted_of_each_packet(target):
    if target == "kernel" and kernel_refusal():
        pytest.skip(kernel_refusal())
    case = next(one for one in CASES["apply"] if one["name"] == "ip_host")
    result = call(
        "filter", "-r", DATA / case["savefile"], "--target", target, "--each", "--json", case["expr"]
    )
    assert json.loads(result.stdout.splitlines()[-1]) == {"results": case["results"]}
    plain = call("filter", "-r", DATA / case["savefile"], "--target", target, "--each", *case["expr"].split())
    assert [int(line) for line in plain.stdout.split()] == case["results"]


def test_an_expression_that_libpcap_refuses_is_status_2_and_its_reason(tmp_path):
    out = tmp_path / "out.pcapng"
    result = call("filter", "-r", DEMO, "-w", out, "tcp prot 80", status=2)
    assert b"syntax error" in result.stderr
    assert not out.exists()
    assert b"expected one of native" in call("filter", "-r", DEMO, "--target", "fast", "tcp", status=2).stderr


@pytest.mark.parametrize("name", ["out.pcapng", "out.pcap"])
def test_what_is_accepted_is_written_whole_with_its_time(name, tmp_path):
    out = tmp_path / name
    result = call("filter", "-r", DEMO, "-w", out, "--json", "tcp port 80 and net 192.0.2.0/24")
    report = json.loads(result.stdout.splitlines()[-1])
    everything, got = raceway.load_capture(DEMO), raceway.load_capture(out)
    wanted = raceway.expression("tcp port 80 and net 192.0.2.0/24")
    kept = np.array([bool(wanted(packet)) for packet in everything])
    assert list(got) == [packet for packet, keep in zip(everything, kept, strict=True) if keep]
    assert (got.timestamps == everything.timestamps[kept]).all()
    assert (got.wire_lengths == everything.wire_lengths[kept]).all()
    assert report["accepted"] == kept.sum()
    assert report["packets"] == report["accepted"] + report["drops"]["filter"] == len(everything)


def test_it_reads_standard_input_and_writes_standard_output(tmp_path):
    data = gzip.decompress(DEMO.read_bytes())
    result = call("filter", "-r", "-", "-w", "-", "udp port 53", input=data)
    out = tmp_path / "out.pcapng"
    out.write_bytes(result.stdout)
    wanted = raceway.expression("udp port 53")
    assert list(raceway.load_capture(out)) == [one for one in raceway.load_capture(DEMO) if wanted(one)]
    assert b"accepted" not in result.stdout
    assert b"packets" in result.stderr
    assert (
        b"leave out --json" in call("filter", "-r", "-", "-w", "-", "--json", "", status=2, input=data).stderr
    )


def test_a_file_with_several_link_types_is_judged_by_each_packets_own(tmp_path):
    whole = next(one for one in raceway.load_capture(DEMO) if raceway.expression("ip and tcp")(one))
    packets = [whole, whole[14:], whole, whole[14:], whole[14:], whole]
    kinds = [1, 101, 101, 1, 101, 1]
    path, out = tmp_path / "mixed.pcapng", tmp_path / "out.pcapng"
    write(path, packets, kinds)
    found = []
    with CaptureReader(path) as reader, CaptureWriter(out) as writer:
        run = FilterRun(reader, "ip and tcp", "interpreted" if INTERPRETED else "native")
        while (accepted := run.step(writer)) is not None:
            found += [bool(one) for one in accepted]
    assert found == [True, True, False, False, True, True]
    got = raceway.load_capture(out)
    assert list(got) == [packets[0], packets[1], packets[4], packets[5]]
    assert got.link_types.tolist() == [1, 101, 101, 1]


@pytest.mark.parametrize("path", own_captures(), ids=lambda path: path.name)
def test_every_capture_goes_through_whole_if_everything_is_accepted(path, tmp_path):
    out = tmp_path / "out.pcapng"
    with CaptureReader(path, window=1000) as reader, CaptureWriter(out, window=1) as writer:
        run = FilterRun(reader, "", "interpreted" if INTERPRETED else "native")
        while run.step(writer) is not None:
            pass
    everything, got = raceway.load_capture(path), raceway.load_capture(out)
    assert list(got) == list(everything)
    assert (got.timestamps == everything.timestamps).all()
    assert (got.link_types == everything.link_types).all()


def test_a_malformed_file_is_filtered_up_to_the_defect_and_told(tmp_path):
    whole = gzip.decompress(DEMO.read_bytes())
    path, out = tmp_path / "cut.pcapng", tmp_path / "out.pcapng"
    path.write_bytes(whole[: len(whole) // 2 + 1])
    result = call("filter", "-r", path, "-w", out, "tcp", status=2)
    assert b"cut.pcapng: byte" in result.stderr
    wanted = raceway.expression("tcp")
    kept = list(raceway.load_capture(out))
    assert kept
    assert kept == [one for one in raceway.load_capture(DEMO) if wanted(one)][: len(kept)]


def test_the_file_that_is_read_is_not_overwritten(tmp_path):
    path = tmp_path / "same.pcapng"
    path.write_bytes(gzip.decompress(DEMO.read_bytes()))
    size = path.stat().st_size
    assert b"is the file that is read" in call("filter", "-r", path, "-w", path, "tcp", status=2).stderr
    assert path.stat().st_size == size
    missing = call("filter", "-r", tmp_path / "no.pcap", "tcp", status=1)
    assert b"no.pcap" in missing.stderr
    assert os.path.exists(path)


def test_dump_prints_records_and_counts_what_an_expression_accepts(tmp_path):
    wanted = raceway.expression("udp port 53")
    expected = [one for one in raceway.load_capture(DEMO) if wanted(one)]
    lines = call("dump", f"pcap:{DEMO}", "-c", "5", "udp", "port", "53").stdout.decode().splitlines()
    assert len(lines) == 5
    assert all(" udp" in line for line in lines)
    out = tmp_path / "out.pcapng"
    result = call("dump", f"pcap:{DEMO}", "-w", out, "--json", "udp port 53")
    report = json.loads(result.stdout.splitlines()[-1])
    assert list(raceway.load_capture(out)) == expected
    assert report["packets"] == report["accepted"] + report["drops"]["filter"]
    call("dump", f"pcap:{DEMO}", "-w", out, "-c", "7", "udp port 53")
    assert list(raceway.load_capture(out)) == expected[:7]
    assert b"syntax error" in call("dump", f"pcap:{DEMO}", "-w", out, "udp prot 53", status=2).stderr


def test_bridge_and_replay_pass_on_what_an_expression_accepts(tmp_path):
    wanted = raceway.expression("udp port 53")
    expected = [one for one in raceway.load_capture(DEMO) if wanted(one)]
    out = tmp_path / "out.pcapng"
    call("bridge", "-i", f"pcap:{DEMO}", "-i", f"pcap:{out}", "--filter", "udp port 53")
    assert list(raceway.load_capture(out)) == expected
    result = call("replay", DEMO, "null:", "--top", "--filter", "udp port 53", "--json")
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["packets"] - report["drops"]["function"] == len(expected)
    both = call("bridge", "-i", "null:", "-i", "null:", "--filter", "udp", "--through", "x.py:f", status=2)
    assert b"raceway.expression" in both.stderr


def as_pcap(capture, *, order, nanosecond):
    """A capture as a pcap file of a byte order and a resolution; the records, each with its header, beside it."""
    magic = 0xA1B23C4D if nanosecond else 0xA1B2C3D4
    unit = 1 if nanosecond else 1000
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, 1)
    rows = zip(capture, capture.timestamps.tolist(), capture.wire_lengths.tolist(), strict=True)
    records = [
        struct.pack(f"{order}IIII", time // 10**9, time % 10**9 // unit, len(packet), wire) + packet
        for packet, time, wire in rows
    ]
    return head, records


@pytest.mark.parametrize("nanosecond", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_to_pcap_keeps_every_record_and_the_clock(order, nanosecond, tmp_path):
    """Also over many windows of both files, and where some of the file is read at a time and less is written."""
    capture = raceway.load_capture(DEMO)
    head, records = as_pcap(capture, order=order, nanosecond=nanosecond)
    wanted = raceway.expression("tcp port 80 and net 192.0.2.0/24")
    kept = [bool(wanted(packet)) for packet in capture]
    times = 1 if INTERPRETED else 3
    path, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    path.write_bytes(head + b"".join(records) * times)
    expected_head, expected = as_pcap(capture, order="<", nanosecond=nanosecond)
    whole = expected_head + b"".join(one for one, keep in zip(expected, kept, strict=True) if keep) * times
    target = "interpreted" if INTERPRETED else "native"
    for window, background in ((5000, False), (1 << 20, True)):
        with CaptureReader(path, window=window) as reader:
            assert reader.nanosecond == nanosecond
            with CaptureWriter(out, nanosecond=nanosecond, window=window, background=background) as writer:
                run = FilterRun(reader, "tcp port 80 and net 192.0.2.0/24", target)
                run.run(writer)
        assert run.packets == times * len(records)
        assert run.accepted == writer.packets == times * sum(kept)
        assert out.read_bytes() == whole


def test_the_whole_run_and_single_steps_say_the_same(tmp_path):
    target = "interpreted" if INTERPRETED else "native"
    outputs = []
    for step in (True, False):
        out = tmp_path / f"{step}.pcapng"
        with CaptureReader(DEMO, window=3000) as reader, CaptureWriter(out, window=1) as writer:
            run = FilterRun(reader, "udp", target)
            if step:
                rows = []
                while (accepted := run.step(writer)) is not None:
                    rows += accepted.tolist()
                assert len(rows) == run.packets
                assert sum(map(bool, rows)) == run.accepted
            else:
                run.run(writer)
        outputs.append((run.packets, run.bytes, run.accepted, out.read_bytes()))
    assert outputs[0] == outputs[1]


def test_a_full_disk_is_told_once_and_ends_the_run():
    result = call("filter", "-r", DEMO, "-w", "/dev/full", "tcp", status=1)
    assert b"/dev/full: No space left on device" in result.stderr
    assert result.stderr.count(b"No space") == 1


def test_a_netmask_lets_broadcasts_be_asked_for():
    case = next(one for one in CASES["apply"] if one["name"] == "ip_host")
    asked = ("filter", "-r", DATA / case["savefile"], "--each", "--json")
    assert b"netmask not known" in call(*asked, "ip broadcast", status=2).stderr
    found = json.loads(call(*asked, "--netmask", "255.255.255.0", "ip broadcast").stdout.splitlines()[-1])
    plain = json.loads(call(*asked, "ip[16:4] & 0xff = 0xff or ip[16:4] & 0xff = 0").stdout.splitlines()[-1])
    assert found == plain
    assert b"expected four numbers" in call(*asked, "--netmask", "24", "ip broadcast", status=2).stderr


def test_pkt_gen_counts_what_an_expression_accepts():
    """Jumbo frames take several slots, and are judged by their first."""
    jumbo = next(path for path in own_captures() if path.name == "jumbo.pcap")
    for path, text in (
        (DEMO, "udp port 53"),
        (DEMO, "not tcp"),
        (jumbo, "udp and greater 3000"),
        (jumbo, "arp"),
    ):
        capture = raceway.load_capture(path)
        wanted = raceway.expression(text)
        kept = [one for one in capture if wanted(one)]
        words = ("pkt-gen", "-f", "rx", "-i", f"pcap:{path}", "-T", "0", "--json", "--filter", text)
        report = json.loads(call(*words).stdout.splitlines()[-1])
        assert report["packets"] == len(kept)
        assert report["bytes"] == sum(map(len, kept))
        assert report["packets"] + report["drops"].get("filter", 0) == len(capture)
    limited = call(
        "pkt-gen", "-f", "rx", "-i", f"pcap:{DEMO}", "-n", "7", "--json", "--filter", "udp port 53"
    )
    assert json.loads(limited.stdout.splitlines()[-1])["packets"] == 7
    for wrong in (("-f", "tx"), ("-f", "rx", "-X")):
        refused = call("pkt-gen", *wrong, "-i", "null:", "--filter", "tcp", status=2)
        assert b"only -f rx counts by an expression" in refused.stderr
    assert b"syntax error" in call("pkt-gen", "-i", "null:", "--filter", "tcp prot 80", status=2).stderr
