"""A packet function on its own."""

from raceway.compile.function import packet_function


@packet_function
def smallest_by_minus_one(packet):
    value = packet.load64(0)
    if value // (packet.load8(8) - 1) > 5:
        return 1
    return 2
