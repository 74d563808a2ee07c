"""What manifests hold that Percale does not enforce, on stderr. Called by the commands that read manifests."""

from __future__ import annotations

from collections.abc import Iterable

import click


def tell_left_out(documents: Iterable[object]) -> None:
    """A line for each; each once, however many worlds hold it."""
    for line in dict.fromkeys(map(str, documents)):
        click.echo(f"warning: {line}", err=True)
