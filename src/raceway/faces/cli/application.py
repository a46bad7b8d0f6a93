"""The table of tools."""

from __future__ import annotations

from typing import Annotated

import typer

import raceway
from raceway.faces.cli import (
    bridge,
    demo,
    doctor,
    dump,
    filter as filter_tool,
    firewall,
    functions,
    lab,
    pkt_gen,
    ports,
    replay,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"raceway {raceway.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """High-speed networking from user space, in Python.

    A PORT is named as netmap names it: netmap:x{1 and netmap:x}1 are the two ends of a pipe between processes,
    pcap:FILE is a capture file, null: swallows or supplies packets for ever.
    """


def application() -> typer.Typer:
    """Assemble the `raceway` command."""
    app = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode="rich",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.command("demo", epilog=demo.EPILOG)(demo.command)
    app.command("pkt-gen", epilog=getattr(pkt_gen, "EPILOG", None))(pkt_gen.command)
    app.command("bridge", epilog=bridge.EPILOG)(bridge.command)
    app.command("dump", epilog=dump.EPILOG)(dump.command)
    app.command("filter", epilog=filter_tool.EPILOG)(filter_tool.command)
    app.command("replay", epilog=replay.EPILOG)(replay.command)
    app.command("doctor", epilog=doctor.EPILOG)(doctor.command)
    app.command("ports", epilog=ports.EPILOG)(ports.command)
    app.command("attach", epilog=functions.ATTACH_EPILOG)(functions.attach)
    app.command("detach", epilog=functions.DETACH_EPILOG)(functions.detach)
    app.command("functions", epilog=functions.FUNCTIONS_EPILOG)(functions.functions)
    app.add_typer(firewall.application, name="firewall")
    app.add_typer(lab.application(), name="lab")
    return app
