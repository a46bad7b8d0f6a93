"""What many tests share: names of pipes that no other test uses, captures at hand, and what must not be left behind.

`script/test` runs all of it compiled and then once more interpreted, each time by two pytest processes beside each
other, on a machine of two processors. So a test must not mind what other tests do meanwhile: its network is a lab of
its own, its files are in `tmp_path`, it waits for what shall happen and not for a time. One that cannot be so is marked
`alone` and runs when the others are done: it looks at all labs, mounts, programs of the machine, or holds what it
measures against a limit that a busy machine would break, or means to have both processors.

A loop that looks for what is rare is as long here as the run as a whole can bear; `scaled` says so, and how much longer
it is in `script/soak`.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from raceway.memory.jit import INTERPRETED

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared"
_numbers = itertools.count()

# A shell's background job is started with SIGINT ignored, one of nohup's with SIGHUP, and so are all their children;
# tests send both to theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share",
        metavar="DIRECTORY",
        type=Path,
        help="share the files out among the pytest processes that are given the same (new) directory",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("share"):
        config.pluginmanager.register(_Share(config.getoption("share")))


class _Share:
    """Of several processes that have collected the same tests, each runs the next file that nobody has taken yet.

    A whole file at once, because its tests may share what is costly to set up. Who takes a file says so by a file of
    its name in a directory that all see; the kernel lets only one of them make it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed or session.config.option.collectonly:
            return None  # Pytest says what is wrong with the collection, or lists it.
        ours: dict[Path, list[pytest.Item]] = {}
        for item in session.items:
            ours.setdefault(item.path, []).append(item)
        for path, items in ours.items():
            if not self._take(path):
                continue
            # None: what the last one has set up is torn down, for nobody knows what will be next.
            for item, following in zip(items, [*items[1:], None], strict=True):
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
        return True

    def _take(self, path: Path) -> bool:
        try:
            (self._directory / str(path.relative_to(HERE)).replace("/", "+")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@pytest.fixture
def pipe_name() -> str:
    """The name of a pipe without its end: `netmap:NAME`; add "{1" or "}1"."""
    return f"netmap:t{os.getpid()}n{next(_numbers)}"


def own_captures() -> list[Path]:
    """The captures that the project ships for its tests, and the demo's."""
    found = sorted(path for path in (HERE / "data" / "captures").iterdir() if ".pcap" in path.name)
    return [*found, HERE.parent / "src" / "raceway" / "data" / "demo.pcapng.gz"]


def shared_captures() -> list[Path]:
    """Captures beside the project, if they are there."""
    folder = SHARED / "data" / "captures"
    return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No descriptor may stay open, and no name of a pipe may stay taken, after a test."""
    before = _descriptors()
    yield
    kinds = [kind for kind in (_kind(number) for number in _descriptors() - before) if kind]
    if kinds:
        # Perhaps only not collected yet; and collecting after every test would take longer than the tests.
        gc.collect()
        kinds = [kind for kind in (_kind(number) for number in _descriptors() - before) if kind]
    assert not kinds, f"left open: {kinds}"
    assert not [name for name in _pipe_names() if f"/t{os.getpid()}n" in name]


def _descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def _kind(number: int) -> str:
    """What an open descriptor is, "" for what is not raceway's kind of thing or is gone by now."""
    try:
        target = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""
    return (
        target
        if any(word in target for word in ("raceway", "eventfd", "eventpoll", "socket", ".pcap"))
        else ""
    )


def _pipe_names() -> list[str]:
    return [
        line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@raceway/" in line
    ]


def scaled(count: int, interpreted: int, soak: int = 0) -> int:
    """So many rounds, or `interpreted` of them where the data plane is a thousand times slower.

    soak: so many instead where script/soak runs the test, which has the time to look for what is rare.
    """
    if soak and "RACEWAY_SOAK_ROUNDS" in os.environ and not INTERPRETED:
        return soak
    return interpreted if INTERPRETED else count
