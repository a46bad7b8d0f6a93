"""`raceway ports`: what is open, by whom."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = """[bold]Examples[/bold]

\b
raceway ports                         ports and interfaces in use, by whom
sudo raceway ports                    those of every user
watch -n 1 raceway ports              again every second
raceway ports --json | tail -1 | jq .ports
"""


def command(
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of standard output.")
    ] = False,
) -> None:
    """List the raceway ports that are open and the interfaces in use: by whom,
    and what they have counted.

    Ports are found in every process that the caller may look into, in all
    network namespaces, pipes and capture files included; none of those
    processes is disturbed. Packets and bytes are of this moment, drops as the
    port's process last wrote them down: several times a second while it works.
    """
    from raceway.apps.port_list.listing import look
    from raceway.apps.port_list.show import show

    show(look(), json=json)
