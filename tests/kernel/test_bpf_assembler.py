"""The assembler: bytes as RFC 9669 wants them, and instructions that do in the kernel what they say."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from bpf_harness import needs_bpf, run_xdp
from raceway.kernel.bpf.assembler import R0, R1, R2, R3, R4, R5, R6, R10, Assembler, Register
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import MAP_MMAPABLE, Helper, MapKind, ProgramKind

MASK = (1 << 64) - 1

little_endian = pytest.mark.skipif(
    sys.byteorder != "little", reason="written down for little-endian machines"
)


# -- encodings, by hand from RFC 9669 ----------------------------------------------------------------------


@little_endian
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda a: a.mov(R0, 2), "b7 00 00 00 02 00 00 00"),
        (lambda a: a.mov(R1, R2), "bf 21 00 00 00 00 00 00"),
        (lambda a: a.mov32(R3, -1), "b4 03 00 00 ff ff ff ff"),
        (lambda a: a.mov32(R3, 0xFFFFFFFF), "b4 03 00 00 ff ff ff ff"),
        (lambda a: a.add(R1, R2), "0f 21 00 00 00 00 00 00"),
        (lambda a: a.add(R1, -2), "07 01 00 00 fe ff ff ff"),
        (lambda a: a.sub(R1, R2, wide=False), "1c 21 00 00 00 00 00 00"),
        (lambda a: a.mul(R1, 3), "27 01 00 00 03 00 00 00"),
        (lambda a: a.div(R1, R2), "3f 21 00 00 00 00 00 00"),
        (lambda a: a.alu("s/", R1, 3), "37 01 01 00 03 00 00 00"),
        (lambda a: a.alu("s%", R1, R2), "9f 21 01 00 00 00 00 00"),
        (lambda a: a.mod(R1, 3), "97 01 00 00 03 00 00 00"),
        (lambda a: a.or_(R1, R2), "4f 21 00 00 00 00 00 00"),
        (lambda a: a.and_(R1, 0x0F), "57 01 00 00 0f 00 00 00"),
        (lambda a: a.xor(R1, R2), "af 21 00 00 00 00 00 00"),
        (lambda a: a.lsh(R1, 32), "67 01 00 00 20 00 00 00"),
        (lambda a: a.rsh(R1, R2), "7f 21 00 00 00 00 00 00"),
        (lambda a: a.arsh(R1, 1, wide=False), "c4 01 00 00 01 00 00 00"),
        (lambda a: a.neg(R4), "87 04 00 00 00 00 00 00"),
        (lambda a: a.to_be(R1, 16), "dc 01 00 00 10 00 00 00"),
        (lambda a: a.to_le(R1, 64), "d4 01 00 00 40 00 00 00"),
        (lambda a: a.load(R2, R1, 4, 4), "61 12 04 00 00 00 00 00"),
        (lambda a: a.load(R2, R1, 0, 1), "71 12 00 00 00 00 00 00"),
        (lambda a: a.load(R2, R1, 12, 2), "69 12 0c 00 00 00 00 00"),
        (lambda a: a.load(R2, R1, 0, 8), "79 12 00 00 00 00 00 00"),
        (lambda a: a.store(R10, -8, R1, 8), "7b 1a f8 ff 00 00 00 00"),
        (lambda a: a.store(R10, -4, 7, 4), "62 0a fc ff 07 00 00 00"),
        (lambda a: a.store(R10, -1, 255, 1), "72 0a ff ff ff 00 00 00"),
        (lambda a: a.atomic_add(R1, 8, R2, 8), "db 21 08 00 00 00 00 00"),
        (lambda a: a.atomic_add(R1, 0, R2, 4, fetch=True), "c3 21 00 00 01 00 00 00"),
        (lambda a: a.atomic("xchg", R1, 0, R2, 8), "db 21 00 00 e1 00 00 00"),
        (lambda a: a.atomic("cmpxchg", R1, 0, R2, 8), "db 21 00 00 f1 00 00 00"),
        (
            lambda a: a.load_imm64(R1, 0x1122334455667788),
            "18 01 00 00 88 77 66 55 00 00 00 00 44 33 22 11",
        ),
        (lambda a: a.call(Helper.MAP_LOOKUP_ELEM), "85 00 00 00 01 00 00 00"),
        (lambda a: a.call_kfunc(77, 1), "85 20 01 00 4d 00 00 00"),
        (lambda a: a.label("x").jump("x"), "05 00 ff ff 00 00 00 00"),
        (lambda a: a.label("x").jump_if("==", R1, 5, "x"), "15 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if("==", R1, R2, "x"), "1d 21 ff ff 00 00 00 00"),
        (lambda a: a.label("x").jump_if("==", R1, 5, "x", wide=False), "16 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if(">", R1, 5, "x"), "25 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if(">=", R1, 5, "x"), "35 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if("&", R1, 5, "x"), "45 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if("!=", R1, 5, "x"), "55 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if("s>", R1, 5, "x"), "65 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if("s>=", R1, 5, "x"), "75 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if("<", R1, 5, "x"), "a5 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if("<=", R1, 5, "x"), "b5 01 ff ff 05 00 00 00"),
        (lambda a: a.label("x").jump_if("s<", R1, -1, "x"), "c5 01 ff ff ff ff ff ff"),
        (lambda a: a.label("x").jump_if("s<=", R1, 5, "x"), "d5 01 ff ff 05 00 00 00"),
    ],
)
def test_instructions_are_encoded_as_the_standard_says(
    build: Callable[[Assembler], Assembler], expected: str
) -> None:
    assert build(Assembler()).exit().assemble().hex(" ") == expected + " 95 00 00 00 00 00 00 00"


@little_endian
def test_a_jump_counts_from_the_next_instruction_and_a_wide_immediate_as_two() -> None:
    program = Assembler()
    program.jump("end").load_imm64(R0, 1).label("end").exit()
    assert program.assemble().hex(" ").startswith("05 00 02 00")
    assert len(program) == 4


@needs_bpf
@little_endian
def test_maps_are_named_by_their_descriptor() -> None:
    with Map(MapKind.ARRAY, value_size=16, entries=1) as array:
        number = array.fd.to_bytes(4, "little").hex(" ")
        named = Assembler().load_map(R1, array).exit().assemble().hex(" ")
        assert named.startswith(f"18 11 00 00 {number} 00 00 00 00 00 00 00 00")
        value = Assembler().load_map_value(R2, array, 9).exit().assemble().hex(" ")
        assert value.startswith(f"18 22 00 00 {number} 00 00 00 00 09 00 00 00")


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda a: a.mov(R0, 1 << 31), "does not fit into 32 bits"),
        (lambda a: a.and_(R0, 0xFFFFFFFF), "does not fit into 32 bits"),
        (lambda a: a.mov32(R0, 1 << 32), "does not fit into 32 bits"),
        (lambda a: a.load(R0, R1, 1 << 15, 4), "offset 32768"),
        (lambda a: a.load(R0, R1, 0, 3), "size 3: known are 1 2 4 8"),
        (lambda a: a.store(R10, -1, 256, 1), "immediate 256"),
        (lambda a: a.store(R10, -8, 1 << 31, 8), "immediate 2147483648"),
        (lambda a: a.atomic_add(R10, -2, R1, 2), "4 or 8 bytes"),
        (lambda a: a.lsh(R0, 64), "0 to 63"),
        (lambda a: a.lsh(R0, 32, wide=False), "0 to 31"),
        (lambda a: a.div(R0, 0), "divide by an immediate zero"),
        (lambda a: a.to_be(R0, 24), "24 bits"),
        (lambda a: a.alu("**", R0, 1), "operation '\\*\\*'"),
        (lambda a: a.jump_if("=", R0, 1, "x"), "comparison '='"),
        (lambda a: a.load_imm64(R0, 1 << 64), "64 bits"),
        (lambda a: a.mov(11, 0), "R0 to R10"),
        (lambda a: a.label("x").label("x"), "there already"),
        (lambda a: a.jump("nowhere").assemble(), "no such label"),
        (lambda a: a.jump("end").label("end").assemble(), "no instruction after it"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(build: Callable[[Assembler], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(Assembler())


@pytest.mark.parametrize("forward", [True, False])
def test_a_jump_of_more_than_16_bits_is_refused(forward: bool) -> None:
    def far(between: int) -> bytes:
        program = Assembler()
        program.jump("there") if forward else program.label("there")
        for _ in range(between):
            program.mov(R0, 0)
        program.label("there") if forward else program.jump("there")
        return program.exit().assemble()

    assert far(32767)
    with pytest.raises(ValueError, match="too far"):
        far(32768)


@needs_bpf
def test_only_what_is_in_a_single_value_has_an_address() -> None:
    with (
        Map(MapKind.ARRAY, value_size=8, entries=2) as two,
        Map(MapKind.ARRAY, value_size=8, entries=1) as one,
    ):
        with pytest.raises(ValueError, match="2 entries"):
            Assembler().load_map_value(R1, two)
        with pytest.raises(ValueError, match="offset 8"):
            Assembler().load_map_value(R1, one, 8)


# -- what the kernel makes of it ------------------------------------------------------------------------------

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "&": lambda a, b: a & b != 0,
}


def signed(value: int, bits: int = 64) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


@needs_bpf
@pytest.mark.parametrize("op", [*COMPARISONS, "s>", "s>=", "s<", "s<="])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("register", [True, False])
def test_every_comparison_jumps_when_it_is_true_and_only_then(op: str, wide: bool, register: bool) -> None:
    bits = 64 if wide else 32
    program = Assembler().mov(R0, 0)
    expected = 0
    cases = [
        (0, 0),
        (1, 2),
        (2, 1),
        (-1, 1),
        (1, -1),
        (-2, -1),
        (6, 3),
        (4, 3),
        (1 << 32, 0),
        (1 << 32 | 5, 5),
    ]
    for number, (left, right) in enumerate(cases):
        program.load_imm64(R2, left).load_imm64(R3, right)
        # The verifier would know both, and look at one way only: hide what is loaded behind the stack.
        program.store(R10, -8, R2, 8).load(R2, R10, -8, 8)
        program.jump_if(op, R2, R3 if register else right, f"yes{number}", wide)
        program.jump(f"no{number}").label(f"yes{number}").or_(R0, 1 << number).label(f"no{number}")
        mask = (1 << bits) - 1
        if op.startswith("s"):
            true = COMPARISONS[op[1:]](signed(left, bits), signed(right, bits))
        else:
            true = COMPARISONS[op](left & mask, right & mask)
        expected |= true << number
    assert run_xdp(program.exit()) == expected


@needs_bpf
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_loads_and_stores_of_every_size_touch_their_bytes_only(size: int) -> None:
    with Map(MapKind.ARRAY, value_size=24, entries=1, flags=MAP_MMAPABLE) as array:
        memory = array.memory()
        memory[:24] = 0xAA
        program = Assembler().load_map_value(R1, array).load_imm64(R2, 0x1122334455667788)
        program.store(R1, 8, R2, size).load(R0, R1, 8, size)
        low = run_xdp(program.exit())
        value = 0x1122334455667788 & (1 << 8 * size) - 1
        assert low == value & 0xFFFFFFFF
        expected = b"\xaa" * 8 + value.to_bytes(size, sys.byteorder) + b"\xaa" * (16 - size)
        assert memory[:24].tobytes() == expected


@needs_bpf
@pytest.mark.parametrize(("size", "value"), [(1, 0x80), (2, -2), (4, 0xFFFFFFFE), (8, -3)])
def test_immediates_are_stored_in_every_size(size: int, value: int) -> None:
    with Map(MapKind.ARRAY, value_size=8, entries=1, flags=MAP_MMAPABLE) as array:
        run_xdp(Assembler().load_map_value(R1, array).store(R1, 0, value, size).mov(R0, 0).exit())
        wanted = value & (1 << 8 * size) - 1
        assert int.from_bytes(array.memory()[:size].tobytes(), sys.byteorder) == wanted


@needs_bpf
@pytest.mark.parametrize(
    ("op", "after"),
    [("+", 0b1100 + 0b1010), ("|", 0b1110), ("&", 0b1000), ("^", 0b0110), ("xchg", 0b1010)],
)
@pytest.mark.parametrize("size", [4, 8])
def test_atomic_operations_change_memory_and_fetch_what_was_there(op: str, after: int, size: int) -> None:
    with Map(MapKind.ARRAY, value_size=8, entries=1, flags=MAP_MMAPABLE) as array:
        array.memory()[0] = 0b1100
        program = Assembler().load_map_value(R1, array).mov(R2, 0b1010)
        program.atomic(op, R1, 0, R2, size, fetch=True).mov(R0, R2)
        assert run_xdp(program.exit()) == 0b1100
        assert array.memory()[0] == after


@needs_bpf
def test_compare_and_exchange_changes_only_what_it_expects() -> None:
    with Map(MapKind.ARRAY, value_size=8, entries=1, flags=MAP_MMAPABLE) as array:
        for expected, there, after in ((5, 5, 9), (4, 5, 5)):
            array.memory()[0] = there
            program = Assembler().load_map_value(R1, array).mov(R0, expected).mov(R2, 9)
            assert run_xdp(program.atomic("cmpxchg", R1, 0, R2, 8).exit()) == there
            assert array.memory()[0] == after


@needs_bpf
def test_helpers_are_called_with_a_map() -> None:
    with Map(MapKind.HASH, value_size=4, entries=4) as table:
        table.update(7, 42)
        for key, expected in ((7, 42), (8, 1000)):
            program = Assembler().store(R10, -4, key, 4)
            program.load_map(R1, table).mov(R2, R10).add(R2, -4).call(Helper.MAP_LOOKUP_ELEM)
            program.jump_if("==", R0, 0, "missing").load(R0, R0, 0, 4).exit()
            assert run_xdp(program.label("missing").mov(R0, 1000).exit()) == expected


@needs_bpf
def test_loops_jump_backwards() -> None:
    program = Assembler().mov(R0, 0).mov(R1, 10)
    program.label("again").add(R0, R1).sub(R1, 1).jump_if("!=", R1, 0, "again").exit()
    assert run_xdp(program) == 55


# -- random arithmetic against a model in Python --------------------------------------------------------------

REGISTERS = [R0, R1, R2, R3, R4, R5]
edges = st.sampled_from([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, 1 << 63, MASK, MASK >> 1])
words = st.one_of(st.integers(0, MASK), edges)
immediates = st.one_of(st.integers(-(1 << 31), (1 << 31) - 1), st.sampled_from([0, 1, -1, 2, -(1 << 31)]))
registers = st.sampled_from(REGISTERS)
binary = st.tuples(
    st.sampled_from(["+", "-", "*", "/", "s/", "%", "s%", "|", "&", "^", "<<", ">>", "s>>", "mov"]),
    registers,
    st.one_of(registers, immediates),
    st.booleans(),
)
unary = st.tuples(st.just("neg"), registers, st.none(), st.booleans())
order = st.tuples(st.sampled_from(["be", "le"]), registers, st.sampled_from([16, 32, 64]), st.booleans())
sequences = st.lists(st.one_of(binary, binary, binary, unary, order), min_size=1, max_size=40)


def model(op: str, left: int, right: int, wide: bool) -> int:
    """One operation as RFC 9669, sections 4.1 and 4.2, defines it."""
    bits = 64 if wide else 32
    mask = (1 << bits) - 1
    left, right = left & mask, right & mask
    shift = right & bits - 1
    a, b = signed(left, bits), signed(right, bits)
    if op in ("s/", "s%"):  # They round towards zero.
        quotient = (abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)) if b else 0
        return (quotient if op == "s/" else a - b * quotient) & mask
    results = {
        "+": left + right,
        "-": left - right,
        "*": left * right,
        "/": left // right if right else 0,
        "%": left % right if right else left,
        "|": left | right,
        "&": left & right,
        "^": left ^ right,
        "<<": left << shift,
        ">>": left >> shift,
        "s>>": a >> shift,
        "mov": right,
        "neg": -left,
    }
    return results[op] & mask


def in_order(value: int, bits: int, big: bool) -> int:
    data = (value & (1 << bits) - 1).to_bytes(bits // 8, sys.byteorder)
    return int.from_bytes(data, "big" if big else "little")


@needs_bpf
@settings(max_examples=300, deadline=None)
@given(initial=st.lists(words, min_size=len(REGISTERS), max_size=len(REGISTERS)), sequence=sequences)
def test_random_arithmetic_gives_what_the_standard_says(
    initial: list[int], sequence: list[tuple[str, Register, Register | int, bool]]
) -> None:
    size = 8 * len(REGISTERS)
    with Map(MapKind.ARRAY, value_size=size, entries=1, flags=MAP_MMAPABLE) as array:
        memory = array.memory()
        memory[:size] = list(b"".join(word.to_bytes(8, sys.byteorder) for word in initial))
        program = Assembler().load_map_value(R6, array)
        # From memory, so that the verifier does not know the values and the processor has to work them out.
        for register in REGISTERS:
            program.load(register, R6, 8 * register, 8)
        state = list(initial)
        for op, dst, operand, wide in sequence:
            if op in ("be", "le"):
                program.to_be(dst, operand) if op == "be" else program.to_le(dst, operand)
                state[dst] = in_order(state[dst], operand, op == "be")
                continue
            if op == "neg":
                program.neg(dst, wide)
                state[dst] = model(op, state[dst], 0, wide)
                continue
            if not isinstance(operand, Register):
                if op in ("<<", ">>", "s>>"):
                    operand &= 63 if wide else 31
                elif op in ("/", "s/", "%", "s%"):
                    operand = operand or 1
            if op == "mov":
                program.mov(dst, operand) if wide else program.mov32(dst, operand)
            else:
                program.alu(op, dst, operand, wide)
            right = state[operand] if isinstance(operand, Register) else operand
            state[dst] = model(op, state[dst], right, wide)
        for register in REGISTERS:
            program.store(R6, 8 * register, register, 8)
        with Program(ProgramKind.XDP, program.mov(R0, 0).exit().assemble()) as loaded:
            loaded.test_run(bytes(64))
        left = memory[:size].tobytes()
        found = [int.from_bytes(left[at : at + 8], sys.byteorder) for at in range(0, size, 8)]
        assert found == state
