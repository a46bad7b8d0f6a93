"""Cards: what a region says of its ports, and what a region that lies cannot do to who reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from raceway.memory.directory import (
    CARD,
    CARD_MAGIC,
    CARDS_LIMIT,
    DROPS_ON_A_CARD,
    RINGS_ON_A_CARD,
    Card,
    PortCard,
    read_cards,
)
from raceway.memory.layout import PAGE, REGION, REGION_MAGIC, RING
from raceway.memory.region import Region


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region(buffers=64)
    yield made
    made.close()


def test_a_card_says_what_its_owner_wrote(region: Region) -> None:
    ring = region.allocate_ring(16, number=3, transmit=True)
    region.ring(ring)["packets"] = 5
    region.ring(ring)["tail"] = 15
    card = Card(region, "netmap:x{1", [ring])
    card.refresh("zero-copy", {"too_long": 2, "none_of_these": 0})
    (found,) = read_cards(region.descriptor)
    assert (found.name, found.mode, found.pid, found.drops) == (
        "netmap:x{1",
        "zero-copy",
        os.getpid(),
        {"too_long": 2},
    )
    assert [(each.number, each.transmit, each.slots, each.used, each.packets) for each in found.rings] == [
        (3, True, 16, 0, 5)
    ]


def test_the_newest_card_comes_first_and_closed_ones_not_at_all(region: Region) -> None:
    cards = [Card(region, f"port {number}", []) for number in range(3)]
    assert [card.name for card in read_cards(region.descriptor)] == ["port 2", "port 1", "port 0"]
    cards[1].close()
    assert [card.name for card in read_cards(region.descriptor)] == ["port 2", "port 0"]


def test_a_name_too_long_keeps_both_its_ends(region: Region) -> None:
    Card(region, "pcap:" + "directory/" * 40 + "file.pcapng", [])
    (found,) = read_cards(region.descriptor)
    assert len(found.name) <= 128
    assert found.name.startswith("pcap:directory/")
    assert found.name.endswith("file.pcapng")


def test_more_rings_and_drops_than_there_is_room_for_are_left_out(region: Region) -> None:
    card = Card(region, "many", range(64, 64 * 1000, 64))
    card.refresh("", {f"reason_{number}": number + 1 for number in range(100)})
    (found,) = read_cards(region.descriptor)
    assert len(found.drops) == DROPS_ON_A_CARD
    assert len(found.rings) <= RINGS_ON_A_CARD


# -- regions that lie ------------------------------------------------------------------------------------------


@contextmanager
def file_of(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("raceway-region")
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


def lying(size: int = 16 * PAGE, **header: int) -> np.ndarray:
    """A region's bytes with a header that is right but for what is given, and nothing else."""
    data = np.zeros(size, np.uint8)
    fields = {"magic": REGION_MAGIC, "size": size, "rings_next": size, "cards": PAGE} | header
    for name, value in fields.items():
        data[: REGION.itemsize].view(REGION)[0][name] = value
    return data


def put_card(data: np.ndarray, offset: int = PAGE, **fields: object) -> None:
    card = np.zeros(1, CARD)
    card["magic"], card["open"] = CARD_MAGIC, 1
    for name, value in fields.items():
        card[name] = value
    data[offset : offset + CARD.itemsize] = card.view(np.uint8)


def cards_of(data: np.ndarray) -> list[PortCard]:
    with file_of(data.tobytes()) as descriptor:
        return read_cards(descriptor)


def test_a_lying_region_is_otherwise_read() -> None:
    data = lying()
    put_card(data, name=b"honest")
    assert [card.name for card in cards_of(data)] == ["honest"]


def test_a_list_that_bites_its_tail_ends() -> None:
    data = lying()
    put_card(data, PAGE, name=b"one", next=2 * PAGE)
    put_card(data, 2 * PAGE, name=b"two", next=PAGE)
    assert [card.name for card in cards_of(data)] == ["one", "two"]


def test_a_list_without_an_end_is_cut() -> None:
    count = CARDS_LIMIT + 50
    stride = -(-CARD.itemsize // 64) * 64
    data = lying(PAGE + (count + 1) * stride)
    for number in range(count):
        put_card(data, PAGE + number * stride, next=PAGE + (number + 1) * stride)
    assert len(cards_of(data)) == CARDS_LIMIT


@pytest.mark.parametrize("where", [-1, -(2**63), 0, 1, 63, PAGE + 8, 16 * PAGE - 64, 2**40, 2**63 - 64])
def test_a_card_outside_the_region_is_none(where: int) -> None:
    data = lying(cards=where)
    assert cards_of(data) == []
    data = lying()
    put_card(data, next=where)
    assert len(cards_of(data)) == 1


@pytest.mark.parametrize("where", [-64, 0, 8, 16 * PAGE - 64, 2**62, 4 * PAGE])
def test_a_ring_outside_the_region_or_without_its_mark_is_none(where: int) -> None:
    data = lying()
    put_card(data, ring_count=1, rings=np.array([where] + [0] * (RINGS_ON_A_CARD - 1)))
    (found,) = cards_of(data)
    assert found.rings == ()


@pytest.mark.parametrize("slots", [0, -5, 2**62, 1])
def test_a_ring_with_impossible_numbers_is_read_all_the_same(slots: int) -> None:
    data = lying()
    ring = np.zeros(1, RING)
    ring["magic"], ring["slot_count"], ring["head"], ring["tail"] = REGION_MAGIC, slots, 2**62, -(2**62)
    data[4 * PAGE : 4 * PAGE + RING.itemsize] = ring.view(np.uint8)
    put_card(data, ring_count=2**40, rings=np.array([4 * PAGE] * RINGS_ON_A_CARD))
    (found,) = cards_of(data)
    assert len(found.rings) == 1
    assert found.rings[0].used >= 0


def test_text_that_is_none_is_made_printable() -> None:
    data = lying()
    put_card(data, name=b"\xff\xfe\x1b[2J\r\n\x7fx")
    (found,) = cards_of(data)
    assert found.name.isprintable()


def test_a_file_that_is_no_region_has_no_cards() -> None:
    for data in (b"", b"x" * 7, bytes(PAGE), b"\xff" * PAGE, lying(size=16 * PAGE, magic=1).tobytes()):
        with file_of(data) as descriptor:
            assert read_cards(descriptor) == []


@settings(deadline=None, max_examples=200)
@given(
    header=st.fixed_dictionaries(
        {name: st.integers(-(2**63), 2**63 - 1) for name in ("rings_next", "cards")}
    ),
    noise=st.binary(max_size=400),
    at=st.integers(0, 4 * PAGE),
)
def test_no_region_whatever_it_holds_makes_its_reader_fail(
    header: dict[str, int], noise: bytes, at: int
) -> None:
    data = lying(8 * PAGE)
    put_card(data, PAGE, name=b"card", ring_count=3, next=2 * PAGE)
    put_card(data, 2 * PAGE, name=b"card", ring_count=-3, next=-64)
    data[at : at + len(noise)] = np.frombuffer(noise, np.uint8)
    for name, value in header.items():
        if value % 2:
            data[: REGION.itemsize].view(REGION)[0][name] = value
    for card in cards_of(data):
        assert card.name.isprintable()
