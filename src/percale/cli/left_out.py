"""Prints documents that Percale does not enforce, on stderr. Called by the commands that read manifests."""

from __future__ import annotations

from collections.abc import Iterable

import click


def print_left_out(documents: Iterable[object]) -> None:
    """A line for each, once per command even when it reads a file twice."""
    context = click.get_current_context(silent=True)
    printed: set[str] = context.meta.setdefault(__name__, set()) if context is not None else set()
    for line in map(str, documents):
        if line not in printed:
            printed.add(line)
            click.echo(f"warning: {line}", err=True)
