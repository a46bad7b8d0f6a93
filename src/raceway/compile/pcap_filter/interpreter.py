"""The interpreted target: a classic BPF machine in plain Python, written to be compared with."""

from __future__ import annotations

from typing import Any

from raceway.compile.pcap_filter import program as bpf
from raceway.compile.pcap_filter.program import MASK, Program


def run(program: Program, data: Any, wire_length: int) -> int:
    """Return how many bytes of a packet are accepted, 0 for none.

    data: the captured bytes (bytes or a memoryview of bytes); wire_length: how many there were on the wire.
    """
    a = x = index = 0
    memory = [0] * bpf.MEMORY_WORDS
    length = len(data)
    while True:
        code, yes, no, k = one = program.instructions[index]
        index += 1
        kind = code & 0x07
        if kind in (bpf.LD, bpf.LDX):
            mode = code & 0xE0
            if mode in (bpf.ABS, bpf.IND, bpf.MSH):
                at = k + x if mode == bpf.IND else k
                size = one.size
                # In 32 bits the sum of X and k wraps around, and is past the end then as well as before.
                if at + size > length:
                    return 0
                value = int.from_bytes(data[at : at + size], "big")
                if mode == bpf.MSH:
                    value = (value & 0xF) << 2
            else:
                value = k if mode == bpf.IMM else memory[k] if mode == bpf.MEM else wire_length & MASK
            if kind == bpf.LD:
                a = value
            else:
                x = value
        elif kind == bpf.ST:
            memory[k] = a
        elif kind == bpf.STX:
            memory[k] = x
        elif kind == bpf.ALU:
            operand = x if code & bpf.X else k
            computed = arithmetic(code & 0xF0, a, operand)
            if computed is None:
                return 0
            a = computed
        elif kind == bpf.JMP:
            operation = code & 0xF0
            if operation == bpf.JA:
                (index,) = bpf.targets(index - 1, one)
            else:
                index += yes if compare(operation, a, x if code & bpf.X else k) else no
        elif kind == bpf.RET:
            return a if code & 0x18 == bpf.A else k
        elif code & 0xF8 == bpf.TXA:
            a = x
        else:
            x = a


def arithmetic(operation: int, a: int, operand: int) -> int | None:
    """A op operand in 32 bits; None where the packet is rejected: a division by zero."""
    if operation in (bpf.DIV, bpf.MOD):
        if operand == 0:
            return None
        return a // operand if operation == bpf.DIV else a % operand
    if operation in (bpf.LSH, bpf.RSH):
        # What is shifted by its width or more is gone.
        if operand > 31:
            return 0
        return (a << operand) & MASK if operation == bpf.LSH else a >> operand
    if operation == bpf.ADD:
        return (a + operand) & MASK
    if operation == bpf.SUB:
        return (a - operand) & MASK
    if operation == bpf.MUL:
        return (a * operand) & MASK
    if operation == bpf.OR:
        return a | operand
    if operation == bpf.AND:
        return a & operand
    if operation == bpf.XOR:
        return a ^ operand
    return -a & MASK


def compare(operation: int, a: int, operand: int) -> bool:
    """What a conditional jump asks."""
    if operation == bpf.JEQ:
        return a == operand
    if operation == bpf.JGT:
        return a > operand
    if operation == bpf.JGE:
        return a >= operand
    return bool(a & operand)
