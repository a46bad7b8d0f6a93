"""Generated packet functions over packets, on all three targets, for as long as one likes: `script/soak` runs it.

    python tests/compile/soak_functions.py [MINUTES [SEED]]

Says how many functions, and pairs of a function and a packet, have agreed. At the first that does not: its seed, its
source and what differs, and status 1. The same seed makes the same functions and packets again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random, SystemRandom

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

import function_generator  # noqa: E402
from packet_cases import TIME, captured_packets, made_packets, truncated_packets  # noqa: E402
from raceway import FunctionRefusedError  # noqa: E402
from test_three_targets import assert_same_on_three_targets, seen_by_xdp  # noqa: E402

PACKETS = 6_000
"""Of a function: compiling it for all targets takes as long as some thousand packets."""
_PERMITTED = ("more ways through it than the verifier walks", "more than the kernel's 512 bytes of stack")
"""The reasons for which the kernel may refuse a generated function: some are too much for it."""
_MUTATED = 5
"""One packet in so many has some of its bytes changed."""


def drawn(random: Random, everything: list[bytes]) -> list[bytes]:
    """Packets for one function."""
    chosen = random.sample(everything, min(PACKETS, len(everything)))
    for index in range(0, len(chosen), _MUTATED):
        packet = bytearray(chosen[index])
        for _ in range(random.randint(1, 4)):
            packet[random.randrange(len(packet))] = random.choice(
                (0, 1, 0x45, 0x81, 0xFF, random.randrange(256))
            )
        chosen[index] = bytes(packet)
    return chosen


def run(minutes: float, seed: int) -> int:
    """Go on for so many minutes; the exit status."""
    everything = seen_by_xdp([*made_packets(), *truncated_packets(), *captured_packets()])
    began = said = time.monotonic()
    functions = cases = refused = 0
    while time.monotonic() < began + 60 * minutes:
        random = Random(f"{seed} {functions + refused}")
        text = function_generator.source(random)
        packets = drawn(random, everything)
        times = [TIME + index * 300_000 for index in range(len(packets))]
        function, states = function_generator.make(text)
        try:
            assert_same_on_three_targets(function, packets, *states, times=times)
        except FunctionRefusedError as refusal:
            if not any(reason in str(refusal) for reason in _PERMITTED):
                print(f"seed {seed}, function {functions + refused}:\n{text}", flush=True)
                raise
            refused += 1
            continue
        except BaseException:
            print(f"seed {seed}, function {functions + refused}:\n{text}", flush=True)
            raise
        functions += 1
        cases += len(packets)
        if time.monotonic() > said + 30:
            said = time.monotonic()
            print(f"{functions:,} functions, {cases:,} cases in {said - began:.0f} s", flush=True)
    print(f"seed {seed}: {functions:,} functions, {cases:,} function-and-packet cases, all of them the same")
    if refused:
        print(
            f"{refused:,} more functions had too many ways through them, or too much stack, for the kernel's verifier, "
            "which said so"
        )
    return 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(
        run(
            float(given[0]) if given else 2.0,
            int(given[1]) if len(given) > 1 else SystemRandom().getrandbits(32),
        )
    )
