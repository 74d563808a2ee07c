"""`--lab NAME` in front of a command, `percale --lab a why …`, and NAME alone: `percale lab up a`. Imports next to nothing."""

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


def lab_argument(command: F) -> F:
    """`[LAB]` of a command that takes no other word, for its `--lab`."""
    return click.argument("name", metavar="[LAB]", required=False, is_eager=True, expose_value=False, callback=_named)(
        command
    )


def _named(context: click.Context, argument: click.Parameter, value: str | None) -> None:
    if value:
        context.meta[_LAB] = given_lab(context, argument, value)


def refuse_lab(context: click.Context, command: click.Command) -> None:
    """Of a command that knows no labs, `--lab` in front. Raises click's UsageError."""
    if (
        _LAB not in context.meta
        or isinstance(command, click.Group)
        or any(each.name == "lab" for each in command.params)
    ):
        return
    from percale.cli.lab import lab

    own = f"; a lab's: percale lab {command.name} --lab {context.meta[_LAB]}" if command.name in lab.commands else ""
    raise click.UsageError(f"{context.command_path} {command.name} knows no labs{own}")


def given_lab(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """What `--lab` says here, or in front of the command. Raises click's UsageError for two labs."""
    said: str | None = context.meta.get(_LAB)
    if value and said and value != said:
        raise click.UsageError(f"two labs are named: {said} and {value}")
    return value or said
