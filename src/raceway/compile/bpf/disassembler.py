"""Instructions in words, as the kernel's verifier and bpftool write them (RFC 9669 has the encoding)."""

from __future__ import annotations

from raceway.compile.bpf.instructions import Instruction

_SIZES = {0x00: "u32", 0x08: "u16", 0x10: "u8", 0x18: "u64"}
_ARITHMETIC = {
    0x0: "+=", 0x1: "-=", 0x2: "*=", 0x3: "/=", 0x4: "|=", 0x5: "&=", 0x6: "<<=", 0x7: ">>=", 0x9: "%=", 0xA: "^=",
    0xB: "=", 0xC: "s>>=",
}  # fmt: skip
_JUMPS = {
    0x1: "==", 0x2: ">", 0x3: ">=", 0x4: "&", 0x5: "!=", 0x6: "s>", 0x7: "s>=", 0xA: "<", 0xB: "<=", 0xC: "s<",
    0xD: "s<=",
}  # fmt: skip
_ATOMICS = {0x00: "+=", 0x40: "|=", 0x50: "&=", 0xA0: "^="}
_FETCH, _EXCHANGE, _COMPARE_EXCHANGE = 0x01, 0xE1, 0xF1
_HELPERS = {
    8: "bpf_get_smp_processor_id", 12: "bpf_tail_call", 51: "bpf_redirect_map", 208: "bpf_ktime_get_tai_ns",
}  # fmt: skip


def line(one: Instruction) -> str:
    """An instruction in words."""
    kind, target, source = one.code & 7, f"r{one.registers & 15}", f"r{one.registers >> 4}"
    if one.code == 0x18:
        if one.note is not None:
            return f"{target} = {getattr(one.note, 'serial', one.note)!s} + {one.immediate} ll"
        return f"{target} = {(one.wide or 0) << 32 | one.immediate & 0xFFFFFFFF:#x} ll"
    if kind == 1:
        sign = "s" if one.code & 0xE0 == 0x80 else ""
        size = _SIZES[one.code & 0x18].replace("u", "s" if sign else "u")
        return f"{target} = *({size} *)({source} {one.offset:+d})"
    if kind in (2, 3):
        size = _SIZES[one.code & 0x18]
        place = f"*({size} *)({target} {one.offset:+d})"
        if kind == 2:
            return f"{place} = {one.immediate}"
        return _atomic(one, place, source) if one.code & 0xE0 == 0xC0 else f"{place} = {source}"
    if kind in (5, 6):
        return _jump(one, target, source)
    return _arithmetic(one, target, source)


def _atomic(one: Instruction, place: str, source: str) -> str:
    if one.immediate == _EXCHANGE:
        return f"{source} = exchange({place}, {source})"
    if one.immediate == _COMPARE_EXCHANGE:
        return f"r0 = compare_exchange({place}, r0, {source})"
    sign = _ATOMICS.get(one.immediate & ~_FETCH, "?=")
    text = f"lock {place} {sign} {source}"
    return f"{source} = fetch {text}" if one.immediate & _FETCH else text


def _jump(one: Instruction, target: str, source: str) -> str:
    goes = f"goto {one.target.place}" if one.target is not None else ""
    if one.code == 0x85:
        if one.callee is not None:
            return f"call {one.callee.place}"
        return f"call {_HELPERS.get(one.immediate, one.immediate)}"
    if one.code == 0x95:
        return "exit"
    if one.code == 0xE5:
        return f"may_{goes}"
    if one.code in (0x05, 0x06):
        return goes
    if one.code & 7 == 6:
        target, source = target.replace("r", "w"), source.replace("r", "w")
    other = source if one.code & 8 else str(one.immediate)
    return f"if {target} {_JUMPS.get(one.code >> 4, '?')} {other} {goes}"


def _arithmetic(one: Instruction, target: str, source: str) -> str:
    operation = one.code >> 4
    if one.code & 7 == 4:
        target, source = target.replace("r", "w"), source.replace("r", "w")
    if operation == 0x8:
        return f"{target} = -{target}"
    if operation == 0xD:
        if one.code & 7 == 7:
            return f"{target} = bswap{one.immediate} {target}"
        return f"{target} = {'be' if one.code & 8 else 'le'}{one.immediate} {target}"
    other = source if one.code & 8 else str(one.immediate)
    sign = _ARITHMETIC.get(operation, "?=")
    if one.offset == 1 and operation in (0x3, 0x9):
        sign = f"s{sign}"
    if operation == 0xB and one.offset:
        other = f"(s{one.offset}) {source}"
    return f"{target} {sign} {other}"
