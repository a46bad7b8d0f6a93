"""`raceway replay`: send a capture file's packets to a port."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = """[bold]Examples[/bold]

\b
raceway replay trace.pcapng 'netmap:x{1'             with its recorded gaps
raceway replay trace.pcap.gz 'netmap:x{1' --speed 10
raceway replay trace.pcapng 'netmap:x{1' --top --loop 0
raceway replay trace.pcapng 'netmap:x{1' --pps 1000 --filter 'udp port 53'
"""


def command(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="pcap or pcapng, plain or gzip; - is standard input.", show_default=False
        ),
    ],
    port: Annotated[str, typer.Argument(metavar="PORT", help="Where the packets go.", show_default=False)],
    expression: Annotated[
        str,
        typer.Option("--filter", metavar="EXPRESSION", help="Only packets that this pcap filter accepts."),
    ] = "",
    speed: Annotated[
        float | None,
        typer.Option(metavar="X", help="Divide the recorded gaps by X. [dim]\\[default: 1][/dim]"),
    ] = None,
    pps: Annotated[float | None, typer.Option(metavar="N", help="N packets a second instead.")] = None,
    mbps: Annotated[
        float | None, typer.Option(metavar="N", help="N Mbit/s on the wire instead (frame + 24 bytes).")
    ] = None,
    top: Annotated[bool, typer.Option("--top", help="As fast as the port takes them.")] = False,
    loop: Annotated[int, typer.Option(min=0, metavar="N", help="Send the file N times (0: for ever).")] = 1,
    count: Annotated[int, typer.Option("-n", min=0, metavar="N", help="End after N packets (0: never).")] = 0,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of standard output.")
    ] = False,
) -> None:
    """Send the packets of a capture file to a port: with their recorded gaps, at a rate, or at top speed."""
    from raceway.apps.replay import run_replay

    chosen = [
        name
        for name, value in (("--speed", speed), ("--pps", pps), ("--mbps", mbps), ("--top", top))
        if value
    ]
    for name, value in (("--speed", speed), ("--pps", pps), ("--mbps", mbps)):
        if value is not None and not value > 0:
            raise typer.BadParameter(f"{name} {value:g}: expected more than 0")
    if len(chosen) > 1:
        raise typer.BadParameter(f"{' and '.join(chosen)}: expected one of them")
    run_replay(
        file,
        port,
        speed=speed,
        pps=pps,
        mbps=mbps,
        top=top,
        loops=loop,
        limit=count,
        json=json,
        expression=expression,
    )
