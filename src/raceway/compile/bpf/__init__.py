"""A packet function as eBPF: instructions, and what they want of the kernel. Nothing here speaks to the kernel.

definitions   eBPF's own form of the primitives, and the program's entry, in LLVM's language
generate      from a packet function's parts to instructions: `generate(function)` is the way in
elf           reading the object file that LLVM makes
instructions  instructions as numbers: disassembling, inserting, and finding loops
lines         which line of the user's source an instruction comes from
"""
