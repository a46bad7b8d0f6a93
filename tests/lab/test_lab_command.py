"""`raceway lab up|down|show|run`, as a user runs them; and that `down` removes what a killed `up` has left."""

from __future__ import annotations

import io
import json
import os
import pty
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from labs import mounts_of_labs, names_of_labs, needs, needs_root
from raceway.apps.lab import names, processes
from raceway.apps.lab.names import namespace_path
from raceway.faces.cli.application import application
from raceway.faces.cli.errors import report
from raceway.kernel import namespaces

pytestmark = [needs_root, needs("ip", "ping")]

NAME = f"c{os.getpid()}"


class Said(NamedTuple):
    """What a command wrote."""

    stdout: str
    stderr: str


MAIN = "from raceway.faces.cli import main; main()"


def raceway(*words: str, status: int = 0) -> Said:
    """`raceway lab WORDS...` in this process; an AssertionError with what it said if its status is another."""
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(error):
        try:
            application()(["lab", *words], prog_name="raceway")
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except Exception as failure:
            code = report(failure)
    said = Said(*(stream.buffer.getvalue().decode() for stream in (out, error)))
    assert code == status, (words, code, said)
    return said


def raceway_process(*words: str, status: int = 0, **options) -> Said:
    """The same in a process of its own, as `run` needs it, which becomes the command."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "lab", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )
    said = Said(done.stdout, done.stderr)
    assert done.returncode == status, (words, done.returncode, said)
    return said


def outside() -> tuple[list[str], list[str], list[str]]:
    """What a lab must not leave: interfaces as labs call them, out here; names of namespaces; mounts."""
    links = [name for _, name in socket.if_nameindex()]
    return (
        sorted(name for name in links if re.match(r"veth0|left|right|to_", name)),
        sorted(name for name in os.listdir(namespaces.DIRECTORY) if NAME in name),
        [mount for mount in mounts_of_labs() if NAME in mount or "sysfs" in mount],
    )


@pytest.fixture(autouse=True)
def nothing_changes_outside():
    os.makedirs(namespaces.DIRECTORY, exist_ok=True)
    before = outside()
    yield
    for name in [name for name in names_of_labs() if name.startswith(NAME)]:
        raceway("down", name, "--kill")
    assert outside() == before


@pytest.mark.parametrize(
    ("options", "hosts", "picture"),
    [
        ([], "ab", ["a                b", "veth0 ────────── veth0", "10.0.0.1/24      10.0.0.2/24"]),
        (["--hosts", "3"], "amb", ["a                m                 b", "left   right"]),
        (["--shape", "star", "--no-ipv6"], ["a", "b", "c", "hub"], ["veth0 ────────── to_a  hub", "10.0.0.3/24"]),
        (["--shape", "router"], ["a", "b", "router"], ["10.0.1.1/24           10.0.1.254/24", "fd00:0:0:2::2/64"]),
        (["--hosts", "5", "--vlan", "9"], ["a", "m1", "m2", "m3", "b"], ["m1  right ───", "veth0.9"]),
    ],
)  # fmt: skip
def test_up_draws_what_show_finds_and_down_removes_it(options, hosts, picture):
    said = raceway("up", NAME, *options).stdout
    for line in picture:
        assert line in said
    assert f"raceway lab down {NAME}" in said
    lab = json.loads(raceway("show", NAME, "--json").stdout)["labs"][0]
    assert lab["complete"]
    assert [host["name"] for host in lab["hosts"]] == list(hosts)
    shown = raceway("show", NAME).stdout
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    for host in hosts:
        assert f"rw-{NAME}-{host}" in listed
    for address in re.findall(r"\S+/(?:24|64)", said):
        assert address in shown
    assert raceway("down", NAME).stdout == f"{NAME}: removed\n"
    assert NAME not in names_of_labs()


def test_the_command_that_up_proposes_works():
    for options in ([], ["--shape", "router"]):
        said = raceway_process("up", NAME, *options).stdout
        (words,) = re.findall(rf"raceway lab (run {NAME} a ping .*)", said)
        assert "3 received" in raceway_process(*words.split(), "-i", "0.2").stdout
        raceway_process("down", NAME)


def test_where_output_has_only_ascii_the_picture_has_too():
    said = raceway_process("up", NAME, env=os.environ | {"PYTHONIOENCODING": "ascii"}).stdout
    assert "veth0 ---------- veth0" in said


def test_show_gives_an_object_of_this_shape():
    raceway("up", NAME, "--hosts", "3", "--queues", "2", "--mtu", "9000")
    with subprocess.Popen(["ip", "netns", "exec", f"rw-{NAME}-m", "sleep", "100"]) as child:
        deadline = time.monotonic() + 10
        while "sleep" not in raceway("show", NAME).stdout:
            assert time.monotonic() < deadline
        shown = json.loads(raceway("show", "--json").stdout)
        child.kill()
    assert set(shown) == {"tool", "labs"}
    (lab,) = [lab for lab in shown["labs"] if lab["name"] == NAME]
    assert {key: lab[key] for key in ("name", "shape", "complete")} == {
        "name": NAME,
        "shape": "line",
        "complete": True,
    }
    assert lab["hosts"][0] == {
        "name": "a",
        "namespace": f"rw-{NAME}-a",
        "made": True,
        "interfaces": [
            {
                "name": "veth0", "index": 101, "kind": "veth", "state": "up", "mtu": 9000, "transmit_queues": 2,
                "receive_queues": 2, "mac": "02:00:00:00:00:01", "addresses": ["10.0.0.1/24", "fd00::1/64"],
                "peer": ["m", "left"],
            }
        ],
        "processes": [],
    }  # fmt: skip
    middle = lab["hosts"][1]
    assert [seen["peer"] for seen in middle["interfaces"]] == [["a", "veth0"], ["b", "veth0"]]
    assert middle["processes"] == [{"pid": child.pid, "command": "sleep"}]


def test_show_tells_what_was_changed_by_hand():
    raceway("up", NAME)
    raceway_process("run", NAME, "a", "ip", "link", "set", "veth0", "down")
    raceway_process("run", NAME, "b", "ip", "address", "add", "192.0.2.1/32", "dev", "veth0")
    shown = raceway("show", NAME).stdout.splitlines()
    assert "  down  " in shown[1]
    assert "  no carrier  " in shown[2]
    assert "192.0.2.1/32" in shown[2]


def test_a_second_up_of_a_name_is_refused_with_the_remedy():
    raceway("up", NAME)
    error = raceway("up", NAME, "--shape", "star", status=1).stderr
    assert f"lab '{NAME}' is there already, with a, b" in error
    assert f"raceway lab down {NAME}" in error
    assert json.loads(raceway("show", NAME, "--json").stdout)["labs"][0]["complete"]


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["up", NAME, "--shape", "ring"], 2, "shape 'ring': expected line, star, router"),
        (["up", NAME, "--hosts", "1"], 2, "hosts 1: expected 2 to 26 in a line"),
        (["up", NAME, "--mtu", "1000"], 2, "(--no-ipv6)"),
        (["up", NAME, "--offloads", "maybe"], 2, "--offloads maybe: expected on or off"),
        (["up", "hub"], 2, "lab 'hub': hosts are called so"),
        (["up", "x/y"], 2, "lab 'x/y': expected a name of"),
        (["down", NAME], 1, f"there is no lab '{NAME}'"),
        (["show", NAME], 1, f"there is no lab '{NAME}'"),
        (["down", NAME, "--all"], 2, "expected one of them"),
        (["run", NAME, "a", "ls"], 1, f"there is no lab '{NAME}'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, status, error):
    done = raceway(*words, status=status)
    assert error in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert NAME not in names_of_labs()


def test_run_passes_words_and_options_on_and_gives_the_status_back():
    raceway("up", NAME)
    assert raceway_process("run", NAME, "a", "echo", "--help", "-x", "--", "y").stdout == "--help -x -- y\n"
    assert raceway_process("run", NAME, "a", "--", "echo", "--", "-h").stdout == "-- -h\n"
    assert raceway_process("run", NAME, "a", "sh", "-c", "exit 7", status=7).stdout == ""
    raceway_process("run", NAME, "a", "sh", "-c", "kill -9 $$", status=-9)
    assert raceway_process("run", NAME, "a", "cat", input="through\n").stdout == "through\n"
    assert raceway_process("run", NAME, "b", "ls", "/sys/class/net").stdout.split() == ["lo", "veth0"]
    assert (
        "there-is-none: no such command"
        in raceway_process("run", NAME, "a", "there-is-none", status=127).stderr
    )
    assert (
        "/etc/passwd: Permission denied"
        in raceway_process("run", NAME, "a", "/etc/passwd", status=126).stderr
    )
    assert "no host 'm'; it has a, b" in raceway_process("run", NAME, "m", "ls", status=1).stderr
    assert "expected a command to run at 'a'" in raceway_process("run", NAME, "a", status=2).stderr
    assert f"expected a host of lab '{NAME}' (a, b)" in raceway_process("run", NAME, status=2).stderr


def test_a_pipes_writer_ends_as_in_any_shell():
    """Python ignores SIGPIPE; the command must not inherit that."""
    raceway("up", NAME)
    code = f"{sys.executable} -c '{MAIN}' lab run {NAME} a yes | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"{code}; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == f"y\n{128 + signal.SIGPIPE}\n"
    assert done.stderr == ""


def test_ctrl_c_at_a_terminal_reaches_the_command_and_nobody_else_speaks():
    raceway("up", NAME)
    pid, terminal = pty.fork()
    if pid == 0:
        command = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"
        os.execv(sys.executable, [sys.executable, "-c", MAIN, "lab", "run", NAME, "a", "bash", "-c", command])
    try:
        said = b""
        deadline = time.monotonic() + 30
        while b"ready" not in said:
            assert time.monotonic() < deadline, said
            said += _read(terminal)
        os.write(terminal, b"\x03")
        while b"caught" not in said:
            assert time.monotonic() < deadline, said
            said += _read(terminal)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 5
        assert said.replace(b"^C", b"").split() == [b"ready", b"caught"]
    finally:
        os.close(terminal)


def _read(terminal: int) -> bytes:
    if not select.select([terminal], [], [], 1)[0]:
        return b""
    try:
        return os.read(terminal, 1000)
    except OSError:
        return b""  # EIO: nobody has the other side any more.


def test_down_refuses_while_something_runs_inside_and_ends_it_when_told_to():
    raceway("up", NAME)
    with subprocess.Popen(["ip", "netns", "exec", f"rw-{NAME}-b", "sleep", "100"]) as child:
        deadline = time.monotonic() + 10
        while "sleep" not in raceway("show", NAME).stdout:
            assert time.monotonic() < deadline
        error = raceway("down", NAME, status=1).stderr
        assert f"at b: {child.pid} (sleep)" in error
        assert f"raceway lab down {NAME} --kill" in error
        assert NAME in names_of_labs()
        raceway("down", NAME, "--kill")
        assert child.wait() == -signal.SIGTERM
    assert NAME not in names_of_labs()


def test_down_all_removes_every_lab_and_ends_what_dead_programs_left(monkeypatch):
    """Of this test's own labs and programs: others may be at work on this machine."""
    every, orphans = names.every_lab, processes.orphans
    with subprocess.Popen(["sleep", "100"], env={processes.MARK: f"{os.getpid()}-0"}) as orphan:
        monkeypatch.setattr(names, "every_lab", lambda: [lab for lab in every() if lab.name.startswith(NAME)])
        monkeypatch.setattr(
            processes, "orphans", lambda: [process for process in orphans() if process.pid == orphan.pid]
        )
        assert "there are no labs" not in raceway("down", "--all", status=1).stdout
        for one in (NAME, NAME + "second"):
            raceway("up", one)
        done = raceway("down", "--all", status=1)
        assert done.stdout == f"{NAME}: removed\n{NAME}second: removed\n"
        assert f"left running: {orphan.pid} (sleep)" in done.stderr
        assert "raceway lab down --all --kill" in done.stderr
        assert f"{orphan.pid} (sleep)" in raceway("down", "--all", "--kill").stdout
        assert orphan.wait() == -signal.SIGTERM
        assert raceway("down", "--all").stdout == "there are no labs\n"


