"""Maps: what goes in comes out, and memory is seen from both sides."""

from __future__ import annotations

import errno
import gc
import mmap
import os

import numpy as np
import pytest

from bpf_harness import needs_bpf, run_xdp
from raceway.kernel.bpf.assembler import R0, R1, R2, Assembler
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.system import MAP_MMAPABLE, UPDATE_EXISTING_ONLY, UPDATE_NEW_ONLY, MapKind

pytestmark = needs_bpf


def test_a_table_keeps_what_is_put_into_it_and_forgets_what_is_deleted() -> None:
    with Map(MapKind.HASH, key_size=6, value_size=3, entries=10, name="table") as table:
        assert table.lookup(b"abcdef") is None
        table.update(b"abcdef", b"xyz")
        table.update(b"abcdeg", b"123")
        assert table.lookup(b"abcdef") == b"xyz"
        assert sorted(table) == [b"abcdef", b"abcdeg"]
        assert table.delete(b"abcdef")
        assert not table.delete(b"abcdef")
        assert list(table) == [b"abcdeg"]
        assert table.next_key(b"abcdeg") is None


def test_integers_are_keys_and_values_in_the_machines_order() -> None:
    with Map(MapKind.ARRAY, value_size=8, entries=3) as array:
        array.update(2, -2)
        assert np.frombuffer(array.lookup(2) or b"", np.int64)[0] == -2
        assert [int(np.frombuffer(key, np.uint32)[0]) for key in array] == [0, 1, 2]


def test_update_flags_ask_for_new_or_existing_entries() -> None:
    with Map(MapKind.HASH, value_size=4, entries=2) as table:
        with pytest.raises(FileNotFoundError):
            table.update(1, 1, UPDATE_EXISTING_ONLY)
        table.update(1, 1, UPDATE_NEW_ONLY)
        with pytest.raises(FileExistsError):
            table.update(1, 1, UPDATE_NEW_ONLY)


def test_a_full_table_and_a_key_beyond_the_end_say_e2big() -> None:
    with Map(MapKind.ARRAY, value_size=4, entries=2, name="two") as array:
        with pytest.raises(OSError, match="map 'two', key 2") as caught:
            array.update(2, 1)
        assert caught.value.errno == errno.E2BIG


def test_memory_is_seen_by_programs_and_system_calls_and_back() -> None:
    with Map(MapKind.ARRAY, value_size=12, entries=1, flags=MAP_MMAPABLE) as array:
        memory = array.memory()
        memory[:4] = (1, 2, 3, 4)
        assert array.lookup(0) == bytes((1, 2, 3, 4)) + bytes(8)
        run_xdp(Assembler().load_map_value(R1, array, 4).mov(R2, 99).store(R1, 0, R2, 1).mov(R0, 0).exit())
        assert memory[4] == 99
        array.update(0, bytes(range(12)))
        assert memory[:12].tolist() == list(range(12))


@pytest.mark.parametrize(("value_size", "entries"), [(4, 1), (12, 1000), (4096, 3), (1, 513)])
def test_memory_has_every_value_at_its_stride_and_whole_pages(value_size: int, entries: int) -> None:
    with Map(MapKind.ARRAY, value_size=value_size, entries=entries, flags=MAP_MMAPABLE) as array:
        memory = array.memory()
        assert len(memory) % mmap.PAGESIZE == 0
        assert 0 <= len(memory) - array.stride * entries < mmap.PAGESIZE
        last = entries - 1
        array.update(last, b"\x5a" * value_size)
        assert (
            memory[last * array.stride : last * array.stride + value_size].tobytes() == b"\x5a" * value_size
        )


def test_memory_outlives_the_descriptor() -> None:
    with Map(MapKind.ARRAY, value_size=8, entries=1, flags=MAP_MMAPABLE) as array:
        number = array.id
        memory = array.memory()
    memory[0] = 7
    with Map.from_id(number) as again:
        assert (again.lookup(0) or b"")[0] == 7
    del memory
    gc.collect()
    with pytest.raises(FileNotFoundError):
        Map.from_id(number)


def test_a_map_without_memory_says_so() -> None:
    with (
        Map(MapKind.ARRAY, value_size=8, entries=1) as array,
        pytest.raises(ValueError, match="MAP_MMAPABLE"),
    ):
        array.memory()


def test_a_map_is_found_by_id_and_by_descriptor() -> None:
    with Map(MapKind.HASH, key_size=2, value_size=3, entries=4, name="found.me") as table:
        table.update(b"ab", b"cde")
        with Map.from_id(table.id) as by_id, Map.from_fd(os.dup(table.fd)) as by_descriptor:
            for other in (by_id, by_descriptor):
                assert (other.kind, other.key_size, other.value_size, other.entries) == (
                    MapKind.HASH,
                    2,
                    3,
                    4,
                )
                assert (other.name, other.id) == ("found.me", table.id)
                assert other.lookup(b"ab") == b"cde"


def test_a_descriptor_of_something_else_is_no_map() -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            Map.from_fd(descriptor)
    finally:
        os.close(descriptor)


def test_a_map_of_every_processor_has_a_value_for_each() -> None:
    with Map(MapKind.PERCPU_ARRAY, value_size=4, entries=1) as array:
        value = array.lookup(0)
        assert value is not None
        assert len(value) % 8 == 0
        assert len(value) >= 8 * (os.cpu_count() or 1)
        array.update(0, b"\x01\0\0\0\0\0\0\0" * (len(value) // 8))
        assert (array.lookup(0) or b"")[-8] == 1


def test_wrong_sizes_and_names_are_refused_before_the_kernel_is_asked() -> None:
    with Map(MapKind.HASH, key_size=2, value_size=1, entries=1, name="small") as table:
        with pytest.raises(ValueError, match="key of 3 bytes, where 2"):
            table.lookup(b"abc")
        with pytest.raises(ValueError, match="value 256 does not fit into 1 bytes"):
            table.update(1, 256)
    for name in ("sixteen_letters_", "a b", "a/b", "ä"):
        with pytest.raises(ValueError, match="15 ASCII letters"):
            Map(MapKind.HASH, value_size=1, entries=1, name=name)
    with pytest.raises(ValueError, match="entries is -1"):
        Map(MapKind.HASH, value_size=1, entries=-1)


def test_what_the_kernel_refuses_names_the_map_and_its_sizes() -> None:
    with pytest.raises(OSError, match="BPF map 'odd' of 0 entries"):
        Map(MapKind.HASH, value_size=1, entries=0, name="odd")


def test_closing_twice_is_fine_and_a_closed_map_says_so() -> None:
    table = Map(MapKind.HASH, value_size=1, entries=1, name="gone")
    table.close()
    table.close()
    assert table.closed
    with pytest.raises(ValueError, match="BPF map 'gone' is closed"):
        table.lookup(0)


def test_a_forgotten_map_is_closed() -> None:
    number = Map(MapKind.HASH, value_size=1, entries=1).id
    gc.collect()
    with pytest.raises(FileNotFoundError):
        Map.from_id(number)
