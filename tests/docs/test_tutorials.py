"""The tutorials, pasted: their labs, commands and programs do what their text says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labs import needs, needs_root
from raceway.memory.jit import INTERPRETED

DOCUMENTS = Path(__file__).parents[2] / "docs"
pytestmark = [needs_root, needs("curl", "ping")]


class Tutorial:
    """One tutorial in a folder of its own. Its lab gets a name of its own, so that a reader's is left alone."""

    def __init__(self, name: str, folder: Path) -> None:
        self.text = (DOCUMENTS / name).read_text()
        self.lab = f"t{os.getpid()}"
        self.folder = folder
        tools = folder / "bin"
        tools.mkdir()
        for command, words in (("raceway", "-m raceway"), ("python", ""), ("python3", "")):
            script = tools / command
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
            script.chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"```{language}\n(.*?)```", self.text, re.DOTALL)

    def command(self, start: str) -> str:
        """The line of the tutorial that begins so, with this lab's name in it."""
        lines = [line for block in self.blocks("sh") for line in block.splitlines() if line.startswith(start)]
        assert lines, f"the tutorial has no line {start!r}"
        line = lines[0].rstrip(" &").removeprefix("sudo ")
        return re.sub(r"^raceway lab (up|down|run)", rf"raceway lab \1 {self.lab}", line)

    def run(self, start: str, *, ok: bool = True) -> str:
        return self.run_line(self.command(start), ok=ok)

    def run_line(self, line: str, *, ok: bool = True) -> str:
        done = subprocess.run(
            line, shell=True, capture_output=True, text=True, timeout=120, cwd=self.folder,
            env=self.environment, check=False,
        )  # fmt: skip
        assert not ok or done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, start: str, sign: str = "") -> Iterator[subprocess.Popen[str]]:
        """The command in a terminal of its own, from when it has printed `sign`; ended by Ctrl-C."""
        with subprocess.Popen(
            self.command(start), shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=self.folder, env=self.environment, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                while sign and sign not in (line := process.stdout.readline()):
                    assert line, f"{start} ended without {sign!r}"
                yield process
            finally:
                interrupt(process)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C in its terminal."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def tutorial(tmp_path, request) -> Iterator[Tutorial]:
    made = Tutorial(request.param, tmp_path)
    assert "a                b" in made.run("raceway lab up")
    yield made
    subprocess.run(
        ["raceway", "lab", "down", made.lab, "--kill"], env=made.environment, check=True, capture_output=True
    )


@pytest.mark.parametrize("tutorial", ["see-your-packets.md"], indirect=True)
def test_see_your_nics_packets(tutorial):
    with tutorial.running("raceway lab run b raceway dump", "the host keeps its packets") as dump:
        assert "3 received" in tutorial.run("raceway lab run a ping")
        assert dump.stdout is not None
        seen = [dump.stdout.readline() for _ in range(6)]
        assert any("icmp echo request" in line for line in seen), seen
    (tutorial.folder / "look.py").write_text(tutorial.blocks("python")[0])
    # Forget the address, or there is no ARP request to see.
    with tutorial.running("raceway lab run b python look.py", "is open in copy mode") as look:
        for _ in range(20):
            tutorial.run("raceway lab run a ping", ok=False)
            if look.poll() is not None:
                break
        assert look.wait(10) == 0
    assert "3 received" in tutorial.run("raceway lab run a ping")
    with tutorial.running("raceway lab run b raceway pkt-gen", "AF_XDP, copy mode") as counter:
        sending = tutorial.command("raceway lab run a raceway pkt-gen")
        count = f"{'2,000,000' if not INTERPRETED else '200'} packets"
        sent = tutorial.run_line(sending if not INTERPRETED else sending.replace("2000000", "200"))
        assert f"pkt-gen tx veth0: {count}" in sent
        os.killpg(counter.pid, signal.SIGTERM)
        counted, _ = counter.communicate(timeout=30)
        assert re.search(r"pkt-gen rx veth0: [1-9][\d,]* packets", counted), counted


@pytest.mark.parametrize("tutorial", ["between-nic-and-host.md"], indirect=True)
def test_a_function_between_a_nic_and_its_host(tutorial):
    (tutorial.folder / "wall.py").write_text(tutorial.blocks("python")[0])
    page, ping = "raceway lab run a curl", "raceway lab run a ping"
    with tutorial.running("raceway lab run b python3 -m http.server"):
        deadline = time.monotonic() + 30
        while tutorial.run(page, ok=False).strip() != "200":
            assert time.monotonic() < deadline
        for end in (signal.SIGINT, signal.SIGKILL):
            with tutorial.running("raceway lab run b raceway bridge", "raceway bridge:") as bridge:
                assert tutorial.run(page).strip() == "200"
                assert " 0 received" in tutorial.run(ping, ok=False)
                os.killpg(bridge.pid, end)
                bridge.wait(20)
            deadline = time.monotonic() + 30
            while "2 received" not in tutorial.run(ping, ok=False):
                assert time.monotonic() < deadline, "no answer after the bridge had ended"
            assert tutorial.run(page).strip() == "200"


@pytest.mark.skipif(INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off")
@pytest.mark.parametrize("tutorial", ["write-try-attach.md"], indirect=True)
def test_write_try_attach(tutorial):
    (tutorial.folder / "gate.py").write_text(tutorial.blocks("python")[0])
    assert tutorial.run("sudo python gate.py") == tutorial.blocks("text")[0]
    ping = "raceway lab run a ping -c 1"
    assert "1 received" in tutorial.run(ping)
    with tutorial.running("raceway lab run b raceway attach", "gate is on veth0 in driver mode"):
        assert " 0 received" in tutorial.run("raceway lab run a ping -c 2", ok=False)
        assert "gate" in tutorial.run("raceway lab run b raceway functions")
    deadline = time.monotonic() + 30
    while "1 received" not in tutorial.run(ping, ok=False):
        assert time.monotonic() < deadline


@pytest.mark.skipif(INTERPRETED, reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off")
@pytest.mark.parametrize("tutorial", ["firewall.md"], indirect=True)
def test_packets_that_a_rule_hands_to_python(tutorial):
    (program,) = (one for one in tutorial.blocks("python") if "asks for a secret" in one)
    (tutorial.folder / "look.py").write_text(program)
    tutorial.run("echo 'divert inspector")
    page, secret = "raceway lab run a curl -s -o", "raceway lab run a curl -s -m"
    with tutorial.running("raceway lab run b python3 -m http.server"):
        deadline = time.monotonic() + 30
        while tutorial.run(page, ok=False).strip() != "200":
            assert time.monotonic() < deadline
        with tutorial.running("raceway lab run b raceway firewall run", "in force") as firewall:
            assert tutorial.run(page).strip() == "200"
            assert tutorial.run(secret, ok=False) == ""
            assert re.search(
                r"inspector: [1-9]\d* passed, [1-9]\d* dropped, 0 failed",
                tutorial.run("raceway lab run b raceway firewall status"),
            )
            assert "10.0.0.1 asks for a secret" in firewall.stdout.readline()
