"""`raceway doctor`: what this machine can do, and what to do about what it cannot."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = """[bold]Examples[/bold]

\b
raceway doctor                  the kernel, this process, all interfaces
sudo raceway doctor eth0        one interface too: XDP, offloads, counters
sudo raceway doctor eth0 --try  attach to it for a moment, to be certain
raceway doctor --json | tail -1 | jq '.findings[] | select(.state == "bad")'
"""


def command(
    interface: Annotated[
        str | None,
        typer.Argument(metavar="IFACE", help="A network interface to look at too.", show_default=False),
    ] = None,
    attempt: Annotated[
        bool,
        typer.Option(
            "--try",
            help="Attach an XDP program that passes everything, and bind an AF_XDP socket to IFACE's last queue, for "
            "a moment. Packets may be lost, and some drivers restart the link.",
        ),
    ] = False,
    every: Annotated[bool, typer.Option("-v", "--verbose", help="What is well in a line each too.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line of standard output.")
    ] = False,
) -> None:
    """Say what this machine can do for raceway, and what to do about what it
    cannot.

    The kernel's features are tried one by one, in a network namespace made for
    it. An interface is only looked at, unless --try is given. What takes more
    privilege than the caller has is said to be unknown. The exit status is 1
    if anything is bad, and 0 otherwise.
    """
    from raceway.apps.doctor.doctor import examine
    from raceway.apps.doctor.findings import State
    from raceway.apps.doctor.show import show

    if attempt and interface is None:
        raise typer.BadParameter("--try needs an interface to try: raceway doctor IFACE --try")
    diagnosis = examine(interface, attempt=attempt)
    show(diagnosis, every=every, json=json)
    if diagnosis.count(State.BAD):
        raise typer.Exit(1)
