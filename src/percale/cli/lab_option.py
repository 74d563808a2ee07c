"""`--lab NAME` in front of a command: `percale --lab a why …`, `percale lab --lab a probe …`. Imports next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_LAB = "percale.lab"


def group_lab_option(group: F) -> F:
    """Of a group: for the command below it."""
    return click.option(
        "--lab",
        metavar="NAME",
        expose_value=False,
        callback=lambda context, _, value: context.meta.update({_LAB: value} if value else {}),
        help="Which lab; behind the command as well.",
    )(group)


def given_lab(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """What `--lab` says here, or in front of the command."""
    said: str | None = value or context.meta.get(_LAB)
    return said
