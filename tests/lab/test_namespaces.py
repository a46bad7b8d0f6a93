"""Visits to network namespaces: this thread alone, and always back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from labs import mounts_of_labs, needs_root
from raceway.errors import PermissionNeededError
from raceway.kernel import namespaces

pytestmark = needs_root


@pytest.fixture
def space():
    descriptor = namespaces.anonymous()
    yield descriptor
    os.close(descriptor)


def interfaces():
    """Of the calling thread's namespace."""
    return [name for _, name in socket.if_nameindex()]


def test_an_anonymous_namespace_is_new_and_has_only_lo(space):
    home = namespaces.identity()
    assert namespaces.identity(space) != home
    with namespaces.inside(space):
        assert namespaces.identity() == namespaces.identity(space)
        assert interfaces() == ["lo"]
    assert namespaces.identity() == home


def test_an_error_inside_comes_out_after_the_way_back(space):
    home = namespaces.identity()
    with pytest.raises(ZeroDivisionError), namespaces.inside(space):
        _ = 1 / 0
    assert namespaces.identity() == home


def test_visits_nest(space):
    other = namespaces.anonymous()
    try:
        with namespaces.inside(space):
            with namespaces.inside(other):
                assert namespaces.identity() == namespaces.identity(other)
            assert namespaces.identity() == namespaces.identity(space)
    finally:
        os.close(other)


def test_other_threads_stay_where_they_are(space):
    home = namespaces.identity()
    gate, seen = threading.Event(), []

    def look():
        gate.wait(30)
        seen.append(namespaces.identity())

    before = threading.Thread(target=look)
    before.start()
    with namespaces.inside(space):
        # But one that is started inside begins inside.
        during = threading.Thread(target=look)
        during.start()
        gate.set()
        before.join()
    during.join()
    assert sorted(seen) == sorted([home, namespaces.identity(space)])


def test_a_child_begins_where_it_was_started_and_a_socket_stays_where_it_was_made(space):
    with namespaces.inside(space):
        child = subprocess.run(["readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True)
        made_inside = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    assert child.stdout.strip() == f"net:[{namespaces.identity(space)[1]}]"
    with made_inside, pytest.raises(OSError, match="unreachable"):
        # lo is not up there.
        made_inside.connect(("127.0.0.1", 9))


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ("/proc/self/ns/mnt", OSError, "/proc/self/ns/mnt: expected a network namespace"),
        ("/var/run/netns/there-is-none", FileNotFoundError, "there-is-none"),
        (-1, OSError, "Bad file descriptor"),
    ],
)
def test_what_is_no_network_namespace_is_refused_and_nobody_has_moved(where, error, words):
    home = namespaces.identity()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=words), namespaces.inside(where):
        pytest.fail("inside what?")
    assert namespaces.identity() == home
    assert set(os.listdir("/proc/self/fd")) == before


def test_leaving_in_another_thread_is_an_error_and_moves_nobody(space):
    visit = namespaces.inside(space)
    moved = []

    def enter():
        visit.__enter__()
        moved.append(namespaces.identity())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    home = namespaces.identity()
    with pytest.raises(RuntimeError, match="left in another"):
        visit.__exit__(None, None, None)
    assert moved == [namespaces.identity(space)]
    assert namespaces.identity() == home


def test_work_in_a_thread_returns_and_raises_and_the_caller_does_not_move(space):
    def go():
        namespaces.enter(space)
        return namespaces.identity()

    home = namespaces.identity()
    assert namespaces.in_thread(go) == namespaces.identity(space)
    assert namespaces.identity() == home
    with pytest.raises(ZeroDivisionError):
        namespaces.in_thread(lambda: 1 // 0)


def test_a_name_comes_and_goes_and_may_be_taken_away_at_any_stage():
    path = f"{namespaces.DIRECTORY}/rwtest-{os.getpid()}"

    def make():
        namespaces.leave_for_new()
        namespaces.give_name(path)
        return namespaces.identity()

    made = namespaces.in_thread(make)
    try:
        assert namespaces.is_namespace(path)
        assert namespaces.identity(path) == made
        with pytest.raises(FileExistsError):
            namespaces.in_thread(make)
        assert namespaces.identity(path) == made
    finally:
        namespaces.take_name(path)
    assert not namespaces.is_namespace(path)
    assert not os.path.exists(path)
    # As a process that was killed between the two steps leaves it, and when nothing is there at all.
    Path(path).touch()
    assert not namespaces.is_namespace(path)
    namespaces.take_name(path)
    assert not os.path.exists(path)
    namespaces.take_name(path)


@pytest.mark.alone
def test_own_sysfs_shows_the_namespace_and_the_machine_keeps_its_own(space):
    def look():
        namespaces.enter(space)
        namespaces.own_sysfs()
        return os.listdir("/sys/class/net"), os.path.ismount("/sys/fs/cgroup")

    mounts = mounts_of_labs()
    groups = os.path.ismount("/sys/fs/cgroup")
    machine = os.stat("/sys/class/net").st_dev
    assert namespaces.in_thread(look) == (["lo"], groups)
    assert os.stat("/sys/class/net").st_dev == machine
    assert mounts_of_labs() == mounts


def in_user_namespace(program: str, *options: str) -> str:
    """What a program prints as the root of a user namespace of its own."""
    done = subprocess.run(
        ["unshare", "-Ur", *options, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare:" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_who_could_not_come_back_does_not_go():
    program = """
from raceway.kernel import namespaces
home = namespaces.identity()
space = namespaces.anonymous()
try:
    with namespaces.inside(space):
        print("went")
except PermissionError as error:
    print(namespaces.identity() == home, error.strerror)
"""
    said = in_user_namespace(program)
    assert said.startswith("True this process could go")
    assert said.endswith("unshare -Urn COMMAND")
    assert in_user_namespace(program, "-n") == "went"


def test_without_the_capability_its_name_is_said():
    program = """
from raceway.kernel import namespaces
for call in (namespaces.anonymous, lambda: namespaces.inside("/proc/self/ns/net").__enter__()):
    try:
        call()
    except PermissionError as error:
        print(type(error).__name__, "CAP_SYS_ADMIN" in str(error))
"""
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [f"{PermissionNeededError.__name__} True"] * 2, done.stderr
