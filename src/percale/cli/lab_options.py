"""What the verbs of `percale lab` share: the options --lab and -n, and tables as kubectl prints them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def lab_option(command: F) -> F:
    """`--lab NAME`."""
    return click.option("--lab", default="lab", metavar="NAME", help="Which lab (default: lab).")(command)


def namespace_option(command: F) -> F:
    """`-n NAMESPACE`."""
    return click.option("-n", "--namespace", metavar="NS", help="The objects' namespace (default: default).")(command)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns with three spaces between them; the first row is the head."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
