"""An interface that somebody else has: the error names who, and leaves him alone."""

from __future__ import annotations

import errno

import pytest

import raceway
from labs import lab as lab, needs_root
from nic_world import attached, collect, frame, heard, numbers, open_at, raw_socket
from raceway.errors import PortBusyError
from raceway.kernel.bpf.assembler import R0, Assembler
from raceway.kernel.bpf.links import attach_xdp
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import ProgramKind
from raceway.kernel.redirect import XDP_PASS
from raceway.kernel.xsk import XskSocket
from raceway.memory.region import Region

pytestmark = [needs_root, pytest.mark.root]


@pytest.fixture
def foreign(lab):
    """A lab at whose host `b` somebody else's XDP program is attached."""
    wire = lab(ipv6=False)
    code = Assembler().mov(R0, XDP_PASS).exit()
    with (
        wire.inside("b"),
        Program(ProgramKind.XDP, code.assemble(), name="somebody_elses") as program,
        attach_xdp(program, wire.index("b"), "driver"),
    ):
        yield wire


@pytest.mark.parametrize("mode", ["", "@xdp:mode=copy", "@xdp:mode=generic", "/r"])
def test_somebody_elses_program_is_named_and_stays(foreign, mode):
    with pytest.raises(PortBusyError, match=r"somebody_elses.* in driver mode") as busy:
        open_at(foreign, "b", mode)
    assert busy.value.errno == errno.EBUSY
    assert "veth0" in str(busy.value)
    assert attached(foreign, "b") == ["driver"]


def test_who_only_sends_does_not_mind_somebody_elses_program(foreign):
    with open_at(foreign, "b", "/t") as port, open_at(foreign, "a") as peer:
        port.send([frame(1)])
        assert numbers(collect(peer, 1)) == [1]
    assert attached(foreign, "b") == ["driver"]


def test_packet_mode_does_not_mind_it_either(foreign):
    with open_at(foreign, "b", "@xdp:mode=packet") as port, open_at(foreign, "a", "/t") as peer:
        peer.send([frame(1)])
        assert numbers(collect(port, 1)) == [1]


def test_the_same_interface_opens_once(lab):
    wire = lab(queues=2, ipv6=False)
    with open_at(wire, "b") as port:
        for again in ("", "-0", "-1", "/r"):
            with pytest.raises(PortBusyError, match=r"there is an XDP program already: .*raceway_rx"):
                open_at(wire, "b", again)
        with pytest.raises(PortBusyError, match=r"queue 0 of veth0 has an AF_XDP socket already"):
            open_at(wire, "b", "/t")
        # The first one has not noticed.
        with open_at(wire, "a") as peer:
            peer.send([frame(1)], ring=1)
            assert numbers(collect(port, 1)) == [1]
            port.send([frame(2)])
            assert numbers(collect(peer, 1)) == [2]
    with open_at(wire, "b"):
        pass


def test_a_queue_with_a_socket_is_named_and_the_others_are_given_back(lab):
    wire = lab(queues=3, ipv6=False)
    region = Region(buffers=256)
    with wire.inside("b"):
        other = XskSocket(region, wire.index("b"), 1, receive=64, transmit=64, zero_copy=False)
    try:
        with pytest.raises(PortBusyError, match="queue 1 of veth0 has an AF_XDP socket already"):
            open_at(wire, "b")
        assert attached(wire, "b") == []
        with open_at(wire, "b", "-0"):
            pass
        with open_at(wire, "b", "-2"):
            pass
    finally:
        other.close()
        region.close()
    with open_at(wire, "b") as port:
        assert len(port.rx) == 3


def test_several_processes_queues_can_be_shared_by_direction(lab):
    """One sends on a queue while the host goes on as if nothing was."""
    wire = lab(ipv6=False)
    with open_at(wire, "b", "/t") as sender, raw_socket(wire, "b") as host, open_at(wire, "a") as peer:
        sender.send([frame(1)])
        host.send(frame(2))
        assert sorted(numbers(collect(peer, 2))) == [1, 2]
        peer.send([frame(3)])
        assert numbers(heard(host, 1)) == [3]


def test_a_refused_opener_leaves_no_buffers_behind_in_a_shared_region(lab, pipe_name):
    wire = lab(ipv6=False)
    with raceway.open(pipe_name + "{1") as pipe, open_at(wire, "b"):
        for _ in range(3):
            with pytest.raises(PortBusyError):
                open_at(wire, "b", region=pipe.region)
        # What it took from the region is lost to it; but there is enough for a few mistakes.
        with open_at(wire, "a", region=pipe.region) as port:
            assert port.region is pipe.region
