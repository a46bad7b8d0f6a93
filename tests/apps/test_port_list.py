"""`raceway ports`: what is open, by whom, seen from another process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raceway
from labs import lab as lab, needs_root
from raceway.apps.port_list.listing import Listing, look
from raceway.apps.port_list.ports import OpenPort, interface_of
from raceway.apps.port_list.show import plain_lines, show
from raceway.memory.directory import REGION_NAME
from raceway.memory.identity import network_namespace

HOLDER = Path(__file__).parent / "port_holder.py"
RACEWAY = [sys.executable, "-c", "from raceway.faces.cli import main; main()"]


class Holder:
    """A child with ports open."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid
        self._answer("ready")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self._answer("done")

    def _answer(self, expected: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == expected

    def end(self) -> None:
        self.process.communicate("", timeout=30)


@contextlib.contextmanager
def holding(*names: str, extra: tuple[str, ...] = (), start: Any = subprocess.Popen) -> Iterator[Holder]:
    command = [sys.executable, str(HOLDER), *names, *extra]
    process = start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Holder(process)
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.communicate("", timeout=30)


def listed(pid: int) -> dict[str, OpenPort]:
    """The ports of a process, by name."""
    return {port.card.name: port for port in look().ports if port.process.pid == pid}


def test_the_ports_of_another_process_are_listed_with_their_counters(pipe_name: str) -> None:
    with holding(pipe_name + "{1", pipe_name + "}1") as holder:
        holder.tell("send 0 100")
        holder.tell("receive 1 70")
        found = listed(holder.pid)
        sender, receiver = found[pipe_name + "{1"], found[pipe_name + "}1"]
        assert (sender.tx_packets, sender.tx_bytes, sender.rx_packets) == (100, 6000, 0)
        assert (receiver.rx_packets, receiver.rx_bytes, receiver.tx_packets) == (100, 6000, 0)
        assert sender.region == receiver.region
        assert str(HOLDER) in sender.process.command
        assert sender.card.network == network_namespace()
        assert [(ring.transmit, ring.number, ring.slots) for ring in sender.card.rings] == [
            (True, 0, 1024),
            (False, 0, 1024),
        ]
        # 30 of the hundred have not been read: the other 70 slots are given back and may be sent in again.
        assert next(ring.used for ring in receiver.card.rings if not ring.transmit) == 1023 - 30


def test_both_ends_of_a_pipe_are_listed_once_each_whoever_made_the_region(pipe_name: str) -> None:
    with holding(pipe_name + "{1") as first, holding(pipe_name + "}1") as second:
        assert list(listed(first.pid)) == [pipe_name + "{1"]
        assert list(listed(second.pid)) == [pipe_name + "}1"]


def test_a_port_that_is_closed_is_not_listed_though_its_process_goes_on(pipe_name: str) -> None:
    with holding(pipe_name + "{1", "null:") as holder:
        assert set(listed(holder.pid)) == {pipe_name + "{1", "null:"}
        holder.tell("close 0")
        assert set(listed(holder.pid)) == {"null:"}


def test_nothing_is_left_of_a_process_that_was_killed_but_its_peer_stays(pipe_name: str) -> None:
    with holding(pipe_name + "{1") as survivor, holding(pipe_name + "}1") as killed:
        # The first end made the region, and keeps it; the killed one's card lies in it, and says open.
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
        assert listed(killed.pid) == {}
        assert set(listed(survivor.pid)) == {pipe_name + "{1"}
        names = [port.card.name for port in look().ports]
        assert pipe_name + "}1" not in names


def test_drops_are_listed_by_name(pipe_name: str) -> None:
    with holding(pipe_name + "{1") as sender:
        with holding(pipe_name + "}1") as receiver:
            sender.tell("send 0 50")
            receiver.tell("receive 0 20")
            receiver.tell("close 0")
        sender.tell("refresh 0")
        found = listed(sender.pid)[pipe_name + "{1"]
        assert found.card.drops == {"peer_gone": 30}
        assert found.card.refreshed > 0


def test_a_forked_child_that_inherits_a_port_does_not_double_it(pipe_name: str) -> None:
    with holding(pipe_name + "{1") as holder:
        holder.tell("fork")
        here = [port for port in look().ports if port.card.name == pipe_name + "{1"]
        assert [port.process.pid for port in here] == [holder.pid]


def test_only_the_rings_that_a_port_uses_are_listed(pipe_name: str) -> None:
    with raceway.open(pipe_name + "{1/T@conf:rings=3") as port:
        found = listed(os.getpid())[port.name]
        assert [(ring.transmit, ring.number) for ring in found.card.rings] == [
            (True, 0),
            (True, 1),
            (True, 2),
        ]
    with raceway.open(pipe_name + "{2-1@conf:rings=3") as port:
        found = listed(os.getpid())[port.name]
        assert [(ring.transmit, ring.number) for ring in found.card.rings] == [(True, 1), (False, 1)]


def test_ports_in_one_region_are_told_apart() -> None:
    with raceway.open("null:") as one, raceway.open("null:@conf:slots=64", region=one.region) as other:
        found = listed(os.getpid())
        assert found[one.name].region == found[other.name].region
        other.close()
        assert set(listed(os.getpid())) == {one.name}


def test_words_of_others_cannot_reach_the_terminals_controls() -> None:
    with raceway.open("null:") as port:
        # As a process would that wants to harm who looks: into its own card.
        assert port._card is not None
        port._card._record["name"] = b"pcap:/nowhere\x1b[31m"
        port._card._record["mode"] = b"\x1b]0;title\x07"
        text = "\n".join(plain_lines(look()))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "pcap:/nowhere\N{REPLACEMENT CHARACTER}[31m" in text


def test_a_command_line_with_control_characters_is_printable() -> None:
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "\x1b[2J\nsecond line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        from raceway.kernel.processes import Process

        command = Process(process.pid).command
        process.communicate("", timeout=30)
    assert command.isprintable()
    assert "[2J" in command


def test_something_else_of_the_regions_name_is_passed_over() -> None:
    descriptor = os.memfd_create(REGION_NAME)
    try:
        os.write(descriptor, b"no region" * 1000)
        assert os.getpid() not in {port.process.pid for port in look().ports}
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("name", "interface"),
    [
        ("netmap:eth0", "eth0"),
        ("eth0-2/R", "eth0"),
        ("netmap:eth0^", "eth0"),
        ("tap:tap7", "tap7"),
        ("netmap:eth0{1", ""),
        ("pcap:eth0", ""),
        ("null:", ""),
        ("not a name", ""),
    ],
)
def test_the_interface_that_a_port_stands_on_is_known_by_its_name(name: str, interface: str) -> None:
    assert interface_of(name) == interface


