"""However the demo ends, no process and no file of it stays behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from demo_running import PATIENCE, is_alive, is_sending, sender_of, start, until


@pytest.mark.parametrize("moment", ["at once", "while it sends"])
def test_a_sender_that_is_killed_is_reported(tmp_path: Path, moment: str) -> None:
    demo = start(tmp_path)
    sender = sender_of(demo)
    if moment == "while it sends":
        until("the sending", lambda: is_sending(sender))
    os.kill(sender, signal.SIGKILL)
    _, complaints = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 1
    assert complaints.decode().count("\n") == 1, complaints.decode()
    assert f"the sending process {sender} ended" in complaints.decode()
    assert "SIGKILL" in complaints.decode()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["at once", "while it sends"])
def test_a_demo_that_is_killed_takes_its_sender_with_it(tmp_path: Path, moment: str) -> None:
    demo = start(tmp_path)
    sender = sender_of(demo)
    if moment == "while it sends":
        until("the sending", lambda: is_sending(sender))
    demo.kill()
    demo.communicate(timeout=PATIENCE)
    until("the sender's end", lambda: not is_alive(sender))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["at once", "while it sends"])
def test_an_interrupt_ends_it_cleanly(tmp_path: Path, moment: str) -> None:
    demo = start(tmp_path)
    sender = sender_of(demo)
    if moment == "while it sends":
        until("the sending", lambda: is_sending(sender))
    demo.send_signal(signal.SIGINT)
    _, complaints = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130
    assert b"Traceback" not in complaints
    # Interrupted in the moment of its birth it ends by itself.
    until("the sender's end", lambda: not is_alive(sender))
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "mine.pcapng"
    mine.write_bytes(b"my own work")
    demo = start(tmp_path, "--keep", str(mine))
    said, complaints = demo.communicate(timeout=PATIENCE)
    assert demo.returncode != 0
    assert str(mine) in complaints.decode()
    assert said == b""
    assert mine.read_bytes() == b"my own work"
