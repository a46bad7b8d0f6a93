"""Talking to a firewall from another process: its counters, a reload, and the confirmation of one.

Who runs a firewall listens at an abstract Unix socket whose name has the interface's number; such names belong to the
network namespace, and go with the process. One question a connection, one answer, each a line of JSON. Only root and
the user who runs the firewall are answered (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from raceway.apps.firewall.controller import Firewall
from raceway.apps.firewall.rules.language import read_rules
from raceway.apps.firewall.rules.rule_set import RuleSet
from raceway.apps.functions.attaching import interface_index
from raceway.errors import RacewayError

_PATIENCE = 60.0
_WATCHED = 5.0
"""Seconds for which samples of the traffic are taken after somebody has asked for them."""
_LONGEST = 1 << 26


class NoFirewallError(RacewayError):
    """Nobody runs a firewall on this interface, in this network namespace."""


def _address(index: int) -> str:
    return f"\0raceway/firewall/{index}"


class Control:
    """Answers questions about a firewall, and goes back to the rules before where a reload is not confirmed in time.

    Raises RacewayError where somebody else runs a firewall on the interface.
    """

    def __init__(self, firewall: Firewall) -> None:
        self.firewall = firewall
        self._before: RuleSet | None = None
        self._deadline = 0.0
        self._watched_until: float | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(_address(socket.if_nametoindex(firewall.interface)))
            self._listener.listen(8)
        except OSError as error:
            self._listener.close()
            raise RacewayError(
                f"{firewall.interface}: cannot listen for questions: {error.strerror}"
            ) from None

    def step(self, seconds: float) -> str:
        """Wait for a question for at most so long, and answer it; return what happened, if anything did."""
        if self._before is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                before, self._before = self._before, None
                self.firewall.reload(before)
                return "the reload was not confirmed: the rules before are in force again"
            seconds = min(seconds, left)
        if self._watched_until is not None:
            left = self._watched_until - time.monotonic()
            if left <= 0:
                self._watched_until = None
                self.firewall.ignore_talkers()
            seconds = min(seconds, max(left, 0.0))
        ready, _, _ = select.select([self._listener], [], [], seconds)
        if not ready:
            return ""
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(1.0)
            try:
                return self._answer(connection)
            except (OSError, ValueError):
                # Somebody who asks nothing, or goes before the answer.
                return ""

    def _answer(self, connection: socket.socket) -> str:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        user = struct.unpack("3i", credentials)[1]
        if user not in (0, os.geteuid()):
            _say(connection, {"error": f"user {user} may not ask", "wrong_words": False})
            return ""
        question = json.loads(_line(connection))
        happened = ""
        try:
            reply, happened = self._do(question)
        except (RacewayError, OSError, ValueError) as error:
            reply = {"error": str(error), "wrong_words": isinstance(error, ValueError)}
        _say(connection, reply)
        return happened

    def _do(self, question: dict[str, Any]) -> tuple[dict[str, Any], str]:
        what = question.get("do")
        if what == "status":
            return self.firewall.status().as_dict, ""
        if what == "watch":
            return self._watch(int(question.get("most", 50))), ""
        if what == "reload":
            rules = read_rules(Path(str(question["path"])))
            before = self.firewall.program.rule_set
            began = time.monotonic()
            self.firewall.reload(rules)
            took = time.monotonic() - began
            confirm = float(question.get("confirm", 0))
            self._before, self._deadline = (
                (before, time.monotonic() + confirm) if confirm > 0 else (None, 0.0)
            )
            count = len(rules.rules)
            return {"rules": count, "seconds": took}, f"reloaded: {count:,} rules are in force"
        if what == "confirm":
            if self._before is None:
                raise RacewayError("there is no reload to confirm")
            self._before = None
            return {}, "the reload is confirmed"
        raise ValueError(f"{what!r} is no question")

    def _watch(self, most: int) -> dict[str, Any]:
        """The status, of rules only those that have counted anything, and who sends the most."""
        talk = self.firewall.talkers(most)
        self._watched_until = time.monotonic() + _WATCHED
        status = self.firewall.status()
        busy = tuple(rule for rule in status.rules if rule.packets or rule.limited)
        return {
            "status": replace(status, rules=busy).as_dict,
            "rules": len(status.rules),
            "talk": asdict(talk),
        }

    def close(self) -> None:
        """Listen no longer."""
        self._listener.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(interface: str, **question: Any) -> dict[str, Any]:
    """Ask whoever runs a firewall on an interface of this network namespace.

    Raises NoFirewallError, NoSuchInterfaceError, OSError; RacewayError or ValueError with what the firewall said.
    """
    index = interface_index(interface)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(_address(index))
        except OSError:
            raise NoFirewallError(_nobody(interface)) from None
        _say(connection, question)
        reply: dict[str, Any] = json.loads(_line(connection))
    if "error" in reply:
        raise (ValueError if reply.get("wrong_words") else RacewayError)(reply["error"])
    return reply


def _nobody(interface: str) -> str:
    """Why nobody answers for an interface, and what to do."""
    from raceway.apps.functions.succeeding import firewall_on

    there = firewall_on(interface)
    if there is None:
        return f"nobody runs a firewall on {interface}; raceway firewall run {interface} -f RULES starts one"
    if there.left_behind:
        counters = there.function.counters
        passed, dropped = counters["PASS"], counters["DROP"]
        return (
            f"the process that ran the firewall on {interface} has ended, and its rules go on filtering, pinned at "
            f"{there.function.pin}: {passed:,} packets passed and {dropped:,} dropped until now. raceway firewall run "
            f"{interface} -f RULES puts others in their place, raceway detach {interface} takes them off"
        )
    who = ", ".join(f"process {one.pid}, {one.command[:60]}" for one in there.holders)
    return f"the firewall on {interface} takes no questions; {who or 'no process that can be seen'} has it"


def _say(connection: socket.socket, what: dict[str, Any]) -> None:
    connection.sendall(json.dumps(what).encode() + b"\n")


def _line(connection: socket.socket) -> bytes:
    found = bytearray()
    while not found.endswith(b"\n"):
        piece = connection.recv(1 << 16)
        if not piece or len(found) > _LONGEST:
            raise ValueError("the line was not finished")
        found += piece
    return bytes(found)
