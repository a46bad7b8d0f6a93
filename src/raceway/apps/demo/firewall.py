"""The demo's firewall: copy it, change it, try it on a recording:

raceway bridge -i pcap:in.pcapng -i null: --through firewall.py:firewall
"""

from raceway import DROP, PASS, Counters, HashTable, TokenBucket, packet_function

BAD_FLAGS, PORT_SCAN, SYN_FLOOD, UDP_FLOOD, ERROR_FLOOD, ANSWERS = range(6)
DROPPED = Counters(6)

# So many a second, so many at once, at most so many buckets. Time is the
# packet's own: a recording is judged as it would have been on the wire.
KNOCKS = TokenBucket(rate=5, burst=20, capacity=8192)
BARE_SYNS = TokenBucket(rate=5, burst=5, capacity=8192)
DATAGRAMS = TokenBucket(rate=60, burst=30, capacity=8192)
ERRORS = TokenBucket(rate=5, burst=5, capacity=8192)
REFUSED = HashTable(8192)

XMAS = 0x29  # FIN, PSH and URG: no conversation has them together
UNREACHABLE = 3  # the type of an ICMP error


def drop(rule, flow):
    DROPPED.add(rule)
    if rule != ANSWERS:
        REFUSED.put(flow.reverse, rule)  # what would answer this
    return DROP


@packet_function
def firewall(packet):
    flow, tcp, udp = packet.five_tuple, packet.tcp, packet.udp
    if tcp and tcp.flags & 0x3F in (0, XMAS):
        return drop(BAD_FLAGS, flow)
    if tcp and tcp.syn and not tcp.ack:
        if not KNOCKS.allow(packet, flow.source):
            return drop(PORT_SCAN, flow)
        bare = tcp.header_length < 28  # without today's options
        if bare and not BARE_SYNS.allow(packet, flow.destination):
            return drop(SYN_FLOOD, flow)
    if udp and not DATAGRAMS.allow(packet, udp.destination_port):
        return drop(UDP_FLOOD, flow)
    kind = packet.icmp.type if packet.icmp else -1
    if kind == UNREACHABLE and not ERRORS.allow(packet, flow.source):
        return drop(ERROR_FLOOD, flow)
    if flow in REFUSED:
        return drop(ANSWERS, flow)
    return PASS
