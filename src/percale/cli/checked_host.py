"""The checks of a host, as a table with what to type, and as JSON. Used by `preflight.py` and `doctor.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import click
from msgspec import Struct

from percale.checks.check import Finding
from percale.text_columns import table


class CheckedHost(Struct, frozen=True):
    """All checks that concern the host, and how many there are of each result; the field names are an interface."""

    checks: Sequence[Finding]
    ok: int
    warning: int
    error: int
    unknown: int


def checked(found: Sequence[Finding]) -> CheckedHost:
    """Of these findings."""
    count = Counter(each.result for each in found)
    return CheckedHost(found, count["ok"], count["warning"], count["error"], count["unknown"])


def print_table(found: Iterable[Finding]) -> None:
    """A line for each check."""
    click.echo(table([("CHECK", "RESULT", "EVIDENCE"), *((each.check, each.result, each.evidence) for each in found)]))


def print_advice(found: Iterable[Finding]) -> None:
    """What each fault means, and what to type."""
    for each in found:
        if each.symptom is not None:
            click.echo(f"\n{each.check}: {each.symptom}")
            for command in each.type:
                click.echo(f"  type: {command}")
