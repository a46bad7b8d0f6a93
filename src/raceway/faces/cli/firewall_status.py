"""What a firewall has counted, as lines."""

from __future__ import annotations

from typing import Any


def show_status(status: dict[str, Any]) -> None:
    """Print each rule's packets, and all that was counted beside."""
    width = len(f"{status['seen']:,}")
    for one in status["rules"]:
        limited = f"  ({one['limited']:,} over the rate)" if one["limited"] else ""
        if one["action"] == "log":
            over = f"; {one['limited']:,} over the rate were not" if one["limited"] else ""
            limited = f"  (logged{over})"
        print(f"{one['packets']:>{width},}  {one['text']}{limited}")
    print(f"{status['default_packets']:>{width},}  default {status['default']}")
    for why, count in status["malformed"].items():
        print(f"{count:>{width},}  malformed: {why}")
    if status.get("flows"):
        print("flows: " + ", ".join(f"{count:,} {what}" for what, count in status["flows"].items()))
    if status["gone"]:
        print(f"{status['gone']:>{width},}  by rules that are no longer in force")
    if status["aborted"]:
        print(f"{status['aborted']:>{width},}  aborted")
    print(f"{status['seen']:>{width},}  packets in all")
    if log := status["log"]:
        print(f"{log['file']}: {log['written']:,} packets logged, {log['lost']:,} lost")
        if log["error"]:
            print(f"nothing can be logged: {log['error']}")
    if status.get("divert"):
        _show_divert(status["divert"])


def clock(seconds: float) -> str:
    """A duration, as days and a clock's hours."""
    from datetime import timedelta

    return str(timedelta(seconds=int(seconds)))


def day(seconds: float) -> str:
    """A moment, in local time."""
    from datetime import datetime

    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def _show_divert(divert: dict[str, Any]) -> None:
    lost = sum(divert["lost"].values()) + divert["foreign"]
    print(
        f"diverted {divert['diverted']:,}: {divert['reinjected']:,} reinjected, {lost:,} lost, "
        f"{divert['queued']:,} under way"
    )
    for name, one in divert["names"].items():
        print(
            f"  {name}: {one['passed']:,} passed, {one['dropped']:,} dropped, {one['failed']:,} failed, "
            f"{one['too_long']:,} too long"
        )
        if one["failure"]:
            print(f"    its first failure: {one['failure']}")
    for name, count in {**divert["lost"], "foreign": divert["foreign"]}.items():
        if count:
            print(f"  lost, {name}: {count:,}")
