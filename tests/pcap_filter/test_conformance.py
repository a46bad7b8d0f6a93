"""libpcap's own cases, on every target."""

from __future__ import annotations

import pytest

from filter_cases import CASES, DATA, kernel_refusal
from raceway import ExpressionError
from raceway.apps.filter.run import FilterRun
from raceway.compile.pcap_filter.libpcap import compile_expression
from raceway.memory.jit import INTERPRETED
from raceway.ports.pcap.reader import CaptureReader

NAMED = ".libpcap.test"
"""Names in the suite's expressions: defined in a mount namespace of their own, below."""

# What libpcap 1.11 has and the 1.10.6 that cypcap brings has not. Each is tested to be still so: a newer library shall
# be noticed.
NEWER_APPLY = {
    "dpc_ne_0", "rfc1051_ip", "mstp_link_src_host", "mstp_link_src_and_dst_host", "wlan_subtype_ack_PPI", "vxlan",
    "vxlan_101", "link_src_host_DSA_TAG_BRCM", "ip_src_host_DSA_TAG_BRCM", "llc_DSA_TAG_BRCM", "vlan_DSA_TAG_BRCM",
    "vlan_8_and_llc_DSA_TAG_BRCM", "vlan_5_DSA_TAG_BRCM", "multicast_DSA_TAG_BRCM", "outbound_DSA_TAG_BRCM",
    "arp_DSA_TAG_DSA", "ip_DSA_TAG_DSA", "icmp_index_DSA_TAG_DSA", "outbound_DSA_TAG_DSA",
}  # fmt: skip
NEWER_ACCEPT = {"ether proto lldp", "vxlan 12345"}
NEWER_REJECT = {"decnet_node", "decnet_1_2_3", "isis_proto_32", "link_proto_1500_EN10MB"}
OF_THE_SUITES_PROGRAM = {"_enumerate_bpf_image"}
"""Not an expression: it asks libpcap's test program for something else."""
TARGETS = ["interpreted", "native", "libpcap", "kernel"]


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def results(case, target):
    with CaptureReader(DATA / case["savefile"]) as reader:
        run = FilterRun(reader, case["expr"], target)
        found = []
        while (accepted := run.step()) is not None:
            found += accepted.tolist()
    return found


@pytest.mark.parametrize("target", TARGETS)
@by_name([case for case in CASES["apply"] if NAMED not in case["expr"]])
def test_bytes_accepted_of_each_packet(case, target):
    if target == "native" and INTERPRETED:
        pytest.skip("about machine code")
    if target == "kernel" and kernel_refusal():
        pytest.skip(kernel_refusal())
    if case["name"] in NEWER_APPLY:
        try:
            assert results(case, target) != case["results"]
        except ExpressionError:
            pass
        return
    assert results(case, target) == case["results"]


@by_name(CASES["accept"])
def test_expressions_to_accept(case):
    for text in case["aliases"]:
        if text in NEWER_ACCEPT:
            with pytest.raises(ExpressionError):
                compile_expression(text)
        elif NAMED not in text.lower() and text not in OF_THE_SUITES_PROGRAM:
            assert len(compile_expression(text)) >= 1


@by_name(CASES["reject"])
def test_expressions_to_refuse(case):
    if case["name"] in NEWER_REJECT:
        assert len(compile_expression(case["expr"])) >= 1
        return
    with pytest.raises(ExpressionError) as refused:
        compile_expression(case["expr"])
    assert str(refused.value).strip()
