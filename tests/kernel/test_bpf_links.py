"""Links: a program is on an interface as long as somebody holds it there, and no longer."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from bpf_harness import Namespace, child, namespace, needs_ip
from raceway.errors import NoSuchInterfaceError, PortBusyError
from raceway.kernel.bpf.assembler import R0, R1, R2, Assembler
from raceway.kernel.bpf.links import Link, attach_tcx, attach_xdp, links
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import (
    MAP_MMAPABLE,
    AttachType,
    LinkKind,
    MapKind,
    ProgramKind,
    TcxAction,
    XdpAction,
)
from raceway.kernel.netlink import NETLINK_ROUTE, NetlinkSocket, attribute

pytestmark = [needs_ip, pytest.mark.root]

CHILD = """
import socket
from raceway.kernel.bpf.assembler import R0, Assembler
from raceway.kernel.bpf.links import attach_tcx, attach_xdp
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import ProgramKind
code = Assembler().mov(R0, 2).exit().assemble()
xdp = attach_xdp(Program(ProgramKind.XDP, code, name="dies"), socket.if_nametoindex("near"), "driver")
tcx = attach_tcx(Program(ProgramKind.SCHED_CLS, code, name="dies"), socket.if_nametoindex("near"), "egress")
print(xdp.id, tcx.id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def net() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture
def passing() -> Iterator[Program]:
    code = Assembler().mov(R0, XdpAction.PASS).exit().assemble()
    with Program(ProgramKind.XDP, code, name="passing") as program:
        yield program


def attach(net: Namespace, program: Program, mode: str = "driver") -> Link:
    return net.do(lambda: attach_xdp(program, net.index(), mode))


@pytest.mark.parametrize("mode", ["driver", "generic"])
def test_a_program_is_on_the_interface_until_its_link_is_closed(
    net: Namespace, passing: Program, mode: str
) -> None:
    with attach(net, passing, mode) as link:
        assert net.xdp() == passing.id
        assert link.attached
        (found,) = [each for each in net.do(lambda: list(links())) if each.id == link.id]
        assert (found.kind, found.program, found.index) == (LinkKind.XDP, passing.id, net.index())
        assert (found.attach_type, found.mode) == (AttachType.XDP, mode)
    assert net.xdp() == 0


def test_the_mode_of_a_link_in_another_namespace_is_not_guessed(net: Namespace, passing: Program) -> None:
    with attach(net, passing) as link:
        (found,) = [each for each in links() if each.id == link.id]
        assert found.mode == ""


def test_sigkill_takes_the_programs_off(net: Namespace) -> None:
    command = child(CHILD, "ip", "netns", "exec", net.name)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        made = {int(word) for word in process.stdout.readline().split()}
        assert len(made) == 2
        assert made <= {link.id for link in links()}
        assert net.xdp() != 0
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert net.xdp() == 0
    assert not made & {link.id for link in links()}


def test_a_second_program_is_refused_and_the_first_is_named(net: Namespace, passing: Program) -> None:
    with attach(net, passing):
        for mode in ("driver", "generic"):
            with pytest.raises(
                PortBusyError, match=rf"near: .*program {passing.id} \(passing\) in driver mode"
            ):
                attach(net, passing, mode)
    attach(net, passing).close()


def test_a_program_attached_without_a_link_is_named_too(net: Namespace, passing: Program) -> None:
    """As `ip link set xdp` attaches: RTM_SETLINK with the program's descriptor; -1 takes it off."""
    setlink, ifla_xdp, ifla_xdp_fd, nested = 19, 43, 1, 0x8000
    index = net.index()

    def set_program(descriptor: int) -> None:
        body = struct.pack("=BxHiII", 0, 0, index, 0, 0)
        body += attribute(ifla_xdp | nested, attribute(ifla_xdp_fd, struct.pack("=i", descriptor)))
        with NetlinkSocket(NETLINK_ROUTE) as route:
            route.ask(setlink, body)

    net.do(lambda: set_program(passing.fd))
    with pytest.raises(PortBusyError, match=rf"near: .*program {passing.id} \(passing\) in driver mode"):
        attach(net, passing)
    net.do(lambda: set_program(-1))
    attach(net, passing).close()


def test_an_update_puts_another_program_in_its_place(net: Namespace, passing: Program) -> None:
    code = Assembler().mov(R0, XdpAction.DROP).exit().assemble()
    with attach(net, passing) as link, Program(ProgramKind.XDP, code, name="other") as other:
        link.update(other)
        assert net.xdp() == other.id
        assert link.info().program == other.id


@pytest.mark.parametrize("kind", ["xdp", "tcx"])
def test_detaching_works_once_and_does_no_harm_twice(net: Namespace, kind: str) -> None:
    code = Assembler().mov(R0, 2).exit().assemble()
    with Program(ProgramKind.XDP if kind == "xdp" else ProgramKind.SCHED_CLS, code) as program:
        attach = (
            (lambda: attach_xdp(program, net.index(), "driver"))
            if kind == "xdp"
            else (lambda: attach_tcx(program, net.index(), "ingress"))
        )
        with net.do(attach) as link:
            assert link.attached
            link.detach()
            assert not link.attached
            link.detach()
            net.do(attach).close()


@pytest.mark.parametrize("kind", ["xdp", "tcx"])
def test_a_link_tells_that_its_interface_is_gone(net: Namespace, passing: Program, kind: str) -> None:
    code = Assembler().mov(R0, 0).exit().assemble()
    with Program(ProgramKind.SCHED_CLS, code) as counting:
        link = (
            attach(net, passing)
            if kind == "xdp"
            else net.do(lambda: attach_tcx(counting, net.index(), "egress"))
        )
        with link:
            net.ip("link", "del", "near")
            assert not link.attached


def send(net: Namespace, count: int) -> None:
    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("near", 0))
            for _ in range(count):
                wire.send(b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5" + bytes(50))

    net.do(work)


def test_tcx_programs_run_in_order_and_the_first_may_be_ours(net: Namespace) -> None:
    """Only what is not dropped before is counted. The counter looks at an EtherType for experiments alone (IEEE 802,
    0x88b5): the host sends its own packets on the interface too."""
    with Map(MapKind.ARRAY, value_size=8, entries=1, flags=MAP_MMAPABLE) as array:
        seen = array.memory()[:8].view(np.uint64)
        protocol = int.from_bytes(b"\x88\xb5", "little")
        count = Assembler().load(R1, R1, 16, 4).jump_if("!=", R1, protocol, "other")
        count.load_map_value(R1, array).mov(R2, 1).atomic_add(R1, 0, R2, 8)
        count.label("other").mov(R0, TcxAction.NEXT).exit()
        drop = Assembler().mov(R0, TcxAction.DROP).exit()
        with (
            Program(ProgramKind.SCHED_CLS, count.assemble(), name="count") as counting,
            Program(ProgramKind.SCHED_CLS, drop.assemble(), name="drop") as dropping,
            net.do(lambda: attach_tcx(counting, net.index(), "egress")) as link,
        ):
            send(net, 3)
            assert seen[0] == 3
            with net.do(lambda: attach_tcx(dropping, net.index(), "egress", first=True)):
                with pytest.raises(OSError, match="No buffer space"):  # how a raw socket hears of it
                    send(net, 1)
                assert seen[0] == 3
            with net.do(lambda: attach_tcx(dropping, net.index(), "egress")):
                with pytest.raises(OSError, match="No buffer space"):
                    send(net, 1)
                assert seen[0] == 4
            (found,) = [each for each in links() if each.id == link.id]
            assert (found.kind, found.attach_type) == (LinkKind.TCX, AttachType.TCX_EGRESS)
            assert found.index == net.index()
            with pytest.raises(PortBusyError, match=rf"program {counting.id} \(count\) is attached"):
                net.do(lambda: attach_tcx(counting, net.index(), "egress"))


def test_an_interface_that_there_is_not_is_named(net: Namespace, passing: Program) -> None:
    code = Assembler().mov(R0, 0).exit().assemble()
    with Program(ProgramKind.SCHED_CLS, code) as program:
        for attempt in (
            lambda: attach_xdp(passing, 999999, "driver"),
            lambda: attach_tcx(program, 999999, "ingress"),
        ):
            with pytest.raises(NoSuchInterfaceError, match="999999"):
                net.do(attempt)


def test_a_driver_that_has_no_such_mode_says_so(net: Namespace, passing: Program) -> None:
    with pytest.raises(OSError, match="attaching XDP program 'passing' to near in offload mode"):
        attach(net, passing, "offload")


def test_words_that_are_no_modes_are_refused(passing: Program) -> None:
    with pytest.raises(ValueError, match="'native': one of driver, generic, offload"):
        attach_xdp(passing, 1, "native")
    with pytest.raises(ValueError, match="'out': one of ingress, egress"):
        attach_tcx(passing, 1, "out")
