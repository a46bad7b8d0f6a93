"""pcap filters: tcpdump's expressions, on every target.

A libpcap that PyPI carries turns an expression into a classic BPF program, and that program is where our part begins:

    "tcp port 80" --libpcap--> cBPF --program--> checked instructions
                                                   |-- interpreter   plain Python, the oracle
                                                   |-- emission      LLVM IR, into packet functions (native, eBPF)
                                                   |-- decision      the same as one formula over several packets ...
                                                   |-- wide          ... which native batch kernels compute at once
                                                   `-- (kernel floor: pcap_filter) eBPF, one instruction for one

`libpcap` is the only module that knows that library (`newer` says in its words what its next version takes), `program`
the only one that believes an instruction's numbers.
`expression` is what users hold: `raceway.expression("tcp port 80")`.

The result of a filter is how many bytes of the packet it accepts, 0 for none. Every target gives the same number for
every packet: 32-bit unsigned arithmetic, a load past the captured bytes rejects, division by a zero X rejects, `len` is
the packet's length on the wire (McCanne and Jacobson, 1993, and libpcap's own interpreter where that is silent).
"""
