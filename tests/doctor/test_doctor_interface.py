"""What the doctor says of an interface: looked at in labs, and left as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import raceway
from labs import lab as lab, needs, needs_root
from raceway.apps.doctor.counters import Counters
from raceway.apps.doctor.device import device_findings, interfaces_in_short
from raceway.apps.doctor.doctor import examine
from raceway.apps.doctor.findings import Finding, State
from raceway.apps.doctor.trial import trial_findings
from raceway.kernel.bpf.assembler import R0, Assembler
from raceway.kernel.bpf.links import Link, attach_tcx, attach_xdp
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import ProgramKind, TcxAction, XdpAction
from raceway.kernel.interface import LinkWatch, Network
from raceway.kernel.xdp_sockets import parse, xdp_sockets

pytestmark = needs_root
RACEWAY = [sys.executable, "-c", "from raceway.faces.cli import main; main()"]
FRAME = (
    b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(46)
)  # to all, of the local experimental EtherType


@pytest.fixture
def near(lab: Any) -> Iterator[Any]:
    """A lab of two hosts, `a` and `b`."""
    return lab()


def found(place: Any, host: str = "a") -> dict[str, Finding]:
    """What is said of the host's interface, by subject."""
    with place.inside(host), Network() as network:
        return {each.subject: each for each in device_findings(network, place.interface(host))}


def switch(place: Any, host: str, **offloads: bool) -> None:
    """Switch offloads by the kernel's names, with _ for -."""
    with place.inside(host), Network() as network:
        network.set_features(
            place.interface(host), {key.replace("_", "-"): on for key, on in offloads.items()}
        )


def ip(place: Any, host: str, *words: str) -> None:
    place.run(host, ["ip", *words], check=True)


@contextmanager
def attached(place: Any, host: str, verdict: int = XdpAction.PASS) -> Iterator[Link]:
    code = Assembler().mov(R0, verdict).exit().assemble()
    with place.inside(host), Program(ProgramKind.XDP, code, name="test") as program:
        link = attach_xdp(program, place.index(host), "driver")
    with link:
        yield link


def send(place: Any, host: str, count: int) -> None:
    """Put frames onto the host's link."""
    code = (
        "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((sys.argv[1], 0))\n"
        f"for _ in range({count}): s.send({FRAME!r})"
    )
    place.run(host, [sys.executable, "-c", code, place.interface(host)], check=True)


# -- looked at, not touched ------------------------------------------------------------------------------------


def test_an_examination_changes_nothing_about_the_interface(near: Any) -> None:
    name = near.interface("a")
    with near.inside("a"), Network() as network, LinkWatch() as watch:
        before = (network.interface(name), network.features(name), network.xdp_attached(name))
        watch.changed()
        diagnosis = examine(name)
        assert not watch.changed()
        assert (network.interface(name), network.features(name), network.xdp_attached(name)) == before
    assert {finding.area for finding in diagnosis.findings} == {
        "kernel", "machine", "interface", "trial", "counters",
    }  # fmt: skip
    for finding in diagnosis.findings:
        assert finding.state == State.OK or finding.remedy, finding
    (trial,) = (finding for finding in diagnosis.findings if finding.area == "trial")
    assert trial.what.startswith("not tried")
    assert trial.remedy == f"sudo raceway doctor {name} --try"


def test_without_an_interface_those_of_the_namespace_are_listed(near: Any) -> None:
    with near.inside("a"), Network() as network:
        (short,) = interfaces_in_short(network)
    assert short.subject == near.interface("a")
    assert short.what.startswith("veth, 1 rx and 1 tx queues; copy: XDP in the driver, no zero-copy")


def test_what_a_veth_is_and_can_is_said(near: Any) -> None:
    said = found(near)
    assert said["link"].what == f"up, {near.mac('a')}"
    assert said["driver"].what == "veth"
    assert said["queues"].what == "1 rx, 1 tx, a ring pair each"
    assert said["XDP mode"].what.startswith("copy: XDP in the driver, no zero-copy")
    assert said["promiscuous"].state == State.OK
    assert "interrupts" not in said


@needs("ip")
def test_an_interface_that_is_down_and_one_whose_other_end_is_are_told_apart(near: Any) -> None:
    ip(near, "b", "link", "set", near.interface("b"), "down")
    assert found(near)["link"].what == "up, without a carrier: the other end is down"
    down = found(near, "b")["link"]
    assert (down.state, down.what) == (State.WARN, "down")
    assert down.remedy == f"sudo ip link set {near.interface('b')} up"


