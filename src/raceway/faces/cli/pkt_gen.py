"""`raceway pkt-gen`: the options of netmap's packet generator. Imports neither numpy nor numba before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_WHAT, _PACKETS, _HOW, _SAYS = "What to do", "What packets to send", "How to run", "What to say"

EPILOG = """
[bold]Two terminals, one pipe[/bold], no root:

  raceway pkt-gen -f rx -i 'netmap:x}1'
  raceway pkt-gen -f tx -i 'netmap:x{1' -l 64

[bold]A million packets at 10,000 a second[/bold], sizes 60 to 1513, counted with loss and reordering:

  raceway pkt-gen -f rxseq -i 'netmap:x}1' --json
  raceway pkt-gen -f txseq -i 'netmap:x{1' -n 1M -R 10k -l 1514 -l 60

[bold]Many flows[/bold]: 256 addresses with 1,000 ports each, from 16 MAC addresses:

  raceway pkt-gen -f tx -i 'netmap:x{1' -s 10.0.0.0:1000-10.0.0.255:1999 -S 02:00:00:00:00:00-02:00:00:00:00:0f

[bold]Round trips[/bold]:

  raceway pkt-gen -f pong -i 'netmap:x}1'
  raceway pkt-gen -f ping -i 'netmap:x{1' -n 100k

[bold]How many of them are DNS[/bold]:

  raceway pkt-gen -f rx -i eth0 --filter 'udp port 53'

[bold]A file's packets[/bold], over and over, and packets into a file:

  raceway pkt-gen -f tx -i 'netmap:x{1' -P capture.pcapng
  raceway pkt-gen -f tx -i pcap:new.pcapng -n 1000 -z -Z
