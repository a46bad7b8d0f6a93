"""Opening an interface: which queues, which directions, which of the kernel's ways, and what is said of it."""

from __future__ import annotations

import pytest

import raceway
from labs import lab as lab, needs_root
from nic_world import attached, collect, ethtool, features, frame, heard, ip, numbers, open_at, raw_socket
from raceway.errors import NoSuchInterfaceError, RacewayError
from raceway.kernel.xsk import XdpModeError
from raceway.ports.names import PortNameError
from raceway.ports.nic.port import InterfaceError

pytestmark = [needs_root, pytest.mark.root]


def test_every_queue_of_an_interface_is_a_ring_pair(lab):
    wire = lab(queues=4, ipv6=False)
    with open_at(wire, "a") as port:
        assert (len(port.tx), len(port.rx)) == (4, 4)
        assert attached(wire, "a") == ["driver"]
        assert [ring.number for ring in port.rx] == [0, 1, 2, 3]
    assert attached(wire, "a") == []


def test_one_queue_is_one_pair_and_the_others_stay_the_hosts(lab):
    wire = lab(queues=4, ipv6=False)
    with (
        open_at(wire, "b", "-2") as port,
        open_at(wire, "a") as sender,
        raw_socket(wire, "b") as host,
    ):
        assert (len(port.tx), len(port.rx)) == (1, 1)
        # Queue n of one end of a veth pair is queue n of the other.
        for queue in range(4):
            assert sender.send([frame(queue)], ring=queue) == 1
        assert numbers(collect(port, 1)) == [2]
        assert sorted(numbers(heard(host, 3))) == [0, 1, 3]
        assert port.receive(0.02).to_bytes() == []
        port.send([frame(9)])
        assert numbers(collect(sender, 1)) == [9]


def test_a_queue_that_is_not_there_is_named(lab):
    wire = lab(queues=2, ipv6=False)
    with pytest.raises(ValueError, match=r"veth0 has no queue 2; it has 2, counted from 0"):
        open_at(wire, "a", "-2")
    assert attached(wire, "a") == []


def test_more_queues_than_a_port_has_rings_are_opened_one_by_one(lab):
    wire = lab(queues=65, ipv6=False)
    with pytest.raises(
        ValueError, match=r"veth0 has 65 queues, and a port at most 64 ring pairs; expected veth0-N"
    ):
        open_at(wire, "a")
    with open_at(wire, "a", "-64") as port, open_at(wire, "b", "-64") as peer:
        peer.send([frame(1)])
        assert numbers(collect(port, 1)) == [1]


def test_queues_of_each_direction_are_counted_apart(lab):
    wire = lab(queues=4, ipv6=False)
    ethtool(wire, "a", "-L veth0 rx 4 tx 2")
    with open_at(wire, "a", "@xdp:tx=socket") as one, open_at(wire, "b", "@xdp:tx=socket") as other:
        assert (len(one.tx), len(one.rx), len(other.tx), len(other.rx)) == (2, 4, 4, 4)
        for sender, receiver, count in ((one, other, 2), (other, one, 4)):
            for queue in range(count):
                sender.send([frame(queue)], ring=queue)
            assert sorted(numbers(collect(receiver, count))) == list(range(count))
    with open_at(wire, "a", "-3") as port:
        assert (len(port.tx), len(port.rx)) == (0, 1)