@needs_root
def test_a_port_in_another_network_namespace_says_so(lab: Any, pipe_name: str) -> None:
    place = lab()
    with holding(
        pipe_name + "{1", start=lambda *words, **options: place.popen("a", *words, **options)
    ) as holder:
        there = place.inside("a")
        with there:
            inode = network_namespace()
        listing = look()
        found = [port for port in listing.ports if port.process.pid == holder.pid]
        assert [port.card.network for port in found] == [inode]
        assert listing.network(inode)
        assert any(listing.network(inode) in line for line in plain_lines(listing) if str(holder.pid) in line)


@needs_root
def test_the_programs_on_an_interface_are_listed_with_whose_they_are(lab: Any) -> None:
    from raceway.kernel.bpf.assembler import R0, Assembler
    from raceway.kernel.bpf.links import attach_tcx, attach_xdp
    from raceway.kernel.bpf.programs import Program
    from raceway.kernel.bpf.system import ProgramKind, TcxAction, XdpAction

    def returning(kind: ProgramKind, value: int) -> Program:
        return Program(kind, Assembler().mov(R0, value).exit().assemble(), name=f"test_{value}")

    place = lab()
    # Namespaces number their interfaces alike, so a link's index does not say which one it means.
    index = place.index("a")
    with (
        place.inside("a"),
        returning(ProgramKind.XDP, XdpAction.PASS) as xdp,
        returning(ProgramKind.SCHED_CLS, TcxAction.PASS) as tcx,
        attach_xdp(xdp, index, "driver"),
        attach_tcx(tcx, index, "egress"),
    ):
        inode = network_namespace()
        used = [each for each in look().interfaces.used if each.network == inode]
        assert [each.name for each in used] == [place.interface("a")]
        assert [(each.where, each.program, each.name) for each in used[0].attachments] == [
            ("XDP driver", xdp.id, "test_2"),
            ("tcx egress", tcx.id, "test_0"),
        ]
        assert {process.pid for each in used[0].attachments for process in each.holders} == {os.getpid()}
    for each in look().interfaces.used:
        assert os.getpid() not in {process.pid for on in each.attachments for process in on.holders}


def without_privilege(*command: str) -> list[str]:
    return ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *command]


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root, to have privilege to drop, and setpriv",
)
def test_what_cannot_be_looked_into_is_counted_and_not_passed_over_in_silence(pipe_name: str) -> None:
    with holding(pipe_name + "{1"):
        done = subprocess.run(
            without_privilege(*RACEWAY, "ports", "--json"), capture_output=True, text=True, check=True
        )
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["unseen"]["processes"] >= 1
    assert pipe_name not in done.stdout
    assert "could not be looked into: sudo raceway ports" in done.stdout


def test_the_command_prints_lines_and_a_json_object_last(pipe_name: str) -> None:
    with holding(pipe_name + "{1", pipe_name + "}1") as holder:
        holder.tell("send 0 3")
        done = subprocess.run([*RACEWAY, "ports", "--json"], capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    ours = [line for line in lines if line.startswith(f"port {pipe_name}")]
    assert len(ours) == 2
    assert "tx 3 packets 180 bytes" in ours[0]
    found = {port["name"]: port for port in json.loads(last)["ports"] if port["pid"] == holder.pid}
    assert found[pipe_name + "{1"]["tx_packets"] == 3
    assert found[pipe_name + "}1"]["rings"][1]["transmit"] is False


class Terminal(io.StringIO):
    """Text that goes to a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_tables_fit_a_terminal_of_eighty_columns(
    pipe_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    path = tmp_path / ("a-rather-long-name-" * 5 + ".pcapng")
    with raceway.open(f"pcap:{path}", write=True), raceway.open(pipe_name + "{1") as port:
        screen = Terminal()
        show(look(), file=screen)
        assert port.name in screen.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 80


def test_an_empty_listing_says_that_there_is_nothing() -> None:
    from raceway.apps.port_list.interfaces import Interfaces

    empty = Listing((), Interfaces(), 0, 1)
    assert list(plain_lines(empty)) == ["no raceway port is open"]
    hidden = Listing((), Interfaces(), 2, 1)
    assert "no raceway port is open in any process that can be seen" in list(plain_lines(hidden))
