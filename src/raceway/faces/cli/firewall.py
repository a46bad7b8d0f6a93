"""`raceway firewall`: rules on a live interface, and what they would make of packets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raceway.faces.cli.firewall_status import clock, day, show_status

if TYPE_CHECKING:
    from raceway.apps.firewall.rules.rule_set import RuleSet

application = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Drop, pass and limit packets by rules, in the kernel, before the host's stack sees them.",
)
FORMATS = ("raceway", "classbench", "nftables")
_ETHERNET = 1
_ONE_SCREEN = 60
"""Rows of `top --once` at most."""
_Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line of standard output.")]
_Rules = Annotated[Path, typer.Option("-f", "--rules", metavar="RULES", help="The rules file.")]
_Format = Annotated[
    str,
    typer.Option(
        "--format",
        help="Of the rules: raceway, classbench (ClassBench's filters) or nftables (what nft list ruleset prints).",
    ),
]
RUN_EPILOG = """[bold]Examples[/bold]

\b
sudo raceway firewall run eth0 -f wall.rules
sudo raceway firewall run eth0 -f wall.rules --mode generic
sudo raceway firewall run eth0 -f wall.rules --log wall.pcapng --log-size 10
sudo raceway firewall run eth0 -f wall.rules --divert inspector=inspect.py:look
"""
STATUS_EPILOG = """[bold]Examples[/bold]

\b
sudo raceway firewall status eth0
sudo raceway firewall status eth0 --json | tail -1 | jq '.rules[] | select(.packets > 0)'
"""
TOP_EPILOG = """[bold]Examples[/bold]

\b
sudo raceway firewall top eth0
sudo raceway firewall top eth0 --once --interval 5
sudo raceway firewall top eth0 --json | tail -1 | jq '.talkers[0]'
"""
RELOAD_EPILOG = """[bold]Examples[/bold]

\b
sudo raceway firewall reload eth0 -f wall.rules
sudo raceway firewall reload eth0 -f wall.rules --confirm 60
"""
CHECK_EPILOG = """[bold]Examples[/bold]

\b
raceway firewall check wall.rules
"""
EXPLAIN_EPILOG = """[bold]Examples[/bold]

