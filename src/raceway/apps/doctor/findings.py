"""What the doctor says: findings, each with a remedy if it needs one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How a finding is meant, from best to worst.

    ok: as it should be. note: works, and is worth knowing. unknown: could not be found out, mostly without privilege.
    warn: works worse than it could, or some things do not. bad: what raceway needs does not work.
    """

    OK = "ok"
    NOTE = "note"
    UNKNOWN = "unknown"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. area: under which heading; subject: the thing, in a word or three; what: how it
    stands; remedy: one line that says what to do, empty if there is nothing to do; needs: the capabilities without
    which it is unknown."""

    area: str
    state: State
    subject: str
    what: str = ""
    remedy: str = ""
    needs: tuple[str, ...] = ()


@dataclass
class Diagnosis:
    """All findings, in the order in which they were made. interface: the one that was asked about, or None."""

    interface: str | None = None
    findings: list[Finding] = field(default_factory=list)

    def count(self, state: State) -> int:
        """How many findings have this state."""
        return sum(finding.state == state for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tool": "doctor",
            "interface": self.interface,
            "findings": [asdict(finding) for finding in self.findings],
            **{state.value: self.count(state) for state in State},
        }