"""


def _help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(context.get_help())
        raise typer.Exit


def command(
    interface: Annotated[
        str,
        typer.Option(
            "-i", metavar="PORT", help="Port: netmap:x{1, netmap:x}1, pcap:FILE, null:", rich_help_panel=_WHAT
        ),
    ],
    function: Annotated[
        str,
        typer.Option(
            "-f",
            metavar="FUNCTION",
            help="tx, rx, txseq, rxseq (numbered packets), ping or pong",
            rich_help_panel=_WHAT,
        ),
    ] = "rx",
    count: Annotated[
        str,
        typer.Option(
            "-n",
            metavar="COUNT",
            help="Packets, or round trips; 0: no end. k, M, G may follow",
            rich_help_panel=_WHAT,
        ),
    ] = "0",
    rate: Annotated[
        str,
        typer.Option(
            "-R",
            metavar="RATE",
            help="Packets a second, of all threads together; 0: no limit. k, M, G may follow",
            rich_help_panel=_WHAT,
        ),
    ] = "0",
    burst: Annotated[
        int,
        typer.Option(
            "-b",
            metavar="PACKETS",
            help="Packets at a time, at most (default: 512)",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = 0,
    size: Annotated[
        list[int] | None,
        typer.Option(
            "-l",
            metavar="BYTES",
            help="Frame size without check sequence; twice: random, from the smaller, below the larger (default: 60)",
            rich_help_panel=_PACKETS,
            show_default=False,
        ),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option(
            "-d",
            metavar="IP[:PORT][-IP[:PORT]]",
            help="Destination, or a range of them",
            rich_help_panel=_PACKETS,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "-s",
            metavar="IP[:PORT][-IP[:PORT]]",
            help="Source, or a range: ports run fastest, then addresses, then the destination's",
            rich_help_panel=_PACKETS,
        ),
    ] = None,
    destination_mac: Annotated[
        str | None,
        typer.Option(
            "-D",
            metavar="MAC[-MAC]",
            help="Destination MAC address, or a range: the next one for each packet",
            rich_help_panel=_PACKETS,
        ),
    ] = None,
    source_mac: Annotated[
        str | None,
        typer.Option(
            "-S", metavar="MAC[-MAC]", help="Source MAC address, or a range", rich_help_panel=_PACKETS
        ),
    ] = None,
    four: Annotated[
        bool, typer.Option("-4", help="IPv4 packets (the default)", rich_help_panel=_PACKETS)
    ] = False,
    six: Annotated[bool, typer.Option("-6", help="IPv6 packets", rich_help_panel=_PACKETS)] = False,
    random_source: Annotated[
        bool,
        typer.Option(
            "-z", help="Random source address and port (IPv6: the last 32 bits)", rich_help_panel=_PACKETS
        ),
    ] = False,
    random_destination: Annotated[
        bool, typer.Option("-Z", help="Random destination address and port", rich_help_panel=_PACKETS)
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option(
            "-P",
            metavar="FILE",
            help="Send the packets of a capture file, all of them in turn, as they are",
            rich_help_panel=_PACKETS,
        ),
    ] = None,
    expression: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="EXPRESSION",
            help="rx: count only what this pcap filter accepts, as tcpdump takes it",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = "",
    wait: Annotated[
        float | None,
        typer.Option(
            "-w",
            metavar="SECONDS",
            help="Wait before starting (default: until a pipe's other end is open, if packets are to be sent)",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(
            "-p",
            metavar="THREADS",
            help="Threads; thread i drives ring i, or an equal share of the rings",
            rich_help_panel=_HOW,
        ),
    ] = 1,
    cpus: Annotated[
        int,
        typer.Option("-c", metavar="CPUS", help="Use only so many processors; 0: all", rich_help_panel=_HOW),
    ] = 0,
    affinity: Annotated[
        int | None,
        typer.Option(
            "-a",
            metavar="CPU",
            help="Pin the first thread to this processor, each further one to the next",
            rich_help_panel=_HOW,
        ),
    ] = None,
    rings: Annotated[
        str,
        typer.Option(
            "-C",
            metavar="TX_SLOTS[,RX_SLOTS[,TX_RINGS[,RX_RINGS]]]",
            help="Slots a ring, and rings, of a port that this opens first",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = "",
    stop_when_quiet: Annotated[
        bool, typer.Option("-W", help="rx, rxseq: end after a second without a packet", rich_help_panel=_HOW)
    ] = False,
    report_ms: Annotated[
        int,
        typer.Option(
            "-T", metavar="MS", help="Milliseconds between rate lines; 0: none", rich_help_panel=_SAYS
        ),
    ] = 1000,
    dump: Annotated[
        bool, typer.Option("-X", help="Print every packet in hexadecimal (slow)", rich_help_panel=_SAYS)
    ] = False,
    plain_units: Annotated[
        bool, typer.Option("-N", help="Plain numbers: pps and bit/s without k, M, G", rich_help_panel=_SAYS)
    ] = False,
    framing: Annotated[
        bool,
        typer.Option(
            "-B",
            help="Count preamble, check sequence and gap as bits: rate lines always do here",
            rich_help_panel=_SAYS,
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object as the last line of standard output", rich_help_panel=_SAYS
        ),
    ] = False,
    help_short: Annotated[
        bool, typer.Option("-h", help="As --help", is_eager=True, callback=_help, hidden=True)
    ] = False,
) -> None:
    """Send and receive packets as fast as can be, or at a rate, on any port; with the options of netmap's pkt-gen.

    Prints a rate line each second on standard error and a report at the end. Ctrl-C ends it, with the report.
    """
    from raceway.apps.generator.options import read

    if four and six:
        raise ValueError("-4 -6: expected one of them")
    if report_ms < 0:
        raise ValueError(f"-T {report_ms}: expected 0 or more milliseconds")
    options = read(
        interface,
        function,
        count=count,
        sizes=size,
        burst=burst,
        rate=rate,
        source=source,
        destination=destination,
        source_mac=source_mac,
        destination_mac=destination_mac,
        version=6 if six else 4,
        random_source=random_source,
        random_destination=random_destination,
        file=file,
        wait=wait,
        threads=threads,
        cpus=cpus,
        affinity=affinity,
        dump=dump,
        stop_when_quiet=stop_when_quiet,
        rings=rings,
        expression=expression,
    )
    from raceway.apps.generator.generator import Generator, open_port, prepare
    from raceway.apps.report import introduce

    prepare(function)
    with open_port(options) as port:
        introduce(port)
        report = Generator(port, options).run(report_every=report_ms / 1000, normal=not plain_units)
    report.show(as_json=as_json, normal=not plain_units)
