"""raceway: high-speed networking from user space, in Python.

    with raceway.open("netmap:x}1") as port:
        for batch in port:
            for packet in batch:
                print(len(packet), packet.ipv4.source)

Everything public is here; names are loaded when they are first used, so `import raceway` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raceway.apps.firewall.controller import Firewall as Firewall
    from raceway.apps.firewall.rules.text import RulesError as RulesError
    from raceway.apps.functions.attaching import Attachment as Attachment, attach as attach
    from raceway.compile.addresses import prefix as prefix
    from raceway.compile.errors import (
        ExpressionError as ExpressionError,
        PacketFunctionError as PacketFunctionError,
    )
    from raceway.compile.flows.flow_table import FlowTable as FlowTable
    from raceway.compile.function import PacketFunction as PacketFunction, packet_function as packet_function
    from raceway.compile.packet import Packet as Packet
    from raceway.compile.pcap_filter.expression import Expression as Expression, expression as expression
    from raceway.compile.state import (
        Counters as Counters,
        HashTable as HashTable,
        PrefixTable as PrefixTable,
        Random as Random,
        TokenBucket as TokenBucket,
    )
    from raceway.compile.verdicts import (
        ABORTED as ABORTED,
        DROP as DROP,
        PASS as PASS,
        REDIRECT as REDIRECT,
        TX as TX,
        Verdict as Verdict,
    )
    from raceway.errors import (
        EndOfStream as EndOfStream,
        InterfaceError as InterfaceError,
        NotBuiltYetError as NotBuiltYetError,
        PortBusyError as PortBusyError,
        RacewayError as RacewayError,
        RegionError as RegionError,
        RingError as RingError,
    )
    from raceway.kernel.functions.explaining import Explanation as Explanation, explain as explain
    from raceway.kernel.functions.refusals import FunctionRefusedError as FunctionRefusedError
    from raceway.kernel.functions.simulating import Simulation as Simulation, simulate as simulate
    from raceway.memory.region import Region as Region
    from raceway.ports.batch import Batch as Batch
    from raceway.ports.names import PortNameError as PortNameError
    from raceway.ports.opening import open as open
    from raceway.ports.pcap.capture import load_capture as load_capture
    from raceway.ports.port import Port as Port
    from raceway.ports.port_ring import PortRing as PortRing

__version__ = "0.1.0"

_HOMES = {
    "open": "ports.opening",
    "Port": "ports.port",
    "PortRing": "ports.port_ring",
    "Batch": "ports.batch",
    "PortNameError": "ports.names",
    "Region": "memory.region",
    "packet_function": "compile.function",
    "PacketFunction": "compile.function",
    "PacketFunctionError": "compile.errors",
    "Packet": "compile.packet",
    "expression": "compile.pcap_filter.expression",
    "Expression": "compile.pcap_filter.expression",
    "ExpressionError": "compile.errors",
    "prefix": "compile.addresses",
    "Verdict": "compile.verdicts",
    "ABORTED": "compile.verdicts",
    "DROP": "compile.verdicts",
    "PASS": "compile.verdicts",
    "TX": "compile.verdicts",
    "REDIRECT": "compile.verdicts",
    "Counters": "compile.state",
    "FlowTable": "compile.flows.flow_table",
    "HashTable": "compile.state",
    "PrefixTable": "compile.state",
    "Random": "compile.state",
    "TokenBucket": "compile.state",
    "load_capture": "ports.pcap.capture",
    "attach": "apps.functions.attaching",
    "Attachment": "apps.functions.attaching",
    "Firewall": "apps.firewall.controller",
    "RulesError": "apps.firewall.rules.text",
    "FunctionRefusedError": "kernel.functions.refusals",
    "explain": "kernel.functions.explaining",
    "Explanation": "kernel.functions.explaining",
    "simulate": "kernel.functions.simulating",
    "Simulation": "kernel.functions.simulating",
    "RacewayError": "errors",
    "RegionError": "errors",
    "RingError": "errors",
    "EndOfStream": "errors",
    "InterfaceError": "errors",
    "PortBusyError": "errors",
    "NotBuiltYetError": "errors",
}


__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raceway' has no attribute {name!r}")
    value = getattr(import_module(f"raceway.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