@pytest.mark.parametrize(
    ("mtu", "state", "words"),
    [
        (1500, State.OK, "frames of up to 1,518 bytes fit a buffer's 1,792"),
        (1774, State.OK, "frames of up to 1,792 bytes fit"),
        (1775, State.NOTE, "take 2 slots"),
        (9000, State.NOTE, "frames of up to 9,018 bytes take 6 slots"),
    ],
)
def test_the_mtu_is_held_against_the_buffers(lab: Any, mtu: int, state: State, words: str) -> None:
    said = found(lab(mtu=mtu))["MTU and buffers"]
    assert said.state == state
    assert words in said.what


def test_offloads_are_named_with_what_switches_them_off(near: Any) -> None:
    name = near.interface("a")
    switch(near, "a", rx_gro=True)
    said = found(near)
    assert said["offload gro"].remedy == f"sudo ethtool -K {name} gro off"
    assert said["offload tso"].remedy == f"sudo ethtool -K {name} tso off gso off"
    assert "offload tx of the sender" in said
    switch(
        near,
        "a",
        rx_gro=False,
        tx_checksum_ip_generic=False,
        tx_generic_segmentation=False,
        rx_checksum=False,
    )
    said = found(near)
    assert not {"offload gro", "offload tso", "offload tx of the sender"} & set(said)


@needs("ip")
def test_the_senders_offloads_are_asked_of_the_other_end_where_it_can_be_seen(near: Any) -> None:
    with near.inside("a"), Network() as network:
        ip(near, "a", "link", "add", "left", "type", "veth", "peer", "name", "right")
        subjects = {each.subject: each for each in device_findings(network, "left")}
        assert subjects["offload tx of the sender"].remedy == "at the sender: sudo ethtool -K right tx off"
        network.set_features("right", {"tx-checksum-ip-generic": False})
        subjects = {each.subject: each for each in device_findings(network, "left")}
        assert "offload tx of the sender" not in subjects


@needs("ip")
def test_an_other_end_with_more_queues_than_there_are_here_is_warned_of(near: Any) -> None:
    with near.inside("a"), Network() as network:
        ip(near, "a", "link", "add", "left", "numrxqueues", "1", "numtxqueues", "1", "type", "veth",
           "peer", "name", "right", "numrxqueues", "4", "numtxqueues", "4")  # fmt: skip
        subjects = {each.subject: each for each in device_findings(network, "left")}
        asked = network.interface("right").transmit_queues
    if asked == 1:
        pytest.skip("this kernel starts a veth with one queue")
    assert (
        subjects["queues of the other end"].what
        == f"right has {asked} tx queues for the 1 rx queues here: no XDP"
    )
    assert subjects["queues of the other end"].remedy == "sudo ethtool -L right tx 1"


def test_several_queues_of_a_veth_are_filled_as_the_sender_says(lab: Any) -> None:
    assert "by the sender's queue" in found(lab(queues=2))["spreading (RSS)"].what


def test_programs_that_are_there_already_are_warned_of(near: Any) -> None:
    code = Assembler().mov(R0, TcxAction.PASS).exit().assemble()
    with attached(near, "a") as link:
        with near.inside("a"), Program(ProgramKind.SCHED_CLS, code, name="test") as program:
            tcx = attach_tcx(program, near.index("a"), "egress")
        with tcx:
            said = found(near)
            assert f"program {link.info().program} is attached in driver mode" in said["XDP program"].what
            assert said["XDP program"].state == State.WARN
            assert "sees what goes out" in said["tcx egress"].what
    assert not {"XDP program", "tcx egress"} & set(found(near))


# -- tried -----------------------------------------------------------------------------------------------------


def tried(place: Any) -> dict[str, Finding]:
    with place.inside("a"), Network() as network:
        return {each.subject: each for each in trial_findings(network.interface(place.interface("a")))}


def test_a_trial_attaches_and_binds_and_leaves_nothing(near: Any) -> None:
    said = tried(near)
    assert (said["XDP"].state, said["XDP"].what) == (State.OK, "attached in the driver, and off again")
    assert said["AF_XDP"].state == State.OK
    assert said["AF_XDP"].what.startswith("copy on queue 0")
    with near.inside("a"), Network() as network:
        assert network.xdp_attached(near.interface("a")) == ()


def test_a_trial_does_not_take_a_program_off_that_is_there(near: Any) -> None:
    with attached(near, "a") as link:
        said = tried(near)
        assert said["XDP"].state == State.WARN
        assert "there is an XDP program already" in said["XDP"].what
        assert link.attached


@needs("ip")
def test_an_interface_that_is_down_is_not_tried(near: Any) -> None:
    ip(near, "a", "link", "set", near.interface("a"), "down")
    (said,) = tried(near).values()
    assert said.what == "not tried: the interface is down"


# -- counters, stage by stage ----------------------------------------------------------------------------------


