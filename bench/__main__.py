"""`python -m bench`: every row in turn, raceway and its peer one after the other, several times; the median counts.

A ratio is taken round by round, so that a machine that becomes slower slows both, and the median of the ratios is
shown. A peer that is not there leaves its row without a ratio, and the reason is said.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench import attaching, filters, firewall, firewall_load, kernel_functions, programs
from bench.gaps import gap_errors
from bench.peers import (
    Measurement,
    dpdk_memif,
    dpdk_ring,
    dpdk_ring_loop,
    dpkt_match,
    libpcap_filter,
    scapy_match,
    tcpdump_filter,
    tcpreplay,
    versions,
)
from bench.row import Row, contest
from bench.slots import slots_a_second
from bench.wire_rows import wire_rows
from raceway import Expression

HERE = Path(__file__).parent


def main() -> None:
    """Run what was asked for and write the results."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that each pair is measured (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round, small counts, no growth curves")
    parser.add_argument(
        "--only",
        metavar="WORD",
        default="",
        help="only rows with this word in their work, peer or group (memory, nic); writes no files",
    )
    parser.add_argument("--json", action="store_true", help="the results as the last line of standard output")
    arguments = parser.parse_args()
    # A shell lets what it starts in the background ignore Ctrl-C. Programs started here would inherit that, and Ctrl-C
    # is how they are asked for their reports.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rounds = 1 if arguments.quick else arguments.rounds
    scale = 0.2 if arguments.quick else 1.0
    facts = versions()
    for name, value in facts.items():
        print(f"{name}: {value}")
    print("\n| work | peer | raceway | peer | ratio | goal |\n|---|---|---:|---:|---:|---:|")

    def wanted(row: Row) -> bool:
        return row.matches(arguments.only)

    rows = table(rounds, scale, wanted) + wire_rows(rounds, 1.0 if arguments.quick else 2.0, wanted)
    results: dict[str, object] = {
        "versions": facts,
        "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
    }
    if arguments.only:
        for line in notes(rows):
            print(line)
    else:
        curves = {} if arguments.quick else growth()
        seconds = programs.start_up()
        for name, value in seconds.items():
            print(f"{name}: {value:.2f} s")
        results |= {"growth": curves, "seconds": seconds, "gap_errors_us": gap_errors(filters.DEMO)}
        write(rows, results, seconds)
    if arguments.json:
        print(json.dumps(results))


