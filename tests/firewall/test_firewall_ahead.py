"""A second process compiles while rules are read; it changes nothing but the time, and is never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raceway.apps.firewall import ahead
from raceway.memory.jit import INTERPRETED

NATIVE_ONLY = pytest.mark.skipif(
    INTERPRETED or len(os.sched_getaffinity(0)) < 2,
    reason="eBPF is made by the compiler that NUMBA_DISABLE_JIT switches off, and ahead on a second processor",
)
RULES = "pass established\nlog tcp port 80\ndrop greater 1000\n"
BEGIN = f"""
import os, signal, sys, time
from raceway.apps.firewall.ahead import compiling_ahead
from raceway.apps.firewall.program import Program
from raceway.apps.firewall.rules.language import parse_rules
RULES = {RULES!r}
"""


def python(text: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RACEWAY_CACHE_DIR": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", BEGIN + text], env=environment, capture_output=True, text=True, timeout=100
    )


def gone(process: int) -> bool:
    """Whether a process has ended, though perhaps nobody has asked about it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@NATIVE_ONLY
def test_what_is_made_ahead_is_what_would_be_made(tmp_path):
    done = python(
        """
with compiling_ahead() as second:
    program = Program(parse_rules(RULES), ahead=second)
from raceway.compile.bpf import kept
from raceway.compile.bpf.generate import generate
from raceway.compile.recipe import recipe
from raceway.kernel.functions.loading import processors
for function in (program.function, program.outgoing):
    found = kept.load(recipe(function), processors())
    made = generate(function, processors())
    print(found is not None and found[1:3] == made[1:3])
with compiling_ahead() as again:
    print(again)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("nobody is left")
""",
        tmp_path,
    )
    assert done.stdout.split("\n") == ["True", "True", "None", "nobody is left", ""], done.stderr


@NATIVE_ONLY
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_second_process_that_is_killed_is_only_missed(tmp_path, when):
    done = python(
        f"""
with compiling_ahead() as second:
    if {when!r} == "before":
        os.kill(second.process, signal.SIGKILL)
    else:
        say = second._say
        def killing(*arguments):
            os.kill(second.process, signal.SIGKILL)
            return say(*arguments)
        second._say = killing
    began = time.monotonic()
    program = Program(parse_rules(RULES), ahead=second)
    print(program.classifier.rule_count, time.monotonic() - began < 30)
""",
        tmp_path,
    )
    assert done.stdout == "3 True\n", done.stderr


@NATIVE_ONLY
def test_the_second_process_ends_with_the_first_even_if_that_is_killed(tmp_path):
    environment = os.environ | {"RACEWAY_CACHE_DIR": str(tmp_path)}
    text = "with compiling_ahead() as second:\n    print(second.process, flush=True)\n    time.sleep(100)\n"
    command = [sys.executable, "-c", BEGIN + text]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        second = int(first.stdout.readline())
        first.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while not gone(second) and time.monotonic() < end:
        time.sleep(0.05)
    assert gone(second)


@NATIVE_ONLY
def test_where_no_second_process_is_allowed_there_is_none(tmp_path):
    done = python(
        """
def refused():
    raise BlockingIOError("no more processes")
os.fork = refused
with compiling_ahead() as second:
    print(second)
""",
        tmp_path,
    )
    assert done.stdout == "None\n", done.stderr


def test_on_one_processor_and_without_a_compiler_there_is_none(monkeypatch):
    monkeypatch.setattr(ahead, "Ahead", lambda: pytest.fail("one was started"))
    monkeypatch.setattr(ahead.kept, "nothing", lambda: True)
    monkeypatch.setattr(ahead.threading, "active_count", lambda: 1)
    if not INTERPRETED:
        monkeypatch.setattr(ahead.os, "sched_getaffinity", lambda _: {0})
    with ahead.compiling_ahead() as second:
        assert second is None
