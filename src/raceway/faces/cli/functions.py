"""`raceway attach`, `raceway detach`, `raceway functions`: packet functions on interfaces, in the kernel."""

from __future__ import annotations

from typing import Annotated

import typer

ATTACH_EPILOG = """[bold]Examples[/bold]

\b
sudo raceway attach eth0 wall.py:wall         until Ctrl-C
sudo raceway attach eth0 wall.py:wall --pin   until raceway detach eth0
sudo raceway attach eth0 wall.py:wall --mode generic
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


def attach(
    interface: Annotated[str, typer.Argument(metavar="IFACE", help="A network interface.")],
    function: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="The packet function.")],
    mode: Annotated[
        str, typer.Option("--mode", help="driver or generic; the better one that can be had by default.")
    ] = "",
    pin: Annotated[bool, typer.Option("--pin", help="Leave it there, and return at once.")] = False,
    json: _Json = False,
) -> None:
    """Let a packet function decide, in the kernel, about every packet that comes
    in at an interface.

    The function is compiled to eBPF and attached as XDP. It stays until Ctrl-C
    or the end of this process, however that comes; with --pin until raceway
    detach. At the end it prints what became of the packets.
    """
    import signal

    import raceway
    from raceway.faces.cli.loading import load_function

    attachment = raceway.attach(interface, load_function(function), mode=mode)
    name = attachment.function.name
    if pin:
        path = attachment.pin()
        _say(
            json,
            f"{name} is on {interface} in {attachment.mode} mode, pinned at {path}",
            mode=attachment.mode,
        )
        return
    with attachment:
        print(f"{name} is on {interface} in {attachment.mode} mode; Ctrl-C takes it off", flush=True)
        try:
            while attachment.attached:
                signal.sigtimedwait([], 0.5)
            print(f"{name} was taken off {interface}")
        except KeyboardInterrupt:
            pass
        counters = {key: value for key, value in attachment.counters.items() if value}
    _say(
        json,
        "  ".join(f"{key} {value:,}" for key, value in counters.items()) or "no packets",
        counters=counters,
    )


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