def counted(place: Any, act: Callable[[], None], host: str = "a") -> dict[str, list[Finding]]:
    """What the counters say after an act, by stage."""
    said: dict[str, list[Finding]] = {}
    with place.inside(host), Network() as network:
        counters = Counters(network, place.interface(host))
        act()
        for finding in counters.findings():
            said.setdefault(finding.subject, []).append(finding)
    return said


def test_without_new_losses_no_stage_is_warned_of(near: Any) -> None:
    said = counted(near, lambda: None)
    assert list(said) == ["NIC", "XDP", "backlog", "socket", "ring"]
    # The machine's backlog is everyone's. Old losses may be there: what is sent before the other end is up is dropped.
    del said["backlog"]
    assert State.WARN not in {each.state for stage in said.values() for each in stage}
    assert [each.what for each in said["socket"] + said["ring"] if each.state != State.OK] == []


def test_what_an_xdp_program_drops_is_seen_growing(lab: Any) -> None:
    # Without IPv6, which looks for neighbours whenever it likes.
    near = lab(ipv6=False)
    with attached(near, "a", XdpAction.DROP):
        (xdp,) = counted(near, lambda: send(near, "b", 25))["XDP"]
        assert xdp.state == State.WARN
        assert "xdp_drops 25" in xdp.what
        assert xdp.what.endswith("growing: xdp_drops")
        assert xdp.remedy
        (xdp,) = counted(near, lambda: None)["XDP"]
        # An old loss is worth knowing, no alarm.
        assert xdp.state == State.NOTE
        assert "growing" not in xdp.what


def test_a_program_that_reads_nothing_is_found_at_every_stage(near: Any) -> None:
    with near.inside("a"):
        port = raceway.open(f"netmap:{near.interface('a')}@conf:slots=64")
    with port:
        send(near, "b", 300)
        said = counted(near, lambda: port.refresh_card(now=True))
        lost = port.drops()["no_buffer"]
        assert lost > 0
        assert any(f"rx_fill_ring_empty_descs {lost}" in each.what for each in said["socket"])
        assert any(f"pid {os.getpid()}" in each.what for each in said["socket"])
        (ring,) = said["ring"]
        assert (ring.state, ring.what.endswith(f"drops no_buffer {lost}")) == (State.NOTE, True)
        (program,) = said["program"]
        assert program.state == State.OK
        # What has come is fetched, and not read: now it is the program's fault.
        port.rxsync()
        (program,) = counted(near, lambda: None)["program"]
        assert program.state == State.WARN
        assert "has read nothing of 1 full receive ring" in program.what


def test_sockets_of_other_processes_are_counted_too(near: Any) -> None:
    holder = Path(__file__).parents[1] / "apps" / "port_holder.py"
    command = [sys.executable, str(holder), f"netmap:{near.interface('a')}@conf:slots=64"]
    process = near.popen("a", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        send(near, "b", 300)
        done = near.run(
            "a",
            [*RACEWAY, "doctor", near.interface("a"), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        process.communicate("", timeout=60)
    findings = json.loads(done.stdout.splitlines()[-1])["findings"]
    sockets = [each["what"] for each in findings if each["subject"] == "socket"]
    assert any(f"pid {process.pid}" in what and "rx_fill_ring_empty_descs" in what for what in sockets), (
        sockets
    )


# -- what the kernel says of AF_XDP sockets --------------------------------------------------------------------


def test_an_answer_of_sock_diag_is_read_by_its_fields() -> None:
    import struct

    def attribute(kind: int, payload: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(payload), kind) + payload

    message = struct.pack("=BBHI2I", 44, 3, 0, 4711, 0, 0)
    message += attribute(1, struct.pack("=II", 7, 3))
    message += attribute(5, struct.pack("=QIIIIIIII", 1 << 20, 1, 256, 4096, 0, 7, 3, 1, 1))
    message += attribute(9, struct.pack("=6Q", 1, 2, 3, 4, 5, 6))
    found = parse(message)
    assert found is not None
    assert (found.inode, found.index, found.queue, found.zero_copy) == (4711, 7, 3, True)
    assert found.statistics == {
        "rx_dropped": 1, "rx_invalid_descs": 2, "rx_ring_full": 3, "rx_fill_ring_empty_descs": 4,
        "tx_invalid_descs": 5, "tx_ring_empty_descs": 6,
    }  # fmt: skip
    assert parse(b"") is None
    assert parse(b"\x02" + message[1:]) is None
    short = parse(message[:16])
    assert short is not None
    assert (short.queue, short.statistics) == (-1, {})


def test_descriptors_that_are_no_sockets_are_passed_over() -> None:
    from raceway.kernel.processes import OpenFile, Process

    files = [OpenFile(Process(os.getpid()), 0, "socket:[1]"), OpenFile(Process(os.getpid()), 1, "pipe:[1]")]
    sockets, _ = xdp_sockets(files)
    assert not [each for each in sockets if each.process == Process(os.getpid())]
