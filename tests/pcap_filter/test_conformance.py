"""libpcap's own cases, on every target."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from filter_cases import CASES, DATA, Targets, kernel_refusal
from raceway import ExpressionError, load_capture
from raceway.apps.filter.run import FilterRun
from raceway.compile.pcap_filter.libpcap import compile_expression
from raceway.memory.jit import INTERPRETED
from raceway.ports.pcap.reader import CaptureReader

NAMED = ".libpcap.test"
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
    assert results(case, target) == case["results"]


@by_name(CASES["accept"])
def test_expressions_to_accept(case):
    for text in case["aliases"]:
        if NAMED not in text.lower():
            assert len(compile_expression(text)) >= 1


@by_name(CASES["reject"])
def test_expressions_to_refuse(case):
    with pytest.raises(ExpressionError) as refused:
        compile_expression(case["expr"])
    assert str(refused.value).strip()