def test_up_inside_a_lab_is_refused():
    raceway("up", NAME)
    command = ["run", NAME, "a", sys.executable, "-c", MAIN, "lab", "up", NAME + "x"]
    error = raceway_process(*command, status=1).stderr
    assert f"this is host 'a' of lab '{NAME}'" in error


@pytest.mark.parametrize("stage", ["only a file", "only a namespace"])
def test_what_is_half_made_is_said_to_be_and_is_removed(stage):
    path = namespace_path(NAME, "a")
    if stage == "only a file":
        Path(path).touch()
    else:
        subprocess.run(["ip", "netns", "add", f"rw-{NAME}-a"], check=True)
    shown = raceway("show", NAME).stdout
    assert f"{NAME}: half-made; remove it: raceway lab down {NAME}" in shown
    assert ("never came to be" in shown) == (stage == "only a file")
    if stage == "only a file":
        assert "half-made" in raceway_process("run", NAME, "a", "ls", status=1).stderr
    raceway("down", NAME)
    assert not os.path.exists(path)


ZYGOTE = """
import os, signal, sys, time
import pyroute2.iproute
from raceway.apps.lab.commands import up

def child(name, step):
    # Python tells of each file, socket and name that it is about to touch (PEP 578): of what a lab is made of.
    count = 0
    def count_and_end(event, arguments):
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
    tell = os.dup(1)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    sys.addaudithook(count_and_end)
    up(name, "router", 3, queues=1, mtu=1500, ipv6=True, offloads=None, vlan=5)
    os.write(tell, b"%d\\n" % count)
    os._exit(0)

print("warm", flush=True)
for line in sys.stdin:
    name, step, delay = line.split()
    pid = os.fork()
    if pid == 0:
        child(name, int(step))
    if float(delay):
        time.sleep(float(delay))
        os.kill(pid, signal.SIGKILL)
    if os.waitpid(pid, 0)[1]:
        print("killed", flush=True)
"""


