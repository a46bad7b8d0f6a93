"""Opening host rings: which, how many, who else has them; and what becomes of the port when its interface goes away."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import time

import pytest
from host_world import (
    collect,
    datagram,
    device,
    frame,
    heard,
    ip,
    is_experiment,
    nature,
    open_at,
    programs,
    raw_socket,
    udp_socket,
    until,
)

import raceway
from conftest import scaled
from labs import lab as lab, needs_root
from raceway.errors import NoSuchInterfaceError, PortBusyError, RacewayError
from raceway.kernel.bpf.assembler import R0, R1, R2, Assembler
from raceway.kernel.bpf.links import attach_tcx
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import ProgramKind, TcxAction
from raceway.ports.interface_watch import InterfaceError

# -- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("netmap:nosuch0^@host:tx=slow", "tx 'slow': expected live or tap"),
        ("netmap:nosuch0^@xdp:mode=copy", "no option @xdp here; expected @conf: or @host:"),
        ("netmap:nosuch0@host:tx=tap", "no option @host here; expected @conf: or @xdp:"),
        ("netmap:nosuch0@conf:host-rings=2", "no option 'host_rings' here"),
        ("netmap:nosuch0^@conf:host-tx-rings=2,host-rx-rings=3", "host rings come in pairs"),
        ("netmap:nosuch0*@xdp:mode=packet", "the host gets the NIC's packets as well"),
        ("netmap:nosuch0^/rt", "only transmit and for only receive"),
    ],
)
def test_a_name_that_asks_for_what_cannot_be_is_refused_with_what_was_expected(name, said):
    with pytest.raises(ValueError, match=said):
        raceway.open(name)


@pytest.mark.parametrize("suffix", ["^", "^1", "*"])
def test_host_rings_of_no_interface_are_an_error_that_names_it(suffix):
    with pytest.raises(NoSuchInterfaceError, match="nosuch0"):
        raceway.open(f"netmap:nosuch0{suffix}@conf:host-rings=2")


@pytest.mark.root
@needs_root
def test_an_interface_without_ethernet_has_no_host_rings(lab):
    two = lab(ipv6=False)
    with two.inside("a"), pytest.raises(RacewayError, match="lo carries no Ethernet"):
        raceway.open("netmap:lo^")


# -- who has them ----------------------------------------------------------------------------------------------


@pytest.mark.root
@needs_root
def test_a_second_opener_gets_ebusy_and_the_first_goes_on(lab):
    two = lab(ipv6=False)
    with open_at(two) as port, raw_socket(two, "a") as raw:
        for again in ("^", "^0", "*"):
            with pytest.raises(PortBusyError, match="host rings are open already") as caught:
                open_at(two, again)
            assert caught.value.errno == errno.EBUSY
        port.send([frame(two, 1)])
        assert heard(raw, 1)
    assert programs(two) == {"ingress": 0, "egress": 0, "xdp": 0}
    open_at(two).close()


@pytest.mark.root
@needs_root
def test_a_device_of_that_name_that_is_somebody_elses_is_left_alone(lab):
    two = lab(ipv6=False)
    ip(two, "a", f"tuntap add dev {device(two)} mode tap")
    with pytest.raises(PortBusyError):
        open_at(two)
    assert "raceway" not in ip(two, "a", f"link show {device(two)}")


@pytest.mark.root
@needs_root
def test_one_host_ring_takes_its_share_of_the_flows_and_the_others_go_out_by_themselves(lab):
    two = lab(ipv6=False)
    flows = 64
    ip(two, "a", f"neighbour replace {two.address('b')} lladdr {two.mac('b')} dev veth0")
    with (
        open_at(two, "^1@conf:host-rings=4") as one,
        open_at(two, "^2@conf:host-rings=4") as another,
        udp_socket(two, "b") as outside,
    ):
        with pytest.raises(PortBusyError):
            open_at(two, "^1@conf:host-rings=4")
        with pytest.raises(PortBusyError):
            open_at(two, "^")
        assert len(one.rx) == len(one.tx) == 1
        senders = []
        for number in range(flows):
            with two.inside("a"):
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            senders.append(sender)
            for _ in range(3):
                sender.sendto(b"%d" % number, (two.address("b"), 2000))
        for sender in senders:
            sender.close()
        taken = [
            {one[42:] for one in collect(port, 3 * flows, lambda one: True, 1)} for port in (one, another)
        ]
        outside.settimeout(0.5)
        rest = set()
        try:
            while True:
                rest.add(outside.recv(100))
        except TimeoutError:
            pass
        assert taken[0] | taken[1] | rest == {b"%d" % number for number in range(flows)}
        assert len(taken[0]) + len(taken[1]) + len(rest) == flows
        assert min(map(len, (*taken, rest))) > 0
    assert programs(two)["egress"] == 0


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("ring", ["^1", "^4@conf:host-rings=4"])
def test_a_host_ring_that_is_not_there_is_an_error_that_says_how_to_get_it(lab, ring):
    with pytest.raises(ValueError, match="@conf:host-rings=N makes it N"):
        open_at(lab(ipv6=False), ring)


@pytest.mark.root
@needs_root
def test_several_host_rings_share_the_flows_and_each_flow_keeps_its_order(lab):
    two = lab(ipv6=False)
    flows, rounds = 24, scaled(60, 6)
    ip(two, "a", f"neighbour replace {two.address('b')} lladdr {two.mac('b')} dev veth0")
    with open_at(two, "^@conf:host-rings=4,slots=2048") as port:
        assert len(port.rx) == len(port.tx) == 4
        senders = []
        for number in range(flows):
            with two.inside("a"):
                senders.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            senders[-1].bind((two.address("a"), 10000 + number))
        got: dict[int, list[int]] = {}
        rings: dict[int, set[int]] = {}
        for turn in range(rounds):
            for sender in senders:
                sender.sendto(b"%d" % turn, (two.address("b"), 9))
            # Answers, by whatever ring: they must not move the flow to another one.
            answers = [datagram(two, b"a", source=9, port=10000 + number) for number in range(flows)]
            port.send(answers, ring=turn % 4, timeout=10)
        port.flush()
        deadline = time.monotonic() + 10
        while sum(map(len, got.values())) < flows * rounds and time.monotonic() < deadline:
            for packet in port.receive(0.2):
                flow = packet.load16(34)
                got.setdefault(flow, []).append(int(bytes(packet)[42:]))
                rings.setdefault(flow, set()).add(packet.ring)
        for sender in senders:
            sender.close()
        assert got == {10000 + number: list(range(rounds)) for number in range(flows)}
        assert all(len(ring) == 1 for ring in rings.values())
        assert len(set.union(*rings.values())) > 1


# -- one direction ---------------------------------------------------------------------------------------------


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("flag", ["/t", "/T"])
def test_only_transmit_rings_leave_what_the_host_sends_alone(lab, flag):
    two = lab()
    with open_at(two, f"^{flag}") as port, raw_socket(two, "a") as raw, udp_socket(two, "b") as outside:
        assert (len(port.tx), len(port.rx)) == (1, 0)
        port.send([frame(two, 1)])
        assert heard(raw, 1)
        with udp_socket(two, "a", port=5000) as sender:
            sender.sendto(b"out", (two.address("b"), 2000))
        assert outside.recv(100) == b"out"


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("flag", ["/r", "/R"])
def test_only_receive_rings_take_what_the_host_sends(lab, flag):
    two = lab(ipv6=False)
    with open_at(two, f"^{flag}") as port, raw_socket(two, "a") as raw:
        assert (len(port.tx), len(port.rx)) == (0, 1)
        raw.send(frame(two, 5))
        assert collect(port, 1, is_experiment) == [frame(two, 5)]
        with pytest.raises(RacewayError, match="only receives"):
            port.send([b"x" * 60])


# -- NIC and host ----------------------------------------------------------------------------------------------


@pytest.mark.root
@needs_root
def test_nic_and_host_rings_lie_in_one_port_the_nics_first(lab):
    two = lab(ipv6=False, queues=2)
    with (
        open_at(two, "*@conf:host-rings=2") as port,
        raw_socket(two, "a") as inside,
        raw_socket(two, "b") as outside,
    ):
        assert [ring.number for ring in port.rx] == [ring.number for ring in port.tx] == [0, 1, 2, 3]
        assert programs(two) == {"ingress": 0, "egress": 1, "xdp": 1}
        port.send([frame(two, 1)], ring=2)
        port.send([frame(two, 2, to=b"\xff" * 6)], ring=0)
        assert heard(inside, 1) == [(0, frame(two, 1))]
        assert heard(outside, 1) == [(1, frame(two, 2, to=b"\xff" * 6))]
        outside.send(frame(two, 3))
        inside.send(frame(two, 4, to=b"\xff" * 6))
        got = {}
        deadline = time.monotonic() + 10
        while len(got) < 2 and time.monotonic() < deadline:
            for packet in port.receive(0.2):
                got[int.from_bytes(bytes(packet)[14:22], "big")] = packet.ring
        assert got[3] in (0, 1)
        assert got[4] in (2, 3)
        inside.settimeout(0.1)
        assert heard(inside, 1) == []
        counted = port.counters()
        assert (counted["tx_packets"], counted["rx_packets"]) == (2, 2)
        assert "AF_XDP" in port.description
        assert device(two) in port.description
    assert programs(two) == {"ingress": 0, "egress": 0, "xdp": 0}


@pytest.mark.root
@needs_root
def test_nic_and_host_rings_name_their_drops_apart(lab):
    two = lab(ipv6=False)
    with open_at(two, "*") as port:
        port.send([bytes(3), bytes(1600)], ring=1)
        port.send([bytes(1600)], ring=0)
        port.flush()
        assert port.drops() == {"host_invalid": 1, "host_too_long": 1, "too_long": 1}


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("mode", ["copy", "generic"])
def test_what_is_sent_to_the_host_never_comes_back_as_if_from_the_nic(lab, mode):
    """XDP in generic mode looks at everything that arrives, whoever lets it arrive."""
    two = lab(ipv6=False)
    bursts = scaled(30, 2)
    with open_at(two, f"*@xdp:mode={mode}") as port, raw_socket(two, "a") as raw:
        raw.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)
        for burst in range(bursts):
            port.send([frame(two, burst * 100 + number) for number in range(100)], ring=1, timeout=10)
        port.flush()
        numbers = [int.from_bytes(one[14:22], "big") for _, one in heard(raw, bursts * 100)]
        assert numbers == list(range(bursts * 100))
        assert port.receive(0.2).to_bytes() == []
        if mode == "generic":
            assert port.host.transmits_by == "tap"


@pytest.mark.root
@needs_root
def test_live_frames_are_refused_beside_generic_xdp_and_the_error_says_so(lab):
    two = lab(ipv6=False)
    with open_at(two, "@xdp:mode=generic"):
        with pytest.raises(RacewayError, match="XDP's generic mode"):
            open_at(two, "^@host:tx=live")
        assert programs(two) == {"ingress": 0, "egress": 0, "xdp": 1}


# -- other people's programs -----------------------------------------------------------------------------------


@pytest.mark.root
@needs_root
def test_a_foreign_program_goes_on_seeing_what_arrives(lab):
    """And what the host sends only when the rings are closed again: ours comes first there."""
    two = lab(ipv6=False)
    # Drops every packet of 142 bytes: a datagram with 100.
    dropping = Assembler().load(R2, R1, 0, 4).mov(R0, TcxAction.DROP)
    dropping.jump_if("==", R2, 142, "end").mov(R0, TcxAction.NEXT).label("end").exit()
    with two.inside("a"), Program(ProgramKind.SCHED_CLS, dropping.assemble(), name="foreign") as program:
        links = [attach_tcx(program, two.index("a"), direction) for direction in ("ingress", "egress")]
    with (
        links[0],
        links[1],
        udp_socket(two) as user,
        raw_socket(two, "a") as raw,
        raw_socket(two, "b") as outside,
    ):
        with open_at(two) as port:
            assert programs(two) == {"ingress": 1, "egress": 2, "xdp": 0}
            port.send([datagram(two, bytes(100)), datagram(two, bytes(99))])
            assert user.recv(1000) == bytes(99)
            raw.send(frame(two, 3, 142))
            assert collect(port, 1, is_experiment) == [frame(two, 3, 142)]
        with pytest.raises(OSError, match="No buffer space"):
            raw.send(frame(two, 4, 142))
        raw.send(frame(two, 5))
        assert heard(outside, 1) == [(3, frame(two, 5))]
        user.setblocking(False)
        with pytest.raises(BlockingIOError):
            user.recv(1000)
    assert programs(two) == {"ingress": 0, "egress": 0, "xdp": 0}


# -- the interface goes away -----------------------------------------------------------------------------------


def _error_within_a_second(port: raceway.Port) -> RacewayError:
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            port.receive(0.05)
        except RacewayError as error:
            return error
    raise AssertionError("no error within a second")


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("suffix", ["^", "*"])
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("link set veth0 down", "veth0 is down"),
        ("link delete veth0", "veth0 is gone"),
        ("link delete rw{index}", "rw{index} was deleted"),
        ("link set rw{index} down", "rw{index}, the device that serves the host rings, is down"),
    ],
)
def test_an_interface_that_goes_away_is_an_error_within_a_second(lab, suffix, command, said):
    two = lab(ipv6=False)
    with open_at(two, suffix) as port:
        assert port.receive(0.05).to_bytes() == []
        ip(two, "a", command.format(index=two.index("a")))
        error = _error_within_a_second(port)
        assert said.format(index=two.index("a")) in str(error)
        assert port.name in str(error)


@pytest.mark.root
@needs_root
def test_a_renamed_interface_is_an_error_and_one_that_comes_up_again_goes_on(lab):
    two = lab(ipv6=False)
    with open_at(two) as port:
        ip(two, "a", "link set veth0 down")
        assert isinstance(_error_within_a_second(port), InterfaceError)
        ip(two, "a", "link set veth0 up")
        with raw_socket(two, "a") as raw:
            port.send([frame(two, 1)])
            assert heard(raw, 1)
            raw.send(frame(two, 2))
            assert collect(port, 1, is_experiment) == [frame(two, 2)]
        ip(two, "a", "link set veth0 name other0")
        assert "renamed to other0" in str(_error_within_a_second(port))


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("way", ["tap", "live"])
def test_an_interface_can_be_deleted_in_the_middle_of_a_stream(lab, way):
    two = lab(ipv6=False)
    with open_at(two, f"^@host:tx={way}") as port:
        frames = [frame(two, number) for number in range(100)]
        port.send(frames)
        child = two.popen("a", ["ip", "link", "delete", "veth0"])
        with pytest.raises(RacewayError, match="gone"):
            _send_for(port, frames, 20)
        # The kernel waits with a deletion for who injects into the interface.
        assert child.wait(5) == 0


def _send_for(port: raceway.Port, frames: list[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        port.send(frames, timeout=0.5)


@pytest.mark.root
@needs_root
def test_a_larger_mtu_is_taken_over(lab):
    two = lab(ipv6=False)
    with open_at(two) as port, raw_socket(two, "a") as raw:
        port.send([frame(two, 1, 3000)])
        assert port.drops() == {"too_long": 1}
        ip(two, "a", "link set veth0 mtu 4000")
        assert until(lambda: port.sync() or port.interface.mtu == 4000)
        assert f"mtu {4000}" in ip(two, "a", f"link show {device(two)}")
        port.send([frame(two, 2, 3000)])
        assert heard(raw, 1) == [(0, frame(two, 2, 3000))]
        raw.send(frame(two, 3, 3000))
        assert collect(port, 1, is_experiment) == [frame(two, 3, 3000)]


@pytest.mark.root
@needs_root
def test_an_mtu_that_live_frames_have_no_room_for_is_an_error_only_where_they_are_insisted_on(lab):
    two = lab(ipv6=False)
    with open_at(two, "^@host:tx=live") as port:
        port.send([frame(two, 1)])
        ip(two, "a", "link set veth0 mtu 4000")
        assert "live frames cannot be had: frames of up to 4018 bytes" in str(_error_within_a_second(port))


# -- processes and their rights --------------------------------------------------------------------------------

_CHILD = """
import ctypes, os, sys
import raceway
from raceway.kernel import namespaces
namespaces.enter(int(sys.argv[1]))
if sys.argv[3]:
    # capset(2), version 3: effective and permitted only what is named.
    bits = sum(1 << int(number) for number in sys.argv[3].split(","))
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    words = [bits & 0xFFFFFFFF] * 2 + [0] + [bits >> 32] * 2 + [0]
    assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)(*words)) == 0
