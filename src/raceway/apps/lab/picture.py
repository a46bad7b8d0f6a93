"""Who is where in a lab, for people: pictures as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from raceway.apps.lab.names import DEFAULT
from raceway.apps.lab.plan import End, Plan, Shape
from raceway.apps.lab.survey import LabSeen

_WIDEST_LINE = 4
"""Hosts that fit side by side."""


def picture(plan: Plan) -> str:
    """The hosts, their interfaces and addresses, as they are joined."""
    in_a_row = plan.shape == Shape.LINE and len(plan.hosts) <= _WIDEST_LINE
    lines = _row(plan) if in_a_row else _pairs(plan)
    return printable("\n".join(f"  {line}".rstrip() for line in lines))


def facts(plan: Plan) -> str:
    """What all interfaces have in common, in one line."""
    queues = "1 queue" if plan.queues == 1 else f"{plan.queues} queues"
    offloads = {None: "as the kernel has them", True: "on", False: "off"}[plan.offloads]
    words = [
        f"{queues} each way",
        f"MTU {plan.mtu}",
        "IPv4 and IPv6" if plan.ipv6 else "IPv4",
        f"offloads {offloads}",
    ]
    if plan.vlan:
        words.insert(0, f"VLAN {plan.vlan}")
    return ", ".join(words)


def advice(plan: Plan, name: str) -> list[str]:
    """What to type next."""
    lab = "" if name == DEFAULT else f"{name} "
    # In a router's middle there are addresses too.
    middle = [host for host in plan.hosts if not any(end.addresses for end in plan.ends(host))]
    lines = []
    if middle and len(plan.ends(middle[0])) > 1:
        who = f"{middle[0]} passes" if len(middle) == 1 else f"{middle[0]} to {middle[-1]} pass"
        ports = " ".join(f"-i netmap:{end.interface}" for end in plan.ends(middle[0])[:2])
        lines.append(f"{who} nothing on without a program; this one joins two sides:")
        lines.append(f"  raceway lab run {lab}{middle[0]} raceway bridge {ports}")
    speakers = [end for link in plan.links for end in link.ends if end.addresses]
    first, other = speakers[0], speakers[-1]
    for end in speakers[1:]:
        if end.host not in plan.forwarders:
            other = end
            break
    if other is not first:
        lines.append(
            "try:"
            if not middle
            else "when all of them do, try:"
            if len(middle) > 1
            else "then try, beside it:"
        )
        lines.append(f"  raceway lab run {lab}{first.host} ping -c 3 {other.addresses[0].split('/')[0]}")
    return [*lines, "remove it:", f"  raceway lab down {lab}".rstrip()]


def table(lab: LabSeen) -> str:
    """A lab as it was found: a line an interface, and a line a process."""
    state = f"{lab.shape}, complete" if lab.complete else f"half-made; remove it: raceway lab down {lab.name}"
    rows: list[list[str]] = []
    for host in lab.hosts:
        label = host.name
        if not host.made:
            rows.append([label, "never came to be"])
        for seen in host.interfaces:
            queues = str(seen.transmit_queues)
            if seen.receive_queues != seen.transmit_queues:
                queues += f"/{seen.receive_queues}"
            peer = (
                f"{seen.peer[0]}:{seen.peer[1]}" if seen.peer else "elsewhere" if seen.kind == "veth" else ""
            )
            rows.append(
                [label, seen.name, f"─ {peer}" if peer else "", seen.state, f"mtu {seen.mtu}", f"queues {queues}",
                 " ".join(seen.addresses)]
            )  # fmt: skip
            label = ""
        if host.made and not host.interfaces:
            rows.append([label, "no interfaces"])
            label = ""
        rows += [["", "runs", f"{process.pid} {process.command}"] for process in host.processes]
    widths = [
        max(len(row[column]) for row in rows if column < len(row)) for column in range(max(map(len, rows)))
    ]
    lines = [f"{lab.name}: {state}"]
    lines += ["  " + "  ".join(map(str.ljust, row, widths)) for row in rows]
    return printable("\n".join(line.rstrip() for line in lines))


def printable(text: str) -> str:
    """The text with lines drawn in ASCII where standard output has nothing better."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return text.replace("─", "-")
    return text


def _row(plan: Plan) -> list[str]:
    blocks = []
    for host in plan.hosts:
        ends = plan.ends(host)
        blocks.append([host, "   ".join(end.interface for end in ends), *_addresses(ends)])
    height = max(map(len, blocks))
    lines = [""] * height
    for number, block in enumerate(blocks):
        width = max(map(len, block)) + 5
        last = number == len(blocks) - 1
        for row in range(height):
            text = block[row] if row < len(block) else ""
            lines[row] += (
                text if last else f"{text} ".ljust(width, "─") + " " if row == 1 else text.ljust(width + 1)
            )
    return lines


def _pairs(plan: Plan) -> list[str]:
    """A link each, one below the other."""
    blocks = []
    named: set[str] = set()
    for link in plan.links:
        sides = []
        for end in link.ends:
            # On the left they are in order; on the right the centre would be named again and again.
            label = end.host if end is link.first or end.host not in named else ""
            named.add(end.host)
            sides.append((label, [end.interface, *_addresses([end])]))
        blocks.append(sides)
    label_width = max(len(sides[0][0]) for sides in blocks) + 2
    widths = [max(len(text) for sides in blocks for text in sides[side][1]) for side in (0, 1)]
    lines = []
    for (label, left), (other_label, right) in blocks:
        for row in range(max(len(left), len(right))):
            first = left[row] if row < len(left) else ""
            second = right[row] if row < len(right) else ""
            padded = f"{first} ".ljust(widths[0] + 5, "─") + " " if row == 0 else first.ljust(widths[0] + 6)
            lines.append(
                f"{label if row == 0 else '':<{label_width}}{padded}{second:<{widths[1]}}  "
                f"{other_label if row == 0 else ''}"
            )
    return lines


def _addresses(ends: Sequence[End]) -> list[str]:
    lines = []
    for end in ends:
        if end.addressed != end.interface:
            lines.append(end.addressed)
        lines += end.addresses
    return lines
