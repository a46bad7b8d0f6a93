"""`raceway dump`: look at what a port receives, or record it."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = """[bold]Examples[/bold]

\b
raceway dump 'netmap:x}1'                    a line a packet
raceway dump 'netmap:x}1' -w new.pcapng -c 1000
raceway dump pcap:trace.pcapng -x            with the bytes in hexadecimal
raceway dump eth0 'tcp port 80 and net 10.0.0.0/8'
raceway dump 'netmap:x}1' -w web.pcapng 'port 80'
raceway dump 'netmap:x}1' -w - | tshark -r -
"""


def command(
    port: Annotated[str, typer.Argument(metavar="PORT", help="The port to read.", show_default=False)],
    expression: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPRESSION", help="Only what this accepts, as tcpdump takes it.", show_default=False
        ),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            "-w",
            metavar="FILE",
            help="Record to this file: pcapng, or pcap if it ends in .pcap; - is standard output.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("-c", min=0, metavar="N", help="End after N packets (0: never).")] = 0,
    hexadecimal: Annotated[bool, typer.Option("-x", help="Print the bytes too.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of standard output.")
    ] = False,
) -> None:
    """Print a line for each packet that a port receives, or record the packets to a file.

    With an EXPRESSION only packets that it accepts are printed, recorded and counted for -c; the others are counted as
    drops of the filter. Ends after N packets, at the end of the stream, or with Ctrl-C; nothing that was received by
    then is lost.
    """
    from raceway.apps.dump import print_packets, record

    if write is not None:
        if write == "-" and json:
            raise typer.BadParameter("-w - and --json both want standard output")
        record(port, write, limit=count, json=json, expression=" ".join(expression or []))
    else:
        print_packets(
            port, limit=count, hexadecimal=hexadecimal, json=json, expression=" ".join(expression or [])
        )
