"""`tap:NAME`: a TAP device's queues as ring pairs. `sync` moves packets, `offload` is what a NIC's hardware would do,
`records` is what both know, `port` opens."""
