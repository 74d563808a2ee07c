"""What manifests hold that Percale does not enforce, on stderr. Called by whatever reads manifests for a command."""

from __future__ import annotations

from collections.abc import Iterable

import click


def tell_left_out(documents: Iterable[object]) -> None:
    """A line for each; a command that reads a file twice says it once."""
    context = click.get_current_context(silent=True)
    told: set[str] = context.meta.setdefault(__name__, set()) if context is not None else set()
    for line in map(str, documents):
        if line not in told:
            told.add(line)
            click.echo(f"warning: {line}", err=True)
