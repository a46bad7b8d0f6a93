"""What the doctor says of the kernel and the machine, and how it says anything."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import raceway.apps.doctor.doctor as whole
from raceway.apps.doctor.attempts import attempt
from raceway.apps.doctor.doctor import examine
from raceway.apps.doctor.findings import Diagnosis, Finding, State
from raceway.apps.doctor.kernel import kernel_findings
from raceway.apps.doctor.machine import machine_findings
from raceway.apps.doctor.show import plain_lines, show, summary
from raceway.errors import NoSuchInterfaceError, PermissionNeededError, RacewayError
from raceway.faces.cli import doctor as face
from raceway.kernel.bpf.programs import program_info
from raceway.kernel.bpf.system import Command, next_id
from raceway.kernel.capabilities import missing

RACEWAY = [sys.executable, "-c", "from raceway.faces.cli import main; main()"]
needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root, to have privilege to drop, and setpriv",
)
NETWORK = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF")
needs_privilege = pytest.mark.skipif(bool(missing(NETWORK)), reason=f"needs {', '.join(NETWORK)}")


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_every_finding_that_is_not_well_has_one_line_that_says_what_to_do() -> None:
    findings = [*kernel_findings(), *machine_findings()]
    assert findings
    for finding in findings:
        assert finding.subject
        assert "\n" not in finding.what + finding.remedy
        assert finding.state == State.OK or finding.remedy, finding


def test_what_every_supported_kernel_has_is_found() -> None:
    found = by_subject(list(kernel_findings()))
    assert found["shared memory (memfd, sealed)"].state == State.OK
    assert found["membarrier"].state in (State.OK, State.NOTE)
    assert os.uname().release in next(iter(found))


@needs_privilege
def test_with_privilege_nothing_of_the_kernel_stays_unknown() -> None:
    findings = list(kernel_findings())
    assert [finding for finding in findings if finding.needs] == []
    states = {finding.subject: finding.state for finding in findings}
    # Where the tests of ports run, these are there.
    for subject in (
        "XDP programs",
        "AF_XDP sockets",
        "XDP by bpf_link",
        "AF_XDP bound to a queue",
        "TAP devices",
    ):
        assert states[subject] == State.OK, findings


@pytest.mark.alone
@needs_privilege
def test_nothing_is_left_of_what_was_tried() -> None:
    before = set(os.listdir("/sys/class/net"))
    for _ in kernel_findings():
        pass
    assert set(os.listdir("/sys/class/net")) == before
    names, number = [], next_id(Command.PROG_GET_NEXT_ID, 0)
    while number is not None:
        try:
            names.append(program_info(number).name)
        except FileNotFoundError:
            pass
        number = next_id(Command.PROG_GET_NEXT_ID, number)
    assert "doctor" not in names


def limited_memory(limit: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))


@needs_setpriv
def test_an_ordinary_user_gets_answers_and_is_told_what_the_others_take() -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *RACEWAY, "doctor", "lo", "--json"],
        capture_output=True, text=True, check=True, preexec_fn=limited_memory(65536),
    )  # fmt: skip
    findings = json.loads(done.stdout.splitlines()[-1])["findings"]
    states = {finding["subject"]: finding for finding in findings}
    assert states["XDP programs"]["state"] == "unknown"
    assert states["XDP programs"]["needs"] == ["CAP_BPF", "CAP_NET_ADMIN"]
    assert "unknown without CAP_BPF and CAP_NET_ADMIN; do: sudo raceway doctor" in done.stdout
    assert states["AF_XDP sockets"]["needs"] == ["CAP_NET_RAW"]
    assert states["shared memory (memfd, sealed)"]["state"] == "ok"
    assert states["link"]["state"] == "ok"
    assert "sudo setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep" in states["capabilities"]["remedy"]
    assert states["locked memory"]["state"] == "warn"
    assert "65,536 bytes" in states["locked memory"]["what"]
    assert not [finding for finding in findings if finding["state"] == "bad"]


@needs_setpriv
def test_with_just_the_capabilities_that_it_names_the_unknown_is_answered() -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-all,+bpf,+net_admin", "--inh-caps", "-all", *RACEWAY, "doctor", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    states = {each["subject"]: each["state"] for each in json.loads(done.stdout.splitlines()[-1])["findings"]}
    assert states["XDP programs"] == "ok"
    assert states["socket maps (XSKMAP)"] == "ok"
    assert states["AF_XDP sockets"] == "unknown"


# -- how an attempt is judged ----------------------------------------------------------------------------------


def failing(error: Exception) -> Callable[[], str]:
    def work() -> str:
        raise error

    return work


def test_an_attempt_that_works_is_well() -> None:
    assert attempt("area", "thing", lambda: "it does") == Finding("area", State.OK, "thing", "it does")


@pytest.mark.parametrize(
    ("error", "state", "what"),
    [
        (OSError(errno.EPERM, "no"), State.UNKNOWN, "refused: no"),
        (OSError(errno.EACCES, "no"), State.UNKNOWN, "refused: no"),
        (OSError(errno.EOPNOTSUPP, "has none"), State.WARN, "has none"),
        (RacewayError("two\nlines"), State.WARN, "two"),
        (
            PermissionNeededError("x", needed=["CAP_BPF"], missing=["CAP_BPF"]),
            State.UNKNOWN,
            "unknown without CAP_BPF",
        ),
        (PermissionNeededError("seccomp", needed=["CAP_BPF"], missing=[]), State.WARN, "seccomp"),
    ],
)
def test_a_refusal_is_no_answer_and_any_other_failure_is_one(
    error: Exception, state: State, what: str
) -> None:
    found = attempt("area", "thing", failing(error), state=State.WARN, remedy="get another")
    assert (found.state, found.what) == (state, what)
    assert found.remedy


def test_without_the_capability_it_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raceway.apps.doctor.attempts.missing", list)
    found = attempt(
        "area", "thing", failing(AssertionError("it was")), needs=["CAP_BPF", "CAP_NET_RAW", "CAP_CHOWN"]
    )
    assert found.what == "unknown without CAP_BPF, CAP_NET_RAW and CAP_CHOWN"


# -- what is said ----------------------------------------------------------------------------------------------

MIXED = Diagnosis(
    "eth0",
    [
        Finding("kernel", State.OK, "one", "works"),
        Finding("kernel", State.OK, "two"),
        Finding("kernel", State.UNKNOWN, "three", "unknown without CAP_A", "sudo it", ("CAP_A",)),
        Finding("kernel", State.UNKNOWN, "four", "unknown without CAP_B", "sudo it", ("CAP_B",)),
        Finding("interface", State.WARN, "offload", "a long sentence about it " * 6, "switch it off"),
        Finding("interface", State.OK, "driver", "veth"),
    ],
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, **options: bool) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    show(diagnosis, file=screen, **options)
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())


def test_on_a_terminal_what_is_well_in_the_kernel_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = on_terminal(MIXED, monkeypatch)
    assert "  ok      one, two\n" in text
    assert "  unknown three, four: unknown without CAP_A and CAP_B\n          -> sudo it\n" in text
    assert "interface eth0\n" in text
    assert "          -> switch it off\n" in text
    assert "  ok      driver: veth\n" in text
    assert text.endswith("3 ok, 1 to be looked at, 2 unknown\n")
    assert max(map(len, text.splitlines())) <= 80


def test_verbosely_each_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = on_terminal(MIXED, monkeypatch, every=True)
    assert "  ok      one: works\n  ok      two\n" in text


def test_piped_each_finding_is_one_line_with_its_remedy() -> None:
    lines = list(plain_lines(MIXED))
    assert len(lines) == len(MIXED.findings) + 1
    assert lines[0] == "ok      kernel: one: works"
    assert lines[2] == "unknown kernel: three: unknown without CAP_A; do: sudo it"
    assert lines[-1] == summary(MIXED)


def test_the_json_object_has_everything_and_comes_last() -> None:
    out = io.StringIO()
    show(MIXED, json=True, file=out)
    last = json.loads(out.getvalue().splitlines()[-1])
    assert last["interface"] == "eth0"
    assert len(last["findings"]) == len(MIXED.findings)
    assert (last["ok"], last["unknown"], last["warn"], last["bad"]) == (3, 2, 1, 0)


def test_the_exit_status_is_one_if_something_is_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Finding("kernel", State.BAD, "memory", "there is none", "buy some")
    monkeypatch.setattr(whole, "kernel_findings", lambda: iter([bad]))
    with pytest.raises(typer.Exit) as ended:
        face.command(None, False, False, False)
    assert ended.value.exit_code == 1
    assert "bad     kernel: memory: there is none; do: buy some" in capsys.readouterr().out


def test_an_interface_that_is_not_there_is_an_error_with_a_hint() -> None:
    with pytest.raises(NoSuchInterfaceError, match="no network interface 'nosuch0'"):
        examine("nosuch0")
    done = subprocess.run([*RACEWAY, "doctor", "nosuch0"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "raceway: no network interface 'nosuch0'" in done.stderr
    assert not done.stdout


def test_trying_needs_to_be_told_what() -> None:
    done = subprocess.run([*RACEWAY, "doctor", "--try"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--try needs an interface" in done.stderr


def test_a_governor_that_saves_power_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raceway.apps.doctor import machine

    monkeypatch.setattr(machine, "_CPUS", tmp_path)
    assert machine._governor().state == State.OK
    for number, governor in enumerate(["powersave", "performance"]):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
    found = machine._governor()
    assert found.state == State.NOTE
    assert "powersave" in found.what
    (tmp_path / "cpu0" / "cpufreq" / "scaling_governor").write_text("performance\n")
    assert machine._governor().what == "governor performance"


def test_loops_that_are_interpreted_or_kept_nowhere_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raceway.apps.doctor import machine
    from raceway.memory import jit

    monkeypatch.setattr(jit, "INTERPRETED", True)
    assert machine._cache().remedy == "unset NUMBA_DISABLE_JIT"
    monkeypatch.setattr(jit, "INTERPRETED", False)
    monkeypatch.setattr(jit, "cache_directory", jit.cache_directory.__wrapped__)
    taken = tmp_path / "file"
    taken.write_text("")
    monkeypatch.setenv("RACEWAY_CACHE_DIR", str(taken))
    assert machine._cache().state == State.WARN
    monkeypatch.setenv("RACEWAY_CACHE_DIR", str(tmp_path))
    assert machine._cache().state == State.OK