def table(rounds: int, scale: float, wanted: Callable[[Row], bool]) -> list[Row]:
    """The rows about memory, packet functions and files, in the order in which they are shown."""
    millions = 1e-6
    rows: list[Row] = []

    def add(
        row: Row, ours: Callable[[], float], theirs: Callable[[], Measurement] | None, rounds: int = rounds
    ) -> None:
        if wanted(row):
            rows.append(row.run(ours, theirs, rounds))

    slots = int(200_000_000 * scale)
    add(
        Row("16-byte slots through a pipe, two threads, batch 32", "DPDK `ring_perf_autotest`, SP/SC, bulk 32",
            "M/s", 1.3),
        lambda: slots_a_second(32, 1024, slots) * millions, dpdk_ring,
    )  # fmt: skip
    add(
        Row("the same", "the same `rte_ring`, a loop timed by the wall clock", "M/s", None),
        lambda: slots_a_second(32, 1024, slots) * millions,
        lambda: dpdk_ring_loop(bulk=32),
    )
    packets = int(300_000_000 * scale)
    add(
        Row("64-byte packets between two processes, pkt-gen tx to rx", "DPDK memif (zero-copy), testpmd",
            "Mpps", 3),
        lambda: programs.generator_pair(64, packets) * millions,
        lambda: _in_millions(dpdk_memif()),
    )  # fmt: skip
    with filters.plain_demo() as capture:
        expression = filters.QUESTION.expression()
        add(
            Row("five-tuple filter, header views, capture in memory", "libpcap `pcap_offline_filter`",
                "ns/packet", 10, better="lower"),
            lambda: filters.function_cost(filters.web_of_the_server)[0],
            lambda: libpcap_filter(capture, expression, cpu=0),
        )  # fmt: skip
        add(
            Row("the same with loads at fixed offsets, as libpcap's optimiser may", "libpcap `pcap_offline_filter`",
                "ns/packet", None, better="lower"),
            lambda: filters.function_cost(filters.web_by_offsets)[0],
            lambda: libpcap_filter(capture, expression, cpu=0),
        )  # fmt: skip
        add(
            Row("the same question as a pcap filter expression, native", "libpcap `pcap_offline_filter`",
                "ns/packet", 10, better="lower", group="memory filter"),
            lambda: filters.function_cost(filters.expression_kernel())[0],
            lambda: libpcap_filter(capture, expression, cpu=0),
        )  # fmt: skip
        for short in ("tcp port 80", "arp or icmp"):
            add(
                Row(f"`{short}`, native", "libpcap `pcap_offline_filter`", "ns/packet", None, better="lower",
                    group="memory filter"),
                lambda short=short: filters.function_cost(Expression(short))[0],
                lambda short=short: libpcap_filter(capture, short, cpu=0),
            )  # fmt: skip
        for name, peer in (("dpkt", dpkt_match), ("Scapy", scapy_match)):
            add(
                Row("the same function, interpreted", name, "ns/packet", None, better="lower"),
                lambda: filters.function_cost(filters.web_of_the_server, interpreted=True)[0],
                lambda peer=peer: peer(capture, filters.QUESTION, seconds=1.0),
                1,
            )
        add(
            Row("replay at top speed, a real capture", "tcpreplay -t on veth", "Mpps", None),
            lambda: programs.replay_at_top_speed(capture, int(20_000_000 * scale)) * millions,
            lambda: _in_millions(tcpreplay(capture)),
            min(rounds, 3),
        )
    add(kernel_functions.row(), kernel_functions.ours, kernel_functions.theirs)
    for name, goal in (("acl1_10k", "20 Mpps"), ("fw1_10k", "shown")):
        row = Row(
            f"firewall: the first of 10,000 rules, native, {name} (goal: {goal})",
            "linear search, compiled",
            "Mpps",
            None,
        )
        add(row, partial(firewall.native, name), partial(firewall.linear, name))
    row = Row(
        "firewall: reload of 10,000 rules, from the file", "nft -f", "s", 1, better="lower", group="nic"
    )
    add(row, partial(firewall.reload, "acl1_10k"), partial(firewall.nft_reload, "acl1_10k"))
    loaded = firewall_load.rows()
    if any(wanted(row) for row in loaded):
        rows += contest(firewall_load.ours, [(firewall_load.nft, loaded)], min(rounds, 3))
    attached = attaching.rows()
    if any(wanted(row) for row in attached):
        rows += contest(attaching.ours, [(attaching.theirs, attached)], min(rounds, 3))
    rows += file_rows(expression, rounds, int(40_000_000 * scale), wanted)
    return rows


def file_rows(expression: str, rounds: int, packets: int, wanted: Callable[[Row], bool]) -> list[Row]:
    """One capture file filtered to another: whole programs, over a long file; and what more of the file costs."""
    work = f"filter a capture file of {packets // 1_000_000} million packets to another, whole programs"
    whole = Row(work, "tcpdump -r FILE -w FILE", "s", 3, better="lower", group="memory filter")
    more = Row(
        "the same, without what starting costs", "the same", "s", None, better="lower", group="memory filter"
    )
    if not wanted(whole) and not wanted(more):
        return []

    def measure(run: Callable[[Path, Path], float], name: str) -> list[Measurement]:
        run(*short)
        little, all_ = run(*short), run(*long)
        return [Measurement(name, seconds, "s") for seconds in (all_, all_ - little)]

    def peer(capture: Path, output: Path) -> float:
        return tcpdump_filter(capture, output, expression).value

    with filters.long_demo(1) as short, filters.long_demo(packets) as long:
        # A virtual machine gets the output's memory from its host at the first touch, which takes longer than either
        # side's work; so it is touched before.
        shutil.copyfile(*long)
        return contest(
            lambda: measure(lambda *files: programs.filter_seconds(*files, expression), "raceway"),
            [(lambda: measure(peer, "tcpdump"), [whole, more])],
            min(rounds, 3),
        )


