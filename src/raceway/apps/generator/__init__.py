"""The packet generator and receiver behind `raceway pkt-gen`, with the functions and options of netmap's pkt-gen.

Control plane: `options` says what is wanted, `ranges` and `sizes` read it from the words of a command line,
`frames` makes the templates, `generator` opens the port and reports, `worker` runs a loop in a thread.
Data plane: `transmit` (with `fill` and `pacing`), `receive` (with `sequence`), `echo` (with `histogram`); what they
share with Python stands in `records`.
"""
