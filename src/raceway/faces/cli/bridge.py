"""`raceway bridge`: join two ports."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = """[bold]Examples[/bold]

\b
raceway bridge -i 'netmap:a}1' -i 'netmap:b{1'       both directions, zero-copy in one region
raceway bridge -i pcap:in.pcap -i pcap:web.pcapng --through my.py:keep_web
raceway bridge -i pcap:in.pcap -i 'netmap:a{1' --filter 'tcp port 80'
raceway bridge -i 'netmap:a}1' -i null:              swallow and count
"""


def command(
    interfaces: Annotated[
        list[str], typer.Option("-i", metavar="PORT", help="A port to join; given twice.", show_default=False)
    ],
    through: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="A packet function that judges what goes from the first to the second.",
        ),
    ] = None,
    expression: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="EXPRESSION",
            help="Instead: pass on what this pcap filter accepts, both ways, and drop the rest.",
        ),
    ] = None,
    back: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:FUNCTION", help="One for what goes from the second to the first."),
    ] = None,
    interpreted: Annotated[
        bool, typer.Option("--interpreted", help="Run the packet functions as plain Python, to debug them.")
    ] = False,
    count: Annotated[
        int, typer.Option("-n", min=0, help="End after so many packets from the first port (0: never).")
    ] = 0,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of standard output.")
    ] = False,
) -> None:
    """Join two ports: what one receives the other sends, both ways, through a packet function if asked.

    Packets move by swapping buffers where both ports lie in one region, and are copied where they cannot; the
    first line says which. PASS and REDIRECT go on to the other port, TX goes back, DROP and ABORTED end and are
    counted. Ends with Ctrl-C, or when both ports have ended.
    """
    from raceway.apps.bridge import run_bridge
    from raceway.faces.cli.loading import load_function

    if len(interfaces) != 2:
        raise typer.BadParameter(f"-i is given {len(interfaces)} times; expected twice, a port each")
    if expression is not None and (through or back):
        raise typer.BadParameter(
            "--filter and a packet function: call raceway.expression(...) in the function"
        )
    functions = [load_function(where) if where else None for where in (through, back)]
    run_bridge(
        interfaces[0],
        interfaces[1],
        functions[0],
        functions[1],
        interpreted=interpreted,
        limit=count,
        json=json,
        expression=expression,
    )
