"""Capabilities: what this process may do, and what is said to one who may not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from bpf_harness import child, namespace, needs_ip
from raceway.errors import PermissionNeededError, RacewayError
from raceway.kernel.capabilities import effective, missing, refused

needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv (util-linux)"
)
PYTHON = os.path.realpath(sys.executable)
MAKE_A_MAP = """
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.system import MapKind
try:
    Map(MapKind.XSKMAP, value_size=4, entries=1, name="wanted")
except PermissionError as error:
    print(error)
"""


def without(*kept: str) -> list[str]:
    """A command that takes all capabilities but these from root."""
    bounding = ",".join(["-all", *(f"+{name}" for name in kept)])
    return ["setpriv", "--bounding-set", bounding, "--inh-caps", "-all"]


def said_by(script: str, *wrapper: str) -> str:
    done = subprocess.run(child(script, *wrapper), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_root_has_and_what_an_ordinary_process_has_are_both_seen() -> None:
    if os.geteuid() == 0:
        assert "CAP_CHOWN" in effective()
    script = "from raceway.kernel.capabilities import effective; print(sorted(effective()))"
    if shutil.which("setpriv") and os.geteuid() == 0:
        assert said_by(script, *without()) == "[]"
        assert said_by(script, *without("bpf", "net_raw")) == "['CAP_BPF', 'CAP_NET_RAW']"


def test_a_word_that_is_no_capability_is_refused() -> None:
    with pytest.raises(ValueError, match="'cap_bpf' is no capability"):
        missing(["cap_bpf"])


@needs_setpriv
def test_the_error_names_what_is_missing_and_the_command_that_grants_all_that_is_needed() -> None:
    assert said_by(MAKE_A_MAP, *without()) == (
        "making the BPF map 'wanted' was refused: this process lacks CAP_NET_ADMIN and CAP_BPF. "
        f"To give this interpreter what it needs: sudo setcap cap_net_admin,cap_bpf+ep {PYTHON}"
    )
    partly = said_by(MAKE_A_MAP, *without("net_admin"))
    assert "lacks CAP_BPF. " in partly
    assert f"sudo setcap cap_net_admin,cap_bpf+ep {PYTHON}" in partly


@needs_setpriv
def test_the_older_capability_stands_for_those_cut_out_of_it() -> None:
    script = "from raceway.kernel.capabilities import missing; print(missing(['CAP_BPF', 'CAP_NET_ADMIN']))"
    assert said_by(script, *without("sys_admin")) == "['CAP_NET_ADMIN']"
    assert said_by(MAKE_A_MAP, *without("sys_admin", "net_admin")) == ""


@needs_setpriv
def test_the_command_that_is_given_is_enough() -> None:
    assert said_by(MAKE_A_MAP, *without("net_admin", "bpf")) == ""


ATTACH = """
import socket
from raceway.kernel.bpf.assembler import R0, Assembler
from raceway.kernel.bpf.links import attach_tcx, attach_xdp
from raceway.kernel.bpf.programs import Program
from raceway.kernel.bpf.system import ProgramKind
code = Assembler().mov(R0, 2).exit().assemble()
index = socket.if_nametoindex("near")
try:
    program = Program(ProgramKind.XDP, code, name="mine")
    first = attach_xdp(program, index, "driver")
    attach_tcx(Program(ProgramKind.SCHED_CLS, code), index, "egress")
    print("attached")
    attach_xdp(program, index, "driver")
except OSError as error:
    print(error)
"""


@needs_setpriv
@needs_ip
@pytest.mark.root
def test_programs_are_loaded_and_attached_with_just_two_capabilities() -> None:
    with namespace() as net:
        inside = ["ip", "netns", "exec", net.name]
        first, second = said_by(ATTACH, *inside, *without("net_admin", "bpf")).splitlines()
        assert first == "attached"
        # Whose name it may not ask for; the id has to do.
        assert "near: there is an XDP program already: program " in second
        assert "(" not in second
        for kept in ("net_admin", "bpf"):
            lacking = "CAP_BPF" if kept == "net_admin" else "CAP_NET_ADMIN"
            said = said_by(ATTACH, *inside, *without(kept))
            assert f"loading the BPF program 'mine' was refused: this process lacks {lacking}. " in said


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare (util-linux)")
def test_root_of_a_user_namespace_hears_that_it_is_the_namespace() -> None:
    wrapper = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not for us here")
    said = said_by(MAKE_A_MAP, *wrapper)
    assert (
        "was refused, although this process has CAP_NET_ADMIN and CAP_BPF: perhaps because it runs in a user"
        in said
    )
    assert "setcap" not in said


def test_the_error_is_a_permission_error_with_the_lists() -> None:
    error = refused("a try", ["CAP_CHOWN", "CAP_BPF", "CAP_CHOWN"])
    assert isinstance(error, PermissionNeededError)
    assert isinstance(error, PermissionError)
    assert isinstance(error, RacewayError)
    assert error.needed == ["CAP_CHOWN", "CAP_BPF"]
    assert error.missing == missing(["CAP_CHOWN", "CAP_BPF"])
    assert str(error).startswith("a try was refused")
