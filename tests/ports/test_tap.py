"""TAP ports on the kernel's own devices, each test in network namespaces that it makes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import pytest
from tap_world import Background, Space, eventually, needs_root, ones_sum, respond

import raceway
from conftest import scaled
from raceway.kernel.tap import TapDevice

pytestmark = [pytest.mark.root, needs_root]

MAC = bytes.fromhex("020000000002")
PEER = "10.9.0.2"
SO_RCVBUFFORCE = 33


@pytest.fixture
def spaces():
    made = []

    def make(**wishes) -> Space:
        made.append(Space(**wishes))
        return made[-1]

    yield make
    for space in made:
        space.end()


@pytest.fixture
def space(spaces):
    return spaces()


def addressed(space: Space, name: str = "tap:t0", **wishes) -> raceway.Port:
    """A port whose device has the address 10.9.0.1, and a neighbour 10.9.0.2 that nobody has to ask for."""
    port = space.open(name, **wishes)
    space.ip(f"address add 10.9.0.1/24 dev {port.device}")
    space.ip(f"neighbour replace {PEER} lladdr {MAC.hex(':')} dev {port.device} nud permanent")
    return port


def take(port: raceway.Port, count: int, seconds: float = 20) -> list[bytes]:
    """The next `count` packets; fewer if no more come in time."""
    packets: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(packets) < count and time.monotonic() < deadline:
        packets += port.receive(timeout=0.2).to_bytes()
    return packets


def udp_frame(space: Space, device: str, payload: bytes, *, ports: tuple[int, int] = (1000, 2000)) -> bytes:
    """A datagram from the neighbour to the host."""
    mac = bytes.fromhex(space.network.interface(device).mac.replace(":", ""))
    addresses = socket.inet_aton(PEER) + socket.inet_aton("10.9.0.1")
    udp = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
    checksum = 0xFFFF - ones_sum(addresses + struct.pack(">HH", 17, len(udp)) + udp) or 0xFFFF
    udp = udp[:6] + struct.pack(">H", checksum) + udp[8:]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + addresses
    ip = ip[:10] + struct.pack(">H", 0xFFFF - ones_sum(ip)) + ip[12:]
    return mac + MAC + b"\x08\0" + ip + udp


# -- packets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "@tap:offload=on", "@conf:rings=2"])
def test_the_host_can_ping_a_responder_written_in_python(space, options):
    port = space.open(f"tap:t0{options}")
    space.ip("address add 10.9.0.1/24 dev t0")
    echo = space.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with echo, Background(lambda: respond(port, MAC, socket.inet_aton(PEER))):
        for number in range(5):
            request = struct.pack(">BBHHH", 8, 0, 0, 77, number) + b"raceway!" * 7
            request = request[:2] + struct.pack(">H", 0xFFFF - ones_sum(request)) + request[4:]
            echo.sendto(request, (PEER, 0))
            answer, (sender, _) = echo.recvfrom(2000)
            assert sender == PEER
            assert answer[20:22] == b"\0\0"
            assert answer[24:] == request[4:]


@pytest.mark.parametrize("options", ["", "@tap:offload=on", "@conf:rings=3"])
def test_the_kernels_counters_and_the_ports_agree_to_the_packet(space, options):
    port = addressed(space, f"tap:t0{options}")
    outward, inward = scaled(4000, 300), scaled(3000, 300)
    sender, receiver = (space.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with sender, receiver:
        got = []
        for number in range(outward):
            sender.sendto(b"x" * (number % 1400), (PEER, 9))
            if number % 100 == 99:
                got += take(port, 100)
        receiver.bind(("10.9.0.1", 2000))
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        frames = [udp_frame(space, "t0", b"y" * (number % 1400)) for number in range(inward)]
        assert port.send(frames, timeout=20) == inward
        port.flush()
        heard = [receiver.recv(2000) for _ in range(inward)]
    assert heard == [b"y" * (number % 1400) for number in range(inward)]
    assert len(got) == outward
    counters, kernel = port.counters(), space.network.link_counters("t0")
    assert counters == {
        "tx_packets": kernel["rx_packets"], "tx_bytes": kernel["rx_bytes"],
        "rx_packets": kernel["tx_packets"], "rx_bytes": kernel["tx_bytes"],
    }  # fmt: skip
    assert (counters["rx_packets"], counters["tx_packets"]) == (outward, inward)
    assert kernel["tx_dropped"] == kernel["rx_dropped"] == 0


def test_packets_that_nobody_read_in_time_are_counted_by_name(space):
    port = addressed(space)
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(3000):
            sender.sendto(b"x", (PEER, 9))
    got = take(port, 3000, seconds=1)
    assert 0 < len(got) < 3000
    assert port.drops() == {"not_taken": 3000 - len(got)}


def test_several_queues_share_the_flows_and_each_flow_keeps_its_order(space):
    port = addressed(space, "tap:t0@conf:rings=4")
    assert len(port.rx) == len(port.tx) == len({watch.descriptor for watch in port.descriptors()}) == 4
    flows, rounds = 32, scaled(100, 10)
    senders = [space.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(flows)]
    seen: dict[int, list[int]] = {}
    try:
        for number in range(rounds):
            for sender in senders:
                sender.sendto(struct.pack(">I", number), (PEER, 9))
            for frame in take(port, flows):
                seen.setdefault(int.from_bytes(frame[34:36]), []).append(int.from_bytes(frame[42:46]))
    finally:
        for sender in senders:
            sender.close()
    assert len(seen) == flows
    assert all(numbers == list(range(rounds)) for numbers in seen.values())
    assert sum(ring.packets > 0 for ring in port.rx) >= 3


def test_a_flow_comes_to_the_queue_from_which_it_was_answered(space):
    port = addressed(space, "tap:t0@conf:rings=4")
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.bind(("10.9.0.1", 2000))
        for ring in (0, 3, 1, 2):
            port.send([udp_frame(space, "t0", b"hello", ports=(9, 2000))], ring=ring)
            host.recv(100)
            host.sendto(b"answer", (PEER, 9))
            assert port.receive(timeout=5).ring.number == ring


def test_one_queue_kept_of_several_gets_every_flow(space):
    port = addressed(space, "tap:t0@conf:rings=4")
    port._keep(2)
    assert len(port.descriptors()) == 1
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(40):
            sender.sendto(b"x", (PEER, 1000 + number))
    assert len(take(port, 40)) == 40
    port.send([udp_frame(space, "t0", b"y")])
    assert space.network.link_counters("t0")["rx_packets"] == 1


def test_packets_of_a_larger_mtu_than_a_buffer_come_and_go_in_chains(space):
    port = addressed(space, "tap:t0@tap:mtu=9000")
    assert (space.network.interface("t0").mtu, port.region.buffer_size) == (9000, 2048)
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.bind(("10.9.0.1", 2000))
        payload = os.urandom(8972)
        host.sendto(payload, (PEER, 9))
        batch = port.receive(timeout=5)
        assert batch.lengths.tolist() == [9014]
        assert len(batch._slots) == 5
        assert batch.to_bytes()[0][42:] == payload
        port.send([udp_frame(space, "t0", payload)])
        assert host.recv(10_000) == payload


def test_an_mtu_that_changes_under_an_open_port_loses_nothing(space):
    port = addressed(space, "tap:t0")
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        for mtu in (9000, 1500, 20_000, 576):
            space.ip(f"link set t0 mtu {mtu}")
            payload = os.urandom(mtu - 28)
            host.sendto(payload, (PEER, 9))
            assert take(port, 1)[0][42:] == payload
    assert eventually(lambda: port.sync() or port.tap.mtu == 576)
    assert port.drops() == {}


def test_a_port_that_waits_is_woken_by_a_packet(space):
    port = addressed(space, "tap:t0@conf:rings=2")
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as host, Background(lambda: time.sleep(0.05)):
        assert not port.wait(0.05)
        began = time.monotonic()
        host.sendto(b"x", (PEER, 9))
        assert port.wait(10)
        assert time.monotonic() - began < 5
        assert len(port.receive(timeout=1)) == 1


# -- the device --------------------------------------------------------------------------------------------------


def test_the_kernel_chooses_a_name_where_none_is_given(space):
    first, second = space.open("tap:"), space.open("tap:@conf:rings=2")
    assert (first.device, second.device) == ("tap0", "tap1")
    assert (first.mode, second.mode) == ("new tap, 1 queue", "new tap, 2 queues")
    assert first.tap.index == space.network.interface("tap0").index
    with space.inside(), TapDevice("rw%d") as device:
        assert device.name == "rw0"


def test_the_device_is_up_unless_the_name_says_otherwise_and_goes_with_the_port(space):
    port, silent = space.open("tap:t0"), space.open("tap:t1@tap:up=no,mtu=1400")
    assert space.network.interface("t0").up
    assert not space.network.interface("t1").up
    assert space.network.interface("t1").mtu == 1400
    port.close()
    silent.close()
    assert space.network.names() == ["lo"]


def test_a_device_whose_process_is_killed_is_gone(space):
    script = "import raceway, time; p = raceway.open('tap:t0@conf:rings=2'); print('open', flush=True); time.sleep(60)"
    with space.inside():
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline() == "open\n"
        assert space.there("t0")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert eventually(lambda: not space.there("t0"))


@pytest.mark.parametrize("queues", ["", " multi_queue"])
def test_a_device_that_was_there_before_is_opened_and_stays(space, queues):
    space.ip("tuntap add dev t0 mode tap" + queues)
    for options in ("", "@tap:offload=on", ""):
        with space.open(f"tap:t0{options}") as port:
            assert port.mode.startswith("existing tap, 1 queue, persistent")
            assert ("virtio header, checksum tso4 tso6" in port.mode) == bool(options)
            assert space.network.interface("t0").up
            assert space.network.features("t0")["tx-tcp-segmentation"] == bool(options)
        assert space.there("t0")
    with space.open("tap:t0@tap:persist=off") as port:
        assert "persistent" not in port.mode
    assert not space.there("t0")


def test_a_device_can_be_told_to_stay(space):
    with space.open("tap:t0@tap:persist=on,mtu=2000@conf:rings=2") as port:
        assert port.mode == "new tap, 2 queues, persistent"
    with space.open("tap:t0") as port:
        assert (port.mode, port.tap.mtu) == ("existing tap, 1 queue, persistent", 2000)


def test_what_was_dropped_before_the_port_was_opened_is_not_its_own(space):
    space.ip("tuntap add dev t0 mode tap")
    port = addressed(space)
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(2000):
            sender.sendto(b"x", (PEER, 9))
    assert port.drops()["not_taken"] > 0
    port.close()
    port = space.open("tap:t0")
    assert port.drops() == {}


@pytest.mark.parametrize("rings", [1, 2])
def test_a_device_that_somebody_has_open_is_busy(space, rings):
    port = space.open(f"tap:t0@conf:rings={rings}")
    for wanted in (1, 2):
        with pytest.raises(raceway.PortBusyError, match="t0: another port or process has it open") as caught:
            space.open(f"tap:t0@conf:rings={wanted}")
        assert caught.value.errno == errno.EBUSY
    # And the one who has it still gets all of its packets.
    space.ip("address add 10.9.0.1/24 dev t0")
    space.ip(f"neighbour replace {PEER} lladdr {MAC.hex(':')} dev t0 nud permanent")
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        for number in range(40):
            host.sendto(b"x", (f"{PEER}", 1000 + number))
    assert len(take(port, 40)) == 40


def test_an_interface_that_is_no_tap_device_is_named_for_what_it_is(space):
    space.ip("link add v0 type veth peer name v1")
    space.ip("tuntap add dev tun7 mode tun")
    for name, what in (("v0", "it is veth"), ("tun7", "a TUN device, without Ethernet"), ("lo", "hardware")):
        with pytest.raises(raceway.RacewayError, match=f"{name} is an interface already, but no TAP.*{what}"):
            space.open(f"tap:{name}")


def test_more_queues_than_the_device_was_made_for_are_refused_with_the_command_that_helps(space):
    space.ip("tuntap add dev t0 mode tap")
    with pytest.raises(raceway.RacewayError, match=r"one queue, and 3 were asked for.*multi_queue"):
        space.open("tap:t0", rings=3)
    with space.open("tap:t0") as port:
        assert port.mode == "existing tap, 1 queue, persistent"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tap:t0@tap:mtu=67", "MTU 67.*68 to 65521"),
        ("tap:t0@tap:mtu=65522", "MTU 65522"),
        ("tap:t0@tap:mtu=much", "mtu is 'much'"),
        ("tap:t0@tap:mtu=-1", "mtu is '-1'"),
        ("tap:t0@tap:offload=perhaps", "offload is 'perhaps', expected on or off"),
        ("tap:t0@tap:up=1", "up is '1'"),
        ("tap:t0@tap:colour=red", "colour.*mtu, offload, persist, up"),
        ("tap:t0@tap=on", "no key|no option"),
        ("tap:t0@xdp:mode=driver", "xdp"),
        ("tap:t0@conf:rings=65", "65 rings"),
        ("null:@tap:mtu=1500", "tap"),
    ],
)
def test_options_that_cannot_be_are_refused_and_leave_nothing(space, name, message):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=message):
        space.open(name)
    assert space.network.names() == ["lo"]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["a" * 16, "a/b", "a b", "..", "a:b", "%s", "a%", "%d%d", "ü", "a\0b"])
def test_names_that_no_device_can_have_are_refused(space, name):
    with space.inside(), pytest.raises(ValueError, match="for a TAP device"):
        TapDevice(name)


def test_numbers_of_queues_that_cannot_be_are_refused(space):
    for queues in (0, -1, 257):
        with space.inside(), pytest.raises(ValueError, match="1 to 256"):
            TapDevice("t0", queues=queues)
    with space.inside(), TapDevice("t0", queues=256) as device:
        assert len(set(device.descriptors)) == 256


def test_what_is_sent_to_a_device_that_is_down_is_dropped_by_name_and_goes_on_after(space):
    port = addressed(space)
    space.ip("link set t0 down")
    port.send([udp_frame(space, "t0", b"lost")] * 3)
    port.send([b"short"])
    assert port.drops() == {"down": 3, "invalid": 1}
    space.ip("link set t0 up")
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.bind(("10.9.0.1", 2000))
        port.send([udp_frame(space, "t0", b"found")])
        assert host.recv(100) == b"found"
    kernel = space.network.link_counters("t0")
    assert port.counters()["tx_packets"] == kernel["rx_packets"] + 4


@pytest.mark.parametrize("how", ["receive", "send", "forward"])
@pytest.mark.parametrize("rings", [1, 2])
def test_a_device_that_is_deleted_under_the_port_is_an_error_within_a_second(space, how, rings):
    from raceway.apps.forwarder.forwarder import Forwarder, Way

    port, other = space.open("tap:t0", rings=rings), space.open("tap:t1")
    forwarder = Forwarder([Way(port, other), Way(other, port)])
    forwarder.step(1_000_000)
    port.receive(timeout=0)

    def work() -> None:
        if how == "receive":
            port.receive(timeout=5)
        elif how == "send":
            port.send([bytes(60)], timeout=5)
            time.sleep(0.001)
        else:
            forwarder.step()

    space.ip("link delete t0")
    began = time.monotonic()
    with pytest.raises(raceway.RacewayError, match="tap:t0: the TAP device t0 was deleted"):  # noqa: PT012
        while time.monotonic() - began < 5:
            work()
    assert time.monotonic() - began < 5
    # The other port goes on.
    space.ip("address add 10.9.0.1/24 dev t1")
    with space.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.sendto(b"x", (PEER, 9))
        assert len(take(other, 1)) == 1


def test_a_device_that_is_renamed_goes_on_under_its_new_name(space):
    port = addressed(space)
    space.ip("link set t0 name t7")
    assert eventually(lambda: port.sync() or port.device == "t7", 2)
    port.send([udp_frame(space, "t7", b"x")])
    assert port.counters()["tx_packets"] == space.network.link_counters("t7")["rx_packets"]


# -- without being root ------------------------------------------------------------------------------------------


class Nobody:
    """Starts Python without privilege: as an ordinary user, or, where that one cannot read the interpreter or the
    package, as a user 0 who has no capability but to be mapped into a user namespace (user_namespaces(7))."""

    def __init__(self, cache: str) -> None:
        self.environment = os.environ | {"RACEWAY_CACHE_DIR": cache, "HOME": cache}
        users = {
            65534: ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"],
            0: ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"],
        }
        for self.uid, self.become in users.items():
            os.chown(cache, self.uid, self.uid)
            # env is there to be executed: what setpriv itself executes it may still read as root.
            if self.run("import numba, scapy, raceway.ports.tap.port", "env").returncode == 0:
                return
        raise AssertionError("user 0 cannot import raceway")

    def run(self, script: str, *before: str) -> subprocess.CompletedProcess[str]:
        command = [*self.become, *before, sys.executable, "-c", script]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=300, cwd="/", check=False
        )


@pytest.fixture
def nobody():
    if not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("needs setpriv and unshare (util-linux)")
    with tempfile.TemporaryDirectory() as cache:
        yield Nobody(cache)


def test_an_ordinary_user_makes_taps_in_a_namespace_of_his_own(nobody):
    script = """
