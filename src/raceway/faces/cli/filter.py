"""`raceway filter`: from one capture file to another, through a pcap filter expression."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated

import typer

EPILOG = """[bold]Examples[/bold]

\b
raceway filter -r trace.pcapng 'tcp port 80'                 count what it accepts
raceway filter -r trace.pcap.gz -w web.pcapng 'tcp port 80 and net 192.0.2.0/24'
raceway filter -r trace.pcap --each --json 'arp'             bytes accepted of each packet
raceway filter -r trace.pcap --target kernel 'udp'           by the kernel's eBPF, on test runs (root)
"""


def command(
    file: Annotated[
        str,
        typer.Option(
            "-r",
            metavar="FILE",
            help="pcap or pcapng, plain or gzip; - is standard input.",
            show_default=False,
        ),
    ],
    expression: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPRESSION", help="As tcpdump takes it (pcap-filter(7)).", show_default=False
        ),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            "-w",
            metavar="OUT",
            help="Write what is accepted: pcapng, or pcap if it ends in .pcap; - is standard output.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(metavar="TARGET", help="What judges: native, kernel, interpreted or libpcap."),
    ] = "native",
    netmask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="The network's, as 255.255.255.0: `ip broadcast` needs to know it."
        ),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Print how many bytes are accepted of each packet; 0 for none.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of standard output.")
    ] = False,
) -> None:
    """Filter a capture file with a pcap filter expression.

    A packet that is accepted is written whole, with its time. Files whose packets have several link types are judged by
    each packet's own. An expression that libpcap refuses is status 2, with libpcap's reason.
    """
    from raceway.apps.filter.judges import TARGETS
    from raceway.apps.filter.run import run_filter
    from raceway.compile.pcap_filter.libpcap import NETMASK_UNKNOWN

    if target not in TARGETS:
        raise typer.BadParameter(f"--target {target}: expected one of {', '.join(TARGETS)}")
    if write == "-" and (json or each):
        raise typer.BadParameter("-w - takes standard output for itself; leave out --json and --each")
    mask = NETMASK_UNKNOWN
    if netmask is not None:
        try:
            mask = int(IPv4Address(netmask))
        except ValueError as error:
            raise typer.BadParameter(
                f"--netmask {netmask}: expected four numbers as 255.255.255.0"
            ) from error
    run_filter(file, write, " ".join(expression or []), target=target, each=each, json=json, netmask=mask)
