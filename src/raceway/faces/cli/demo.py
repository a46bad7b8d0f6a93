"""`raceway demo`: what raceway does, shown on a recording."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

EPILOG = """[bold]Examples[/bold]

\b
raceway demo
raceway demo --keep kept.pcapng              what was kept, in a file of your choice
raceway demo --unpack .                      firewall.py and the recording, to change
raceway demo --json | tail -n 1
"""


def command(
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A new pcapng file for the packets that are kept, instead of a temporary one.",
        ),
    ] = None,
    unpack: Annotated[
        str | None,
        typer.Option(
            metavar="DIRECTORY", help="Only copy the demo's packet function and its recording there."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of standard output.")
    ] = False,
    svg: Annotated[
        str | None, typer.Option(metavar="FILE", help="The last screen as a picture.", hidden=True)
    ] = None,
) -> None:
    """Show what raceway does: a recording, two processes, a packet function, and what each of its lines drops.

    Takes a few seconds and no privileges; the first time it compiles, which takes longer. Nothing is sent to
    any network.
    """
    if unpack is not None:
        from raceway.apps.demo.demo import unpack as copy

        for path in copy(unpack):
            print(path)
        return
    from raceway.apps.demo.demo import run_demo

    run_demo(keep=keep, picture=svg, json=json)
    # The process ends now. What a compiler leaves behind would be searched for garbage half a second long.
    gc.freeze()