try:
    port = raceway.open(sys.argv[2])
except raceway.errors.PermissionNeededError as error:
    print("REFUSED", error, flush=True)
    sys.exit()
print("OPEN", flush=True)
sys.stdin.read()
"""
_NET_ADMIN, _NET_RAW, _BPF = "12", "13", "39"


def _child(two, capabilities: str = "", name: str = "netmap:veth0^") -> subprocess.Popen[str]:
    space = two.namespace("a")
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(space), name, capabilities], pass_fds=[space],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.root
@needs_root
def test_killed_at_any_moment_a_process_leaves_the_interface_as_it_was(lab):
    two = lab(ipv6=False)
    before = nature(two)
    for moment in range(scaled(12, 3)):
        with _child(two) as child:
            if moment % 3:
                assert child.stdout.readline() == "OPEN\n"
            time.sleep(0.05 * (moment % 5))
            child.send_signal(signal.SIGKILL)
            child.wait(20)
        assert until(lambda: nature(two) == before)


@pytest.mark.root
@needs_root
def test_two_capabilities_are_enough(lab):
    two = lab(ipv6=False)
    with _child(two, f"{_NET_ADMIN},{_BPF}") as child:
        assert child.stdout.readline() == "OPEN\n"


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("has", [_NET_ADMIN, _BPF, _NET_RAW])
def test_whoever_lacks_one_is_told_which_and_the_command_that_grants_it(lab, has):
    two = lab(ipv6=False)
    before = nature(two)
    with _child(two, has) as child:
        said = child.stdout.readline()
    missing = {"cap_net_admin", "cap_bpf"} - {{_NET_ADMIN: "cap_net_admin", _BPF: "cap_bpf"}.get(has, "")}
    assert said.startswith("REFUSED")
    assert all(name.upper() in said for name in missing)
    assert "setcap cap_net_admin,cap_bpf+ep" in said
    assert nature(two) == before
