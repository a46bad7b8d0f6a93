"""The compile floor: packets, packet functions and their state, interpreted and as machine code.

Data flows downwards through these modules, and each may use only those above it in this list:

`verdicts`, `errors`, `addresses`, `headers`
    words: what a function can answer, address values and prefixes, and the one table of header fields.
`locate`, `checksums`, `five_tuple`
    header logic, written once as ordinary functions over a packet's loads and stores.
`packet`
    the interpreted packet: the same attributes that compiled code has, over any buffer.
`state`
    counters, hash table, longest-prefix table, token bucket: arrays that both worlds work on.
`classifier`
    the first of many rules that a packet matches: one more state, with a room of its own.
`checker`, `rewrite`, `function`
    `@packet_function`: reads the user's source, refuses what no target supports, prepares the rest.
`lowering`, `native`
    the compiled side; only these import numba, and only when something is compiled.

Nothing here knows of ports or rings beyond the `Batch` record of `memory.layout`.
"""
