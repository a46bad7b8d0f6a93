"""`raceway bridge`: two ports joined by the forwarding loop, one way for each direction that exists."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from raceway.apps.forwarder.forwarder import Forwarder, Way
from raceway.apps.forwarder.loop import forward
from raceway.apps.report import Ticker, final_report, introduce
from raceway.compile.pcap_filter.expression import Expression
from raceway.errors import RacewayError
from raceway.ports.names import PortKind, parse
from raceway.ports.opening import open as open_port, prepare
from raceway.ports.pcap.port import CapturePort
from raceway.ports.port import Port

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction


@contextmanager
def joined_ports(first: str, second: str) -> Iterator[tuple[Port, Port]]:
    """Open two ports in one region if that can be, so that packets move without a copy.

    If the second is a capture file that does not exist, it is made; the first is always read.
    """
    with open_port(first) as a:
        write = _is_new_file(second)
        try:
            b = open_port(second, region=a.region, write=write)
        except ValueError:
            # Asked for buffers of another size than the region has: then the packets are copied.
            b = open_port(second, write=write)
        with b:
            for source, target in ((a, b), (b, a)):
                if isinstance(target, CapturePort) and target.writer is not None:
                    target.be_of_link_type(source.link_type)
            yield a, b


def _is_new_file(name: str) -> bool:
    parsed = parse(name)
    if parsed.kind != PortKind.PCAP or parsed.path is None:
        return False
    return parsed.path == "-" or not os.path.exists(parsed.path)


def ways_between(
    a: Port,
    b: Port,
    forth: PacketFunction | Expression | None,
    back: PacketFunction | Expression | None,
    *,
    interpreted: bool,
    limit: int,
) -> list[Way]:
    """The directions in which packets can go between two ports; RacewayError if there is none."""
    ways = []
    if a.rx and b.tx:
        ways.append(Way(a, b, forth, limit=limit, interpreted=interpreted))
    if b.rx and a.tx:
        ways.append(Way(b, a, back, interpreted=interpreted))
    if not ways:
        raise RacewayError(
            f"nothing can go between {a.name} and {b.name}: expected one that receives and one that sends"
        )
    return ways


def run_bridge(
    first: str,
    second: str,
    forth: PacketFunction | Expression | None,
    back: PacketFunction | Expression | None,
    *,
    interpreted: bool = False,
    limit: int = 0,
    json: bool = False,
    expression: str | None = None,
) -> None:
    """Bridge two ports by name until both have ended, the limit is reached or Ctrl-C."""
    _compile(first, second, *(() if interpreted else (forth, back)))
    with joined_ports(first, second) as (a, b):
        if expression is not None:
            forth, back = (Expression(expression, port.link_type) for port in (a, b))
        forwarder = Forwarder(ways_between(a, b, forth, back, interpreted=interpreted, limit=limit))
        how = (
            "by swapping buffers in one region" if a.region is b.region else "by copying between two regions"
        )
        introduce(a, b)
        print(f"raceway bridge: {a.name} and {b.name}, {how}", file=sys.stderr)
        ticker = Ticker()
        began = time.monotonic()

        def look(running: Forwarder) -> bool:
            counted = running.counters()
            ticker.tick(counted["taken"], counted["taken_bytes"], sum(running.drops().values()))
            # With a limit the bridge ends as soon as the first way has, whatever the other one waits for.
            return not (limit and counted["taken"] >= limit)

        failure: RacewayError | None = None
        try:
            forwarder.run(look)
        except KeyboardInterrupt:
            pass
        except RacewayError as error:
            # An interface that is gone: what was counted until then is still worth a report.
            failure = error
        seconds = time.monotonic() - began
        if failure is None:
            _settle((a, b))
        final_report("bridge", f"{a.name} {b.name}", _summary(forwarder, seconds), json=json)
        if failure is not None:
            raise failure


def _compile(first: str, second: str, *functions: PacketFunction | Expression | None) -> None:
    """All that is to be compiled, before a port is open: from then on a host may be waiting for its packets."""
    forward.prepare()
    for name in (first, second):
        prepare(name)
    for function in functions:
        if function is not None:
            function.native()


def _settle(ports: tuple[Port, ...]) -> None:
    for port in ports:
        port.flush()
        port.service()


def _summary(forwarder: Forwarder, seconds: float) -> dict[str, Any]:
    ways: list[dict[str, Any]] = []
    for number, way in enumerate(forwarder.ways):
        counted = forwarder.counters(number)
        ways.append(
            {
                "from": way.source.name,
                "to": way.target.name,
                "packets": counted["taken"],
                "bytes": counted["taken_bytes"],
                "sent": counted["sent"],
                "returned": counted["returned"],
                "batches": counted["batches"],
                "drops": forwarder.drops(number),
                "abort_reasons": {
                    name: count for name, count in forwarder.abort_reasons(number).items() if count
                },
            }
        )
    drops: dict[str, int] = {}
    for summary in ways:
        for name, count in summary["drops"].items():
            drops[name] = drops.get(name, 0) + count
    for way in forwarder.ways:
        for name, count in way.target.drops().items():
            drops[name] = drops.get(name, 0) + count
    return {
        "packets": sum(way["packets"] for way in ways),
        "bytes": sum(way["bytes"] for way in ways),
        "batches": sum(way["batches"] for way in ways),
        "seconds": seconds,
        "drops": drops,
        "ways": ways,
    }
