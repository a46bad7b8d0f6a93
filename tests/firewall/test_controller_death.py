"""SIGKILL for who runs a firewall, while packets flow, under both policies; and who comes after.

With `on death open` the interface is as without a firewall from that moment on. With `on death keep` the rules go on,
nothing is lost, and the next `raceway firewall run` puts its rules in their place between two packets.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time

import pytest
from firewall_world import accounted, inside_mounts, stream

from labs import lab as lab, mounts as mounts, needs_root, reaches
from raceway.kernel.interface import xdp_attached
from raceway.memory.jit import INTERPRETED

pytestmark = [
    pytest.mark.skipif(
        INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off"
    ),
    needs_root,
]

ALWAYS = "drop udp dst port 9\npass udp dst port 10\n"
OPEN, KEEP = f"on death open\n{ALWAYS}", f"on death keep\n{ALWAYS}"


class Operator:
    """Somebody at host b, with a folder for rules and a BPF file system."""

    def __init__(self, two, mounts: int, folder) -> None:
        self.two, self.mounts, self.folder = two, mounts, folder
        self.interface = two.interface("b")
        self.rules = folder / "wall.rules"

    def says(self, *words: str) -> tuple[int, str]:
        """Run a command to its end: its exit code, and all that it said."""
        with inside_mounts(self.two, self.mounts, *words, folder=self.folder) as process:
            output, errors = process.communicate(timeout=60)
        return process.returncode, output + errors

    @contextlib.contextmanager
    def runs(self, rules: str, *words: str):
        """A firewall; its first line is `process.line`. Killed at the end of the `with`, if it has not ended."""
        self.rules.write_text(rules)
        told = ["firewall", "run", self.interface, "-f", "wall.rules", *words]
        with inside_mounts(self.two, self.mounts, *told, folder=self.folder) as process:
            try:
                process.line = process.stdout.readline()
                assert "in force" in process.line, process.line + process.stderr.read()
                yield process
            finally:
                process.kill()

    def counted(self) -> dict:
        code, said = self.says("firewall", "status", self.interface, "--json")
        assert code == 0, said
        return json.loads(said.splitlines()[-1])

    @property
    def filtered(self) -> bool:
        with self.two.inside("b"):
            return bool(xdp_attached(self.interface))


@pytest.fixture
def operator(lab, mounts, tmp_path):
    # With GRO veth keeps its ring when the last program goes; without, what is in the ring at that moment goes too
    # (drivers/net/veth.c, veth_disable_xdp).
    made = Operator(lab(offloads=True), mounts, tmp_path)
    yield made
    if made.filtered:
        made.says("detach", made.interface)
    assert not made.filtered


@pytest.mark.parametrize("family", [4, 6])
def test_a_kill_leaves_an_interface_open_and_loses_nothing(operator, family):
    with operator.runs(OPEN) as process, stream(operator.two, family) as flow:
        time.sleep(0.3)
        process.kill()
        process.wait(10)
        time.sleep(0.3)
    assert flow.whole, flow
    # None before the kill, and all from then on.
    assert 0 < flow.found["forbidden"] == flow.sent - flow.found["first_forbidden"]
    assert flow.found["first_forbidden"] > 0
    assert not operator.filtered


@pytest.mark.parametrize("family", [4, 6])
def test_rules_that_are_kept_go_on_and_the_next_controller_takes_their_place_unnoticed(operator, family):
    with operator.runs(KEEP) as process, stream(operator.two, family) as flow:
        time.sleep(0.2)
        process.kill()
        process.wait(10)
        assert operator.filtered
        code, said = operator.says("firewall", "status", operator.interface)
        assert code == 1
        for wanted in (
            "has ended",
            "pinned at /sys/fs/bpf/raceway/",
            f"firewall run {operator.interface}",
            "detach",
        ):
            assert wanted in said
        with operator.runs(f"{KEEP}drop udp dst port 11\n") as second:
            assert "in the place of those of a process that has ended" in second.line
            time.sleep(0.2)
            counted = operator.counted()
            assert [one["text"] for one in counted["rules"]][-1] == "drop udp dst port 11"
            assert counted["rules"][0]["packets"] > 0
        assert second.wait(10) == -signal.SIGKILL
    assert flow.whole, flow
    assert flow.found["forbidden"] == 0
    assert operator.filtered


def test_counters_are_whole_after_a_succession(operator):
    with operator.runs(KEEP):
        pass
    with operator.runs(KEEP) as second:
        with stream(operator.two) as flow:
            time.sleep(0.1)
        counted = operator.counted()
        assert accounted(counted)
        assert [one["packets"] for one in counted["rules"]] == [flow.sent, flow.sent]
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=20)
    assert not operator.filtered


def test_a_successor_whose_rules_are_open_at_death_leaves_nothing_behind(operator):
    with operator.runs(KEEP):
        pass
    with operator.runs(OPEN) as second:
        assert "in the place" in second.line
    assert not operator.filtered
    code, said = operator.says("firewall", "status", operator.interface)
    assert code == 1
    assert "nobody runs a firewall" in said


def test_who_cannot_take_the_place_is_told_what_to_do(operator):
    with operator.runs(KEEP):
        pass
    operator.rules.write_text(KEEP)
    run = ("firewall", "run", operator.interface, "-f", "wall.rules")
    code, said = operator.says(*run, "--mode", "generic")
    assert code == 1
    for wanted in ("in driver mode", "process has ended", f"raceway detach {operator.interface}"):
        assert wanted in said
    (operator.folder / "mine.py").write_text(
        "import raceway\n\n@raceway.packet_function\ndef mine(packet):\n    return raceway.PASS\n"
    )
    code, said = operator.says("attach", operator.interface, "mine.py:mine")
    assert code == 1
    assert "raceway detach" in said
    # Rules that are not accepted leave those that are kept where they are.
    operator.rules.write_text("drop udp dst port\n")
    code, said = operator.says(*run)
    assert code != 0
    assert "wall.rules:1:" in said
    assert operator.filtered
    assert operator.says("detach", operator.interface)[0] == 0
    assert not operator.filtered
    assert reaches(operator.two, "a", operator.two.address("b"))


def test_a_pinned_function_that_is_only_called_so_is_nobodys_to_take(operator):
    (operator.folder / "mine.py").write_text(
        "import raceway\n\n@raceway.packet_function\ndef firewall(packet):\n    return raceway.PASS\n"
    )
    assert operator.says("attach", operator.interface, "mine.py:firewall", "--pin")[0] == 0
    operator.rules.write_text(KEEP)
    code, said = operator.says("firewall", "run", operator.interface, "-f", "wall.rules")
    assert code == 1
    assert "packet functions are attached" in said
