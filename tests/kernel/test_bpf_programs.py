"""Programs: loaded or refused with the reason, and run on packets that we give them."""

from __future__ import annotations

import signal
import threading

import pytest

from bpf_harness import needs_bpf
from raceway.kernel.bpf.assembler import R0, R1, R2, R3, R6, R9, R10, Assembler
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program, program_info, xdp_context
from raceway.kernel.bpf.system import (
    MAP_MMAPABLE,
    PROGRAM_XDP_FRAGMENTS,
    TEST_LIVE_FRAMES,
    Command,
    Helper,
    MapKind,
    ProgramKind,
    VerifierError,
    XdpAction,
    next_id,
)

pytestmark = needs_bpf


def returning(action: int) -> bytes:
    return Assembler().mov(R0, action).exit().assemble()


def test_a_program_returns_and_leaves_the_packet() -> None:
    with Program(ProgramKind.XDP, returning(XdpAction.PASS), name="pass") as program:
        result, packet, duration = program.test_run(bytes(range(64)))
        assert (result, packet) == (XdpAction.PASS, bytes(range(64)))
        assert duration >= 0


def test_a_packet_that_a_program_changes_comes_back_changed() -> None:
    program = Assembler().mov(R6, R1)
    program.mov(R2, -4).call(Helper.XDP_ADJUST_HEAD).mov(R1, R6)
    program.load(R2, R1, 0, 4).load(R3, R1, 4, 4).mov(R0, R2).add(R0, 4)
    program.jump_if(">", R0, R3, "short").store(R2, 0, 0x01010101, 4)
    program.label("short").mov(R0, XdpAction.TX).exit()
    with Program(ProgramKind.XDP, program.assemble()) as loaded:
        result, packet, _ = loaded.test_run(bytes(64))
        assert result == XdpAction.TX
        assert packet == b"\x01\x01\x01\x01" + bytes(64)


def test_a_program_sees_the_context_it_is_given() -> None:
    look = Assembler().load(R0, R1, 12, 4).lsh(R0, 8).load(R2, R1, 16, 4).or_(R0, R2).exit()
    with Program(ProgramKind.XDP, look.assemble()) as program:
        # Interface 1 is loopback, which has one queue.
        assert program.test_run(bytes(64), context=xdp_context(64, index=1))[0] == 1 << 8
        with pytest.raises(OSError, match="running program"):
            program.test_run(bytes(64), context=xdp_context(64, index=1, queue=5))


def test_a_packet_of_several_pages_comes_back_whole() -> None:
    packet = bytes(range(250)) * 36
    with Program(ProgramKind.XDP, returning(2), flags=PROGRAM_XDP_FRAGMENTS) as program:
        assert program.test_run(packet)[:2] == (2, packet)


def test_repeated_runs_are_counted_by_the_program_itself() -> None:
    with Map(MapKind.ARRAY, value_size=8, entries=1, flags=MAP_MMAPABLE) as array:
        count = Assembler().load_map_value(R1, array).mov(R2, 1).atomic_add(R1, 0, R2, 8).mov(R0, 1).exit()
        with Program(ProgramKind.XDP, count.assemble()) as program:
            program.test_run(bytes(64), repeat=1000)
        assert int.from_bytes(array.lookup(0) or b"", "little") == 1000