\b
raceway firewall explain wall.rules trace.pcap
raceway firewall explain wall.rules trace.pcap --host 192.0.2.1 --host 2001:db8::1
raceway firewall explain wall.rules --packet 0200000000010200000000020800...
raceway firewall explain --format classbench acl1_10k trace.pcap --json | tail -1
"""


def _read(path: Path, format: str) -> RuleSet:
    from raceway.apps.firewall.rules.importing.classbench import read_classbench
    from raceway.apps.firewall.rules.importing.nftables import read_nftables
    from raceway.apps.firewall.rules.language import read_rules

    if format not in FORMATS:
        raise typer.BadParameter(
            f"{format!r}: one of {', '.join(FORMATS)} was expected", param_hint="--format"
        )
    readers = {"raceway": read_rules, "classbench": read_classbench, "nftables": read_nftables}
    rules = readers[format](path)
    for note in rules.notes:
        typer.echo(f"note: {note}", err=True)
    return rules


@application.command(epilog=CHECK_EPILOG)
def check(
    rules: Annotated[Path, typer.Argument(metavar="RULES", help="The rules file.")],
    format: _Format = "raceway",
    json: _Json = False,
) -> None:
    """Read rules and say whether they are accepted, without an interface."""
    from raceway.apps.firewall.program import Program

    read = _read(rules, format)
    program = Program(read)
    size = program.classifier.used * 8
    number = len(read.rules)
    accepted = "1 rule is" if number == 1 else f"{number:,} rules are"
    print(f"{rules}: {accepted} accepted; the classifier takes {size:,} bytes")
    if json:
        _print_json(rules=len(read.rules), bytes=size, notes=list(read.notes))


@application.command(epilog=EXPLAIN_EPILOG)
def explain(
    rules: Annotated[Path, typer.Argument(metavar="RULES", help="The rules file.")],
    capture: Annotated[Path | None, typer.Argument(metavar="FILE.pcap", help="Packets to explain.")] = None,
    packet: Annotated[str, typer.Option("--packet", metavar="HEX", help="One packet, in hexadecimal.")] = "",
    format: _Format = "raceway",
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="An address of the host itself: what comes from there it sends, and that establishes flows.",
        ),
    ] = None,
    json: _Json = False,
) -> None:
    """Say for each packet of a capture which rule decides about it, and how."""
    from raceway.apps.firewall.judging import judged, matched
    from raceway.apps.firewall.program import Program
    from raceway.compile.verdicts import REDIRECT

    if (capture is None) == (not packet):
        raise typer.BadParameter("a capture or --packet was expected, and not both")
    program = Program(_read(rules, format))
    packets = _packets(capture, packet)
    hosts = _addresses(host or [])
    if program.flows is not None and not hosts:
        typer.echo(
            "note: without --host ADDRESS nothing is sent by the host, so no flow is established", err=True
        )
    if format == "classbench":
        found = matched(program, (data for data, _ in packets))
        if not json:
            for number, first in enumerate(found):
                print(f"{number}  {first if first >= 0 else 'no rule'}")
        _finish(json, matches=found)
        return
    verdicts, matches, logs = [], [], []
    for number, one in enumerate(judged(program, packets, hosts)):
        if one is None:
            verdicts.append("SENT")
            matches.append(-1)
            logs.append(-1)
            if not json:
                print(f"{number}  SENT  by the host")
            continue
        rule = program.rule_set.rules[one.rule] if one.rule >= 0 else None
        diverted = rule is not None and one.verdict == REDIRECT
        verdicts.append("DIVERT" if diverted else one.verdict.name)
        matches.append(one.rule)
        logs.append(one.logged)
        if json:
            continue
        if rule is not None:
            verdict = f"DIVERT to {rule.port}" if diverted else one.verdict.name
            print(
                f"{number}  {verdict}  {rule.place}: {rule.text}{'' if one.why == 'rule' else f' ({one.why})'}"
            )
        else:
            print(f"{number}  {one.verdict.name}  {one.why}")
        if one.logged >= 0:
            rule = program.rule_set.rules[one.logged]
            print(f"{' ' * len(str(number))}  logged by {rule.place}: {rule.text}")
    _finish(json, matches=matches, verdicts=verdicts, logs=logs)


def _addresses(texts: list[str]) -> list[Any]:
    from raceway.compile.addresses import prefix

    found = []
    for text in texts:
        try:
            one = prefix(text)
            if not one.is_address or one.family == "mac":
                raise ValueError(f"{text!r} is no IP address")
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--host") from None
        found.append(one.address)
    return found


def _packets(capture: Path | None, packet: str) -> list[tuple[bytes, int]]:
    if capture is None:
        try:
            return [(bytes.fromhex(packet), 0)]
        except ValueError:
            raise typer.BadParameter(
                "pairs of hexadecimal digits were expected", param_hint="--packet"
            ) from None
    from raceway.errors import RacewayError
    from raceway.ports.pcap.capture import load_capture

    loaded = load_capture(capture)
    if (loaded.link_types != _ETHERNET).any():
        raise RacewayError(
            f"{capture}: a firewall sees Ethernet packets, and there are packets of another link type"
        )
    return list(zip(loaded, loaded.timestamps.tolist(), strict=True))


@application.command(epilog=RUN_EPILOG)
def run(
    interface: Annotated[str, typer.Argument(metavar="IFACE", help="A network interface.")],
    rules: _Rules,
    format: _Format = "raceway",
    mode: Annotated[
        str, typer.Option("--mode", help="driver or generic; the better one that can be had by default.")
    ] = "",
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE.pcapng", help="Where rules that log do so.", show_default=False),
    ] = None,
    log_size: Annotated[
        float,
        typer.Option(
            "--log-size",
            metavar="MB",
            help="Megabytes of the log file; then it becomes FILE.1.pcapng, and a new one begins.",
        ),
    ] = 100,
    divert: Annotated[
        list[str] | None,
        typer.Option(
            "--divert",
            metavar="NAME=FILE.py:FUNCTION",
            help="Who decides about packets that rules divert to a name. May be said several times.",
        ),
    ] = None,
    apart: Annotated[
        bool,
        typer.Option(
            "--apart", help="Diverted packets of one flow go back to the host one by one, not together."
        ),
    ] = False,
    json: _Json = False,
) -> None:
    """Put rules in force on an interface, until Ctrl-C or the end of this
    process."""
    from raceway.apps.firewall.ahead import compiling_ahead

    # Before anything of the user's may have begun a thread.
    with compiling_ahead() as ahead:
        from raceway.apps.firewall.control import Control
        from raceway.apps.firewall.controller import Firewall

        functions = _functions(divert or [])
        made = Firewall(
            interface, _read(rules, format), mode=mode, log=log, log_size=int(log_size * 1e6), divert=functions,
            apart=apart, ahead=ahead,
        )  # fmt: skip
    with made as firewall, Control(firewall) as control:
        count = len(firewall.program.rule_set.rules)
        in_force = f"{count:,} rules are in force on {interface} in {firewall.attachment.mode} mode"
        if firewall.attachment.succeeded:
            in_force += ", in the place of those of a process that has ended"
        print(f"{in_force}; Ctrl-C ends it", flush=True)
        if functions and firewall.attachment.mode == "generic":
            typer.echo(
                f"note: in generic mode the kernel may merge packets, and diverted ones above the MTU are not "
                f"reinjected: ethtool -K {interface} gro off",
                err=True,
            )
        try:
            while firewall.attachment.attached:
                happened = control.step(0.5)
                if happened:
                    print(happened, flush=True)
                if firewall.diverter.failure is not None:
                    raise firewall.diverter.failure
            print(f"the rules were taken off {interface}")
        except KeyboardInterrupt:
            pass
        status = firewall.status()
    show_status(status.as_dict)
    if json:
        _print_json(**status.as_dict)


def _functions(divert: list[str]) -> dict[str, Any]:
    """Names and functions, from NAME=FILE.py:FUNCTION."""
    from raceway.faces.cli.loading import load_callable

    made: dict[str, Any] = {}
    for one in divert:
        name, _, where = one.partition("=")
        if not name or not where:
            raise typer.BadParameter(f"{one!r}: NAME=FILE.py:FUNCTION was expected", param_hint="--divert")
        if name in made:
            raise typer.BadParameter(f"{name!r} was said before", param_hint="--divert")
        made[name] = load_callable(where)
    return made


@application.command(epilog=STATUS_EPILOG)
def status(
    interface: Annotated[str, typer.Argument(metavar="IFACE", help="A network interface.")],
    json: _Json = False,
) -> None:
    """Show what the rules in force on an interface have counted."""
    from raceway.apps.firewall.control import ask

    found = ask(interface, do="status")
    print(
        f"{interface}: {found['mode']} mode, for {clock(found['uptime'])}; {len(found['rules']):,} rules, in force "
        f"since {day(found['rules_since'])} ({clock(found['rules_for'])}), {found['reloads']:,} reloads"
    )
    show_status(found)
    if json:
        _print_json(**found)


@application.command(epilog=TOP_EPILOG)
def top(
    interface: Annotated[str, typer.Argument(metavar="IFACE", help="A network interface.")],
    interval: Annotated[
        float, typer.Option("-n", "--interval", metavar="SECONDS", help="Between two looks.", min=0.1)
    ] = 1,
    sort: Annotated[
        str, typer.Option("--sort", help="Rules by rate, by packets or in order; the key s changes it.")
    ] = "rate",
    once: Annotated[
        bool, typer.Option("--once", help="Look twice, print one screen, and end; so too without a terminal.")
    ] = False,
    json: _Json = False,
) -> None:
    """Watch a firewall: rates of its rules, what is dropped by name, and who
    sends the most.

    Packets are counted exactly. Who sends them, and bytes, are estimated from
    samples, which the firewall takes only while it is watched. The keys: q ends
    it, s sorts in another way.
    """
    import sys

    from raceway.apps.firewall.watch.top import SORTS
    from raceway.apps.firewall.watch.watching import look_twice, watch

    if sort not in SORTS:
        raise typer.BadParameter(f"{sort!r}: one of {', '.join(SORTS)} was expected", param_hint="--sort")
    if not (once or json) and sys.stdout.isatty():
        said = watch(interface, interval, sort)
        if said:
            print(said)
        return
    from rich.console import Console

    from raceway.apps.firewall.watch.screen import render

    view = look_twice(interface, interval)
    console = Console(highlight=False, soft_wrap=False)
    console.print(render(view, max(console.width, 80), _ONE_SCREEN, sort, keys=False))
    if json:
        _print_json(**view.as_dict)


@application.command(epilog=RELOAD_EPILOG)
def reload(
    interface: Annotated[str, typer.Argument(metavar="IFACE", help="A network interface.")],
    rules: _Rules,
    confirm: Annotated[
        float,
        typer.Option(
            "--confirm",
            metavar="SECONDS",
            help="Go back to the rules before unless raceway firewall confirm is said in this time.",
            min=0,
        ),
    ] = 0,
    json: _Json = False,
) -> None:
    """Put other rules in force, between two packets. Rules that are not accepted
    leave the old ones in force."""
    from raceway.apps.firewall.control import ask

    found = ask(interface, do="reload", path=str(rules.absolute()), confirm=confirm)
    print(f"{found['rules']:,} rules are in force on {interface}")
    if confirm:
        print(f"say raceway firewall confirm {interface} within {confirm:g} s, or the rules before come back")
    if json:
        _print_json(**found)


@application.command()
def confirm(
    interface: Annotated[str, typer.Argument(metavar="IFACE", help="A network interface.")],
) -> None:
    """Keep the rules of a reload --confirm."""
    from raceway.apps.firewall.control import ask

    ask(interface, do="confirm")
    print("the reload is confirmed")


def _finish(json: bool, **values: Any) -> None:
    if json:
        _print_json(**values)


def _print_json(**values: Any) -> None:
    from json import dumps

    print(dumps(values), flush=True)