import raceway, socket
with raceway.open("tap:t0@tap:offload=on,mtu=4000@conf:rings=2") as port:
    host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    host.bind(("t0", 3))
    host.send(b"\\xff" * 6 + bytes(6) + b"\\x88\\xb5" + b"hello from the host")
    while True:
        packets = [packet for packet in port.receive(timeout=10).to_bytes() if packet[12:14] == b"\\x88\\xb5"]
        if packets:
            break
    print(port.mode, packets[0][14:])
"""
    got = nobody.run(script, "unshare", "-Urn")
    if "unshare failed" in got.stderr:
        pytest.skip("this kernel forbids user namespaces to ordinary users")
    assert got.stderr == ""
    assert got.stdout == "new tap, 2 queues, virtio header, checksum tso4 tso6 ecn b'hello from the host'\n"


def test_an_ordinary_user_is_told_which_capability_is_missing(nobody):
    script = """
import raceway
try:
    raceway.open("tap:t0")
except PermissionError as error:
    print(error)
"""
    got = nobody.run(script)
    assert "creating the TAP device t0 was refused" in got.stdout
    assert "cap_net_admin+ep" in got.stdout


def test_a_device_that_belongs_to_the_user_takes_no_capability(space, nobody):
    space.ip(f"tuntap add dev t0 mode tap user {nobody.uid}")
    space.ip("tuntap add dev t1 mode tap user 65533")
    space.ip("link set t0 up")
    script = """
import raceway
with raceway.open("tap:t0") as port:
    print(port.mode)
for name in ("tap:t1", "tap:t0@tap:mtu=1400"):
    try:
        raceway.open(name)
    except PermissionError as error:
        print(str(error).split(" was refused")[0])
"""
    with space.inside():
        got = nobody.run(script)
    assert got.stdout.splitlines() == [
        "existing tap, 1 queue, persistent",
        "opening the TAP device t1",
        "setting the MTU of the TAP device t0",
    ]
