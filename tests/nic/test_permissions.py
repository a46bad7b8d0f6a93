"""What an interface takes: three capabilities, and no root. Without one, the error names it and what grants it."""

from __future__ import annotations

import os
import sys

import pytest

from labs import lab as lab, needs, needs_root

pytestmark = [needs_root, needs("setpriv", "prlimit")]
NEEDED = ("net_admin", "net_raw", "bpf")
PROGRAM = """
import raceway
with raceway.open("netmap:veth0{suffix}") as port:
    port.send([bytes(60)])
    port.flush()
    print(port.mode, port.receive(0.01))
"""


def opens(place, capabilities: tuple[str, ...], suffix: str = "", *limit: str) -> tuple[int, str, str]:
    """Open the interface with these capabilities and no others: status, output, errors."""
    only = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = place.run(
        "b", [*limit, "setpriv", f"--bounding-set={only}", f"--inh-caps={only}", sys.executable, "-c",
              PROGRAM.format(suffix=suffix)],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_three_capabilities_are_enough_for_every_mode(lab):
    place = lab()
    for suffix, mode in (("", "copy"), ("@xdp:mode=generic", "generic"), ("@xdp:tx=socket", "copy")):
        status, output, errors = opens(place, (*NEEDED, "ipc_lock"), suffix)
        assert (status, output.split()[:1]) == (0, [mode]), errors
    status, output, errors = opens(place, ("net_raw",), "@xdp:mode=packet")
    assert (status, output.split()[:1]) == (0, ["packet"]), errors


@pytest.mark.parametrize("absent", NEEDED)
def test_a_missing_one_is_named_with_the_command_that_grants_it(lab, absent):
    place = lab()
    present = tuple(name for name in (*NEEDED, "ipc_lock") if name != absent)
    status, _, errors = opens(place, present)
    assert status == 1
    last = errors.strip().splitlines()[-1]
    assert "PermissionNeededError" in last
    assert f"CAP_{absent.upper()}" in errors
    assert "sudo setcap cap_" in errors
    assert os.path.realpath(sys.executable) in errors


def test_a_limit_of_locked_memory_says_what_to_raise(lab):
    place = lab()
    status, _, errors = opens(place, NEEDED, "", "prlimit", "--memlock=1048576:1048576")
    assert status == 1
    assert "ulimit -l" in errors
    assert "CAP_IPC_LOCK" in errors
    assert opens(place, (*NEEDED, "ipc_lock"), "", "prlimit", "--memlock=1048576:1048576")[0] == 0
