"""`raceway filter`: from one capture file to another, through a pcap filter expression.

`passes` is the compiled loop over a window of the file (find packets, judge them, write the accepted ones), `judges`
say of packets how many bytes of each are accepted, on the target that was asked for, `records` is what they share, and
`run` is the control plane that joins them.

Started warm, all of it runs without numba: the loop's machine code and the expression's are kept
(`memory.machine_code`), and only what is missing is compiled.
"""
