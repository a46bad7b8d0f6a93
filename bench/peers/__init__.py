"""The peers that raceway is measured against, each as one function that returns a `Measurement`.

    what raceway does          peer                                       function
    a ring between two cores   DPDK rte_ring, DPDK's own benchmark        dpdk_ring
                               the same ring, any bulk, wall clock        dpdk_ring_loop
    packets between processes  DPDK memif, testpmd to testpmd             dpdk_memif
    a capture to the wire      tcpreplay --topspeed over veth             tcpreplay
    one file to another        tcpdump -r -w EXPRESSION                   tcpdump_filter
    a filter over packets      libpcap's pcap_offline_filter, from C      libpcap_filter
                               dpkt and Scapy, from Python                dpkt_match, scapy_match

Two modules are not imported here, because they use raceway's labs, and the rest of this package needs no raceway:

    af_xdp         DPDK's af_xdp driver: dpdk_transmit, dpdk_receive, dpdk_forward, dpdk_echo
    kernel_paths   udp_ping_pong, linux_bridge, tap_write, packet_send

A peer that gives no figure raises `PeerUnavailable` and says why. Nothing outlives a call: no process, file,
interface, namespace or shared memory. The README beside this file says what each figure means and how it
could mislead.
"""

from .capture import Capture, read_capture
from .dissectors import dpkt_match, scapy_match
from .five_tuple import FiveTuple
from .libpcap import libpcap_filter
from .measurement import Detail, Measurement, PeerUnavailable
from .memif import dpdk_memif
from .process import pinned
from .replay import tcpreplay
from .ring import dpdk_ring
from .ring_loop import dpdk_ring_loop
from .tcpdump import tcpdump_filter
from .versions import versions

__all__ = [
    "Capture",
    "Detail",
    "FiveTuple",
    "Measurement",
    "PeerUnavailable",
    "dpdk_memif",
    "dpdk_ring",
    "dpdk_ring_loop",
    "dpkt_match",
    "libpcap_filter",
    "pinned",
    "read_capture",
    "scapy_match",
    "tcpdump_filter",
    "tcpreplay",
    "versions",
]