def test_down_removes_what_an_up_that_was_killed_at_any_moment_has_left():
    """SIGKILL at a step of `up` that is later in each round, and then at ten moments chosen by chance."""
    name, stages, chance = NAME + "k", set(), random.Random(1)
    zygote = subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def up(step: int, delay: float) -> str:
        zygote.stdin.write(f"{name} {step} {delay}\n")
        zygote.stdin.flush()
        return zygote.stdout.readline().strip()

    with zygote:
        try:
            assert zygote.stdout.readline() == "warm\n"
            before = outside()
            began = time.monotonic()
            steps = int(up(0, 0))
            took = time.monotonic() - began
            raceway("down", name)
            # Close together where the namespaces are made, which is soon over.
            moments = [(step, 0.0) for step in [*range(1, 50, 2), *range(50, steps, steps // 20)]]
            moments += [(0, chance.uniform(0.001, took)) for _ in range(10)]
            for step, delay in moments:
                said = up(step, delay)
                assert said == "killed" or not step
                found = [path for path in os.listdir(namespaces.DIRECTORY) if path.startswith(f"rw-{name}-")]
                stages.add(len(found))
                if found:
                    shown = raceway("show", name).stdout
                    assert f"{name}: router, complete" in shown or f"{name}: half-made; remove it" in shown
                    raceway("down", name)
                assert outside() == before
        finally:
            zygote.stdin.close()
    # It was killed before, between and after the four hosts; else this has shown nothing.
    assert stages == {0, 1, 2, 3, 4}


def test_help_does_not_wait_for_what_only_labs_need():
    code = "import sys; from raceway.faces.cli.application import application; application(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "raceway.faces.cli.lab" in loaded
    assert not [
        name for name in loaded if name.startswith(("pyroute2", "numba", "numpy", "raceway.apps.lab"))
    ]
