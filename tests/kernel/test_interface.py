"""What the kernel says of interfaces, asked in network namespaces of the tests' own."""

from __future__ import annotations

import ctypes
import functools
import os
import select
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from raceway.errors import NoSuchInterfaceError
from raceway.kernel import interface as asking
from raceway.kernel.interface import LinkWatch, Network
from raceway.kernel.netlink import NETLINK_ROUTE, NetlinkSocket, attribute, attributes, every_attribute

CLONE_NEWNET = 0x40000000

root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2"),
]


def ip(*words: str) -> None:
    """`ip` in the namespace of the calling thread: a child is born where its parent's thread is."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def in_own_namespace(test: Callable[..., None]) -> Any:
    """Run a test in a thread with a network namespace of its own, which goes with the thread."""

    @functools.wraps(test)
    def run(*arguments: Any, **keywords: Any) -> None:
        failures: list[BaseException] = []

        def body() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
                test(*arguments, **keywords)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    for mark in root:
        run = mark(run)
    return run


def readable(watch: LinkWatch) -> bool:
    return bool(select.select([watch.fileno()], [], [], 5)[0])


@in_own_namespace
def test_a_veths_queues_mtu_mac_and_peer_are_the_real_ones() -> None:
    ip("link", "add", "left", "numrxqueues", "4", "numtxqueues", "3", "mtu", "1700", "address", "02:00:00:00:00:07",
       "type", "veth", "peer", "name", "right")  # fmt: skip
    left, right = asking.interface("left"), asking.interface("right")
    assert (left.name, left.mtu, left.mac) == ("left", 1700, "02:00:00:00:00:07")
    assert (left.kind, left.driver, left.hardware_type) == ("veth", "veth", asking.ARPHRD_ETHER)
    assert (left.maximum_receive_queues, left.maximum_transmit_queues) == (4, 3)
    # veth starts with as many queues as its other end can use, not with all that it was made with.
    ethtool = subprocess.run(
        ["ip", "-d", "link", "show", "left"], capture_output=True, text=True, check=True
    ).stdout
    assert "numrxqueues 4" in ethtool
    assert 1 <= left.receive_queues <= 4
    assert 1 <= left.transmit_queues <= 3
    assert (left.peer, right.peer) == (right.index, left.index)
    assert not left.up
    assert not left.running


@pytest.mark.skipif(shutil.which("ethtool") is None, reason="needs ethtool")
@in_own_namespace
def test_the_number_of_queues_follows_what_ethtool_sets() -> None:
    ip("link", "add", "left", "numrxqueues", "4", "numtxqueues", "4", "type", "veth", "peer", "name", "right")
    subprocess.run(["ethtool", "-L", "left", "rx", "3", "tx", "2"], check=True)
    left = asking.interface("left")
    assert (left.receive_queues, left.transmit_queues) == (3, 2)
    assert (left.maximum_receive_queues, left.maximum_transmit_queues) == (4, 4)


@in_own_namespace
def test_up_and_carrier_are_told_apart() -> None:
    ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    ip("link", "set", "left", "up")
    assert asking.interface("left").up
    assert not asking.interface("left").running
    ip("link", "set", "right", "up")
    assert asking.interface("left").running


@in_own_namespace
def test_promiscuous_is_seen_whoever_asked_for_it() -> None:
    ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    assert not asking.interface("left").promiscuous
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sniffer:
        sniffer.bind(("left", 0))
        # PACKET_ADD_MEMBERSHIP with PACKET_MR_PROMISC: the interface's IFF_PROMISC flag does not show this one.
        membership = asking.interface("left").index.to_bytes(4, "little") + b"\1\0" + bytes(10)
        sniffer.setsockopt(263, 1, membership)
        assert asking.interface("left").promiscuous
    assert not asking.interface("left").promiscuous


@in_own_namespace
def test_a_missing_interface_is_named_with_its_nearest_neighbours() -> None:
    ip("link", "add", "uplink0", "type", "veth", "peer", "name", "right")
    with pytest.raises(
        NoSuchInterfaceError, match="no network interface 'uplink1'; did you mean uplink0"
    ) as caught:
        asking.interface("uplink1")
    assert isinstance(caught.value, OSError)
    with pytest.raises(NoSuchInterfaceError, match="has lo, "):
        asking.interface("zzz")
    for question in (asking.features, asking.statistics, asking.link_counters, asking.xdp_attached):
        with pytest.raises(NoSuchInterfaceError):
            question("uplink9")
    for name in ("", "a\0b", "x" * 200, "no such/name"):
        with pytest.raises(NoSuchInterfaceError):
            asking.interface(name)
    with pytest.raises(NoSuchInterfaceError, match="no network interface 4711"):
        asking.interface(4711)


@in_own_namespace
def test_an_alternative_name_leads_to_the_interface() -> None:
    ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    ip("link", "property", "add", "dev", "left", "altname", "a-name-longer-than-fifteen-bytes")
    assert asking.interface("a-name-longer-than-fifteen-bytes").name == "left"


@in_own_namespace
def test_offloads_are_switched_and_restored_by_what_was_returned() -> None:
    ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    before = asking.features("left")
    assert before["tx-checksum-ip-generic"]
    undo = asking.set_features("left", {"tx-checksum-ip-generic": False, "rx-gro": not before["rx-gro"]})
    now = asking.features("left")
    assert not now["tx-checksum-ip-generic"]
    # Segmentation needs checksums: it went with them, and the undoing knows.
    assert not now["tx-tcp-segmentation"]
    assert undo == {key: on for key, on in before.items() if now[key] != on}
    asking.set_features("left", undo)
    assert asking.features("left") == before
    with pytest.raises(ValueError, match="left: no offload is called 'warp-drive'"):
        asking.set_features("left", {"warp-drive": True})


@in_own_namespace
def test_counters_count_what_was_sent() -> None:
    ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    ip("link", "set", "left", "up")
    ip("link", "set", "right", "up")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("left", 0))
        before, arrived = asking.link_counters("left"), asking.link_counters("right")
        for _ in range(7):
            sender.send(b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(46))
        after, arrived_after = asking.link_counters("left"), asking.link_counters("right")
    # At least: the kernel may say something of its own (IPv6 looks for neighbours).
    assert after["tx_packets"] - before["tx_packets"] >= 7
    assert after["tx_bytes"] - before["tx_bytes"] >= 7 * 60
    assert arrived_after["rx_packets"] - arrived["rx_packets"] >= 7
    own = asking.statistics("left")
    assert own["peer_ifindex"] == asking.interface("right").index


@in_own_namespace
def test_the_kernel_tells_what_xdp_a_driver_has() -> None:
    ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    with Network() as network:
        told = network.xdp_features("left")
        if told is None:
            pytest.skip("this kernel has no netdev family (Linux 6.3)")
        words, _ = told
        assert {"basic", "redirect"} <= words
        assert "zero-copy" not in words
        assert network.xdp_features("lo") == (frozenset(), 1)
        assert asking.xdp_attached("left") == ()


@in_own_namespace
def test_a_network_keeps_asking_the_namespace_that_it_was_made_in() -> None:
    ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    index = asking.interface("left").index
    results: list[Any] = []

    def elsewhere(network: Network) -> None:
        ctypes.CDLL(None).unshare(CLONE_NEWNET)
        results.extend([network.interface("left").index, network.statistics("left")["peer_ifindex"]])
        try:
            asking.interface("left")
        except NoSuchInterfaceError as error:
            results.append(str(error))

    with Network() as network:
        thread = threading.Thread(target=elsewhere, args=(network,))
        thread.start()
        thread.join()
    assert results[:2] == [index, asking.interface("right").index]
    assert "no network interface 'left'" in results[2]


@in_own_namespace
def test_a_watch_sees_an_interface_go_down_renamed_and_gone() -> None:
    ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    ip("link", "set", "left", "up")
    index = asking.interface("left").index
    with LinkWatch() as watch:
        watch.changed()
        assert watch.state(index, "left") == "up"
        assert not watch.changed()
        ip("link", "set", "left", "down")
        assert readable(watch)
        assert watch.changed()
        assert not watch.changed()
        assert watch.state(index, "left") == "down"
        ip("link", "set", "left", "name", "other")
        assert readable(watch)
        assert watch.changed()
        assert watch.state(index, "left") == "renamed to other"
        ip("link", "delete", "other")
        assert readable(watch)
        assert watch.changed()
        assert watch.state(index, "left") == "gone"


@in_own_namespace
def test_a_watch_that_nobody_looked_at_still_knows_that_something_changed() -> None:
    with LinkWatch() as watch:
        # More news than the socket has room for: the kernel drops them and says so once (ENOBUFS).
        watch._news.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ip("link", "add", "left", "type", "veth", "peer", "name", "right")
        for _ in range(20):
            ip("link", "set", "left", "up")
            ip("link", "set", "left", "down")
        assert watch.changed()
        assert not watch.changed()


@in_own_namespace
def test_threads_that_share_a_network_get_their_own_answers() -> None:
    ip("link", "add", "left", "type", "veth", "peer", "name", "right")
    wrong: list[str] = []
    with Network() as network:

        def ask(name: str) -> None:
            wrong.extend(name for _ in range(300) if network.interface(name).name != name)

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("left", "right", "lo")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_the_loopback_is_described_to_an_ordinary_user() -> None:
    lo = asking.interface("lo")
    assert (lo.index, lo.hardware_type) == (1, asking.ARPHRD_LOOPBACK)
    assert lo.receive_queues >= 1
    with Network() as network:
        assert "lo" in network.names()


def test_attributes_that_do_not_fit_their_message_end_it() -> None:
    good = attribute(1, b"abc") + attribute(2, b"")
    assert attributes(good) == {1: b"abc", 2: b""}
    assert list(every_attribute(good + b"\xff\xff\3\0zz")) == [(1, b"abc"), (2, b"")]
    assert list(every_attribute(good + b"\0\0\3\0")) == [(1, b"abc"), (2, b"")]
    assert list(every_attribute(good[:-2])) == [(1, b"abc")]


def test_the_kernels_own_sentence_comes_with_its_error() -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route, pytest.raises(OSError, match=r"\w") as caught:
        route.ask(18, bytes(3))
    assert caught.value.errno == 22