def test_live_frames_run_until_a_signal_comes_and_do_not_hold_the_interpreter() -> None:
    """If the call held the interpreter's lock, the other thread could not send the signal before it ends by itself."""
    handled = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())
    with Map(MapKind.ARRAY, value_size=8, entries=1, flags=MAP_MMAPABLE) as array:
        memory = array.memory()
        count = Assembler().load_map_value(R1, array).mov(R2, 1).atomic_add(R1, 0, R2, 8)
        count.mov(R0, XdpAction.DROP).exit()
        main = threading.get_ident()

        def interrupt() -> None:
            while not memory[:8].any():
                pass
            signal.pthread_kill(main, signal.SIGUSR1)

        thread = threading.Thread(target=interrupt)
        try:
            with Program(ProgramKind.XDP, count.assemble(), name="live") as program:
                thread.start()
                with pytest.raises(InterruptedError, match="running program 'live'"):
                    program.test_run(
                        bytes(64),
                        context=xdp_context(64, index=1),
                        repeat=1 << 25,
                        flags=TEST_LIVE_FRAMES,
                        batch_size=64,
                    )
        finally:
            thread.join()
            signal.signal(signal.SIGUSR1, before)
        assert handled.is_set()
        assert 0 < int.from_bytes(memory[:8].tobytes(), "little") < 1 << 25


def test_the_verifiers_words_are_in_the_error() -> None:
    with pytest.raises(VerifierError, match=r"(?s)program 'careless'.*R3 !read_ok") as caught:
        Program(ProgramKind.XDP, Assembler().mov(R0, R3).exit().assemble(), name="careless")
    assert "r0 = r3" in caught.value.log
    assert "processed" in caught.value.log


def test_a_log_longer_than_the_first_buffer_is_had_whole() -> None:
    program = Assembler().mov(R0, 0)
    for _ in range(20_000):
        program.add(R0, 1)
    with pytest.raises(VerifierError, match="R9 !read_ok") as caught:
        Program(ProgramKind.XDP, program.mov(R0, 9).alu("+", R0, R9).exit().assemble())
    assert len(caught.value.log) > 1 << 16
    assert "0: (b7) r0 = 0" in caught.value.log


def test_a_gpl_helper_asks_for_the_license() -> None:
    trace_printk = 6
    program = Assembler().store(R10, -8, 0, 8).mov(R1, R10).add(R1, -8).mov(R2, 8)
    code = program.call(trace_printk).mov(R0, 0).exit().assemble()
    Program(ProgramKind.XDP, code).close()
    with pytest.raises(VerifierError, match="GPL"):
        Program(ProgramKind.XDP, code, license="BSD")


def test_what_is_no_program_is_refused() -> None:
    for code in (b"", bytes(7), bytes(12)):
        with pytest.raises(ValueError, match="multiple of 8"):
            Program(ProgramKind.XDP, code)
    with pytest.raises(OSError, match="loading the BPF program 'kind'"):
        Program(9999, returning(0), name="kind")


def test_what_the_kernel_says_of_a_program() -> None:
    with (
        Map(MapKind.ARRAY, value_size=8, entries=1) as one,
        Map(MapKind.ARRAY, value_size=8, entries=1) as two,
    ):
        code = Assembler().load_map_value(R1, one).load_map_value(R2, two).mov(R0, 0).exit()
        with Program(ProgramKind.XDP, code.assemble(), name="info.test") as program:
            info = program.info()
            assert info == program_info(program.id)
            assert (info.name, info.kind) == ("info.test", ProgramKind.XDP)
            assert set(info.map_ids) == {one.id, two.id}
            assert len(info.tag) == 16
            assert info.load_time > 0
            ids = []
            number: int | None = 0
            while (number := next_id(Command.PROG_GET_NEXT_ID, number or 0)) is not None:
                ids.append(number)
            assert program.id in ids
            gone = program.id
    with pytest.raises(FileNotFoundError, match=f"BPF program {gone}"):
        program_info(gone)


def test_a_program_keeps_its_maps() -> None:
    array = Map(MapKind.ARRAY, value_size=8, entries=1)
    number = array.id
    code = Assembler().load_map_value(R1, array).mov(R0, 0).exit().assemble()
    with Program(ProgramKind.XDP, code):
        array.close()
        Map.from_id(number).close()


def test_a_closed_program_says_so() -> None:
    program = Program(ProgramKind.XDP, returning(1), name="gone")
    program.close()
    program.close()
    with pytest.raises(ValueError, match="BPF program 'gone' is closed"):
        program.test_run(bytes(64))
