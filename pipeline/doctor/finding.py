"""What a check says, and what it says when it breaks itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fault"]
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    check: str
    """What was looked at."""
    state: State
    """``note``: it runs, though not as well as it could. ``fault``: it, or the recipe, does not run."""
    found: str
    """What was measured."""
    remedy: str = ""
    """What to do about it; empty where nothing is to be done."""


def run_check(check: str, remedy: str, examine: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    """Return a check's findings; one that raises is itself a fault, with the reason and the given remedy."""
    try:
        return examine()
    except Exception as error:  # a check tries foreign code, which may raise anything
        return [Finding(check, "fault", reason_of(error), remedy)]


def reason_of(error: Exception) -> str:
    """Return an error's type and the first line that it says."""
    said = str(error).strip().split("\n", 1)[0].strip()
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def faults_of(check: str, message: str) -> list[Finding]:
    """Return a user error's lines as faults: what stands behind a line's last semicolon is its remedy."""
    findings = []
    for line in message.split("\n"):
        found, semicolon, remedy = line.rpartition("; ")
        findings.append(Finding(check, "fault", found, remedy) if semicolon else Finding(check, "fault", line))
    return findings
