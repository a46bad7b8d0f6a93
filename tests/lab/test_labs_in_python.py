"""`Lab`: every shape, every option, from Python; and that nothing is left however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from labs import lab as lab, mounts_of_labs, names_of_labs, needs, needs_root, output, reaches
from raceway.apps.lab import Lab, LabError, build, processes
from raceway.apps.lab.names import find
from raceway.apps.lab.survey import survey
from raceway.kernel import ethtool, namespaces
from raceway.kernel.interface import Network

pytestmark = [needs_root, needs("ping", "ip")]

BRIDGE = "ip link add joined type bridge && ip link set joined up && for i in {}; do ip link set $i master joined; done"


def interfaces(place: Lab, host: str) -> dict[str, tuple[int, int, int]]:
    """MTU and queues, transmit and receive, of each veth."""
    with place.inside(host), Network() as network:
        found = {}
        for name in network.names():
            if name != "lo":
                seen = network.interface(name)
                found[name] = (seen.mtu, seen.transmit_queues, seen.receive_queues)
        return found


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("vlan", [0, 5])
def test_two_hosts_in_a_line_reach_each_other_at_once(lab, family, vlan):
    place = lab(vlan=vlan)
    assert reaches(place, "a", place.address("b", family))
    assert reaches(place, "b", place.address("a", family))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("vlan", [0, 77])
@pytest.mark.parametrize("hosts", [2, 3])
def test_a_router_joins_its_hosts(lab, family, vlan, hosts):
    place = lab("router", hosts, vlan=vlan)
    for host in place.hosts[1:-1]:
        assert reaches(place, "a", place.address(host, family))
    assert reaches(place, "a", place.address("router", family, towards="b"))
    # Through the router, and not by a short cut.
    assert f"via {place.address('router', family, towards='a')} " in output(
        place, "a", "ip", "route", "get", place.address("b", family)
    )


@pytest.mark.parametrize(
    ("shape", "hosts", "centre", "sides"),
    [
        ("line", 3, "m", "left right"),
        ("star", 3, "hub", "to_a to_b to_c"),
        ("star", 2, "hub", "to_a to_b"),
    ],
)
@pytest.mark.parametrize("family", [4, 6])
def test_what_is_in_the_middle_passes_nothing_on_until_somebody_joins_its_sides(
    lab, shape, hosts, centre, sides, family
):
    place = lab(shape, hosts)
    target = place.address("b", family)
    assert not reaches(place, "a", target, patience=0.3)
    place.run(centre, BRIDGE.format(sides), shell=True, check=True)
    # A bridge learns for a moment before it forwards, unless told not to; it has no spanning tree here.
    deadline = time.monotonic() + 10
    while not reaches(place, "a", target, patience=0.3):
        assert time.monotonic() < deadline


def test_the_middle_says_nothing_by_itself(lab):
    place = lab("line", 3)
    reaches(place, "a", place.address("b"), patience=0.3)
    with place.inside("m"), Network() as network:
        for side in ("left", "right"):
            assert network.link_counters(side)["tx_packets"] == 0
    assert output(place, "m", "ip", "-o", "addr", "show", "up").splitlines()[0].split()[1] == "lo"
    with pytest.raises(ValueError, match="'m' has no IPv4 address in this lab"):
        place.address("m", towards="a")


@pytest.mark.parametrize("family", [4, 6])
def test_with_mtu_9000_frames_of_that_size_go_through_whole(lab, family):
    place = lab(mtu=9000)
    headers = {4: 28, 6: 48}[family]
    assert reaches(place, "a", place.address("b", family), 9000 - headers)
    assert not reaches(place, "a", place.address("b", family), 9001 - headers)
    assert {mtu for mtu, _, _ in interfaces(place, "b").values()} == {9000}


@pytest.mark.parametrize("queues", [1, 4])
def test_every_interface_has_the_queues_asked_for_at_both_ends(lab, queues):
    place = lab("line", 3, queues=queues)
    for host, count in (("a", 1), ("m", 2), ("b", 1)):
        found = interfaces(place, host)
        assert len(found) == count
        assert {counts[1:] for counts in found.values()} == {(queues, queues)}
        listed = output(place, host, "ls", f"/sys/class/net/{next(iter(found))}/queues").split()
        assert sorted(listed) == sorted(
            [f"{way}-{number}" for way in ("rx", "tx") for number in range(queues)]
        )


def test_in_a_vlan_what_is_on_the_wire_is_tagged(lab):
    place = lab(vlan=5, offloads=False)
    with place.inside("b"):
        # ETH_P_ALL: everything that comes in at the veth itself.
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        wire.bind((place.interface("b"), 0))
        # PACKET_AUXDATA: the kernel has taken the tag out of the frame, and says so beside it.
        wire.setsockopt(263, 8, 1)
        wire.settimeout(5)
    with wire:
        assert reaches(place, "a", place.address("b"))
        identifiers = []
        for _ in range(20):
            frame, control, _, address = wire.recvmsg(2048, 256)
            # Echo requests (RFC 792), which come in.
            if address[2] != 4 and frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 8:
                # struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
                data = control[0][2]
                identifiers.append(
                    (int.from_bytes(data[16:18], sys.byteorder), int.from_bytes(data[18:20], sys.byteorder))
                )
                break
    assert identifiers == [(5, 0x8100)]


def test_in_a_vlan_only_what_has_its_tag_comes_in(lab):
    """Frames of an EtherType for experiments (IEEE 802, 9.2.4): untagged, of another VLAN, of the VLAN."""
    place = lab(vlan=5)
    experiment = 0x88B5
    with place.inside("b"):
        there = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(experiment))
        there.bind((place.end("b").addressed, experiment))
        there.settimeout(5)
    with place.inside("a"):
        here = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        here.bind((place.interface("a"), 0))
    addresses = b"\xff" * 6 + bytes.fromhex(place.mac("a").replace(":", ""))
    with there, here:
        for tag in ("", "81000006", "88a80005", "81000005"):
            here.send(addresses + bytes.fromhex(tag) + experiment.to_bytes(2) + tag.encode().ljust(50))
        frame = there.recv(2048)
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.recv(2048)
    assert frame == addresses + experiment.to_bytes(2) + b"81000005".ljust(50)


@pytest.mark.parametrize(("wanted", "expected"), [(False, False), (True, True)])
def test_offloads_are_off_or_on_as_asked(lab, wanted, expected):
    place = lab(offloads=wanted)
    for host in place.hosts:
        with place.inside(host), socket.socket() as asker:
            states = ethtool.feature_states(asker, place.interface(host))
        for key in (
            "tx-checksum-ip-generic",
            "tx-tcp-segmentation",
            "tx-generic-segmentation",
            "rx-gro",
            "tx-vlan-hw-insert",
        ):
            on, changeable = states[key]
            assert on == expected or not changeable, key
    assert reaches(place, "a", place.address("b"))


def test_offloads_that_nobody_asked_about_are_as_the_kernel_has_them(lab):
    place = lab()
    output(place, "a", "ip", "link", "add", "fresh", "type", "veth")
    with place.inside("a"), socket.socket() as asker:
        assert ethtool.features(asker, place.interface("a")) == ethtool.features(asker, "fresh")


def test_without_ipv6_there_is_none(lab):
    place = lab(ipv6=False)
    assert reaches(place, "a", place.address("b"))
    assert "inet6" not in output(place, "a", "ip", "address", "show", place.interface("a"))
    with pytest.raises(ValueError, match="'b' has no IPv6 address"):
        place.address("b", 6)


def test_the_lab_tells_what_the_kernel_tells(lab):
    place = lab("line", 3)
    for host, towards in (("a", None), ("m", "a"), ("m", "b"), ("b", None)):
        name = place.interface(host, towards)
        with place.inside(host):
            assert socket.if_nametoindex(name) == place.index(host, towards)
        assert output(place, host, "cat", f"/sys/class/net/{name}/address").strip() == place.mac(
            host, towards
        )
    with pytest.raises(ValueError, match="family 5: expected 4 or 6"):
        place.address("a", 5)


def test_inside_this_thread_only_and_sockets_stay(lab):
    place = lab()
    home = namespaces.identity()
    with place.inside("b"):
        assert namespaces.identity() == namespaces.identity(place.namespace("b"))
        server = socket.create_server((place.address("b"), 5000))
    assert namespaces.identity() == home
    with server, place.inside("a"), socket.create_connection((place.address("b"), 5000), timeout=5) as client:
        accepted, address = server.accept()
        with accepted:
            accepted.sendall(b"from b")
            assert client.recv(100) == b"from b"
        assert address[0] == place.address("a")


def test_run_takes_and_gives_what_subprocess_does(lab):
    place = lab()
    assert place.run("a", ["cat"], input="some words", text=True, capture_output=True).stdout == "some words"
    assert place.run("a", "exit 3", shell=True).returncode == 3
    with pytest.raises(subprocess.CalledProcessError):
        place.run("a", ["false"], check=True)
    with pytest.raises(FileNotFoundError):
        place.run("a", ["there-is-no-such-command"])
    with pytest.raises(subprocess.TimeoutExpired) as late:
        place.run("a", "echo early; exec sleep 30", shell=True, timeout=0.5, capture_output=True)
    assert late.value.output == b"early\n"
    given = place.run("a", "echo $GIVEN$HOME", shell=True, env={"GIVEN": "x"}, capture_output=True, text=True)
    assert given.stdout == "x\n"
    with pytest.raises(ValueError, match="host 'c': expected one of a, b"):
        place.run("c", ["true"])


def test_what_still_runs_ends_with_the_lab(lab):
    with Lab() as place:
        children = [
            place.popen("a", ["sleep", "100"]),
            # It will not end when asked, and stops, and its own child was started by no one we know.
            place.popen("b", "trap '' TERM; sleep 100 & wait; sleep 100", shell=True, executable="/bin/bash"),
            place.popen("b", "kill -STOP $$", shell=True),
        ]
        spaces = {namespaces.identity(place.namespace(host)) for host in place.hosts}
        deadline = time.monotonic() + 10
        while sum(map(len, processes.inside(spaces).values())) < 4:
            assert time.monotonic() < deadline
    assert [child.returncode for child in children] == [-signal.SIGTERM, -signal.SIGKILL, -signal.SIGTERM]
    assert not any(processes.inside(spaces).values())
    place.close()
    with pytest.raises(ValueError, match="closed"):
        place.run("a", ["true"])


@pytest.mark.alone
def test_a_lab_takes_no_descriptors_and_no_names_with_it():
    before, mounts = sorted(os.listdir("/proc/self/fd")), mounts_of_labs()
    names = names_of_labs()
    for _ in range(3):
        with Lab("router", queues=2) as place:
            reaches(place, "a", place.address("b"))
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert mounts_of_labs() == mounts
    assert names_of_labs() == names
    assert threading.active_count() == 1 or all("visit" not in one.name for one in threading.enumerate())


def test_a_lab_with_a_name_is_seen_from_outside_and_is_the_only_one(lab):
    name = f"t{os.getpid()}"
    place = lab(name=name)
    assert (
        f"rw-{name}-a" in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    )
    done = subprocess.run(
        ["ip", "netns", "exec", f"rw-{name}-a", "ping", "-c1", "-W1", place.address("b")],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0
    with pytest.raises(
        LabError, match=f"lab '{name}' is there already, with a, b; .*raceway lab down {name}"
    ):
        Lab(name=name)
    assert survey(find(name)).complete
    assert reaches(place, "a", place.address("b"))
    place.close()
    assert name not in names_of_labs()


@pytest.mark.alone
@pytest.mark.parametrize("name", [None, f"u{os.getpid()}"])
@pytest.mark.parametrize("step", ["_settings", "_make_pair", "_configure"])
def test_a_lab_that_fails_half_way_leaves_nothing(monkeypatch, name, step):
    """Each step fails at each of its calls in turn."""
    before, mounts = sorted(os.listdir("/proc/self/fd")), mounts_of_labs()
    real, calls = getattr(build, step), {"made": 0, "wanted": 0}

    def failing(*arguments):
        calls["made"] += 1
        if calls["made"] > calls["wanted"]:
            raise OSError(5, "as bad as it gets")
        return real(*arguments)

    monkeypatch.setattr(build, step, failing)
    for wanted in range(2 if step == "_make_pair" else 3):
        calls.update(made=0, wanted=wanted)
        with pytest.raises(OSError, match="as bad as it gets"):
            Lab("line", 3, name=name)
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert name not in names_of_labs()
    assert mounts_of_labs() == mounts


def test_ctrl_c_while_a_lab_is_made_waits_for_the_step_and_then_undoes_it(monkeypatch):
    """SIGINT comes while the other thread is at work; the lab has a name, so that what is left would be seen."""
    name, real = f"v{os.getpid()}", build._configure

    def slow(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(build, "_configure", slow)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt):
        Lab(name=name)
    assert name not in names_of_labs()
    assert sorted(os.listdir("/proc/self/fd")) == before


OWNER = """
import sys, time
from raceway.apps.lab import Lab
place = Lab()
child = place.popen("a", ["sleep", sys.argv[1]])
print(child.pid, place.namespace("a"), flush=True)
time.sleep(100)
"""


def test_a_lab_ends_with_its_process_by_sigkill_too_and_who_is_left_inside_is_found():
    """We hold one host's namespace open and see its veth go, which it does when the other host's namespace ends."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, "100.25"], stdout=subprocess.PIPE, text=True)
    with owner:
        child, descriptor = map(int, owner.stdout.readline().split())
        space = os.open(f"/proc/{owner.pid}/fd/{descriptor}", os.O_RDONLY)
        try:
            assert not [process for process in processes.orphans() if process.pid == child]
            owner.kill()
            owner.wait()
            with namespaces.inside(space):
                deadline = time.monotonic() + 10
                while [name for _, name in socket.if_nameindex()] != ["lo"]:
                    assert time.monotonic() < deadline
            orphans = [process for process in processes.orphans() if process.pid == child]
            assert [str(process) for process in orphans] == [f"{child} (sleep)"]
            processes.end(orphans)
            assert not [process for process in processes.orphans() if process.pid == child]
        finally:
            os.close(space)


def test_a_lab_is_made_from_any_thread_and_inside_another_lab(lab):
    outer, made = lab(), []
    with outer.inside("a"):
        made.append(lab("router"))
    thread = threading.Thread(target=lambda: made.append(lab("line", 2)))
    thread.start()
    thread.join()
    for place in made:
        assert reaches(place, "a", place.address("b"))


@pytest.mark.alone
def test_a_lab_is_fast(lab):
    lab()  # The first one imports pyroute2.
    times = []
    for _ in range(5):
        began = time.perf_counter()
        lab("line", 3, queues=2)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.150
