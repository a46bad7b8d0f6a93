"""What may stand on pkt-gen's command line, and how it says what may not."""

from __future__ import annotations

import pytest

from raceway.apps.generator.options import Options, number, read, ring_numbers, size_range
from raceway.apps.generator.ranges import AddressRange, MacRange, address_range, mac_range


@pytest.mark.parametrize(
    ("text", "version", "expected"),
    [
        ("10.0.0.1", 4, (0x0A000001, 0x0A000001, 1234, 1234)),
        ("10.0.0.1:53", 4, (0x0A000001, 0x0A000001, 53, 53)),
        ("10.0.0.1-10.0.0.9", 4, (0x0A000001, 0x0A000009, 1234, 1234)),
        ("10.0.0.9-10.0.0.1", 4, (0x0A000001, 0x0A000009, 1234, 1234)),
        ("10.0.0.1:1000-10.0.0.9:2000", 4, (0x0A000001, 0x0A000009, 1000, 2000)),
        ("10.0.0.1:2000-10.0.0.1:1000", 4, (0x0A000001, 0x0A000001, 1000, 2000)),
        # netmap's pkt-gen takes the end's port from the start, and the start's from its default.
        ("10.0.0.1:53-10.0.0.2", 4, (0x0A000001, 0x0A000002, 53, 53)),
        ("10.0.0.1-10.0.0.2:2000", 4, (0x0A000001, 0x0A000002, 1234, 2000)),
        ("::1", 6, (1, 1, 1234, 1234)),
        ("[::1]", 6, (1, 1, 1234, 1234)),
        ("[::1]:53", 6, (1, 1, 53, 53)),
        ("[2001:db8::1]:5-[2001:db8::ff]:9", 6, (0x20010DB8 << 96 | 1, 0x20010DB8 << 96 | 255, 5, 9)),
    ],
)
def test_address_range_is_read(text: str, version: int, expected: tuple[int, int, int, int]) -> None:
    assert address_range(text, version) == AddressRange(version, *expected)


@pytest.mark.parametrize(
    ("text", "version", "words"),
    [
        ("10.0.0.256", 4, ["-s 10.0.0.256", "no IPv4 address"]),
        ("10.0.0.1:70000", 4, ["'70000'", "0 to 65535"]),
        ("10.0.0.1:", 4, ["''", "no port"]),
        ("10.0.0.1:+5", 4, ["'+5'", "no port"]),
        ("10.0.0.1-10.0.0.2-10.0.0.3", 4, ["one dash"]),
        ("", 4, ["no IPv4 address"]),
        ("[::1]:5", 4, ["-6 is for IPv6"]),
        ("10.0.0.1", 6, ["no IPv6 address", "-4 is for IPv4"]),
        ("[::1", 6, ["[ADDRESS]"]),
        ("[::1]5", 6, ["[ADDRESS]:PORT"]),
        ("2001:db8::1-2001:db9::1", 6, ["same /64"]),
        ("2001:db8::-2001:db8::ffff:ffff:ffff:ffff", 6, ["2^63"]),
    ],
)
def test_wrong_address_range_is_named(text: str, version: int, words: list[str]) -> None:
    with pytest.raises(ValueError, match="-s") as caught:
        address_range(text, version, "-s")
    assert all(word in str(caught.value) for word in words)


def test_mac_range_is_read_and_wrong_one_named() -> None:
    assert mac_range("02:00:00:00:00:01") == MacRange(0x020000000001, 0x020000000001)
    assert mac_range("2:0:0:0:0:ff-2:0:0:0:0:1") == MacRange(0x020000000001, 0x0200000000FF)
    for text in (
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:0g",
        "02:00:00:00:00:01-",
        "a:b:c:d:e:f-1:2:3:4:5:6-1:2:3:4:5:6",
    ):
        with pytest.raises(ValueError, match="-S"):
            mac_range(text, "-S")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("17", 17), ("1k", 1000), ("1.5M", 1_500_000), ("2G", 2_000_000_000), (" 3K", 3000)],
)
def test_number_takes_suffixes(text: str, value: int) -> None:
    assert number(text, "-n", 10**10) == value


@pytest.mark.parametrize("text", ["", "-1", "1x", "k", "1e6", "11G"])
def test_wrong_number_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"-R .*expected"):
        number(text, "-R", 10**10)


def test_size_twice_is_at_least_the_smaller_and_less_than_the_larger() -> None:
    assert size_range([1514, 60], "tx", 4) == (60, 1514)
    assert size_range([60, 1514], "tx", 4) == (60, 1514)
    assert size_range([64], "tx", 4) == (64, 65)
    assert size_range([64, 64], "tx", 4) == (64, 65)
    assert size_range([], "tx", 4) == (60, 61)
    assert size_range([], "tx", 6) == (62, 63)
    assert size_range([], "txseq", 6) == (74, 75)


@pytest.mark.parametrize(
    ("sizes", "function", "version", "words"),
    [
        ([41], "tx", 4, "-l 41: expected 42"),
        ([61], "tx", 6, "-l 61: expected 62"),
        ([53], "txseq", 4, "-l 53: expected 54"),
        ([65_537], "tx", 4, "-l 65537: expected 42"),
        ([1514, 10], "tx", 4, "-l 10: expected 42"),
        ([1, 2, 3], "tx", 4, "3 times"),
    ],
)
def test_wrong_size_is_named(sizes: list[int], function: str, version: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        size_range(sizes, function, version)


def test_ring_numbers_stand_for_both_directions_where_one_is_missing() -> None:
    assert ring_numbers("") == (0, 0, 0, 0)
    assert ring_numbers("512") == (512, 512, 0, 0)
    assert ring_numbers("512,256") == (512, 256, 0, 0)
    assert ring_numbers("512,,4") == (512, 0, 4, 4)
    assert ring_numbers("512,256,4,2") == (512, 256, 4, 2)
    for text in ("a", "1,2,3,4,5", "-1", "1.5"):
        with pytest.raises(ValueError, match="-C"):
            ring_numbers(text)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"function": "send"}, "-f send: expected one of tx"),
        ({"function": "rxseq", "threads": 2}, "-p 2: rxseq"),
        ({"threads": 0}, "-p 0"),
        ({"burst": -1}, "-b -1"),
        ({"burst": 1 << 21}, "-b 2097152"),
        ({"wait": -1.0}, "-w -1"),
        ({"function": "tx", "rate": "2G"}, "-R 2G: expected at most 1,000,000,000"),
        ({"function": "tx", "file": "x.pcap", "sizes": [64]}, "expected no -l"),
        ({"function": "txseq", "file": "x.pcap"}, "only -f tx"),
        ({"function": "ping", "sizes": [64, 128]}, "ping"),
        ({"function": "tx", "source": "10.0.0.1:x"}, "-s 10.0.0.1:x"),
    ],
)
def test_wrong_option_is_named(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read("null:", **wrong)  # type: ignore[arg-type]


def test_defaults_are_netmaps() -> None:
    options = read("null:")
    assert options == Options("null:")
    assert (options.function, options.sizes, options.burst, options.count) == ("rx", (60, 61), 512, 0)
    assert options.destination_mac.first == 0xFFFFFFFFFFFF
    assert options.source.first_port == 1234
