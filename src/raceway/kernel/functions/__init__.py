"""Packet functions in the kernel: loaded, run on given packets, attached to interfaces.

sharing     a state object's words in memory that the kernel's programs have too
loading     from generated eBPF to a loaded program with its control record and counters
simulating  `raceway.simulate`: any target over packets at hand
"""