def test_the_best_mode_is_had_and_what_was_tried_is_told(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a") as port:
        assert port.mode == "copy"
        assert port.notes == ["zero-copy: the driver veth has none"]


@pytest.mark.parametrize(
    ("mode", "where"), [("copy", ["driver"]), ("generic", ["generic"]), ("packet", [])], ids=str
)
def test_a_mode_that_is_insisted_on_is_had(lab, mode, where):
    wire = lab(ipv6=False)
    with open_at(wire, "b", f"@xdp:mode={mode}") as port, open_at(wire, "a") as peer:
        assert port.mode == mode
        assert attached(wire, "b") == where
        peer.send([frame(1)])
        assert numbers(collect(port, 1)) == [1]
        port.send([frame(2)])
        assert numbers(collect(peer, 1)) == [2]


def test_a_mode_that_cannot_be_had_is_an_error_that_says_why_and_leaves_nothing(lab):
    wire = lab(ipv6=False)
    with pytest.raises(XdpModeError, match="zero-copy cannot be had: the driver veth has none"):
        open_at(wire, "a", "@xdp:mode=zero-copy")
    assert attached(wire, "a") == []
    with (
        lab(queues=1, ipv6=False).inside("a"),
        pytest.raises(XdpModeError, match="driver mode cannot be had"),
    ):
        raceway.open("netmap:lo@xdp:mode=copy")


def test_where_the_driver_has_no_xdp_it_is_done_behind_it_and_the_notes_say_so(lab):
    with lab(ipv6=False).inside("a"), raceway.open("netmap:lo") as port:
        assert port.mode == "generic"
        assert any("XDP in the driver" in note for note in port.notes)


def test_modes_that_need_more_of_the_veth_pair_are_explained(lab):
    """veth refuses a program while its other end can send to more queues than this end has."""
    wire = lab(queues=2, ipv6=False)
    ethtool(wire, "a", "-L veth0 rx 1")
    with pytest.raises(XdpModeError, match="more transmit queues than this end has receive queues"):
        open_at(wire, "a", "@xdp:mode=copy")
    with open_at(wire, "a") as port:
        assert port.mode == "generic"
        assert any("more transmit queues" in note for note in port.notes)


@pytest.mark.parametrize("flag", ["/t", "/T"])
def test_a_port_that_only_sends_has_no_program_and_the_host_hears_on(lab, flag):
    wire = lab(ipv6=False)
    with open_at(wire, "a", flag) as port, open_at(wire, "b") as peer, raw_socket(wire, "a") as host:
        assert (len(port.tx), len(port.rx)) == (1, 0)
        assert attached(wire, "a") == []
        port.send([frame(1)])
        assert numbers(collect(peer, 1)) == [1]
        peer.send([frame(2)])
        assert numbers(heard(host, 1)) == [2]
        with pytest.raises(RacewayError, match="only sends"):
            port.receive(0)


@pytest.mark.parametrize("flag", ["/r", "/R"])
def test_a_port_that_only_receives_has_no_transmit_ring(lab, flag):
    wire = lab(ipv6=False)
    with open_at(wire, "a", flag) as port, open_at(wire, "b") as peer:
        assert (len(port.tx), len(port.rx)) == (0, 1)
        peer.send([frame(1)])
        assert numbers(collect(port, 1)) == [1]
        with pytest.raises(RacewayError, match="only receives"):
            port.send([frame(2)])


def test_both_directions_alone_together_are_none(lab):
    wire = lab(ipv6=False)
    with pytest.raises(ValueError, match="only transmit and for only receive"):
        open_at(wire, "a", "/tr")


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("@xdp:mode=fast", "mode 'fast': expected zero-copy, copy, generic or packet"),
        ("@xdp:tx=dead", "tx 'dead': expected live or socket"),
        ("@xdp:busy_poll=-1", "busy-poll '-1': expected microseconds, 0 to 1000000"),
        ("@xdp:busy_poll=1000001", "expected microseconds, 0 to 1000000"),
        ("@xdp:color=red", "no option 'color' here; @xdp: takes busy-poll, mode"),
        ("@tap:mtu=5", "no option @tap here"),
        ("@xdp:mode=packet-1", "mode 'packet-1'"),
    ],
    ids=str,
)
def test_options_that_are_none_are_refused_before_anything_is_touched(lab, suffix, message):
    wire = lab(ipv6=False)
    with pytest.raises(ValueError, match=message):
        open_at(wire, "a", suffix)
    assert attached(wire, "a") == []


def test_names_of_interfaces_that_are_none(lab):
    wire = lab(ipv6=False)
    with wire.inside("a"):
        with pytest.raises(NoSuchInterfaceError, match="did you mean veth0"):
            raceway.open("netmap:veht0")
        with pytest.raises(PortNameError):
            raceway.open("netmap:veth0-")
        with raceway.open("veth0") as plain:
            assert plain.mode == "copy"


def test_an_interface_that_is_down_is_not_opened_and_the_command_is_told(lab):
    wire = lab(ipv6=False)
    ip(wire, "a", "link set veth0 down")
    with pytest.raises(InterfaceError, match="veth0 is down; ip link set veth0 up"):
        open_at(wire, "a")
    assert attached(wire, "a") == []


def test_af_packet_has_no_single_queues(lab):
    wire = lab(queues=2, ipv6=False)
    with pytest.raises(RacewayError, match="no single queue"):
        open_at(wire, "a", "-1@xdp:mode=packet")


def test_busy_polling_sends_and_receives(lab):
    wire = lab(ipv6=False)
    with open_at(wire, "a", "@xdp:busy_poll=20") as one, open_at(wire, "b", "@xdp:busy_poll=20") as other:
        one.send([frame(number) for number in range(100)])
        assert numbers(collect(other, 100)) == list(range(100))
        other.send([frame(5)])
        assert numbers(collect(one, 1)) == [5]


def test_offloads_are_as_before_while_it_is_open_and_afterwards(lab):
    wire = lab(ipv6=False)
    before = features(wire, "a"), features(wire, "b")
    with open_at(wire, "a"):
        pass
    assert (features(wire, "a"), features(wire, "b")) == before
