"""How a diagnosis looks: by area on a terminal, a line a finding when piped, and for programs one JSON object."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import TextIO

from raceway.apps.doctor.attempts import without
from raceway.apps.doctor.findings import Diagnosis, Finding, State

_STYLES = {
    State.OK: "green",
    State.NOTE: "cyan",
    State.UNKNOWN: "magenta",
    State.WARN: "yellow",
    State.BAD: "bold red",
}
# Where it is enough to know that all is well.
_BRIEF = ("kernel", "machine")
_INDENT = 10


def show(
    diagnosis: Diagnosis, *, every: bool = False, json: bool = False, file: TextIO | None = None
) -> None:
    """Print a diagnosis, and with `json` the JSON object as its last line, on standard output.

    every: on a terminal, what is well in a line each too.
    """
    out = file or sys.stdout
    if out.isatty():
        _for_people(diagnosis, every, out)
    else:
        for line in plain_lines(diagnosis):
            print(line, file=out)
    if json:
        print(json_format.dumps(diagnosis.as_dict()), file=out)
    out.flush()


def plain_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """A line a finding: its state, its area, what it says, and what to do; then the sum."""
    for finding in diagnosis.findings:
        remedy = f"; do: {finding.remedy}" if finding.remedy else ""
        yield f"{finding.state:<7} {finding.area}: {_sentence(finding)}{remedy}"
    yield summary(diagnosis)


def summary(diagnosis: Diagnosis) -> str:
    """How many findings there are of each state that is worth counting."""
    words = {State.BAD: "bad", State.WARN: "to be looked at", State.UNKNOWN: "unknown", State.NOTE: "noted"}
    counted = [f"{diagnosis.count(state)} {word}" for state, word in words.items() if diagnosis.count(state)]
    return f"{diagnosis.count(State.OK)} ok" + "".join(f", {each}" for each in counted)


def _sentence(finding: Finding) -> str:
    return f"{finding.subject}: {finding.what}" if finding.what else finding.subject


def _for_people(diagnosis: Diagnosis, every: bool, out: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=out, highlight=False)

    def line(finding: Finding, text: Text) -> None:
        # The state stands in a margin of its own, the words beside it wrap.
        for number, piece in enumerate(text.wrap(console, max(console.width - _INDENT, 20))):
            word = f"  {finding.state}" if number == 0 else ""
            margin = Text(f"{word:<{_INDENT}}", style=_STYLES[finding.state])
            console.print(Text.assemble(margin, piece), soft_wrap=True)
        if finding.remedy and finding.state != State.OK:
            # In one piece, however long: it is there to be copied and run.
            console.print(Text(f"{'':<{_INDENT}}-> {finding.remedy}", style="bold"), soft_wrap=True)

    for area, members in groupby(diagnosis.findings, key=lambda finding: finding.area):
        name = diagnosis.interface if area in ("interface", "counters") and diagnosis.interface else ""
        console.print(Text(f"{area} {name}".strip(), style="bold"))
        findings = list(members)
        for finding in findings if every else _condensed(findings):
            line(finding, Text(_sentence(finding), style="dim" if finding.state == State.OK else ""))
    console.print(Text(summary(diagnosis), style="bold"))


def _condensed(findings: list[Finding]) -> list[Finding]:
    """One area's findings: what is well in the kernel and the machine put together, and what takes more privilege."""
    together: dict[object, list[Finding]] = {}
    for finding in findings:
        brief = finding.state == State.OK and finding.area in _BRIEF
        group = State.OK if brief else State.UNKNOWN if finding.needs else id(finding)
        together.setdefault(group, []).append(finding)
    return [group[0] if len(group) == 1 else _joined(group) for group in together.values()]


def _joined(group: list[Finding]) -> Finding:
    needs = [name for finding in group for name in finding.needs]
    subjects = ", ".join(finding.subject for finding in group)
    return replace(group[0], subject=subjects, what=without(needs) if needs else "")
