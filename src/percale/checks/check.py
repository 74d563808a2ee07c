"""One check of a host: a name, what goes wrong without it, and a function that looks. All are in `registry.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.checks.commands import as_typed
from percale.checks.host import Host

Result: TypeAlias = Literal["ok", "warning", "error", "unknown"]


class Outcome(Struct, frozen=True):
    """`evidence` is what was seen; `type` are the commands that mend it."""

    result: Result
    evidence: str
    type: tuple[str, ...] = ()


def good(evidence: str) -> Outcome:
    return Outcome("ok", evidence)


def bad(evidence: str, *commands: str) -> Outcome:
    """Pods or Services will not work."""
    return Outcome("error", evidence, commands)


def doubtful(evidence: str, *commands: str) -> Outcome:
    """It works now, or for most."""
    return Outcome("warning", evidence, commands)


def unknown(evidence: str, *commands: str) -> Outcome:
    """It cannot be seen from here."""
    return Outcome("unknown", evidence, commands)


class Check(Struct, frozen=True):
    """`look` answers None where the check does not concern this host."""

    name: str
    symptom: str
    """What somebody sees when it fails."""
    look: Callable[[Host], Outcome | None]


class Finding(Struct, frozen=True):
    """A check that was made."""

    check: str
    result: Result
    evidence: str
    symptom: str | None
    """None when it is ok."""
    type: tuple[str, ...]


def findings(checks: tuple[Check, ...], host: Host) -> Iterator[Finding]:
    """Of those that concern the host."""
    for check in checks:
        outcome = check.look(host)
        if outcome is not None:
            symptom = None if outcome.result == "ok" else check.symptom
            commands = tuple(as_typed(host, each) for each in outcome.type)
            yield Finding(check.name, outcome.result, outcome.evidence, symptom, commands)
