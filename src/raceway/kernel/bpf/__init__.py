"""eBPF without a compiler, a library or a build step: bpf(2) through ctypes, and an assembler of our own.

    assembler   instructions, as RFC 9669 encodes them              Assembler().mov(R0, 2).exit().assemble()
    maps        memory that programs and processes share            Map(MapKind.ARRAY, value_size=8, entries=1)
    programs    loading, running on a given packet, looking at one  Program(ProgramKind.XDP, instructions)
    links       attaching a program to an interface                 attach_xdp(program, index, "driver")
    system      the system call, the kernel's numbers, descriptors

Everything is held by a descriptor of this process and by nothing else: nothing is pinned into a file system, so when
the process ends, by SIGKILL too, the kernel takes programs off their interfaces and frees them.
"""
