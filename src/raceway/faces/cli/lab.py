"""`raceway lab`: network namespaces joined by veth, to try things in."""

from __future__ import annotations

from typing import Annotated

import typer

_EPILOG = """[bold]Examples[/bold]

\b
raceway lab up                              a and b, and a cable
raceway lab run a ping -c 3 10.0.0.2
raceway lab up wall --hosts 3 --queues 4    a, b, and m in between
raceway lab run wall m raceway bridge -i netmap:left -i netmap:right
raceway lab show
raceway lab down --all
"""

_RUN_EPILOG = """[bold]Examples[/bold]

\b
raceway lab run a ping -c 3 10.0.0.2        at host a of the lab "lab"
raceway lab run wall m ip -s link           at host m of the lab "wall"
sudo raceway lab run b $SHELL               a shell there
"""


def _up(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")] = "lab",
    shape: Annotated[
        str, typer.Option(metavar="line|star|router", help="a-b or a-m-b; a hub between; a router between.")
    ] = "line",
    hosts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Of a line all of them, of a star or a router those around it. "
            "[dim]\\[default: 2, 3 of a star][/dim]",
        ),
    ] = None,
    queues: Annotated[int, typer.Option(metavar="Q", help="Of every interface, each way.")] = 1,
    mtu: Annotated[int, typer.Option(metavar="BYTES", help="Of every interface.")] = 1500,
    ipv6: Annotated[bool, typer.Option("--ipv6/--no-ipv6", help="IPv6 beside IPv4.")] = True,
    offloads: Annotated[
        str | None,
        typer.Option(
            metavar="on|off",
            help="Checksum, segmentation and VLAN offloads. [dim]\\[default: the kernel's][/dim]",
        ),
    ] = None,
    vlan: Annotated[
        int, typer.Option(metavar="ID", help="Hosts talk in this VLAN, tagged (0: untagged).")
    ] = 0,
) -> None:
    """Make a lab: network namespaces joined by veth pairs, with addresses, everything up.

    The hosts are namespaces that `ip netns` knows too, as rw-NAME-HOST. The lab stays until `raceway lab down`.
    """
    from raceway.apps.lab.commands import up

    if offloads not in (None, "on", "off"):
        raise typer.BadParameter(f"--offloads {offloads}: expected on or off")
    up(
        name,
        shape,
        hosts,
        queues=queues,
        mtu=mtu,
        ipv6=ipv6,
        offloads=None if offloads is None else offloads == "on",
        vlan=vlan,
    )


def _down(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which lab. [dim]\\[default: lab][/dim]")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every lab.")] = False,
    kill: Annotated[
        bool, typer.Option("--kill", help="End what is still running inside: SIGTERM, then SIGKILL.")
    ] = False,
) -> None:
    """Remove a lab, complete or half-made. Refuses while something runs inside, unless told to end it."""
    from raceway.apps.lab import commands, names

    if every and name is not None:
        raise typer.BadParameter(f"{name} and --all: expected one of them")
    if every:
        commands.down_all(kill=kill)
    else:
        commands.down([names.find(names.DEFAULT if name is None else name)], kill=kill)


def _show(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which lab. [dim]\\[default: all][/dim]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead.")] = False,
) -> None:
    """Show what there is: hosts, interfaces, who is at the other end, addresses, what runs inside."""
    from raceway.apps.lab.commands import show

    show(name, json=json)


def _run(context: typer.Context) -> None:
    """Run a command at a host of a lab, with /sys as it is there.

    NAME is the lab, "lab" if it is left out. Everything after HOST is the command's,
    options too; the exit status is the command's, and Ctrl-C goes to it.
    """
    from raceway.apps.lab.commands import run

    run(context.args)


def application() -> typer.Typer:
    """`raceway lab` with its verbs."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", epilog=_EPILOG)
    app.callback()(_root)
    app.command("up")(_up)
    app.command("down")(_down)
    app.command("show")(_show)
    app.command(
        "run",
        epilog=_RUN_EPILOG,
        options_metavar="[NAME] HOST COMMAND...",
        # What follows the first word that is no option is not looked at.
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "allow_interspersed_args": False,
        },
    )(_run)
    return app


def _root() -> None:
    """Build a small network on this machine, to try things in: namespaces joined by veth.

    Nothing outside a lab is touched. Takes root; but in a shell made like this, anybody is:
    unshare -Urm sh -c 'mount -t tmpfs none /run; exec $SHELL'
    """
