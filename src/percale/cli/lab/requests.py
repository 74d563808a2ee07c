"""A request of one of `percale lab`'s verbs to the lab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


def ask_lab(lab: str, verb: str, **arguments: Any) -> dict[str, Any]:
    """The answer of the lab of this name. Raises NoSuchLab, or the error that the lab answers with."""
    from percale.lab.api.client import ask
    from percale.lab.run_dir import locate

    return ask(locate(lab), verb, **arguments)


def get_objects(lab: str, wanted: Sequence[dict[str, Any]], namespace: str | None, **how: Any) -> dict[str, Any]:
    """As the client's, of the lab of this name."""
    from percale.lab.api import client
    from percale.lab.run_dir import locate

    return client.get_objects(locate(lab), wanted, namespace, **how)


def print_changed(answer: dict[str, Any]) -> int:
    """A line for each object; that there is none is no error, as with kubectl."""
    if answer["lines"]:
        click.echo("\n".join(answer["lines"]))
    else:
        click.echo(answer["nothing"], err=True)
    return 0
