"""The whole examination."""

from __future__ import annotations

from raceway.apps.doctor.counters import Counters
from raceway.apps.doctor.device import device_findings, interfaces_in_short
from raceway.apps.doctor.findings import Diagnosis
from raceway.apps.doctor.kernel import kernel_findings
from raceway.apps.doctor.machine import machine_findings
from raceway.apps.doctor.trial import not_tried, trial_findings
from raceway.kernel.interface import Network


def examine(interface: str | None = None, *, attempt: bool = False) -> Diagnosis:
    """Look at the machine, and at an interface of the calling thread's network namespace if one is named.

    attempt: try XDP and AF_XDP on the interface itself, which disturbs it (`trial`). NoSuchInterfaceError.
    """
    diagnosis = Diagnosis(interface)
    found = diagnosis.findings
    with Network() as network:
        if interface is None:
            found += kernel_findings()
            found += machine_findings()
            found += interfaces_in_short(network)
            return diagnosis
        facts = network.interface(interface)
        # The first look at the counters comes before everything else takes its time, the second after it.
        counters = Counters(network, facts.name)
        found += kernel_findings()
        found += machine_findings()
        found += device_findings(network, facts.name)
        found += trial_findings(facts) if attempt else [not_tried(facts.name)]
        found += counters.findings()
    return diagnosis
