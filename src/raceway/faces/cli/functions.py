"""`raceway attach`, `raceway detach`, `raceway functions`: packet functions on interfaces, in the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction

ATTACH_EPILOG = """[bold]Examples[/bold]

\b
sudo raceway attach eth0 wall.py:wall         until Ctrl-C
sudo raceway attach eth0 wall.py:wall --pin   until raceway detach eth0
sudo raceway attach eth0 wall.py:wall --mode generic
sudo raceway attach eth0 wall.py:wall count.py:web   what wall lets pass goes to web
sudo raceway attach eth0 --drop 'udp port 9'  what a pcap filter accepts
sudo raceway attach eth0 --only 'tcp port 22 or arp'
"""
DETACH_EPILOG = """[bold]Examples[/bold]

\b
sudo raceway detach eth0
"""
FUNCTIONS_EPILOG = """[bold]Examples[/bold]

\b
sudo raceway functions
sudo watch -n 1 raceway functions
sudo raceway functions --json | tail -1 | jq .functions
"""
_Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line of standard output.")]


def _chosen(functions: list[str], drop: str | None, only: str | None) -> list[PacketFunction]:
    """The packet functions that the words stand for."""
    if functions:
        from raceway.faces.cli.loading import load_function

        return [load_function(one) for one in functions]
    from raceway.apps.functions.expressions import dropping, passing
    from raceway.compile.pcap_filter.expression import Expression

    return [dropping(Expression(drop)) if drop is not None else passing(Expression(only or ""))]


def attach(
    interface: Annotated[str, typer.Argument(metavar="IFACE", help="A network interface.")],
    functions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE.py:FUNCTION...", help="The packet functions, in order.", show_default=False
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION", help="Instead: drop what this pcap filter accepts, pass the rest."
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION", help="Instead: pass what this pcap filter accepts, drop the rest."
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="driver or generic; the better one that can be had by default.")
    ] = "",
    pin: Annotated[bool, typer.Option("--pin", help="Leave it there, and return at once.")] = False,
    json: _Json = False,
) -> None:
    """Let packet functions decide, in the kernel, about every packet that comes
    in at an interface.

    A function is compiled to eBPF and attached as XDP. Of several each gets what
    the one before lets pass. They stay until Ctrl-C or the end of this process,
    however that comes; with --pin until raceway detach. At the end it prints
    what became of the packets.
    """
    import signal
    from contextlib import ExitStack

    import raceway

    if [functions or None, drop, only].count(None) != 2:
        raise typer.BadParameter(
            "expected one of FILE.py:FUNCTION..., --drop EXPRESSION and --only EXPRESSION"
        )
    loaded = _chosen(functions or [], drop, only)
    with ExitStack() as stack:
        chain = [stack.enter_context(raceway.attach(interface, one, mode=mode)) for one in loaded]
        names, are = ", ".join(one.function.name for one in chain), "is" if len(chain) == 1 else "are"
        how = chain[0].mode
        if pin:
            path = chain[0].pin()
            _say(json, f"{names} {are} on {interface} in {how} mode, pinned at {path}", mode=how)
            return
        end = "it" if len(chain) == 1 else "them"
        print(f"{names} {are} on {interface} in {how} mode; Ctrl-C takes {end} off", flush=True)
        try:
            while chain[0].attached:
                signal.sigtimedwait([], 0.5)
            print(f"{names} {'was' if len(chain) == 1 else 'were'} taken off {interface}")
        except KeyboardInterrupt:
            pass
        counted = [{key: value for key, value in one.counters.items() if value} for one in chain]
    for one, counters in zip(chain, counted, strict=True):
        text = "  ".join(f"{key} {value:,}" for key, value in counters.items()) or "no packets"
        print(text if len(chain) == 1 else f"{one.function.name}: {text}", flush=True)
    if json:
        by_function = [
            {"name": one.function.name, "counters": counters}
            for one, counters in zip(chain, counted, strict=True)
        ]
        _print_json(counters=counted[0], functions=by_function)


def detach(
    interface: Annotated[str, typer.Argument(metavar="IFACE", help="A network interface.")],
    json: _Json = False,
) -> None:
    """Take every packet function off an interface, whoever attached it."""
    from raceway.apps.functions.listing import detach as take_off

    names = take_off(interface)
    _say(json, f"{interface}: {', '.join(names)} taken off", functions=names)


def functions(json: _Json = False) -> None:
    """List the packet functions that are attached to interfaces, in the order in
    which they see a packet, with what they have counted."""
    from dataclasses import asdict

    from raceway.apps.functions.listing import attached_functions

    there = attached_functions()
    for one in there:
        counted = (
            "  ".join(f"{key} {value:,}" for key, value in one.counters.items() if value) or "no packets"
        )
        notes = f"{one.mode}{', pinned' if one.pinned else ''}"
        print(f"{one.interface}  {one.position}  {one.name}  ({notes})  {counted}")
    if not there:
        print("no packet functions are attached")
    if json:
        _print_json(functions=[asdict(one) for one in there])


def _say(json: bool, text: str, **values: object) -> None:
    print(text, flush=True)
    if json:
        _print_json(**values)


def _print_json(**values: object) -> None:
    from json import dumps

    print(dumps(values), flush=True)
