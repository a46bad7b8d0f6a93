"""`eth0^`: the rings between an interface and its own host; and `eth0*`, those and the NIC's together.

    records, sync   the data plane: a TAP device's, and live XDP frames towards the host where there is a stream
    port            the host rings' port
    both            NIC and host rings in one port
    opening         what a name asks for

`kernel.host_path` draws the way that packets take through the kernel.
"""
