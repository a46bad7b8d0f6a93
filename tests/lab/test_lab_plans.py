"""What a lab is to be, before anything is made; and the names by which labs are found."""

from __future__ import annotations

import ipaddress

import pytest

from raceway.apps.lab import names
from raceway.apps.lab.plan import DEFAULT_HOSTS, Shape, make_plan

EVERY = [(shape, hosts) for shape in Shape for hosts in (2, 3, 5, 26)]


@pytest.mark.parametrize(("shape", "hosts"), EVERY)
@pytest.mark.parametrize("vlan", [0, 4094])
def test_no_two_interfaces_have_an_index_a_mac_or_an_address_in_common(shape, hosts, vlan):
    plan = make_plan(shape, hosts, vlan=vlan)
    ends = [end for link in plan.links for end in link.ends]
    for values in (
        [end.index for end in ends],
        [end.mac for end in ends],
        [(end.host, end.interface) for end in ends],
        [address for end in ends for address in end.addresses],
    ):
        assert len(values) == len(set(values))
    for end in ends:
        assert len(end.interface) <= 15
        assert len(f"{end.addressed}-tag") <= 15
        for address in end.addresses:
            # As the kernel would write it (RFC 5952), in the subnets that are nobody's.
            interface = ipaddress.ip_interface(address)
            assert str(interface) == address
            assert interface.is_private
        assert int(end.mac[:2], 16) & 0b11 == 0b10


@pytest.mark.parametrize(("shape", "hosts"), EVERY)
def test_who_is_joined_shares_a_subnet_and_a_routers_hosts_do_not(shape, hosts):
    plan = make_plan(shape, hosts)
    networks = {
        end.host: {ipaddress.ip_interface(address).network for address in end.addresses}
        for link in plan.links
        for end in link.ends
        if end.host != "router"
    }
    speakers = {host: found for host, found in networks.items() if found}
    assert len({frozenset(found) for found in speakers.values()}) == (
        len(speakers) if shape == Shape.ROUTER else 1
    )
    for host, gateways in plan.gateways.items():
        assert len(gateways) == 2
        for gateway in gateways:
            assert any(ipaddress.ip_address(gateway) in network for network in networks[host])


@pytest.mark.parametrize(
    ("shape", "hosts", "expected"),
    [
        ("line", None, ("a", "b")),
        ("line", 3, ("a", "m", "b")),
        ("line", 5, ("a", "m1", "m2", "m3", "b")),
        ("star", None, ("a", "b", "c", "hub")),
        ("star", 1, ("a", "hub")),
        ("router", None, ("a", "b", "router")),
    ],
)
def test_hosts_are_called_so_and_found_in_that_order(shape, hosts, expected):
    plan = make_plan(shape, hosts)
    assert plan.hosts == expected
    assert all(names.is_host(host) for host in plan.hosts)
    assert names._in_order(sorted(plan.hosts)) == expected
    assert len(DEFAULT_HOSTS) == len(Shape)


def test_an_end_is_found_by_its_host_and_by_whom_it_leads_to():
    plan = make_plan("line", 3)
    assert plan.end("a").interface == "veth0"
    assert plan.end("m", "a").interface == "left"
    assert plan.end("m", "b").interface == "right"
    assert plan.peer(plan.end("m", "b")) == plan.end("b")
    for host, towards, words in (
        ("m", None, "'m' has 2 interfaces: say towards which of a, b"),
        ("a", "b", "'a' has no link towards 'b'"),
        ("x", None, "'x': expected one of a, m, b"),
        ("a", "x", "'x': expected one of a, m, b"),
    ):
        with pytest.raises(ValueError, match=words):
            plan.end(host, towards)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": "ring"}, "shape 'ring': expected line, star, router"),
        ({"hosts": 1}, "hosts 1: expected 2 to 26 in a line"),
        ({"shape": "star", "hosts": 27}, "hosts 27: expected 1 to 26 in a star"),
        ({"queues": 0}, "queues 0: expected 1 to 4096"),
        ({"mtu": 67}, "mtu 67: expected 68 to 65535"),
        ({"mtu": 1279}, "mtu 1279: IPv6 needs at least 1280"),
        ({"vlan": 4095}, "vlan 4095: expected 0 to 4094"),
        ({"vlan": -1}, "vlan -1: expected 0 to 4094"),
    ],
)
def test_what_cannot_be_says_what_was_expected(options, words):
    with pytest.raises(ValueError, match=words):
        make_plan(**options)


@pytest.mark.parametrize(
    "name", ["a", "m", "m3", "hub", "router", "", "-x", "_x", "x/y", "x y", "ü", "x" * 33, "x\n"]
)
def test_a_name_that_a_host_has_or_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="lab "):
        names.checked(name)


@pytest.mark.parametrize("name", ["lab", "ab", "x-a", "9", "Trial_2", "x" * 32])
def test_a_lab_is_found_again_by_the_names_of_its_namespaces(name, tmp_path, monkeypatch):
    monkeypatch.setattr(names.namespaces, "DIRECTORY", str(tmp_path))
    for host in ("a", "m", "b"):
        (tmp_path / names.namespace_name(name, host)).touch()
    for stranger in ("rw-lab2", "rw--a", "rw-a-a", "other", "rw-lab2-x1", "-a", "rw-lab2-A"):
        (tmp_path / stranger).touch()
    assert names.every_lab() == [names.Found(name, ("a", "m", "b"))]
    assert names.find(name).path("m") == f"{tmp_path}/rw-{name}-m"
    with pytest.raises(names.LabError, match=f"there is no lab 'zzz'; there is {name}"):
        names.find("zzz")