def notes(rows: list[Row]) -> list[str]:
    """What is to be said of rows, a paragraph each."""
    return [f"\n{row.work} ({row.peer}): {row.note}" for row in rows if row.note]


def _in_millions(measured: Measurement) -> Measurement:
    """The peer counts packets, the table millions of them."""
    return Measurement(measured.name, measured.value * 1e-6, "Mpps", measured.detail, measured.command)


def growth() -> dict[str, dict[str, float]]:
    """How cost grows: nanoseconds a slot by batch and by ring size, a packet by its length."""
    curves = {
        "ns a slot, by batch (ring of 1,024)": {
            str(batch): 1e9 / slots_a_second(batch, 1024, 20_000_000) for batch in (1, 4, 8, 16, 32, 64, 128, 256)
        },
        "ns a slot, by slots in the ring (batch 32)": {
            str(size): 1e9 / slots_a_second(32, size, 50_000_000) for size in (64, 128, 256, 512, 1024, 4096, 16384)
        },
        "ns a packet between processes, by length in bytes": {
            str(length): 1e9 / programs.generator_pair(length, 30_000_000)
            for length in (60, 64, 128, 256, 512, 1024, 1514)
        },
    }  # fmt: skip
    for name, curve in curves.items():
        print(name, {key: round(value, 2) for key, value in curve.items()}, flush=True)
    return curves


def write(rows: list[Row], results: dict[str, object], seconds: dict[str, float]) -> None:
    """results.json, results.md for the README, results.svg to look at."""
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = ["| work | peer | raceway | peer | ratio | goal |", "|---|---|---:|---:|---:|---:|"]
    lines += [row.text() for row in rows]
    lines += notes(rows)
    lines += ["", "| whole program | seconds |", "|---|---:|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in seconds.items()]
    gaps: dict[str, float] = results["gap_errors_us"]  # type: ignore[assignment]
    lines += [
        "",
        f"`replay` at recorded speed, seen by `dump` behind a pipe: gaps differ from the recorded ones by "
        f"{gaps['median']:.0f} us at the median, {gaps['99 %']:.0f} us at the 99th percentile.",
    ]
    (HERE / "results.md").write_text("\n".join(lines) + "\n")
    draw(rows, results)


def draw(rows: list[Row], results: dict[str, object]) -> None:
    """One bar a row that has a ratio, against the goal, on a logarithmic scale; and the growth curves."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    matplotlib.use("svg")
    from matplotlib import pyplot

    measured = [row for row in rows if row.ratio]
    curves: dict[str, dict[str, float]] = results["growth"]  # type: ignore[assignment]
    figure, axes = pyplot.subplots(
        1 + bool(curves), 1, figsize=(10, 0.55 * len(measured) + 1.5 + 3 * bool(curves))
    )
    bars = axes[0] if curves else axes
    labels = [f"{row.work}\nagainst {row.peer.replace('`', '')}" for row in measured]
    bars.barh(labels, [row.ratio for row in measured], color="#2f6f9f")
    for index, row in enumerate(measured):
        bars.text(row.ratio, index, f" {row.ratio:.2f}x", va="center", fontsize=8)
        if row.goal:
            bars.plot([row.goal, row.goal], [index - 0.4, index + 0.4], color="#c0392b")
    bars.set_xscale("log")
    low = min(row.ratio for row in measured)
    bars.set_xlim(min(0.3, 10 ** math.floor(math.log10(low))), None)
    bars.axvline(1, color="grey", linewidth=0.6)
    bars.tick_params(axis="y", labelsize=7)
    bars.invert_yaxis()
    bars.set_xlabel("times better than the peer, measured in the same run (red: the goal)")
    if curves:
        for name, curve in curves.items():
            axes[1].plot([int(key) for key in curve], list(curve.values()), marker="o", label=name)
        axes[1].set_xscale("log", base=2)
        axes[1].set_yscale("log")
        axes[1].set_ylabel("ns")
        axes[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(HERE / "results.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
