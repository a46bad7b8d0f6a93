"""How `raceway ports` looks: tables on a terminal, a line each when piped, and for programs one JSON object."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import TextIO

from raceway.apps.port_list.interfaces import Attachment, UsedInterface
from raceway.apps.port_list.listing import Listing
from raceway.apps.port_list.ports import OpenPort
from raceway.apps.report import named, scaled


def show(listing: Listing, *, json: bool = False, file: TextIO | None = None) -> None:
    """Print a listing, and with `json` the JSON object as its last line, on standard output."""
    out = file or sys.stdout
    if out.isatty():
        _tables(listing, out)
    else:
        for line in plain_lines(listing):
            print(line, file=out)
    if json:
        print(json_format.dumps(listing.as_dict()), file=out)
    out.flush()


def plain_lines(listing: Listing) -> Iterator[str]:
    """A line a port and interface, words and numbers by turns; then what could not be seen."""
    for port in listing.ports:
        card = port.card
        words = [
            f"port {card.name}",
            f"mode {card.mode}" if card.mode else "",
            f"pid {port.process.pid}",
            f"tx {port.tx_packets} packets {port.tx_bytes} bytes",
            f"rx {port.rx_packets} packets {port.rx_bytes} bytes",
            f"drops {named(card.drops)}",
            f"rings {_rings(port)}",
            _in(listing, card.network),
            f"command {port.process.command}",
        ]
        yield ", ".join(filter(None, words))
    for interface in listing.interfaces.used:
        counters = interface.counters
        words = [
            f"interface {interface.name}",
            *(_program(each) + _holders(each) for each in interface.attachments),
            f"rx {counters.get('rx_packets', 0)} packets {counters.get('rx_bytes', 0)} bytes",
            f"tx {counters.get('tx_packets', 0)} packets {counters.get('tx_bytes', 0)} bytes",
            f"drops {named(_drops(interface))}",
            _in(listing, interface.network),
            _device(interface),
        ]
        yield ", ".join(filter(None, words))
    yield from _remarks(listing)


def _tables(listing: Listing, out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, highlight=False)

    def table(*headings: str, widest: int) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        made.add_column(headings[0], overflow="fold", min_width=min(widest, console.width // 3))
        made.add_column("Sent", justify="right", no_wrap=True)
        made.add_column("Received", justify="right", no_wrap=True)
        made.add_column("Drops", overflow="fold")
        made.add_column(headings[1], overflow="fold")
        return made

    def two_lines(first: str, second: str) -> Text:
        return Text.assemble(first, "\n", (second, "dim")) if second else Text(first)

    def counted(packets: int, octets: int) -> Text:
        return two_lines(f"{packets:,}", scaled(octets, "B") if packets else "")

    def dropped(drops: Mapping[str, int]) -> Text:
        words = "\n".join(f"{name} {count:,}" for name, count in drops.items() if count)
        return Text(words or "none", style="yellow" if words else "dim")

    def programs(attachments: Iterable[Attachment]) -> Text:
        rows: list[str | tuple[str, str]] = []
        for each in attachments:
            rows += ["\n" if rows else "", _program(each)]
            for process in each.holders:
                command = _short(process.command, console.width * 2 // 5)
                rows.append((f"\npid {process.pid}, {command}", "dim"))
        return Text.assemble(*(rows or ["none"]))

    if listing.ports:
        ports = table("Port", "Process", widest=max(len(port.card.name) for port in listing.ports))
        for port in listing.ports:
            where = ", ".join(filter(None, [f"pid {port.process.pid}", listing.network(port.card.network)]))
            ports.add_row(
                two_lines(port.card.name, port.card.mode),
                counted(port.tx_packets, port.tx_bytes),
                counted(port.rx_packets, port.rx_bytes),
                dropped(port.card.drops),
                two_lines(_short(port.process.command, console.width * 2 // 5), where),
            )
        console.print(ports)
    if listing.interfaces.used:
        if listing.ports:
            console.print()
        interfaces = table("Interface", "Programs on it", widest=22)
        for interface in listing.interfaces.used:
            counters = interface.counters
            under = "\n".join(filter(None, [_device(interface), listing.network(interface.network)]))
            interfaces.add_row(
                two_lines(interface.name, under),
                counted(counters.get("tx_packets", 0), counters.get("tx_bytes", 0)),
                counted(counters.get("rx_packets", 0), counters.get("rx_bytes", 0)),
                dropped(_drops(interface)),
                programs(interface.attachments),
            )
        console.print(interfaces)
    remarks = list(_remarks(listing))
    something = bool(listing.ports or listing.interfaces.used)
    if remarks and something:
        console.print()
    for remark in remarks:
        console.print(Text(remark, style="dim" if something else ""))


def _short(command: str, size: int) -> str:
    """A command line without the way to the program and the interpreter that runs it, in so many letters."""
    words = command.split(" ")
    if len(words) > 1 and PurePath(words[0]).name.startswith("python") and not words[1].startswith("-"):
        words = words[1:]
    if words[0].startswith(("/", ".")):
        words[0] = PurePath(words[0]).name
    line = " ".join(words)
    return line if len(line) <= size else line[: size - 3] + "..."


def _remarks(listing: Listing) -> Iterator[str]:
    """What there is not, and what could not be seen."""
    if not listing.ports:
        yield "no raceway port is open" + (" in any process that can be seen" if listing.hidden else "")
    if listing.interfaces.others:
        yield f"other interfaces: {', '.join(listing.interfaces.others)}"
    if listing.hidden:
        count = "1 process" if listing.hidden == 1 else f"{listing.hidden} processes"
        yield f"{count} could not be looked into: sudo raceway ports"
    if listing.interfaces.closed:
        names = ", ".join(listing.network(identity) for identity in listing.interfaces.closed)
        yield f"could not be entered, so their interfaces are not shown: {names}"


def _rings(port: OpenPort) -> str:
    transmit = [ring for ring in port.card.rings if ring.transmit]
    receive = [ring for ring in port.card.rings if not ring.transmit]
    return f"{len(transmit)} tx {len(receive)} rx"


def _in(listing: Listing, network: int) -> str:
    name = listing.network(network)
    return f"in {name}" if name else ""


def _device(interface: UsedInterface) -> str:
    queues = f"{interface.receive_queues} rx {interface.transmit_queues} tx queues"
    return ", ".join(filter(None, [interface.driver, queues, "" if interface.up else "down"]))


def _program(each: Attachment) -> str:
    name = (
        f"{each.where}: {each.name} ({each.program})"
        if each.name
        else f"{each.where}: program {each.program}"
    )
    # Without holders: a link pinned to a file, a program attached by netlink, or a process that hides.
    return name if each.holders else f"{name}, of no process that can be seen"


def _holders(each: Attachment) -> str:
    return "".join(f", pid {process.pid} {process.command}" for process in each.holders)


def _drops(interface: UsedInterface) -> dict[str, int]:
    names = ("rx_dropped", "tx_dropped", "rx_errors", "tx_errors", "rx_missed_errors")
    return {name: interface.counters[name] for name in names if interface.counters.get(name)}
